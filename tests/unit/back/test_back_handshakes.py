"""``ln.key.ecdh`` at the back: who is answered, and who is not."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import until

from back import handshakes
from back.handshakes import HandshakeService
from shared.errors import FabricUnavailable, HandshakeFailed
from shared.fabric import subjects
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.requests import EcdhInitiator, EcdhReply, EcdhResponder, read

PEER = b"\x03" + b"\x22" * 32
DIAL = b"d" * 16
ANSWER = SimpleNamespace(ck=b"c" * 32, temp_k=b"t" * 32)


class Signer:
    """Answers when it may; refuses act ones that start with 1."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def answer_responder(self, act_one: bytes) -> Any:
        self.gate.wait(10)
        if act_one[0] == 1:
            raise HandshakeFailed("garbage", bolt="BOLT 8")
        if act_one[0] == 2:
            raise KeyError("a bug")
        return ANSWER

    def answer_initiator(self, _node_id: bytes, _ephemeral: bytes, _act_two: bytes) -> Any:
        return ANSWER


class Rig:
    """One back's service, and a front that asks."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.back, self.front = MemoryFabric(broker, "back"), MemoryFabric(broker, "front")
        self.signer = Signer()
        self.ordered: set[tuple[bytes, bytes]] = set()
        dials = SimpleNamespace(is_ours=lambda dial_id, node_id: (dial_id, node_id) in self.ordered)
        self.service = HandshakeService(self.back, self.signer, dials)  # type: ignore[arg-type]

    async def ask(self, request: Any) -> EcdhReply:
        payload = request.to_bytes() if not isinstance(request, bytes) else request
        return read(EcdhReply, await self.front.request(subjects.ECDH, payload, timeout_s=0.3))


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    await made.back.start()
    await made.front.start()
    await made.service.start()
    try:
        yield made
    finally:
        made.signer.gate.set()
        made.service.stop()
        await made.front.stop()
        await made.back.stop()


def responder(first: int = 0, front: str = "f1") -> EcdhResponder:
    return EcdhResponder(front=front, act_one=bytes([first]) + bytes(49))


def initiator() -> EcdhInitiator:
    return EcdhInitiator(
        front="f1", dial_id=DIAL, node_id=PEER, ephemeral=b"\x01" * 32, act_two=bytes(50)
    )


async def test_an_inbound_handshake_is_answered_by_any_back() -> None:
    async with rig() as r:
        for is_active in (True, False):
            r.service.is_active = is_active
            reply = await r.ask(responder())
            assert (reply.ck, reply.temp_k) == (ANSWER.ck, ANSWER.temp_k)
        assert r.service.answered == 2


async def test_an_outbound_one_needs_our_order() -> None:
    async with rig() as r:
        r.service.is_active = True
        assert "not ordered" in (await r.ask(initiator())).refused
        r.ordered.add((DIAL, PEER))
        assert (await r.ask(initiator())).ck == ANSWER.ck


async def test_a_standby_is_silent_about_orders_that_are_not_its_own() -> None:
    """The front asks again, and in the end the back that ordered the dial hears it."""
    async with rig() as r:
        with pytest.raises(FabricUnavailable):
            await r.ask(initiator())
        assert not r.service.refused


async def test_garbage_and_bugs_are_told_apart() -> None:
    async with rig() as r:
        assert "garbage" in (await r.ask(responder(1))).refused
        assert (await r.ask(responder(2))).refused == "internal error"
        assert (await r.ask(b"{}")).refused
        assert r.service.refused == {"handshake": 1, "internal": 1, "malformed": 1}


@pytest.mark.parametrize("limit", ["MAX_WAITING_PER_FRONT", "MAX_WAITING"])
async def test_a_front_cannot_fill_the_queue_also_under_many_names(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(handshakes, limit, 2)
    async with rig() as r:
        r.signer.gate.clear()
        names = ["f1"] * 3 if limit == "MAX_WAITING_PER_FRONT" else ["f1", "f2", "f3"]
        asked = [asyncio.create_task(r.ask(responder(front=name))) for name in names]
        await until(lambda: r.service.refused["busy"], "the third is refused")
        r.signer.gate.set()
        replies = await asyncio.gather(*asked)
        assert [bool(reply.ck) for reply in replies] == [True, True, False]
        # And the places are free again.
        assert (await r.ask(responder())).ck == ANSWER.ck
        assert not r.service._waiting
