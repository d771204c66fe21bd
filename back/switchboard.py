"""Sessions of peers, as the owner of their shards sees them (docs/fabric.md § Session).

The switchboard answers ``open`` and ``resume``, runs one BackSession per TCP connection, and hands
what arrives, in order, to the node. It knows nothing of channels.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from shared.errors import FabricError, LeaseLost, MalformedMessage
from shared.fabric import subjects
from shared.fabric.envelope import (
    Connected,
    Direction,
    Envelope,
    Reason,
    Unreachable,
    decode,
    decode_body,
)
from shared.fabric.requests import (
    Alive,
    Expecting,
    Hello,
    Load,
    NodeSelf,
    OpenReply,
    OpenRequest,
    ResumeReply,
    ResumeRequest,
    read,
)
from shared.fabric.session import (
    BackSession,
    Deliver,
    Effect,
    Ended,
    Made,
    Publish,
    replaces,
    reset_for_unknown,
)
from shared.tasks import Tasks
from shared.wire import Message, channel_token, encode, to_json

if TYPE_CHECKING:
    from shared.fabric.interface import Fabric, Received

__all__ = ["Attendant", "Identity", "PeerSession", "Switchboard"]

log = structlog.get_logger()

HELLO_EVERY_S = 1.0
MAX_SESSIONS_PER_FRONT = 50_000
"""A stolen front may claim any number of peers; each costs memory here."""
CONNECTED_WITHIN_S = 120.0
"""After `open`, both inits and the front's word of them must have come."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is: what every `init` of ours says.

    Attributes:
        node_id: 33 bytes.
        networks: chain hashes.
        features: the `features` field of our `init`.
        owner: name of this process, for people.
        epoch: of the lease.
    """

    node_id: bytes
    networks: tuple[bytes, ...]
    features: bytes
    owner: str
    epoch: int


class Attendant(Protocol):
    """Who is told of sessions: the node."""

    async def admit(self, peer: bytes) -> tuple[str, bool]:
        """Say why a peer may not come in (empty: it may), and whether it has channels.

        Passes the committer: a back that cannot commit admits nobody.

        Raises:
            LeaseLost: another back owns the peer, and answers.
        """

    def connected(self, session: "PeerSession", connected: Connected) -> None:
        """Both inits of a session went over the wire."""

    def received(self, session: "PeerSession", message: Message) -> None:
        """The next message of a session."""

    def disconnected(self, session: "PeerSession", reason: Reason, detail: str) -> None:
        """The session is over."""

    def unreachable(self, dial_id: bytes, detail: str) -> None:
        """A dial that was ordered made no connection."""

    def front_alive(self, alive: Alive) -> None:
        """A front's heartbeat."""

    def commit_no(self, shard: int) -> int:
        """The lease's counter, for hello."""

    def load(self) -> Load:
        """Present load, for hello."""


@dataclass(slots=True, eq=False)
class PeerSession:
    """One TCP connection of a peer, as the node holds it."""

    switchboard: "Switchboard"
    session_id: bytes
    peer: bytes
    front: str
    instance: bytes
    made: Made
    dial_id: bytes | None
    core: BackSession
    connected: Connected | None = None
    has_channels: bool = False
    is_over: bool = False
    timer: asyncio.TimerHandle | None = None
    timer_at: float = 0.0

    def send(self, message: Message) -> None:
        """Queue a message to the peer; nothing happens once the session is over."""
        if self.is_over:
            return
        channel = channel_token(message)
        self.switchboard.run(
            self,
            self.core.send(
                message.NAME,
                None if channel == "-" else bytes.fromhex(channel),
                to_json(message),
                len(encode(message)),
                self.switchboard.now(),
            ),
        )

    def has_room(self, size: int) -> bool:
        """Whether a message that may as well be lost can go out without delaying others."""
        return not self.is_over and self.core.has_room(size)

    def has_channels_now(self) -> None:
        """The peer's first channel exists: it gets the wide window."""
        self.has_channels = True
        if not self.is_over:
            self.switchboard.run(self, self.core.has_channels_now(self.switchboard.now()))

    def close(self, reason: Reason, detail: str = "") -> None:
        """Have the front write what was sent so far, then close the TCP connection."""
        if not self.is_over:
            self.switchboard.run(self, self.core.close(reason, detail, self.switchboard.now()))

    def reset(self, reason: Reason, detail: str = "") -> None:
        """End at once."""
        if not self.is_over:
            self.switchboard.run(self, self.core.reset(reason, detail, self.switchboard.now()))


