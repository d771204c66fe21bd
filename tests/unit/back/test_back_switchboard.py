"""Sessions as the owner holds them: who may in, what is heard, and when nothing more is said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.waiting import until

from back.switchboard import Identity, PeerSession, Switchboard
from shared.errors import FabricUnavailable, LeaseLost
from shared.fabric import subjects
from shared.fabric.envelope import Connected, Direction, Reason, decode
from shared.fabric.interface import Received
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.requests import (
    Alive,
    Expecting,
    Hello,
    Load,
    OpenReply,
    OpenRequest,
    ResumeReply,
    ResumeRequest,
    read,
)
from shared.fabric.session import Effect, FrontSession, Publish
from shared.wire import Init, Message, Shutdown, to_json

NODE, PEER = b"\x02" + b"\x11" * 32, b"\x03" + b"\x22" * 32
EPOCH = 1_700_000_000
INSTANCE = b"i" * 16
INIT = Init(globalfeatures=b"", features=b"")
SHARD = subjects.shard(PEER)


@dataclass
class Attendant:
    """The node behind the switchboard.

    Attributes:
        lost: another back owns the peers.
        bug: what a message does here.
        gate: who asks to come in waits for it.
    """

    why: str = ""
    lost: bool = False
    bug: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    connections: list[PeerSession] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    ended: list[tuple[bytes, Reason]] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    hello_bug: bool = False

    async def admit(self, _peer: bytes) -> tuple[str, bool]:
        await self.gate.wait()
        if self.lost:
            raise LeaseLost((SHARD,))
        return self.why, True

    def connected(self, session: PeerSession, _connected: Connected) -> None:
        self.connections.append(session)

    def received(self, _session: PeerSession, message: Message) -> None:
        if self.bug is not None:
            raise self.bug
        self.messages.append(message)

    def disconnected(self, session: PeerSession, reason: Reason, _detail: str) -> None:
        self.ended.append((session.session_id, reason))

    def unreachable(self, _dial_id: bytes, _detail: str) -> None:
        raise AssertionError("nobody was dialled")

    def front_alive(self, alive: Alive) -> None:
        self.alive.append(alive.front)

    def commit_no(self, _shard: int) -> int:
        return 7

    def load(self) -> Load:
        if self.hello_bug:
            raise KeyError("a bug")
        return Load()


class Front:
    """A front with connections of one peer."""

    def __init__(self, fabric: MemoryFabric, name: str = "f1", instance: bytes = INSTANCE) -> None:
        self.fabric, self.name, self.instance = fabric, name, instance
        self.heard: list[str] = []
        self.sessions: dict[bytes, FrontSession] = {}

    async def start(self) -> None:
        await self.fabric.subscribe(subjects.front_outbound(self.name), self._hear)

    def _hear(self, received: Received) -> None:
        parsed = subjects.parse_outbound(received.subject)
        self.heard.append(parsed.name)
        envelope = decode(received.payload)
        if session := self.sessions.get(envelope.session):
            self.do(session.receive(parsed.name, parsed.channel, envelope, 0.0))

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self.fabric.publish(effect.subject, effect.payload)

    async def open(self, number: int = 1, **changes: Any) -> OpenReply:
        """Ask for a peer to be let in."""
        request = OpenRequest(
            session=bytes([number]) * 16,
            front=self.name,
            instance=self.instance,
            peer=PEER,
            node_id=NODE,
            direction=Direction.INBOUND,
            address="192.0.2.1:9735",
            made_ms=0,
        ).model_copy(update=changes)
        subject = subjects.open_session(SHARD)
        return read(
            OpenReply, await self.fabric.request(subject, request.to_bytes(), timeout_s=0.3)
        )

    async def connect(self, number: int = 1) -> FrontSession:
        """Bring a peer in, both inits exchanged."""
        reply = await self.open(number)
        assert reply.accepted, reply.why
        session = FrontSession(bytes([number]) * 16, self.name, PEER)
        self.sessions[session.id] = session
        self.do(session.opened(EPOCH, True, 0.0))
        body = Connected(
            front=self.name,
            direction=Direction.INBOUND,
            address="192.0.2.1:9735",
            our_init=INIT,
            their_init=INIT,
        )
        self.do(session.send("connected", None, body.to_bytes(), 0, 0.0))
        return session

    def say(self, session: FrontSession, message: Message) -> None:
        channel_id = getattr(message, "channel_id", None)
        self.do(session.send(message.NAME, channel_id, to_json(message), 10, 0.0))

    def beat(self, instance: bytes | None = None) -> None:
        alive = Alive(front=self.name, instance=instance or self.instance, version="1", listen=())
        self.fabric.publish(subjects.alive(self.name), alive.to_bytes())


@dataclass
class Rig:
    """A switchboard and a front on one broker in memory."""

    switchboard: Switchboard
    attendant: Attendant
    front: Front
    fabric: MemoryFabric
    hellos: list[int] = field(default_factory=list)


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    broker = MemoryBroker()
    back, front = MemoryFabric(broker, "back"), MemoryFabric(broker, "front")
    for fabric in (back, front):
        await fabric.start()
    identity = Identity(NODE, (bytes(32),), b"", "back-1", EPOCH)
    attendant = Attendant()
    attendant.gate.set()
    switchboard = Switchboard(back, identity, attendant)
    made = Rig(switchboard, attendant, Front(front), back)
    await made.front.start()
    await front.subscribe("ln.hello.*", lambda r: made.hellos.append(read(Hello, r.payload).epoch))
    await switchboard.start()
    try:
        yield made
    finally:
        await switchboard.stop()
        switchboard.mute()
        for fabric in (front, back):
            await fabric.stop()


def shutdown(number: int) -> Shutdown:
    return Shutdown(channel_id=bytes([number]) * 32, scriptpubkey=b"")


# --- letting in ----------------------------------------------------------------------------------


async def test_a_peer_comes_in_and_is_heard_in_order() -> None:
    async with rig() as r:
        session = await r.front.connect()
        for number in range(5):
            r.front.say(session, shutdown(number))
        await until(lambda: len(r.attendant.messages) == 5, "all arrive")
        assert r.attendant.messages == [shutdown(number) for number in range(5)]
        assert [s.session_id for s in r.attendant.connections] == [session.id]


async def test_a_reason_against_a_peer_reaches_its_front() -> None:
    async with rig() as r:
        r.attendant.why = "no room"
        reply = await r.front.open()
        assert (reply.accepted, reply.why) == (False, "no room")
        r.attendant.why = ""
        assert "node id is another one" in (await r.front.open(node_id=PEER)).why
        assert not r.switchboard.sessions


async def test_asking_twice_makes_one_session() -> None:
    async with rig() as r:
        r.attendant.gate.clear()
        asked = [asyncio.create_task(r.front.open()) for _ in range(3)]
        await asyncio.sleep(0.01)
        r.attendant.gate.set()
        replies = await asyncio.gather(*asked)
        assert all(reply.accepted for reply in replies)
        assert len(r.switchboard.sessions) == 1


async def test_a_newer_connection_replaces_the_older() -> None:
    async with rig() as r:
        old, new = await r.front.connect(1), await r.front.connect(2)
        await until(lambda: r.attendant.ended, "the old one is over")
        assert r.attendant.ended == [(old.id, Reason.REPLACED)]
        assert r.switchboard.by_peer[PEER].session_id == new.id


async def test_who_lost_the_lease_does_not_answer() -> None:
    """The new owner does; a refusal of ours could be the first to arrive."""
    async with rig() as r:
        r.attendant.lost = True
        with pytest.raises(FabricUnavailable):
            await r.front.open()


# --- bugs and strangers --------------------------------------------------------------------------


async def test_a_message_that_we_could_not_handle_ends_the_session() -> None:
    """It is acknowledged: a silent gap would cost the channel at the next signature."""
    async with rig() as r:
        session = await r.front.connect()
        await until(lambda: r.attendant.connections, "it is connected")
        r.attendant.bug = KeyError("a bug")
        with capture_logs() as logs:
            r.front.say(session, shutdown(1))
            await until(lambda: r.attendant.ended, "it ends")
        assert r.attendant.ended == [(session.id, Reason.INVALID)]
        assert "delivery_failed" in [line["event"] for line in logs]
        assert r.front.heard[-1] == "reset"


async def test_an_unknown_session_is_told_so() -> None:
    async with rig() as r:
        stranger = FrontSession(b"s" * 16, "f1", PEER)
        r.front.do(stranger.opened(EPOCH, True, 0.0))
        r.front.say(stranger, shutdown(1))
        await until(lambda: r.front.heard, "an answer")
        assert r.front.heard == ["reset"]


async def test_hellos_go_on_after_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fronts end every session of an owner that is silent."""
    monkeypatch.setattr("back.switchboard.HELLO_EVERY_S", 0.01)
    async with rig() as r:
        r.attendant.hello_bug = True
        await asyncio.sleep(0.05)
        r.attendant.hello_bug = False
        r.hellos.clear()
        await until(lambda: len(r.hellos) >= subjects.SHARDS, "hello for every shard")
        assert set(r.hellos) == {EPOCH}


