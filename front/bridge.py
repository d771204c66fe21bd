"""Sessions ↔ fabric: what all peers of a front share.

Publishes what sessions say and finds the session of what owners say; follows the owners' hellos,
the node's identity and the connection to the broker, and tells the peers.
"""

import asyncio
import random
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from front.peer.handshake import Identity
from shared.errors import BackendError, FabricError
from shared.fabric import subjects
from shared.fabric.envelope import Envelope, Unreachable, decode, encode
from shared.fabric.interface import Fabric, Received, Subscription
from shared.fabric.owners import Owners
from shared.fabric.requests import (
    Expecting,
    Hello,
    NodeSelf,
    OpenReply,
    OpenRequest,
    ResumeReply,
    ResumeRequest,
    read,
)
from shared.fabric.session import gone_for_unknown
from shared.features import FeatureSet

if TYPE_CHECKING:
    from front.gossip.service import Gossip
    from front.metrics import Metrics
    from front.peer.onions import OnionGate
    from front.peer.session import Peer
    from front.transport.keepalive import Timing

__all__ = ["Bridge", "PeerRules"]

OPEN_TIMEOUT_S = 0.5
RESUME_TIMEOUT_S = 1.0
RESUME_BATCH = 1000
OPENS_AT_ONCE = 128
"""Requests under way; ten thousand waiting peers must not bury an owner that has just started."""
MOVES_PER_S = 500
"""How many sessions a second are ended or moved when an epoch changes."""
_WAIT_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_PONG_SIZES = 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PeerRules:
    """What the settings say about every peer.

    Attributes:
        timing: of pings.
        init_timeout_s: for both inits after BOLT 8.
    """

    timing: "Timing"
    init_timeout_s: float