@dataclass(slots=True)
class Switchboard:
    """All sessions of the shards that this back owns."""

    fabric: "Fabric"
    identity: Identity
    attendant: Attendant
    shards: tuple[int, ...] = tuple(range(subjects.SHARDS))
    sessions: dict[bytes, PeerSession] = field(default_factory=dict)
    by_peer: dict[bytes, PeerSession] = field(default_factory=dict)
    instances: dict[str, bytes] = field(default_factory=dict)
    _of_front: Counter[str] = field(default_factory=Counter)
    """Sessions of each front."""
    _resent_before: int = 0
    is_muted: bool = False
    """Another back owns the shards: not another word."""
    is_deaf: bool = False
    """We are stopping: nothing is taken any more, what is durable may still be said."""
    _tasks: Tasks = field(default_factory=Tasks)

    @property
    def resent(self) -> int:
        """Messages sent again, of all sessions since the start."""
        return self._resent_before + sum(s.core.resent for s in self.sessions.values())

    @staticmethod
    def now() -> float:
        """Monotonic seconds."""
        return asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Subscribe the shards in the queue group of our epoch, then say hello."""
        group = subjects.back_group(self.identity.epoch)
        self.fabric.on_lost(self._fabric_lost)
        self.fabric.on_back(self._fabric_back)
        for shard in self.shards:
            await self.fabric.subscribe(subjects.shard_inbound(shard), self._inbound, group=group)
            await self.fabric.subscribe(
                subjects.open_session(shard), self._open_requested, group=group
            )
            await self.fabric.subscribe(
                subjects.resume_session(shard), self._resume_requested, group=group
            )
        await self.fabric.subscribe(subjects.ALIVE, self._alive)
        await self.fabric.barrier()
        self._tasks.spawn(self._say_hello(), "hello")

    async def stop(self) -> None:
        """Take nothing more; channels may still finish their sentences."""
        self.is_deaf = True
        await self._tasks.stop()

    def mute(self) -> None:
        """Say nothing more, for ever: the shards are another's, or nobody's."""
        self.is_deaf = self.is_muted = True
        for session in self.sessions.values():
            if session.timer is not None:
                session.timer.cancel()
                session.timer = None

    # --- hello ---------------------------------------------------------------------------------

    async def _say_hello(self) -> None:
        while True:
            try:
                self.hello()
            except Exception:
                # Fronts end every session of an owner that is silent.
                log.exception("hello_failed")
            await asyncio.sleep(HELLO_EVERY_S)

    def hello(self) -> None:
        """Publish that we own our shards and who we are."""
        if self.is_muted or not self.fabric.connected:
            return
        load = self.attendant.load()
        for shard in self.shards:
            hello = Hello(
                shard=shard,
                owner=self.identity.owner,
                epoch=self.identity.epoch,
                commit_no=self.attendant.commit_no(shard),
                load=load,
            )
            self.fabric.publish(subjects.hello(shard), hello.to_bytes())
        node = NodeSelf(
            node_id=self.identity.node_id,
            networks=self.identity.networks,
            features=self.identity.features,
        )
        self.fabric.publish(subjects.GRAPH_SELF, node.to_bytes())

    # --- open and resume -----------------------------------------------------------------------

    def _open_requested(self, received: "Received") -> None:
        if not self.is_deaf:
            self._tasks.spawn(self._open(received), "open")

    async def _open(self, received: "Received") -> None:
        try:
            request = read(OpenRequest, received.payload)
        except FabricError as error:
            log.warning("open_refused", subject=received.subject, error=str(error))
            return
        try:
            answer = await self._admit(request)
        except LeaseLost:
            return
        if answer is not None and not self.is_muted:
            self.fabric.respond(received, answer.to_bytes())

    async def _admit(self, request: OpenRequest) -> OpenReply | None:
        if why := self._misfit(request):
            return self._refuse(request, why)
        if subjects.shard(request.peer) not in self.shards:
            return None
        why, has_channels = await self.attendant.admit(request.peer)
        why = why or self._admitted(request, has_channels=has_channels)
        if why:
            return self._refuse(request, why)
        return OpenReply(
            session=request.session,
            accepted=True,
            epoch=self.identity.epoch,
            has_channels=has_channels,
            node_id=self.identity.node_id,
            features=self.identity.features,
            networks=self.identity.networks,
        )

    def _misfit(self, request: OpenRequest) -> str:
        """Say what is wrong with a request in itself; empty if nothing."""
        known = self.sessions.get(request.session)
        if known is not None and (known.peer, known.front) != (request.peer, request.front):
            return "this session id belongs to another connection"
        if request.node_id != self.identity.node_id:
            return "this cluster's node id is another one"
        return ""

    def _admitted(self, request: OpenRequest, *, has_channels: bool) -> str:
        """Begin the session, unless it is there; say why not, empty if it is there now."""
        if request.session in self.sessions:
            return self._misfit(request)
        if self._of_front[request.front] >= MAX_SESSIONS_PER_FRONT:
            return "this front has too many sessions"
        made = Made(self.now() - request.made_ms / 1000, request.direction is Direction.OUTBOUND)
        old = self.by_peer.get(request.peer)
        if old is not None and not replaces(old.made, made, self.identity.node_id, request.peer):
            return "another connection of this peer stays"
        self._begin(request, made, has_channels=has_channels)
        if old is not None:
            old.reset(Reason.REPLACED, "a newer connection of this peer")
        return ""

    def _refuse(self, request: OpenRequest, why: str) -> OpenReply:
        log.info("session_refused", peer=request.peer.hex(), front=request.front, why=why)
        return OpenReply(session=request.session, accepted=False, why=why)

    def _begin(self, request: OpenRequest, made: Made, *, has_channels: bool) -> None:
        core = BackSession(
            request.session,
            request.front,
            request.peer,
            self.identity.epoch,
            has_channels,
        )
        session = PeerSession(
            self,
            request.session,
            request.peer,
            request.front,
            request.instance,
            made,
            request.dial_id,
            core,
            has_channels=has_channels,
        )
        self.sessions[request.session] = session
        self.by_peer[request.peer] = session
        self._of_front[request.front] += 1
        self._arm(session)
        self._expect_connected(request.session)

    def _expect_connected(self, session_id: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(CONNECTED_WITHIN_S, self._look_for_connected, session_id)

    def _look_for_connected(self, session_id: bytes) -> None:
        session = self.sessions.get(session_id)
        if session is None or session.connected is not None:
            return
        if self.fabric.connected:
            session.reset(Reason.INVALID, f"no connected within {CONNECTED_WITHIN_S:g} s")
        else:
            self._expect_connected(session_id)

    def _resume_requested(self, received: "Received") -> None:
        if self.is_deaf:
            return
        try:
            request = read(ResumeRequest, received.payload)
        except FabricError as error:
            log.warning("resume_refused", subject=received.subject, error=str(error))
            return
        known: list[Expecting] = []
        for expecting in request.sessions:
            session = self.sessions.get(expecting.session)
            if session is None or session.is_over or session.front != request.front:
                continue
            known.append(Expecting(session=session.session_id, expects=session.core.expects))
            self.run(session, session.core.resumed(expecting.expects, self.now()))
        answer = ResumeReply(shard=request.shard, epoch=self.identity.epoch, sessions=tuple(known))
        self.fabric.respond(received, answer.to_bytes())

    # --- what arrives --------------------------------------------------------------------------

    def _inbound(self, received: "Received") -> None:
        if self.is_deaf:
            return
        try:
            parsed = subjects.parse_inbound(received.subject)
            envelope = decode(received.payload)
        except FabricError as error:
            log.warning("envelope_refused", subject=received.subject, error=str(error))
            return
        session = self.sessions.get(envelope.session)
        if session is None or session.peer != parsed.peer:
            self._unknown(parsed, envelope)
            return
        try:
            effects = session.core.receive(parsed.name, parsed.channel, envelope, self.now())
        except FabricError as error:
            log.warning("envelope_refused", subject=received.subject, error=str(error))
            return
        self.run(session, effects)

    def _unknown(self, parsed: subjects.Inbound, envelope: Envelope) -> None:
        """A message of a session that we do not have: its front must close the connection."""
        try:
            body = decode_body(parsed.name, envelope.body)
        except FabricError as error:
            log.warning("envelope_refused", name=parsed.name, error=str(error))
            return
        match body:
            case Unreachable(dial_id=dial_id, detail=detail):
                self.attendant.unreachable(dial_id, detail)
            case _:
                self._reset_unknown(parsed, envelope)

    def _reset_unknown(self, parsed: subjects.Inbound, envelope: Envelope) -> None:
        publish = reset_for_unknown(parsed.peer, parsed.name, envelope, self.identity.epoch)
        if publish is not None:
            self.fabric.publish(publish.subject, publish.payload)

    def front_gone(self, front: str) -> None:
        """A front is silent: its connections are gone with it."""
        self.instances.pop(front, None)
        for session in list(self.sessions.values()):
            if session.front == front:
                session.reset(Reason.PEER_CLOSED, "the front is silent")

    def _alive(self, received: "Received") -> None:
        try:
            alive = read(Alive, received.payload)
            if received.subject != subjects.alive(alive.front):
                # The broker lets a front with a certificate of its own use one subject only.
                raise FabricError(f"a heartbeat of {alive.front} on {received.subject}")
        except FabricError as error:
            log.warning("heartbeat_refused", error=str(error))
            return
        if self.instances.get(alive.front) != alive.instance:
            # Another process of that name, or one whose predecessor we never heard.
            self.instances[alive.front] = alive.instance
            for session in list(self.sessions.values()):
                if session.front == alive.front and session.instance != alive.instance:
                    session.reset(Reason.PEER_CLOSED, "the front was started anew")
        self.attendant.front_alive(alive)

    # --- effects -------------------------------------------------------------------------------

    def run(self, session: PeerSession, effects: list[Effect]) -> None:
        """Do what a session's core says, in order."""
        for effect in effects:
            match effect:
                case Publish(subject=subject, payload=payload):
                    if not self.is_muted:
                        self.fabric.publish(subject, payload)
                case Deliver():
                    self._deliver(session, effect)
                case Ended(reason=reason, detail=detail):
                    self._end(session, reason, detail)
                case _:
                    raise FabricError(f"{effect} is not for a back")
        self._arm(session)

    def _deliver(self, session: PeerSession, deliver: Deliver) -> None:
        if session.is_over:
            return
        try:
            self._hand_over(session, deliver)
        except Exception:
            # A bug of ours. The message counts as received: without an end of the session it would
            # be missing, and the peer's next signature would cost the channel.
            log.exception("delivery_failed", name=deliver.name, peer=session.peer.hex())
            session.reset(Reason.INVALID, "an internal error")

    def _hand_over(self, session: PeerSession, deliver: Deliver) -> None:
        try:
            body = decode_body(deliver.name, deliver.body)
        except (FabricError, MalformedMessage) as error:
            session.reset(Reason.INVALID, str(error))
            return
        match body:
            case Connected():
                session.connected = body
                self.attendant.connected(session, body)
            case Message() if session.connected is not None:
                self.attendant.received(session, body)
            case Message():
                session.reset(Reason.INVALID, f"{deliver.name} before connected")
            case _:
                session.reset(Reason.INVALID, f"{deliver.name} is not part of the stream")

    def _end(self, session: PeerSession, reason: Reason, detail: str) -> None:
        if session.is_over:
            return
        session.is_over = True
        if self.by_peer.get(session.peer) is session:
            del self.by_peer[session.peer]
        self.attendant.disconnected(session, reason, detail)

    def _arm(self, session: PeerSession) -> None:
        if session.core.finished:
            if self.sessions.pop(session.session_id, None) is not None:
                self._resent_before += session.core.resent
                self._of_front[session.front] -= 1
                if not self._of_front[session.front]:
                    del self._of_front[session.front]
            if session.timer is not None:
                session.timer.cancel()
                session.timer = None
            return
        at = None if self.is_muted else session.core.next_deadline()
        if at is None or (session.timer is not None and session.timer_at <= at):
            return
        if session.timer is not None:
            session.timer.cancel()
        session.timer_at = at
        session.timer = asyncio.get_running_loop().call_at(at, self._poll, session)

    def _poll(self, session: PeerSession) -> None:
        session.timer = None
        self.run(session, session.core.poll(self.now()))

    def _fabric_lost(self) -> None:
        for session in self.sessions.values():
            session.core.fabric_lost()

    def _fabric_back(self) -> None:
        now = self.now()
        self.hello()
        for session in list(self.sessions.values()):
            self.run(session, session.core.fabric_back(now))