# --- fronts that die -----------------------------------------------------------------------------


async def test_a_front_that_was_started_anew_has_none_of_its_old_sessions() -> None:
    async with rig() as r:
        session = await r.front.connect()
        r.front.beat()
        await until(lambda: r.attendant.alive, "it is heard")
        assert not r.attendant.ended
        r.front.beat(b"j" * 16)
        await until(lambda: r.attendant.ended, "the old session ends")
        assert r.attendant.ended == [(session.id, Reason.PEER_CLOSED)]


async def test_also_where_its_first_life_was_never_heard() -> None:
    async with rig() as r:
        session = await r.front.connect()
        r.front.beat(b"j" * 16)
        await until(lambda: r.attendant.ended, "the old session ends")
        assert r.attendant.ended == [(session.id, Reason.PEER_CLOSED)]


async def test_a_silent_front_takes_its_sessions_with_it() -> None:
    async with rig() as r:
        session = await r.front.connect()
        r.switchboard.front_gone("another")
        assert not r.attendant.ended
        r.switchboard.front_gone("f1")
        assert r.attendant.ended == [(session.id, Reason.PEER_CLOSED)]
        assert not r.switchboard.instances


# --- the end -------------------------------------------------------------------------------------


async def test_a_stopping_back_takes_nothing_more_but_finishes_its_sentences() -> None:
    async with rig() as r:
        session = await r.front.connect()
        await until(lambda: r.attendant.connections, "it is connected")
        await r.switchboard.stop()
        r.front.say(session, shutdown(1))
        with pytest.raises(FabricUnavailable):
            await r.front.open(2)
        assert not r.attendant.messages
        r.attendant.connections[0].send(shutdown(9))
        await until(lambda: "shutdown" in r.front.heard, "the last words arrive")


