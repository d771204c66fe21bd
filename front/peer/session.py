"""One peer's life, from the end of BOLT 8 until the owner of its shard knows that it is gone.

The socket (`Stream`) on one side, the session over the fabric (`FrontSession`) on the other::

    authenticated ─▶ ask the owner: open ─▶ our init ─┐
                     their init ────────────────────▶ connected ─▶ messages both ways ─▶ end

While no owner answers, the peer is kept: our `init` is then made of what ``ln.graph.self`` said,
and `open` is asked again until somebody answers. This front originates `init`, `ping`, `pong`,
`warning` and gossip (`front.gossip`); all else comes from the owner.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from front.peer.complaint import Budget, warning
from front.peer.gossip import PeerLink
from front.peer.handshake import Identity, check_init, our_init
from front.peer.knock import Knock
from front.peer.onions import ONION_MESSAGE
from front.peer.routing import ANNOUNCEMENTS, OPENS_CHANNEL, Route, channel_of, message_name, route
from front.transport.keepalive import Keepalive
from front.transport.stream import MAX_UNSENT, AuthenticatedHandler
from shared.errors import (
    Action,
    FabricError,
    MalformedMessage,
    PeerError,
    ProtocolViolation,
)
from shared.fabric.envelope import Direction, Envelope, Reason, decode_message
from shared.fabric.requests import OpenReply, OpenRequest
from shared.fabric.session import Deliver, Effect, Ended, FrontSession, Publish
from shared.fabric.subjects import shard
from shared.features import FeatureSet
from shared.wire import Init, Message, Ping, Pong, decode, encode, to_json

if TYPE_CHECKING:
    from front.bridge import Bridge
    from front.peer.introduction import Introduction
    from front.transport.stream import Stream

__all__ = ["Peer"]

_BOLT = "BOLT 1"
UPDATES_PER_S, UPDATE_BURST = 2.0, 100.0
"""How many channel_updates of one peer reach its owner; the rest is dropped, as gossip may be."""
WARNINGS_PER_S, WARNING_BURST = 0.2, 5.0
"""How often a peer is told of what does not end its connection."""
_WARNED = frozenset({Reason.PROTOCOL, Reason.OVER_WINDOW, Reason.REFUSED})
"""Ends whose cause the peer is told in a `warning`."""


class Peer(AuthenticatedHandler):
    """A connected peer and its session.

    Args:
        bridge: the way to the owners, and everything a peer shares with the others.
        stream: the authenticated connection; its handler from now on.
        introduction: how the connection came to be.
        departed: called once when the TCP connection is gone.
    """

    __slots__ = (
        "_bridge",
        "_delivered",
        "_departed",
        "_has_channels",
        "_init_by",
        "_introduction",
        "_keepalive",
        "_knock",
        "_link",
        "_log",
        "_ours",
        "_over",
        "_resent",
        "_stream",
        "_theirs",
        "_timer",
        "_timer_at",
        "_updates",
        "_warnings",
        "_written",
        "node_id",
        "session",
        "shard",
    )

    def __init__(
        self,
        bridge: "Bridge",
        stream: "Stream",
        introduction: "Introduction",
        departed: Callable[[], None],
    ) -> None:
        now = bridge.now()
        self.node_id = stream.node_id
        self.shard = shard(self.node_id)
        self.session = FrontSession(introduction.session, bridge.name, self.node_id)
        self._bridge = bridge
        self._stream = stream
        self._introduction = introduction
        self._departed = departed
        self._keepalive = Keepalive(bridge.rules.timing, now, bridge.random())
        self._init_by: float | None = now + bridge.rules.init_timeout_s
        self._ours: Init | None = None
        self._theirs: Init | None = None
        self._has_channels = self._over = False
        self._delivered = self._written = self._resent = 0
        self._updates = Budget(UPDATES_PER_S, UPDATE_BURST)
        self._warnings = Budget(WARNINGS_PER_S, WARNING_BURST)
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._knock = Knock(bridge, self)
        self._link: PeerLink | None = None
        self._log = structlog.get_logger().bind(
            peer=self.node_id.hex(), session=introduction.session.hex()
        )

    def start(self) -> None:
        """Ask the owner in, and set the clocks."""
        self._bridge.add(self)
        self._knock.start()
        self._run([])

    # --- before the session is used ------------------------------------------------------------

    def open_request(self) -> OpenRequest:
        """Ask whether this peer may come in."""
        bridge, made = self._bridge, self._introduction
        return made.open_request(bridge.name, bridge.instance, self.node_id, bridge.now())

    def unanswered(self) -> None:
        """No owner answered: our `init` need not wait for one."""
        if self._bridge.identity is not None and not self.session.ended:
            self._say_init(self._bridge.identity)

    def knock_failed(self, error: BaseException) -> None:
        """A bug of ours: nobody asks the owner any more."""
        self._log.error("open_failed", exc_info=error)
        self._end(Reason.INVALID, "the session could not be opened")

    def answered(self, reply: OpenReply) -> bool:
        """Take the owner's answer; False if it is another session's or a former owner's."""
        if self.session.ended:
            return True
        if reply.session != self.session.id:
            return False
        if not reply.accepted:
            self._end(Reason.REFUSED, reply.why or "refused")
            return True
        if reply.node_id != self._introduction.node_id:
            self._log.error("owner_has_another_node_key")
            self._end(Reason.INVALID, "the owner is another node")
            return True
        if reply.epoch < self._bridge.owners[self.shard].epoch:
            return False
        self._say_init(Identity(FeatureSet.from_bytes(reply.features), reply.networks))
        self._has_channels = self._has_channels or reply.has_channels
        self._run(self.session.opened(reply.epoch, self._has_channels, self._bridge.now()))
        return self.session.epoch == reply.epoch or self.session.ended

    def _say_init(self, identity: Identity) -> None:
        """Send our `init` once, from whatever is first known."""
        if self._ours is not None or self._stream.closing:
            return
        made = self._introduction
        inbound = made.direction is Direction.INBOUND
        self._ours = our_init(identity, self._stream.remote if inbound else None)
        self._send(self._ours)
        self._introduce()

    def _introduce(self) -> None:
        """Both inits are there: check them, and start the session with `connected`."""
        if self._ours is None or self._theirs is None or self.session.ended:
            return
        try:
            features = check_init(self._ours, self._theirs)
        except ProtocolViolation as error:
            self.violated(error, str(error))
            return
        self._init_by = None
        self._bridge.metrics.peers.inc()
        made = self._introduction
        self._log.info("peer_connected", address=made.address, direction=made.direction.value)
        self._log.debug("features_negotiated", features=sorted(f.name for f in features))
        connected = made.connected(self._bridge.name, self._ours, self._theirs)
        now = self._bridge.now()
        self._run(self.session.send("connected", None, connected.to_bytes(), 0, now))
        if not self._stream.closing:
            self._link = PeerLink(self, self._ours, self._theirs, made.direction)
            self._bridge.gossip.joined(self._link)

    # --- the socket (StreamHandler) ---------------------------------------------------------------

    def received(self, stream: "Stream", message: bytes) -> None:
        """One message of the peer."""
        if self.session.ended or stream.closing:
            return
        self._keepalive.heard(self._bridge.now())
        self._bridge.metrics.messages_in.inc()
        try:
            if self._link is not None and message[:2] in ANNOUNCEMENTS:
                self._take_announcement(self._link, message)
            elif self._link is not None and message[:2] == ONION_MESSAGE:
                self._bridge.onions.take(self._link, self.session, message)
            else:
                self._take(message)
        except MalformedMessage as error:
            self.violated(error, f"{message_name(message)}: {error}")
        except PeerError as error:
            self.violated(error, str(error))

    def drained(self, stream: "Stream") -> None:
        """Everything delivered so far is written."""
        if self._written < self._delivered and not stream.closing:
            self._written = self._delivered
            self._run(self.session.written(self._written, self._bridge.now()))
        if self._link is not None and not stream.closing:
            self._bridge.gossip.drained(self._link)

    def failed(self, stream: "Stream", error: Exception) -> None:
        """A frame did not authenticate: nothing can be said any more (BOLT 8)."""
        self._bridge.metrics.violations.labels("BOLT 8").inc()
        self._log.info("peer_frame_refused", why=str(error), address=stream.remote[0])
        self._end(Reason.PROTOCOL, str(error), warn=False)

    def lost(self, stream: "Stream") -> None:
        """The TCP connection is gone."""
        self._end(Reason.PEER_CLOSED, "the connection is closed", warn=False)
        self._departed()

    def _take(self, data: bytes) -> None:
        message = decode(data)
        if self._theirs is None:
            self._take_init(message)
            return
        if message is None:
            self._bridge.metrics.dropped.labels("unknown_odd").inc()
            return
        match route(message):
            case Route.OWNER:
                self._pass_on(message, len(data))
            case Route.PING if isinstance(message, Ping):
                self._reply(self._keepalive.ping_received(message, self._bridge.now()))
            case Route.PONG if isinstance(message, Pong):
                self._keepalive.pong_received(message)
                self._set_timer()
            case Route.GOSSIP if self._link is not None:
                self._bridge.gossip.message(self._link, message)
            case Route.ILLEGAL:
                raise ProtocolViolation(f"{message.NAME} after init", bolt=_BOLT)
            case _:
                self._bridge.metrics.dropped.labels("gossip").inc()

    def _take_init(self, message: Message | None) -> None:
        if not isinstance(message, Init):
            name = "an unknown message" if message is None else message.NAME
            raise ProtocolViolation(f"{name} before init", bolt=f"{_BOLT} § init")
        self._theirs = message
        self._introduce()
        self._run([])

    def _pass_on(self, message: Message, size: int) -> None:
        now = self._bridge.now()
        body = to_json(message)
        self._run(self.session.send(message.NAME, channel_of(message), body, size, now))

    def _take_announcement(self, link: PeerLink, data: bytes) -> None:
        """Gossip; a channel_update that the table knows nothing of may be of its channel with us.

        Then it is the owner's too: the table may only not know the channel yet.
        """
        if not self._bridge.gossip.announcement(link, data) and self._has_channels:
            message = decode(data)
            if message is not None:
                self._pass_on_update(message, len(data))

    def _pass_on_update(self, message: Message, size: int) -> None:
        if self._updates.take(self._bridge.now()):
            self._pass_on(message, size)
        else:
            self.session.dropped()
            self._bridge.metrics.dropped.labels("gossip_budget").inc()

    def _reply(self, message: Message | None) -> None:
        """Answer on this front's own account; the peer has to read what it asks for."""
        if message is None:
            return
        if self._stream.unsent > MAX_UNSENT:
            raise ProtocolViolation(f"over {MAX_UNSENT} bytes asked for and not read", bolt=_BOLT)
        self._send(message)

    def _send(self, message: Message) -> None:
        self._bridge.metrics.messages_out.inc()
        self._stream.send(encode(message))

    # --- for the link -----------------------------------------------------------------------------

    @property
    def has_channels(self) -> bool:
        """Whether the peer has channels with us, as far as is known here."""
        return self._has_channels

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._stream.closing

    @property
    def unsent(self) -> int:
        """Bytes that the peer's side has not taken yet."""
        return self._stream.unsent

    def send_gossip(self, message: bytes) -> None:
        """Send one raw message on this front's own account."""
        metrics = self._bridge.metrics
        metrics.messages_out.inc()
        metrics.gossip_out.inc(len(message))
        self._stream.send(message)

    # --- the fabric -------------------------------------------------------------------------------

    def hear(self, name: str, channel: bytes | None, envelope: Envelope) -> None:
        """Take an envelope for this session.

        Raises:
            FabricError: it makes no sense; nothing changed.
        """
        self._run(self.session.receive(name, channel, envelope, self._bridge.now()))

    def hello(self, epoch: int) -> None:
        """The shard has an owner with a higher epoch."""
        self._run(self.session.hello(epoch, self._bridge.now()))

    def owner_silent(self) -> None:
        """The shard has had no owner for 30 s."""
        self._run(self.session.owner_silent(self._bridge.now()))

    def fabric_lost(self) -> None:
        """The connection to the broker is gone."""
        self.session.fabric_lost()

    def fabric_back(self) -> None:
        """The connection to the broker is back."""
        self._run(self.session.fabric_back(self._bridge.now()))

    def resumed(self, expects: int) -> None:
        """The owner said what it expects next."""
        self._run(self.session.resumed(expects, self._bridge.now()))

    def unknown_to_owner(self) -> None:
        """The owner does not know this session: only a new connection can start another."""
        self._end(Reason.UNKNOWN_SESSION, "the owner does not know the session")

    def leave(self) -> None:
        """This front is being stopped."""
        self._end(Reason.DRAINING, f"front {self._bridge.name} is being stopped")

    # --- what follows -----------------------------------------------------------------------------

    def _run(self, effects: list[Effect]) -> None:
        """Do what the session wants done, then look at the window and the clocks."""
        for effect in effects:
            match effect:
                case Publish(subject, payload):
                    self._bridge.publish(subject, payload)
                case Deliver():
                    self._deliver(effect)
                case Ended(reason, detail):
                    self._end(reason, detail)
                case _:
                    self._knock.start()
        self._count_resends()
        if not self._stream.closing:
            # What follows their init waits until ours is sent: `connected` goes first.
            if self.session.writable and (self._theirs is None or self._init_by is None):
                self._stream.resume_reading()
            else:
                self._stream.pause_reading()
        self._set_timer()

    def _deliver(self, delivered: Deliver) -> None:
        if self._stream.closing:
            return
        if self._init_by is not None:
            self._end(Reason.INVALID, f"{delivered.name} before both inits")
            return
        try:
            data = encode(decode_message(delivered.name, delivered.body))
        except (FabricError, ValueError) as error:
            self._log.error("owner_message_refused", message=delivered.name, why=str(error))
            self._end(Reason.INVALID, str(error))
            return
        if delivered.name in OPENS_CHANNEL and not self._has_channels:
            self._has_channels = True
            self._run(self.session.has_channels_now(self._bridge.now()))
        self._delivered = delivered.seq
        self._bridge.metrics.messages_out.inc()
        self._stream.send(data)

    def violated(self, error: PeerError, text: str) -> None:
        """Tell the peer what it did; end the connection unless the BOLT lets it go on."""
        self._bridge.metrics.violations.labels(error.bolt).inc()
        self._log.info("peer_violation", why=text)
        if error.action is not Action.WARN:
            self._end(Reason.PROTOCOL, text)
            return
        if self._warnings.take(self._bridge.now()):
            self._warn(text)

    def _warn(self, text: str) -> None:
        """Send a `warning`; our `init` goes first, and without one nothing can be said (BOLT 1)."""
        if self._ours is None:
            if self._bridge.identity is None:
                return
            made = self._introduction
            inbound = made.direction is Direction.INBOUND
            self._ours = our_init(self._bridge.identity, self._stream.remote if inbound else None)
            self._send(self._ours)
        self._send(warning(text))

    def _end(self, reason: Reason, detail: str, *, warn: bool = True) -> None:
        """Close the TCP connection and say so on the fabric; a second call does nothing."""
        if self._over:
            return
        self._over = True
        if self._link is not None:
            self._bridge.gossip.left(self._link)
        if warn and reason in _WARNED:
            self._warn(detail)
        self._stream.close()
        if self._init_by is None:
            self._bridge.metrics.peers.dec()
        self._bridge.metrics.ended.labels(reason.value).inc()
        self._log.info("peer_ended", reason=reason.value, detail=detail)
        self._run(self.session.disconnect(reason, detail, self._bridge.now()))
        self._knock.stop()

    def _count_resends(self) -> None:
        if (resent := self.session.resent) > self._resent:
            self._bridge.metrics.resends.inc(resent - self._resent)
        self._resent = resent

    # --- clocks -----------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """Wake up at the earliest deadline; a timer that fires too early only looks again."""
        if self.session.finished:
            self._cancel_timer()
            self._bridge.remove(self)
            return
        deadline = self._deadline()
        if deadline is None:
            self._cancel_timer()
        elif self._timer is None or self._timer_at > deadline:
            self._cancel_timer()
            # Noted by ourselves: for a deadline that is now, uvloop gives a handle without one.
            self._timer_at = deadline
            self._timer = asyncio.get_running_loop().call_at(deadline, self._due)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deadline(self) -> float | None:
        times = [self.session.next_deadline()]
        if not self._stream.closing:
            times.append(
                self._keepalive.next_deadline() if self._init_by is None else self._init_by
            )
        return min((time for time in times if time is not None), default=None)

    def _due(self) -> None:
        self._timer = None
        now = self._bridge.now()
        if not self._stream.closing:
            self._look_after_peer(now)
        self._run(self.session.poll(now))

    def _look_after_peer(self, now: float) -> None:
        if self._init_by is not None:
            if now >= self._init_by:
                who = "you sent none" if self._theirs is None else "no owner answered"
                error = ProtocolViolation(f"no init in time: {who}", bolt=f"{_BOLT} § init")
                self.violated(error, str(error))
            return
        try:
            ping = self._keepalive.due(now, self._bridge.pong_size())
        except ProtocolViolation as error:
            self.violated(error, str(error))
            return
        if ping is not None:
            self._send(ping)
