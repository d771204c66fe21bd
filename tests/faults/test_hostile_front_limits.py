"""What a front may cost the back: so many sessions, and none that says nothing."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from support.broker import until

from back import switchboard
from back.switchboard import Identity, Switchboard
from shared.chain import REGTEST
from shared.crypto.signature import public_key
from shared.fabric import subjects
from shared.fabric.envelope import Direction, Envelope, encode
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.requests import Load, OpenReply, OpenRequest, read

NODE_ID = public_key(b"\x01" * 32)


class Attendant(SimpleNamespace):
    """A node that lets everybody in."""

    async def admit(self, _peer: bytes) -> tuple[str, bool]:
        return "", False

    def load(self) -> Load:
        return Load()

    def commit_no(self, _shard: int) -> int:
        return 0

    def disconnected(self, *_: object) -> None:
        return


@pytest.fixture
async def board() -> AsyncIterator[Switchboard]:
    fabric = MemoryFabric(MemoryBroker(), "back")
    await fabric.start()
    identity = Identity(NODE_ID, (REGTEST.chain_hash,), b"", "back", 7)
    made = Switchboard(fabric, identity, Attendant())  # type: ignore[arg-type]
    await made.start()
    yield made
    await made.stop()
    made.mute()
    await fabric.stop()


async def opened(board: Switchboard, front: str) -> OpenReply:
    """Open a session as a front would."""
    request = OpenRequest(
        session=secrets.token_bytes(16),
        front=front,
        instance=bytes(16),
        peer=public_key(secrets.token_bytes(32)),
        node_id=NODE_ID,
        direction=Direction.INBOUND,
        address="192.0.2.1:9735",
        made_ms=0,
    )
    subject = subjects.open_session(subjects.shard(request.peer))
    return read(OpenReply, await board.fabric.request(subject, request.to_bytes(), timeout_s=5))


async def test_a_front_with_too_many_sessions_gets_no_more_and_others_do(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "MAX_SESSIONS_PER_FRONT", 3)
    for _ in range(3):
        assert (await opened(board, "greedy")).accepted
    refused = await opened(board, "greedy")
    assert refused.why == "this front has too many sessions"
    assert (await opened(board, "modest")).accepted
    gone = next(s for s in board.sessions.values() if s.front == "greedy")
    body = b'{"reason":"peer_closed"}'
    board.fabric.publish(
        subjects.inbound(gone.peer, None, "disconnected"),
        encode(Envelope(gone.session_id, 7, 0, 0, body, "greedy")),
    )
    await until(lambda: gone.session_id not in board.sessions, 5)
    assert (await opened(board, "greedy")).accepted


async def test_a_session_that_never_says_connected_ends(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "CONNECTED_WITHIN_S", 0.1)
    assert (await opened(board, "silent")).accepted
    (session,) = board.sessions.values()
    await until(lambda: session.is_over, 5)


async def test_while_the_broker_is_away_nobody_has_to_say_connected(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "CONNECTED_WITHIN_S", 0.05)
    assert (await opened(board, "patient")).accepted
    (session,) = board.sessions.values()
    assert isinstance(board.fabric, MemoryFabric)
    board.fabric.cut()
    await asyncio.sleep(0.2)
    assert not session.is_over
