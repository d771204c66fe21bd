"""A stolen front: its certificate lets it speak on the fabric, and it says what it likes.

What it can do is written in docs/operations.md. All else must fail: the back lives and answers, and
what the other fronts carry goes on.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio
from support.hostile import (  # noqa: F401 - fixtures
    STOLEN,
    HostilePeer,
    Target,
    bitcoind,
    mallory,
    target,
    unharmed,
)

from back.demo.cluster import until
from back.handshakes import MAX_WAITING_PER_FRONT
from shared.chain import REGTEST
from shared.crypto.noise import initiate
from shared.crypto.signature import public_key
from shared.errors import BackendError, FabricError
from shared.fabric import certificates, subjects
from shared.fabric.client import FabricClient
from shared.fabric.envelope import (
    Connected,
    Direction,
    Envelope,
    Resend,
    decode,
    decode_control,
    encode,
)
from shared.fabric.interface import Received
from shared.fabric.requests import (
    Alive,
    EcdhInitiator,
    EcdhReply,
    EcdhResponder,
    Expecting,
    OpenReply,
    OpenRequest,
    ResumeReply,
    ResumeRequest,
    read,
)
from shared.features import FeatureSet
from shared.wire import Init, OpenChannel, Shutdown, UpdateFee, to_json

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

INSTANCE = b"\x11" * 16
ANSWER_S = 2.0


@dataclass
class Thief:
    """Whoever holds the certificate of the front ``stolen``.

    Attributes:
        heard: envelopes that came to it, with the last token of their subject.
        strange: what came to it that is no envelope.
    """

    target: Target
    fabric: FabricClient
    heard: list[tuple[str, Envelope]] = field(default_factory=list)
    strange: list[bytes] = field(default_factory=list)

    @property
    def node_id(self) -> bytes:
        """Of the node under attack."""
        return bytes.fromhex(self.target.node.node_id)

    def hear(self, received: Received) -> None:
        """Note what the back says to this front."""
        name = subjects.parse_last_token(received.subject)
        with contextlib.suppress(FabricError):
            self.heard.append((name, decode(received.payload)))
            return
        self.strange.append(received.payload)

    def alive(self, front: str = STOLEN, subject: str = STOLEN) -> None:
        """Say that a front lives."""
        alive = Alive(front=front, instance=INSTANCE, version="0", listen=())
        self.fabric.publish(subjects.alive(subject), alive.to_bytes())

    async def ask(self, subject: str, payload: bytes) -> bytes:
        """Ask the back."""
        return await self.fabric.request(subject, payload, timeout_s=ANSWER_S)

    def opening(self, peer: bytes, **changes: object) -> OpenRequest:
        """The request of a session for a peer that is not there."""
        values: dict[str, object] = {
            "session": secrets.token_bytes(16),
            "front": STOLEN,
            "instance": INSTANCE,
            "peer": peer,
            "node_id": self.node_id,
            "direction": Direction.INBOUND,
            "address": "203.0.113.9:4242",
            "made_ms": 0,
        }
        return OpenRequest(**{**values, **changes})  # type: ignore[arg-type]

    async def open(self, request: OpenRequest) -> OpenReply:
        """Open a session."""
        subject = subjects.open_session(subjects.shard(request.peer))
        return read(OpenReply, await self.ask(subject, request.to_bytes()))

    async def session(self, peer: bytes | None = None, **changes: object) -> "Lie":
        """Open a session and say `connected`."""
        self.alive()
        request = self.opening(peer or new_peer(), **changes)
        reply = await self.open(request)
        assert reply.accepted, reply.why
        lie = Lie(self, request, reply)
        lie.say("connected", lie.connected())
        return lie


@dataclass
class Lie:
    """One session of a peer that the thief made up."""

    thief: Thief
    request: OpenRequest
    reply: OpenReply
    seq: int = 0

    def connected(self) -> bytes:
        """The first message of the session."""
        features = self.reply.features
        init = Init(globalfeatures=b"", features=features, networks=[REGTEST.chain_hash])
        return Connected(
            front=STOLEN,
            direction=Direction.INBOUND,
            address="203.0.113.9:4242",
            our_init=init,
            their_init=init,
        ).to_bytes()

    def envelope(self, body: bytes, **changes: object) -> Envelope:
        """The next envelope."""
        made = Envelope(self.request.session, self.reply.epoch, self.seq + 1, 0, body, STOLEN)
        return replace(made, **changes)  # type: ignore[arg-type]

    def say(self, name: str, body: bytes, channel: bytes | None = None, **changes: object) -> None:
        """Publish the next envelope, or one that differs from it."""
        envelope = self.envelope(body, **changes)
        if not changes:
            self.seq += 1
        subject = subjects.inbound(self.request.peer, channel, name)
        self.thief.fabric.publish(subject, encode(envelope))

    def heard(self, name: str) -> list[Envelope]:
        """What the back said to this session, of one kind."""
        mine = self.request.session
        return [e for n, e in self.thief.heard if n == name and e.session == mine]

    async def hears(self, name: str) -> Envelope:
        """Wait for the back to say something to this session."""

        async def came() -> Envelope | None:
            return next(iter(self.heard(name)), None)

        envelope: Envelope = await until(f"{name}; heard {self.thief.heard}", came, 5)
        return envelope

    async def is_known(self) -> bool:
        """Whether the back still has this session."""
        shard = subjects.shard(self.request.peer)
        said = Expecting(session=self.request.session, expects=1)
        ask = ResumeRequest(front=STOLEN, instance=INSTANCE, shard=shard, sessions=(said,))
        payload = await self.thief.ask(subjects.resume_session(shard), ask.to_bytes())
        return bool(read(ResumeReply, payload).sessions)

    async def ended(self) -> None:
        """Wait until the back has ended this session."""

        async def is_gone() -> bool:
            return not await self.is_known()

        await until("the end of the session", is_gone, 5)


def new_peer() -> bytes:
    return public_key(secrets.token_bytes(32))


@pytest_asyncio.fixture(loop_scope="module")
async def thief(target: Target) -> AsyncIterator[Thief]:  # noqa: F811
    assert target.node.nats is not None
    credentials = certificates.credentials(target.node.certificates, f"front-{STOLEN}")
    fabric = FabricClient([target.node.nats.url], credentials, role="front", name="thief")
    await fabric.start(timeout_s=5)
    stolen = Thief(target, fabric)
    await fabric.subscribe(subjects.front_outbound(STOLEN), stolen.hear)
    yield stolen
    await fabric.stop()


# --- what it may do, so that the tests below mean something


async def test_a_session_of_its_own_works(thief: Thief) -> None:
    lie = await thief.session()
    await lie.hears("ack")
    assert await lie.is_known()


# --- garbage


DEEP = b"[" * 5_000 + b"]" * 5_000
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(100),
    "random": secrets.token_bytes(4_000),
    "no object": b"[1,2,3]",
    "null": b"null",
    "deep": DEEP,
    "deep in an object": b'{"v":1,"message":' + DEEP + b"}",
    "half": b'{"v":1,"session":"',
    "a number": b"9" * 4_300,
    "huge number": b'{"v":' + b"9" * 5_000 + b"}",
    "not a number": b'{"v":NaN,"made_ms":Infinity}',
    "not UTF-8": b'{"v":1,"front":"\xff\xfe"}',
    "lone surrogate": b'{"v":1,"front":"\\ud800"}',
    "another version": b'{"v":2}',
    "long": b'{"v":1,"front":"' + b"a" * 200_000 + b'"}',
    "many fields": json.dumps({f"f{i}": i for i in range(10_000)}).encode(),
}


@pytest.mark.parametrize("what", list(GARBAGE))
async def test_garbage_on_every_subject_is_refused(thief: Thief, what: str) -> None:
    peer = new_peer()
    shard = subjects.shard(peer)
    everything = [
        subjects.inbound(peer, None, "connected"),
        subjects.inbound(peer, None, "unreachable"),
        subjects.inbound(peer, secrets.token_bytes(32), "update_add_htlc"),
        subjects.inbound(thief.target.honest.node_id, None, "disconnected"),
        subjects.inbound(peer, None, "frobnicate"),
        f"ln.in.{shard}.nonsense",
        f"ln.in.{shard}.{peer.hex()}.-.-",
        f"ln.in.{shard}." + ".".join("x" * 40),
        subjects.open_session(shard),
        subjects.resume_session(shard),
        subjects.alive(STOLEN),
        subjects.ECDH,
        subjects.onion(shard),
        subjects.gossip("channel_announcement"),
    ]
    for subject in everything:
        thief.fabric.publish(subject, GARBAGE[what])
    await thief.fabric.barrier()
    # The back took all of it and goes on: it answers who asks properly.
    await thief.session()


@pytest.mark.parametrize("what", list(GARBAGE))
async def test_garbage_in_a_session_ends_that_session_or_is_left_out(
    thief: Thief, what: str
) -> None:
    lie = await thief.session()
    body = GARBAGE[what]
    lie.say("update_fee", b'{"channel_id":' + body + b"}", bytes(range(32)))
    lie.say("open_channel", body)
    for name in ("ack", "resend", "disconnected"):
        lie.say(name, body, seq=0)
    await thief.fabric.barrier()
    await thief.session()


async def test_a_garbled_disconnected_ends_the_session(thief: Thief) -> None:
    lie = await thief.session()
    lie.say("disconnected", b'{"reason":"for fun"}')
    await lie.ended()


# --- lies in a session of its own


async def test_duplicates_and_reordered_envelopes_are_put_right(thief: Thief) -> None:
    lie = await thief.session()
    fee = to_json(UpdateFee(channel_id=bytes(range(32)), feerate_per_kw=253))
    channel = bytes(range(32))
    for seq in (4, 3, 3, 1, 4, 2, 2, 5):
        lie.say("update_fee", fee, channel, seq=seq)
    # Numbers 2 to 5 are delivered once each: messages of an unknown channel, which end it.
    assert await lie.hears("warning")
    await lie.hears("close")
    assert len(lie.heard("warning")) == 1


async def test_a_gap_is_asked_for_once_at_a_time(thief: Thief) -> None:
    lie = await thief.session()
    fee = to_json(UpdateFee(channel_id=bytes(range(32)), feerate_per_kw=253))
    for seq in range(200, 260):
        lie.say("update_fee", fee, bytes(range(32)), seq=seq)
    asked = decode_control("resend", (await lie.hears("resend")).body)
    assert isinstance(asked, Resend)
    assert (asked.from_seq, asked.to_seq) == (2, 199)
    assert await lie.is_known()


@pytest.mark.parametrize(
    "changes",
    [{"seq": 1 << 59}, {"seq": 10_000}, {"ack": 1 << 59}, {"epoch": 1}, {"epoch": 1 << 59}],
    ids=lambda changes: "-".join(f"{k} {v}" for k, v in changes.items()),
)
async def test_numbers_from_elsewhere_change_nothing(thief: Thief, changes: dict[str, int]) -> None:
    lie = await thief.session()
    fee = to_json(UpdateFee(channel_id=bytes(range(32)), feerate_per_kw=253))
    for _ in range(20):
        lie.say("update_fee", fee, bytes(range(32)), **changes)
    await thief.fabric.barrier()
    assert await lie.is_known()
    # The next in order is still taken.
    lie.say("update_fee", fee, bytes(range(32)))
    await lie.hears("warning")


async def test_connected_twice_ends_the_session(thief: Thief) -> None:
    lie = await thief.session()
    lie.say("connected", lie.connected())
    await lie.hears("reset")


async def test_a_message_before_connected_ends_the_session(thief: Thief) -> None:
    thief.alive()
    request = thief.opening(new_peer())
    lie = Lie(thief, request, await thief.open(request))
    fee = to_json(UpdateFee(channel_id=bytes(range(32)), feerate_per_kw=253))
    lie.say("update_fee", fee, bytes(range(32)))
    await lie.hears("reset")


@pytest.mark.parametrize("name", ["close", "reset", "hello", "frobnicate", "init", "ping"])
async def test_what_a_front_does_not_say_is_refused(thief: Thief, name: str) -> None:
    lie = await thief.session()
    lie.say(name, b"{}", seq=0)
    lie.say(name, b'{"last_seq":0,"reason":"protocol"}', seq=0)
    lie.say(name, b"{}", seq=2)
    await thief.fabric.barrier()
    await thief.session()


async def test_a_subject_of_another_channel_than_the_message_is_of_no_use(
    thief: Thief,
) -> None:
    """The message counts: the subject is for those who watch."""
    lie = await thief.session()
    victim = thief.target.honest.channel_id
    shutdown = Shutdown(channel_id=victim, scriptpubkey=b"\0\x14" + bytes(20))
    lie.say("shutdown", to_json(shutdown), bytes(range(32)))
    await lie.hears("warning")
    assert await thief.target.honest.state() == "NORMAL"


async def test_an_envelope_on_the_shard_of_another_peer_is_refused(thief: Thief) -> None:
    lie = await thief.session()
    own = subjects.shard(lie.request.peer)
    subject = subjects.inbound(lie.request.peer, None, "disconnected")
    other = subject.replace(f"ln.in.{own}.", f"ln.in.{(own + 1) % 64}.", 1)
    thief.fabric.publish(other, encode(lie.envelope(b'{"reason":"peer_closed"}')))
    # Nor under the name of another peer.
    elsewhere = subjects.inbound(thief.target.honest.node_id, None, "disconnected")
    thief.fabric.publish(elsewhere, encode(lie.envelope(b'{"reason":"peer_closed"}')))
    await thief.fabric.barrier()
    assert await lie.is_known()


async def test_a_session_id_of_somebody_else_is_refused(thief: Thief) -> None:
    lie = await thief.session()
    stolen = thief.opening(new_peer(), session=lie.request.session)
    assert "another connection" in (await thief.open(stolen)).why
    renamed = thief.opening(lie.request.peer, session=lie.request.session, front="alice-1")
    assert "another connection" in (await thief.open(renamed)).why
    assert await lie.is_known()


async def test_an_open_for_another_node_is_refused(thief: Thief) -> None:
    reply = await thief.open(thief.opening(new_peer(), node_id=new_peer()))
    assert not reply.accepted
    assert "node id" in reply.why


async def test_opening_again_is_the_same_session(thief: Thief) -> None:
    lie = await thief.session()
    again = await thief.open(lie.request)
    assert again == lie.reply
    await lie.hears("ack")


# --- the names of others


async def test_the_heartbeat_of_another_front_cannot_be_forged(
    thief: Thief,
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """Taken as theirs, it would mean that they were started anew: all their peers would go."""
    await mallory.open_channel()
    wire = mallory.wire
    for front in thief.target.node.fronts:
        for _ in range(5):
            thief.alive(front=front)
    await thief.fabric.barrier()
    await mallory.works()
    assert mallory.wire is wire


async def test_a_session_under_the_name_of_another_front_dies_and_harms_none_of_its_own(
    thief: Thief,
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    front = next(iter(thief.target.node.fronts))
    request = thief.opening(new_peer(), front=front)
    reply = await thief.open(request)
    lie = Lie(thief, request, reply)
    body = lie.connected()
    subject = subjects.inbound(request.peer, None, "connected")
    thief.fabric.publish(subject, encode(lie.envelope(body, front=front)))

    async def is_forgotten() -> bool:
        peers = await thief.target.node.call("peers")
        return request.peer.hex() not in {peer["nodeId"] for peer in peers}

    await until("the made-up session to end", is_forgotten, 15)
    await mallory.works()


async def test_a_peer_that_was_displaced_comes_back_and_its_channel_lives(
    thief: Thief,
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """A thief can drop a peer (docs/operations.md); it cannot speak for its channel for long."""
    await mallory.open_channel()
    lie = await thief.session(mallory.node_id)
    assert mallory.wire is not None
    await mallory.wire.expect_closed()
    # It has no secrets to prove anything with.
    lie.say(
        "shutdown",
        to_json(Shutdown(channel_id=mallory.channel_id, scriptpubkey=b"\0\x14" + bytes(20))),
        mallory.channel_id,
    )
    await lie.hears("close")
    await mallory.reestablish()
    await mallory.works()


async def test_nobody_is_proposed_a_channel_that_was_not_asked_for(thief: Thief) -> None:
    """A channel of the thief's own is a channel like any other; it opens nothing by itself."""
    lie = await thief.session()
    proposal = await HostilePeer(thief.target.node, thief.target.bitcoind, "behind").propose_to(
        FeatureSet.from_bytes(lie.reply.features)
    )
    lie.say("open_channel", to_json(proposal), proposal.temporary_channel_id)
    assert isinstance(proposal, OpenChannel)
    await lie.hears("accept_channel")
    lie.say("disconnected", b'{"reason":"peer_closed"}')
    await lie.ended()