async def test_a_muted_back_says_nothing_at_all() -> None:
    """Another owner speaks now: not a word, an acknowledgement, a refusal or a reset."""
    async with rig() as r:
        session = await r.front.connect()
        await until(lambda: r.attendant.connections, "it is connected")
        await asyncio.sleep(0.1)  # the acknowledgement of `connected`
        r.front.heard.clear()
        r.hellos.clear()
        published = r.fabric.published
        r.switchboard.mute()
        r.front.say(session, shutdown(1))
        stranger = FrontSession(b"s" * 16, "f1", PEER)
        r.front.do(stranger.opened(EPOCH, True, 0.0))
        r.front.say(stranger, shutdown(1))
        r.attendant.connections[0].send(shutdown(9))
        r.attendant.connections[0].reset(Reason.INVALID, "x")
        r.switchboard.hello()
        for ask in (r.front.open(3), resume(r.front, session)):
            with pytest.raises(FabricUnavailable):
                await ask
        assert r.fabric.published == published
        assert not r.front.heard


async def resume(front: Front, session: FrontSession) -> ResumeReply:
    request = ResumeRequest(
        shard=SHARD,
        front=front.name,
        instance=front.instance,
        sessions=(Expecting(session=session.id, expects=session.expects),),
    )
    payload = await front.fabric.request(
        subjects.resume_session(SHARD), request.to_bytes(), timeout_s=0.3
    )
    return read(ResumeReply, payload)


async def test_a_resume_names_the_sessions_that_are_still_here() -> None:
    async with rig() as r:
        session = await r.front.connect()
        await until(lambda: r.attendant.connections, "it is connected")
        reply = await resume(r.front, session)
        assert [e.session for e in reply.sessions] == [session.id]
        assert reply.sessions[0].expects == 2
        gone = FrontSession(b"s" * 16, "f1", PEER)
        assert (await resume(r.front, gone)).sessions == ()
