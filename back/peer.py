"""Peers: who is connected through which front, with what features, and their reconnection.

One :class:`Peer` per node id that is connected or has channels. It hands messages to the runner of
their channel and knows nothing of what they mean, but for those that make a channel.
"""

import asyncio
import contextlib
import random
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from back.channel.events import Connected as ChannelConnected, Disconnected, Received
from back.channel.funding import UNFUNDED
from shared.errors import BackendError, CommandError
from shared.fabric import subjects
from shared.fabric.envelope import Connected, Direction, Reason
from shared.fabric.requests import ConnectReply, ConnectRequest, read
from shared.features import Feature, FeatureSet
from shared.tasks import Tasks
from shared.wire import (
    ChannelReestablish,
    ChannelUpdate,
    Error,
    FundingCreated,
    Message,
    OpenChannel,
    Warning as WarningMessage,
    channel_token,
)

if TYPE_CHECKING:
    from back.runner import ChannelRunner
    from back.switchboard import PeerSession
    from shared.fabric.interface import Fabric

__all__ = ["Peer", "Peers", "Steward"]

log = structlog.get_logger()

ALL_CHANNELS = bytes(32)
"""What an `error` for every channel of the connection names; we never send one."""
CONNECT_TRIES = 3
CONNECT_TIMEOUT_S = 0.5
DIAL_PATIENCE_S = 20.0
"""How long a dial may take, front's own time-outs included."""
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0


class Steward(Protocol):
    """What peers need of the node."""

    def open_received(self, peer: "Peer", message: OpenChannel) -> None:
        """A peer proposes a channel."""

    def funding_created(self, runner: "ChannelRunner", message: FundingCreated) -> None:
        """A peer names the funding output of a channel that it opens."""

    def remember(self, peer: "Peer") -> None:
        """Keep where a peer with channels was reached, for reconnection after a restart."""

    async def may_speak(self, node_id: bytes) -> bool:
        """Say whether this peer is still ours, once a commit has shown it."""