# --- the node key


async def test_a_dial_that_was_not_ordered_gets_no_secret(thief: Thief) -> None:
    request = EcdhInitiator(
        front=STOLEN,
        dial_id=secrets.token_bytes(16),
        node_id=thief.target.honest.node_id,
        ephemeral=secrets.token_bytes(32),
        act_two=bytes(50),
    )
    reply = read(EcdhReply, await thief.ask(subjects.ECDH, request.to_bytes()))
    assert reply.refused == "this dial was not ordered"
    assert reply.ck is None
    assert reply.temp_k is None


@pytest.mark.parametrize(
    "act",
    [bytes(50), b"\xff" * 50, b"\0\2" + b"\xff" * 48],
    ids=["zeros", "another version", "no point"],
)
async def test_garbage_in_act_one_gets_no_secret(thief: Thief, act: bytes) -> None:
    request = EcdhResponder(front=STOLEN, act_one=act)
    reply = read(EcdhReply, await thief.ask(subjects.ECDH, request.to_bytes()))
    assert reply.refused
    assert reply.ck is None


async def test_a_flood_of_handshakes_is_capped_and_others_get_theirs(thief: Thief) -> None:
    _, act = initiate(public_key(b"\x22" * 32), secrets.token_bytes(32), thief.node_id)
    request = EcdhResponder(front=STOLEN, act_one=act).to_bytes()
    answers: list[EcdhReply] = []

    async def ask() -> None:
        try:
            answers.append(read(EcdhReply, await thief.ask(subjects.ECDH, request)))
        except BackendError:
            return

    flood = [asyncio.create_task(ask()) for _ in range(20 * MAX_WAITING_PER_FRONT)]
    for _ in range(3):
        visitor = thief.target.peer("visitor")
        await visitor.connect()
    await asyncio.gather(*flood)
    refused = [a for a in answers if a.refused]
    assert all(a.refused == "too many handshakes of this front" for a in refused)
    assert refused
    assert len(answers) > len(refused)


