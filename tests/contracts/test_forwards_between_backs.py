"""The two sides of a forward in two backs, over memory and over a real broker."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from support.broker import client, running
from support.waiting import until

from back.channel.effects import HtlcFulfilled, HtlcOffered
from back.channel.events import FailHtlc, FulfillHtlc, OfferHtlc
from back.channel.model import Htlc, HtlcState, Phase
from back.relay.carrier import FabricCarrier
from back.relay.downstream import Downstream
from back.relay.handoff import ForwardId, Offer
from back.relay.onion import Forward
from back.relay.upstream import Upstream
from shared.fabric.interface import Fabric, Received
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.subjects import SHARDS, shard

PREIMAGE = sha256(b"preimage").digest()
HASH = sha256(PREIMAGE).digest()
IN_PEER = b"\x02" + sha256(b"in").digest()
OUT_PEER = b"\x03" + sha256(b"out").digest()
ID = ForwardId(1, 5)


@pytest.fixture(params=["memory", "nats"])
async def fabrics(request, tmp_path) -> AsyncIterator[tuple[Fabric, Fabric]]:
    if request.param == "nats":
        async with (
            running(tmp_path) as broker,
            client(broker, "back") as one,
            client(broker, "back") as other,
        ):
            yield one, other
        return
    memory = MemoryBroker()
    members = [MemoryFabric(memory, name) for name in ("one", "other")]
    for member in members:
        await member.start()
    yield members[0], members[1]
    for member in members:
        await member.stop()


def htlc(*, offered: bool, origin: str | None = None) -> Htlc:
    return Htlc(
        offered=offered,
        id=ID.htlc_id,
        amount_msat=1_000_000,
        payment_hash=HASH,
        cltv_expiry=500,
        state=HtlcState.RCVD_ADD_ACK_REVOCATION,
        origin=origin,
    )


class Backs:
    """An upstream in one back, a downstream in another, and channels that do as they are told."""

    def __init__(self, fabrics: tuple[Fabric, Fabric], *, has_way: bool = True) -> None:
        self.events: list[Any] = []
        self.adds: list[OfferHtlc] = []
        self.has_way = has_way
        there = shard(OUT_PEER)
        here = tuple(number for number in range(SHARDS) if number != there)
        carriers = [
            FabricCarrier(fabric, SimpleNamespace(shards=shards, epoch=7), self._preimage)  # type: ignore[arg-type]
            for fabric, shards in zip(fabrics, (here, (there,)), strict=True)
        ]
        self.carriers = carriers
        self.upstream = Upstream(carriers[0], lambda _: None, lambda _: None)
        self.downstream = Downstream(carriers[1], self)  # type: ignore[arg-type]
        for carrier in carriers:
            carrier.between(self.upstream, self.downstream)

    async def _preimage(self, forward_id: ForwardId) -> bytes | None:
        assert forward_id == ID
        return PREIMAGE

    async def start(self) -> None:
        for carrier in self.carriers:
            await carrier.start()

    async def stop(self) -> None:
        for carrier in self.carriers:
            await carrier.stop()

    def offer(self) -> None:
        """An HTLC came in."""
        runner = SimpleNamespace(
            is_stopped=False, request=self._settled, channel=SimpleNamespace(phase=Phase.NORMAL)
        )
        asked = Forward(htlc(offered=False), 9, None, 999_000, 400, bytes(1366), bytes(32))
        offer = Offer(
            key_index=ID.key_index,
            htlc_id=ID.htlc_id,
            in_node_id=IN_PEER,
            in_amount_msat=1_000_000,
            in_cltv_expiry=500,
            out_node_id=OUT_PEER,
            short_channel_id=9,
            amount_msat=999_000,
            cltv_expiry=400,
            payment_hash=HASH,
            onion_routing_packet=bytes(1366),
            received_at_ms=1,
            attempt=1,
        )
        self.upstream.received(runner, asked, offer)  # type: ignore[arg-type]

    def _settled(self, event: Any) -> "asyncio.Future[None]":
        self.events.append(event)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def ways(self, _offer: Offer) -> list[Any]:
        parameters = SimpleNamespace(key_index=2)
        runner = SimpleNamespace(
            request=self._added, channel=SimpleNamespace(parameters=parameters)
        )
        return [runner] if self.has_way else []

    def _added(self, event: OfferHtlc) -> "asyncio.Future[None]":
        self.adds.append(event)
        return asyncio.get_running_loop().create_future()

    def refusal(self, *_: Any) -> bytes:
        return b""

    def began(self, *_: Any) -> None:
        pass

    ended = began

    def relayed(self, *_: Any) -> list[Any]:
        return []

    def add_is_durable(self) -> None:
        outgoing = htlc(offered=True, origin=self.adds[0].origin)
        self.downstream.offered(None, HtlcOffered(outgoing))  # type: ignore[arg-type]
        self.downstream.was_offered(HtlcOffered(outgoing))

    def is_paid(self) -> None:
        outgoing = htlc(offered=True, origin=self.adds[0].origin)
        self.downstream.was_fulfilled(HtlcFulfilled(outgoing, PREIMAGE))


async def test_a_forward_between_two_backs_is_paid_and_noted(
    fabrics: tuple[Fabric, Fabric],
) -> None:
    backs = Backs(fabrics)
    tapped: list[Received] = []
    await backs.start()
    if isinstance(fabrics[0], MemoryFabric):
        await fabrics[0].subscribe("ln.relay.>", tapped.append)
    backs.offer()
    await until(lambda: bool(backs.adds), "the offer arrived")
    backs.add_is_durable()
    backs.is_paid()
    await until(lambda: bool(backs.events), "the outcome arrived")
    assert backs.events == [FulfillHtlc(ID.htlc_id, PREIMAGE)]
    await until(lambda: backs.downstream.pending == 0, "the outcome is noted")
    assert backs.upstream.pending == 0
    assert len(backs.downstream.take_noted()) == 1
    if tapped:
        names = [received.subject.rpartition(".")[2] for received in tapped]
        assert names == ["offer", "taken", "outcome", "noted"]
        assert not any(PREIMAGE.hex().encode() in received.payload for received in tapped)
    await backs.stop()


async def test_an_offer_that_nobody_heard_is_made_again(fabrics: tuple[Fabric, Fabric]) -> None:
    backs = Backs(fabrics)
    backs.offer()
    await asyncio.sleep(0)
    await backs.start()
    backs.upstream.monotonic = lambda: 1e12
    backs.upstream.repeat()
    await until(lambda: bool(backs.adds), "the second offer arrived")
    assert len(backs.adds) == 1
    await backs.stop()


async def test_a_refusal_crosses_and_fails_the_incoming_htlc(
    fabrics: tuple[Fabric, Fabric],
) -> None:
    backs = Backs(fabrics, has_way=False)
    await backs.start()
    backs.offer()
    await until(lambda: bool(backs.events), "the refusal arrived")
    (event,) = backs.events
    assert isinstance(event, FailHtlc)
    assert backs.upstream.pending == 0
    await backs.stop()