@dataclass(slots=True, eq=False)
class Peer:
    """One other node.

    Attributes:
        session: its TCP connection; None while it is away.
        features: negotiated on that connection.
        runners: its channels, by present channel id (temporary or final).
        addresses: where it was reached, ``host:port``, best first.
    """

    node_id: bytes
    session: "PeerSession | None" = None
    features: frozenset[Feature] = frozenset()
    runners: "dict[bytes, ChannelRunner]" = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)
    waiters: "list[asyncio.Future[Peer]]" = field(default_factory=list)
    redial: "asyncio.Task[None] | None" = None
    recent_warnings: deque[str] = field(default_factory=lambda: deque(maxlen=16))

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent now."""
        return self.session is not None

    def runner_of(self, channel_id: bytes) -> "ChannelRunner | None":
        """Find the channel that an `error` is about.

        Until the fundee's funding_signed both sides may call it by its temporary id (BOLT 1).
        """
        if (runner := self.runners.get(channel_id)) is not None:
            return runner
        for runner in self.runners.values():
            channel = runner.channel
            is_early = channel.phase in UNFUNDED
            if is_early and channel.parameters.temporary_channel_id == channel_id:
                return runner
        return None


@dataclass(slots=True)
class Dial:
    """A connection that we ordered and of which nothing was heard yet.

    Attributes:
        front: who took the order.
    """

    node_id: bytes
    outcome: "asyncio.Future[None]"
    front: str = ""


@dataclass(slots=True)
class Peers:
    """All peers; the part of the switchboard's attendant that is about them."""

    fabric: "Fabric"
    features: FeatureSet
    steward: Steward
    known: dict[bytes, Peer] = field(default_factory=dict)
    dials: dict[bytes, Dial] = field(default_factory=dict)
    """Dials that we ordered and that have not ended, by id."""
    is_stopping: bool = False
    _tasks: Tasks = field(default_factory=Tasks)

    def get(self, node_id: bytes) -> Peer:
        """Return the peer, new if it was not known."""
        peer = self.known.get(node_id)
        if peer is None:
            peer = self.known[node_id] = Peer(node_id)
        return peer

    def forget_if_idle(self, peer: Peer) -> None:
        """Drop a peer that is away and has nothing here."""
        if peer.session is None and not peer.runners and not peer.waiters:
            self.known.pop(peer.node_id, None)

    # --- from the switchboard ------------------------------------------------------------------

    def connected(self, session: "PeerSession", connected: Connected) -> None:
        """A new connection: every channel of the peer hears of it."""
        peer = self.get(session.peer)
        if peer.session is not None and peer.session is not session:
            self._left(peer)
        theirs = FeatureSet.from_bytes(connected.their_init.features).union(
            FeatureSet.from_bytes(connected.their_init.globalfeatures)
        )
        peer.session = session
        peer.features = FeatureSet.negotiated(self.features, theirs)
        if connected.direction is Direction.OUTBOUND:
            self.reached(peer, connected.address)
        if peer.redial is not None:
            peer.redial.cancel()
            peer.redial = None
        if connected.dial_id is not None and (dial := self.dials.pop(connected.dial_id, None)):
            _settle(dial.outcome)
        for waiter in peer.waiters:
            if not waiter.done():
                waiter.set_result(peer)
        peer.waiters.clear()
        log.info(
            "peer_connected",
            peer=session.peer.hex(),
            front=session.front,
            direction=connected.direction.value,
        )
        for runner in list(peer.runners.values()):
            runner.connect(session, ChannelConnected(peer.features))

    def disconnected(self, session: "PeerSession", reason: Reason, detail: str) -> None:
        """The connection is over."""
        peer = self.known.get(session.peer)
        if peer is None or peer.session is not session:
            return
        log.info(
            "peer_disconnected",
            peer=session.peer.hex(),
            front=session.front,
            reason=reason.value,
            detail=detail,
        )
        self._left(peer)
        self.reconnect(peer)
        self.forget_if_idle(peer)

    def _left(self, peer: Peer) -> None:
        peer.session = None
        for runner in list(peer.runners.values()):
            runner.post(Disconnected())

    def received(self, session: "PeerSession", message: Message) -> None:
        """Hand one message to the channel that it is for."""
        peer = self.known.get(session.peer)
        if peer is None or peer.session is not session:
            return
        match message:
            case Error() | WarningMessage():
                self._complaint(peer, message)
            case OpenChannel():
                self.steward.open_received(peer, message)
            case ChannelUpdate():
                for runner in list(peer.runners.values()):
                    runner.post(Received(message))
            case _:
                self._to_channel(peer, message)

    def _complaint(self, peer: Peer, message: Error | WarningMessage) -> None:
        text = message.data.decode("utf-8", "replace")
        printable = "".join(c if c.isprintable() else "?" for c in text)[:500]
        log.warning(
            f"{message.NAME}_received",
            peer=peer.node_id.hex(),
            channel=message.channel_id.hex(),
            text=printable,
        )
        peer.recent_warnings.append(printable)
        if isinstance(message, WarningMessage):
            return
        if message.channel_id == ALL_CHANNELS:
            for runner in list(peer.runners.values()):
                runner.post(Received(message))
        elif (addressed := peer.runner_of(message.channel_id)) is not None:
            addressed.post(Received(message))

    def _to_channel(self, peer: Peer, message: Message) -> None:
        token = channel_token(message)
        if token == "-":  # noqa: S105 - the subject token of "no channel"
            log.info("message_ignored", peer=peer.node_id.hex(), message=message.NAME)
            return
        channel_id = bytes.fromhex(token)
        runner = peer.runners.get(channel_id)
        if runner is not None and isinstance(message, FundingCreated):
            self.steward.funding_created(runner, message)
        elif runner is not None:
            runner.post(Received(message))
        elif peer.session is None:
            return
        elif isinstance(message, ChannelReestablish):
            # BOLT 2 leaves no other way to tell a peer that its channel is not one of ours.
            self.say(peer.session, Error(channel_id=channel_id, data=b"unknown channel"))
        else:
            why = f"{message.NAME} for an unknown channel"
            warning = WarningMessage(channel_id=channel_id, data=why.encode())
            self.say(peer.session, warning, is_last=True)

    def say(self, session: "PeerSession", message: Message, *, is_last: bool = False) -> None:
        """Send outside of any channel, once a commit has shown that the peer is still ours.

        Args:
            session: to whom.
            message: what.
            is_last: close the connection after it.
        """
        if isinstance(message, Error) and message.channel_id == ALL_CHANNELS:
            # The peer chose this id, and would take it for the end of all its channels.
            message, is_last = WarningMessage(channel_id=ALL_CHANNELS, data=message.data), True
        self._tasks.spawn(self._say(session, message, is_last=is_last), f"say {message.NAME}")

    async def _say(self, session: "PeerSession", message: Message, *, is_last: bool) -> None:
        if not await self.steward.may_speak(session.peer):
            return
        session.send(message)
        if is_last:
            session.close(Reason.PROTOCOL, message.NAME)

    # --- reaching out --------------------------------------------------------------------------

    def reached(self, peer: Peer, address: str) -> None:
        """Remember an address that worked."""
        if address in peer.addresses:
            peer.addresses.remove(address)
        peer.addresses.insert(0, address)
        del peer.addresses[4:]
        self.steward.remember(peer)

    async def connect(self, node_id: bytes, addresses: list[str] | None = None) -> Peer:
        """Return the peer once it is connected, dialling through any front where needed.

        Raises:
            CommandError: no address is known, or nobody answered there.
            BackendError: no front is up.
        """
        peer = self.get(node_id)
        if peer.session is not None:
            return peer
        where = addresses or peer.addresses
        if not where:
            raise CommandError("no address is known for this peer")
        waiter: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        peer.waiters.append(waiter)
        dial = asyncio.create_task(self._dial(node_id, where))
        try:
            both: set[asyncio.Future[Any]] = {waiter, dial}
            await asyncio.wait(both, timeout=DIAL_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                return waiter.result()
            if dial.done():
                dial.result()
                # The dial made a connection that was refused in favour of another one.
                return await asyncio.wait_for(waiter, CONNECT_TIMEOUT_S * 4)
            raise CommandError("the peer did not answer in time")
        except TimeoutError:
            raise CommandError("the connection did not come up") from None
        finally:
            dial.cancel()
            with contextlib.suppress(asyncio.CancelledError, CommandError, BackendError):
                await dial
            if waiter in peer.waiters:
                peer.waiters.remove(waiter)
            waiter.cancel()
            self.forget_if_idle(peer)

    async def _dial(self, node_id: bytes, addresses: list[str]) -> None:
        """Have one front dial; return when a session came of it.

        Raises:
            CommandError: the front says why there is none, or says nothing.
            BackendError: no front answered.
        """
        dial_id = secrets.token_bytes(16)
        request = ConnectRequest(dial_id=dial_id, node_id=node_id, addresses=tuple(addresses))
        dial = Dial(node_id, asyncio.get_running_loop().create_future())
        self.dials[dial_id] = dial
        try:
            reply = await self._ask_a_front(request)
            if not reply.accepted:
                raise CommandError(f"front {reply.front} did not dial: {reply.why}")
            dial.front = reply.front
            async with asyncio.timeout(DIAL_PATIENCE_S):
                await dial.outcome
        except TimeoutError:
            raise CommandError("the front says nothing of the dial") from None
        finally:
            self.dials.pop(dial_id, None)
            dial.outcome.cancel()

    async def _ask_a_front(self, request: ConnectRequest) -> ConnectReply:
        error: Exception | None = None
        for _ in range(CONNECT_TRIES):
            try:
                payload = await self.fabric.request(
                    subjects.CONNECT, request.to_bytes(), timeout_s=CONNECT_TIMEOUT_S
                )
                return read(ConnectReply, payload)
            except BackendError as problem:
                error = problem
                await asyncio.sleep(CONNECT_TIMEOUT_S / 5)
        raise BackendError(f"no front answers: {error}") from error

    def is_ours(self, dial_id: bytes, node_id: bytes) -> bool:
        """Whether we ordered this dial to this peer: the signer helps with no other."""
        dial = self.dials.get(dial_id)
        return dial is not None and dial.node_id == node_id

    def unreachable(self, dial_id: bytes, detail: str) -> None:
        """A front could not connect."""
        if dial := self.dials.pop(dial_id, None):
            _settle(dial.outcome, CommandError(f"cannot reach the peer: {detail}"))

    def front_gone(self, front: str) -> None:
        """A front died: nothing comes of what it was dialling."""
        for dial in self.dials.values():
            if dial.front == front:
                _settle(dial.outcome, CommandError(f"front {front} is gone"))

    def reconnect(self, peer: Peer) -> None:
        """Keep trying to reach a peer with channels, with back-off and jitter."""
        if (
            self.is_stopping
            or peer.redial is not None
            or peer.session is not None
            or not peer.addresses
            or not peer.runners
        ):
            return
        peer.redial = self._tasks.spawn(self._redial(peer), f"redial {peer.node_id.hex()}")

    async def _redial(self, peer: Peer) -> None:
        wait = FIRST_RETRY_S
        try:
            while peer.session is None and peer.runners and not self.is_stopping:
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                wait = min(wait * 2, LAST_RETRY_S)
                try:
                    await self._dial(peer.node_id, list(peer.addresses))
                except (CommandError, BackendError) as error:
                    log.info("redial_failed", peer=peer.node_id.hex(), error=str(error))
        finally:
            # Whatever ended it, the next disconnection may begin another.
            if peer.redial is asyncio.current_task():
                peer.redial = None

    async def stop(self) -> None:
        """Dial nobody any more."""
        self.is_stopping = True
        await self._tasks.stop()


def _settle(dial: "asyncio.Future[None]", error: Exception | None = None) -> None:
    if dial.done():
        return
    if error is None:
        dial.set_result(None)
    else:
        dial.set_exception(error)