async def test_an_answer_goes_to_no_subject_but_an_inbox(thief: Thief) -> None:
    """The back may publish what a front may not: it must not do so for one."""
    overheard: list[bytes] = []
    victim = thief.target.honest.node_id
    assert thief.fabric._nc is not None
    await thief.fabric.subscribe(
        subjects.hello(7).replace("7", "*"), lambda received: overheard.append(received.payload)
    )
    request = thief.opening(victim, node_id=new_peer()).to_bytes()
    for reply in (subjects.hello(7), subjects.outbound(STOLEN, victim, None, "reset")):
        await thief.fabric._nc.publish(
            subjects.open_session(subjects.shard(victim)), request, reply=reply
        )
    await thief.fabric.barrier()
    await thief.session()
    assert not [payload for payload in overheard if b"accepted" in payload]
    assert not thief.strange


# --- floods


async def test_a_flood_of_sessions_is_bounded_and_forgotten(thief: Thief) -> None:
    peers = [new_peer() for _ in range(3_000)]
    thief.alive()

    async def open_one(peer: bytes) -> None:
        try:
            await thief.open(thief.opening(peer))
        except BackendError:
            return

    flood = [asyncio.create_task(open_one(peer)) for peer in peers]
    await thief.target.honest.works()
    await asyncio.gather(*flood)
    await thief.target.honest.works()


async def test_a_flood_of_envelopes_delays_nobody_for_long(thief: Thief) -> None:
    lie = await thief.session()
    subject = subjects.inbound(lie.request.peer, None, "ack")
    payload = encode(lie.envelope(b"{}", seq=0))
    foreign = encode(replace(lie.envelope(b"{}", seq=0), session=secrets.token_bytes(16)))
    started = asyncio.get_running_loop().time()
    for _ in range(20):
        for _ in range(250):
            thief.fabric.publish(subject, payload)
            thief.fabric.publish(subject, foreign)
        await asyncio.sleep(0)
    await thief.target.honest.works()
    assert asyncio.get_running_loop().time() - started < 10