class Bridge:
    """The front's sessions.

    Args:
        fabric: the connection for sessions and requests.
        name: this front's name on the fabric.
        node_id: ours, if configured; else learned from ``ln.graph.self``.
        rules: for every peer.
        metrics: counts sessions and what went wrong.
        gossip: BOLT 7 of all peers.
        onions: their onion messages.
    """

    def __init__(
        self,
        fabric: Fabric,
        name: str,
        node_id: bytes | None,
        rules: PeerRules,
        metrics: "Metrics",
        gossip: "Gossip",
        onions: "OnionGate",
    ) -> None:
        self.fabric = fabric
        self.gossip = gossip
        self.onions = onions
        self.name = name
        self.rules = rules
        self.metrics = metrics
        self.instance = secrets.token_bytes(16)
        """Tells this run of the process from others of the same name."""
        self.node_id = node_id
        self.identity: Identity | None = None
        """What our `init` is made of while no owner answers; None until a back has said it."""
        self.known = asyncio.Event()
        """Set once `node_id` is known: without it no handshake is possible."""
        if node_id is not None:
            self.known.set()
        self.introduced = asyncio.Event()
        """Set once `identity` is known: without it there is no gossip."""
        self._loop = asyncio.get_running_loop()
        self.owners = Owners(self.now())
        self._newest_epoch = 0
        self._restored: set[int] = set()
        self._peers: dict[bytes, Peer] = {}
        self._shards: dict[int, set[Peer]] = {}
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._hellos: dict[int, asyncio.Event] = {}
        self._opens = asyncio.Semaphore(OPENS_AT_ONCE)
        self._subscriptions: list[Subscription] = []
        self._resuming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe; the fabric need not be connected yet."""
        self.fabric.on_lost(self._fabric_lost)
        self.fabric.on_back(self._fabric_back)
        self.gossip.on_node_self = self._told_who_we_are
        for subject, handler in (
            (subjects.front_outbound(self.name), self._outbound),
            (subjects.HELLO, self._hello),
            (subjects.GRAPH_SELF, self._node_self),
        ):
            self._subscriptions.append(await self.fabric.subscribe(subject, handler))

    async def stop(self) -> None:
        """Stop listening to owners."""
        if self._resuming is not None:
            self._resuming.cancel()
        for subscription in self._subscriptions:
            await subscription.close()

    # --- for peers --------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds: the clock of the loop, so that deadlines are its deadlines."""
        return self._loop.time()

    @staticmethod
    def random() -> float:
        """0 to 1, for jitter."""
        return random.random()  # noqa: S311 - jitter

    @staticmethod
    def pong_size() -> int:
        """Return how long a pong to ask for: not always the same, and cheap."""
        return random.randrange(_PONG_SIZES)  # noqa: S311 - no secret

    def add(self, peer: "Peer") -> None:
        """A peer has a session."""
        self._peers[peer.session.id] = peer
        self._emptied.clear()
        self._shards.setdefault(peer.shard, set()).add(peer)
        self.metrics.sessions.set(len(self._peers))

    def remove(self, peer: "Peer") -> None:
        """A peer's session is finished; a second call does nothing."""
        if self._peers.pop(peer.session.id, None) is None:
            return
        self._shards[peer.shard].discard(peer)
        self.metrics.sessions.set(len(self._peers))
        if not self._peers:
            self._emptied.set()

    @property
    def peers(self) -> tuple["Peer", ...]:
        """All peers with a session that is not finished."""
        return tuple(self._peers.values())

    async def empty(self) -> None:
        """Return when every session is finished: all owners know that their peers are gone."""
        await self._emptied.wait()

    def publish(self, subject: str, payload: bytes) -> None:
        """Send what a session says; what is lost, it says again."""
        self.fabric.publish(subject, payload)

    async def open(self, shard: int, request: OpenRequest) -> OpenReply:
        """Ask the owner of a shard whether a peer may come in.

        Raises:
            BackendError: nobody answered, or nothing that can be understood.
        """
        async with self._opens:
            payload = await self.fabric.request(
                subjects.open_session(shard), request.to_bytes(), timeout_s=OPEN_TIMEOUT_S
            )
        return read(OpenReply, payload)

    async def owner_or_later(self, shard: int, attempt: int) -> None:
        """Wait for the next hello of a shard's owner, or for a while that grows."""
        pause = _WAIT_S[min(attempt, len(_WAIT_S) - 1)] * (0.5 + self.random())
        heard = self._hellos.setdefault(shard, asyncio.Event())
        try:
            await asyncio.wait_for(heard.wait(), pause)
        except TimeoutError:
            return
        # Those who waited for the same owner do not all knock in the same millisecond.
        await asyncio.sleep(self.random() * len(self._shards.get(shard, ())) / MOVES_PER_S)

    def unreachable(self, peer: bytes, dial_id: bytes, detail: str) -> None:
        """Tell the owner that no connection came of its order to dial."""
        body = Unreachable(dial_id=dial_id, detail=detail[:200]).to_bytes()
        epoch = self.owners[subjects.shard(peer)].epoch
        payload = encode(Envelope(dial_id, epoch, 0, 0, body, self.name))
        self.publish(subjects.inbound(peer, None, "unreachable"), payload)

    def tick(self) -> None:
        """Look for owners that fell silent; call it every second."""
        for shard in self.owners.silent(self.now()):
            for peer in tuple(self._shards.get(shard, ())):
                peer.owner_silent()

    # --- what the fabric says ---------------------------------------------------------------------

    def _outbound(self, received: Received) -> None:
        try:
            subject = subjects.parse_outbound(received.subject)
            envelope = decode(received.payload)
            peer = self._peers.get(envelope.session)
            if peer is None:
                gone = gone_for_unknown(self.name, subject.peer, subject.name, envelope)
                if gone is not None:
                    self.publish(gone.subject, gone.payload)
                return
            if peer.node_id != subject.peer:
                raise FabricError("the session is of another peer than the subject")
            peer.hear(subject.name, subject.channel, envelope)
        except FabricError as error:
            self.not_understood(received.subject, error)

    def _hello(self, received: Received) -> None:
        try:
            hello = read(Hello, received.payload)
            if received.subject != subjects.hello(hello.shard):
                raise FabricError(f"a hello for shard {hello.shard} on another's subject")
        except FabricError as error:
            self.not_understood(received.subject, error)
            return
        if self.owners.is_restored(hello) and hello.epoch not in self._restored:
            self._restored.add(hello.epoch)
            log.error("owner_database_is_older", shard=hello.shard, owner=hello.owner)
        if self.owners.heard(hello, self.now()):
            if hello.epoch > self._newest_epoch:
                self._newest_epoch = hello.epoch
                log.info("owner_changed", owner=hello.owner, epoch=hello.epoch, first=hello.shard)
            self._tell_epoch(self._shards.get(hello.shard, ()), hello.epoch)
        if hello.epoch == self.owners[hello.shard].epoch:
            heard = self._hellos.pop(hello.shard, None)
            if heard is not None:
                heard.set()

    def _tell_epoch(self, peers: Iterable["Peer"], epoch: int) -> None:
        """Tell peers of a new owner, spread over a while: many of them will connect again."""
        told = tuple(peers)
        for peer in told:
            delay = self.random() * (len(told) - 1) / MOVES_PER_S
            self._loop.call_later(delay, peer.hello, epoch)

    def _node_self(self, received: Received) -> None:
        self._told_who_we_are(received.payload)

    def _told_who_we_are(self, payload: bytes) -> None:
        """Take it from the back itself, or from the stream while no back runs."""
        try:
            said = read(NodeSelf, payload)
            if self.node_id is not None and said.node_id != self.node_id:
                raise FabricError(f"the back is node {said.node_id.hex()}, we are another")
        except FabricError as error:
            self.not_understood(subjects.GRAPH_SELF, error)
            return
        self.node_id = said.node_id
        self.identity = Identity(FeatureSet.from_bytes(said.features), said.networks)
        self.known.set()
        self.introduced.set()

    def not_understood(self, subject: str, error: FabricError) -> None:
        """Count and log a fabric message that made no sense."""
        self.metrics.foreign.inc()
        log.error("fabric_message_refused", subject=subject, why=str(error))

    # --- the connection to the broker -------------------------------------------------------------

    def _fabric_lost(self) -> None:
        self.owners.fabric_lost()
        if self._resuming is not None:
            self._resuming.cancel()
        for peer in self.peers:
            peer.fabric_lost()

    def _fabric_back(self) -> None:
        self.owners.fabric_back(self.now())
        for peer in self.peers:
            peer.fabric_back()
        self._resuming = self._loop.create_task(self._resume())

    async def _resume(self) -> None:
        """Compare numbers with every owner, a batch of sessions at a time."""
        for shard, peers in tuple(self._shards.items()):
            live = [p for p in peers if p.session.epoch and not p.session.ended]
            for start in range(0, len(live), RESUME_BATCH):
                await self._resume_batch(shard, live[start : start + RESUME_BATCH])

    async def _resume_batch(self, shard: int, peers: list["Peer"]) -> None:
        reply = await self._until_resumed(shard, peers)
        if reply.epoch > self.owners[shard].epoch:
            self._tell_epoch(peers, reply.epoch)
            return
        expects = {session.session: session.expects for session in reply.sessions}
        for peer in peers:
            if peer.session.epoch != reply.epoch or peer.session.ended:
                continue
            if peer.session.id in expects:
                peer.resumed(expects[peer.session.id])
            else:
                peer.unknown_to_owner()

    async def _until_resumed(self, shard: int, peers: list["Peer"]) -> ResumeReply:
        attempt = 0
        while True:
            sessions = tuple(
                Expecting(session=p.session.id, expects=p.session.expects) for p in peers
            )
            request = ResumeRequest(
                front=self.name, instance=self.instance, shard=shard, sessions=sessions
            )
            try:
                payload = await self.fabric.request(
                    subjects.resume_session(shard), request.to_bytes(), timeout_s=RESUME_TIMEOUT_S
                )
                return read(ResumeReply, payload)
            except BackendError as error:
                log.info("resume_unanswered", shard=shard, why=str(error))
            attempt += 1
            await self.owner_or_later(shard, attempt)
