"""The back as one piece: makes its parts, starts them in order, stops them in order.

Start: seed, fabric (so that handshakes are answered also while another back is active), the lease,
channels from the database, the chain, sessions, the API. A part that must wait (a lease held by
another, a bitcoind that is away) waits there and says so.
"""

import asyncio
import contextlib
import resource
import time
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import structlog

from back.api.server import ApiServer
from back.assembly import StoredBlocks, assemble, chain_settings
from back.chain.bitcoind import ChainSettings
from back.chain.events import BlockConnected, BlockDisconnected, ChainEvent
from back.chain.service import BitcoindChain
from back.channels import Channels
from back.events.service import Events
from back.features import INIT_FEATURES
from back.fronts import Fronts
from back.gossip import Gossip
from back.graph.paths.service import PathFinder
from back.handshakes import HandshakeService
from back.metrics import Metrics
from back.offers.service import Offers
from back.onion_messages.service import OnionMessages
from back.payment.service import Payments
from back.peer import Peers
from back.relay.service import Relay
from back.settings import BackSettings
from back.signer.seed import load_or_create_seed
from back.signer.signer import Signer
from back.storage import peers as stored_peers
from back.storage.store import NODE_SHARD, Store
from back.switchboard import Identity, Switchboard
from shared.chain import MAINNET
from shared.errors import BackendError, CommandError, FabricUnavailable, LeaseLost
from shared.fabric import subjects
from shared.fabric.client import FabricClient
from shared.fabric.requests import Alive, Load
from shared.metrics import MetricsServer
from shared.settings import host_port
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.announcing.service import Announcing
    from back.graph.service import GraphService
    from back.peer import Peer
    from back.runner import ChannelRunner
    from back.switchboard import PeerSession
    from shared.fabric.envelope import Connected, Reason
    from shared.wire import FundingCreated, Message, OpenChannel

__all__ = ["Node"]

log = structlog.get_logger()

WATCH_EVERY_S = 0.5
TIP_PATIENCE_S = 1800.0
"""So long after bitcoind was last heard nothing is forwarded: an HTLC may be about to expire."""
STOPPED = (
    "peers",
    "switchboard",
    "offers",
    "onion_messages",
    "events",
    "gossip",
    "relay",
    "channels",
    "payments",
    "paths",
)
"""Parts in the order in which they stop."""
ADMIT_PATIENCE_S = 3.0
"""How long a peer waits for the commit that lets it in; its front asks again."""


@dataclass(slots=True)
class Node:
    """A running back: the switchboard's attendant and the peers' steward."""

    settings: BackSettings
    signer: Signer
    fabric: FabricClient
    metrics: Metrics
    store: Store = field(init=False)
    chain: BitcoindChain = field(init=False)
    switchboard: Switchboard = field(init=False)
    peers: Peers = field(init=False)
    channels: Channels = field(init=False)
    payments: Payments = field(init=False)
    relay: Relay = field(init=False)
    onion_messages: OnionMessages = field(init=False)
    offers: Offers = field(init=False)
    paths: PathFinder = field(init=False)
    gossip: Gossip = field(init=False)
    events: Events = field(init=False)
    handshakes: HandshakeService = field(init=False)
    fronts: Fronts = field(default_factory=Fronts)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    _api: ApiServer | None = None
    _metrics_server: MetricsServer | None = None
    _cpu: tuple[float, float] = (0.0, 0.0)
    _synced_at: float = -inf
    _load: Load = field(default_factory=Load)
    _tasks: Tasks = field(default_factory=Tasks)

    # --- life ----------------------------------------------------------------------------------

    @classmethod
    def make(cls, settings: BackSettings) -> "Node":
        """Load the keys and prepare the connection to the fabric.

        Raises:
            CommandError: mainnet, or certificates that cannot be used.
            SeedRefused: the seed file cannot be used.
        """
        if settings.network is MAINNET:
            raise CommandError(
                "this version does not run on mainnet: it cannot yet claim or punish on chain"
            )
        seed = load_or_create_seed(settings.seed_path)
        signer = Signer(seed, settings.network.coin_type)
        fabric = FabricClient(
            settings.nats_urls, settings.credentials, role="back", name=f"back-{settings.name}"
        )
        return cls(settings, signer, fabric, Metrics())

    async def start(self) -> None:
        """Start everything; returns once sessions are served.

        Raises:
            DatabaseRefused: it belongs to another node or network, or to a newer program.
            ChainRefused: bitcoind is of another network, or refuses us.
            OSError: an address to listen on cannot be had.
        """
        settings = self.settings
        log.info("back_starting", node_id=self.signer.node_id.hex(), chain=settings.chain)
        self.peers = Peers(self.fabric, INIT_FEATURES, self)
        self.handshakes = HandshakeService(self.fabric, self.signer, self.peers)
        await self._start_metrics()
        await self.handshakes.start()
        await self.fabric.start()
        self.store = await Store.open(
            settings.database,
            owner=settings.name,
            node_id=self.signer.node_id,
            policy=settings.policy(),
            chain=settings.chain,
        )
        self.store.on_lost(self._shards_lost)
        self.store.on_report(self.metrics.committed)
        self.handshakes.is_active = True
        chain = chain_settings(settings)
        self.chain = BitcoindChain(chain, settings.network, StoredBlocks(self.store))
        await self._start_channels(chain)
        await self._start_sessions()
        await self.gossip.start()
        await self.onion_messages.start(self.gossip.bulk, self.switchboard)
        await self.offers.start()
        self.events.start()
        # Without it no session of a dead front ends: better a process that says why it ends.
        self._tasks.spawn(self._watch(), "watch", self._fail)
        self._api = await ApiServer.start(self, *host_port(settings.api_listen))
        log.info("back_started", epoch=self.store.lease.epoch, channels=len(self.channels.runners))

    async def _start_metrics(self) -> None:
        if self.settings.metrics_listen:
            self._metrics_server = MetricsServer(self._metrics_text)
            await self._metrics_server.start(*host_port(self.settings.metrics_listen))

    async def _start_channels(self, chain: ChainSettings) -> None:
        self.channels = Channels(
            self.signer,
            self.store.committer,
            self.store,
            self.chain,
            self.peers,
            self.settings.policy(),
        )
        assemble(self, chain)
        await self.paths.start()
        self.chain.listen(self._chain_told)
        self.chain.listen_feerates(
            lambda feerates: self.channels.feerate_changed(feerates.commitment_per_kw)
        )
        # The chain tells of new blocks only, and the next may be long in coming.
        if known := await StoredBlocks(self.store).load_blocks():
            self._height_is(known[-1].height)
        # Watches first, blocks after: a start hears of nothing twice and misses nothing.
        await self.payments.start()
        await self.announcing.load()
        await self.relay.start()
        await self.channels.restore()
        await self.relay.resume()
        await self._restore_addresses()
        # A bitcoind that is away keeps channels from nothing but opening and closing.
        # One that ends does not: no channel is safe for long without the chain.
        self._tasks.spawn(self.chain.run(), "chain", self._fail)
        self._tasks.spawn(self._free_locks(), "free locks")

    def _fail(self, error: Exception) -> None:
        """End the process, saying why."""
        if self.failure is None:
            self.failure = error
        self.stopping.set()

    async def _restore_addresses(self) -> None:
        node_ids = list(self.peers.known)
        known = await self.store.read(lambda c: stored_peers.load_peers(c, node_ids))
        for stored in known:
            self.peers.get(stored.node_id).addresses = list(stored.addresses)

    async def _start_sessions(self) -> None:
        identity = Identity(
            node_id=self.signer.node_id,
            networks=(self.settings.network.chain_hash,),
            features=INIT_FEATURES.to_bytes(),
            owner=self.settings.name,
            epoch=self.store.lease.epoch,
        )
        self.switchboard = Switchboard(self.fabric, identity, self)
        await self.switchboard.start()
        for peer in list(self.peers.known.values()):
            self.peers.reconnect(peer)

    async def _free_locks(self) -> None:
        """Free inputs that a crash left locked for a funding transaction that no channel has."""
        while not self.chain.is_synced:  # noqa: ASYNC110 - the chain has no such event
            await asyncio.sleep(0.2)
        keep = self.channels.openings.funding_inputs()
        try:
            await self.chain.wallet.free_locks(keep)
        except (BackendError, CommandError) as error:
            log.warning("wallet_locks_left", why=str(error))

    async def stop(self) -> None:
        """Stop politely: the API, dials, what arrives, channels, all words, the lease."""
        await self._tasks.stop()
        if self._api is not None:
            await self._api.stop()
        for part in STOPPED:
            if (running := getattr(self, part, None)) is not None:
                await running.stop()
        if hasattr(self, "switchboard"):
            self.switchboard.mute()
        for part in ("chain", "store"):
            if (opened := getattr(self, part, None)) is not None:
                await opened.close()
        if hasattr(self, "handshakes"):
            self.handshakes.stop()
        await self.fabric.stop()
        if self._metrics_server is not None:
            await self._metrics_server.stop()
        log.info("back_stopped")

    def _shards_lost(self, shards: tuple[int, ...]) -> None:
        """Another back owns them: not another word; the process ends, to come back as a standby."""
        for part in ("switchboard", "onion_messages", "gossip", "events"):
            if (speaker := getattr(self, part, None)) is not None:
                speaker.mute()
        self._fail(LeaseLost(shards))

    @property
    def graph(self) -> "GraphService":
        """The routing table and its judge."""
        return self.gossip.graph

    @property
    def announcing(self) -> "Announcing":
        """What we say of ourselves, and the terms of our channels."""
        return self.gossip.announcing

    # --- the chain's news ----------------------------------------------------------------------

    def _chain_told(self, event: ChainEvent) -> None:
        match event:
            case BlockConnected(height=height):
                self._height_is(height)
            case BlockDisconnected(height=height):
                self._height_is(height - 1)
            case _:
                pass

    def is_tip_safe(self) -> bool:
        """Whether the chain was followed lately enough to promise anything by its height."""
        now = time.monotonic()
        if self.chain.is_synced:
            self._synced_at = now
        return now - self._synced_at < TIP_PATIENCE_S

    def _height_is(self, height: int) -> None:
        self.gossip.block()
        self.channels.block_connected(height)
        self.metrics.height.set(height)

    # --- attendant of the switchboard ----------------------------------------------------------

    async def admit(self, peer: bytes) -> tuple[str, bool]:
        """Let a peer in, once a commit has shown that we still own its shard."""
        try:
            async with asyncio.timeout(ADMIT_PATIENCE_S):
                await self.store.committer.submit(subjects.shard(peer))
        except (BackendError, TimeoutError):
            return "the node cannot take peers now: its database is away", False
        known = self.peers.known.get(peer)
        return "", bool(known and known.runners)

    def connected(self, session: "PeerSession", connected: "Connected") -> None:
        """Tell the peers."""
        self.peers.connected(session, connected)

    def received(self, session: "PeerSession", message: "Message") -> None:
        """Tell the peers."""
        self.metrics.received(message.NAME)
        self.peers.received(session, message)

    def disconnected(self, session: "PeerSession", reason: "Reason", detail: str) -> None:
        """Tell the peers."""
        self.peers.disconnected(session, reason, detail)

    def unreachable(self, dial_id: bytes, detail: str) -> None:
        """Tell the peers."""
        self.peers.unreachable(dial_id, detail)

    def front_alive(self, alive: Alive) -> None:
        """Note a front's heartbeat."""
        if self.fronts.heard(alive, time.monotonic()):
            log.info("front_heard", front=alive.front, listen=alive.listen)

    async def _watch(self) -> None:
        """End what cannot go on: sessions of killed fronts, or that wait for the database."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            # What the broker holds back is no silence of the fronts: it answers after what it has.
            with contextlib.suppress(FabricUnavailable):
                await self.fabric.barrier()
            now = time.monotonic()
            stalled_s, before = now - before - WATCH_EVERY_S, now
            self._measure(now)
            self.is_tip_safe()
            self.channels.end_sessions_that_wait(now)
            self._watch_fronts(now, stalled_s)

    def _watch_fronts(self, now: float, stalled_s: float) -> None:
        """End the sessions of fronts that are dead.

        Args:
            now: monotonic seconds.
            stalled_s: since the last look the broker or this process stood still for so long.
        """
        if stalled_s > WATCH_EVERY_S:
            self.fronts.excuse(now, stalled_s)
        carriers = {session.front for session in self.switchboard.sessions.values()}
        for name in self.fronts.silent(now, carriers, is_connected=self.fabric.connected):
            log.warning("front_silent", front=name)
            self.switchboard.front_gone(name)
            self.peers.front_gone(name)

    def commit_no(self, shard: int) -> int:
        """The lease's counter."""
        return self.store.committer.commit_no(shard)

    def load(self) -> Load:
        """Present load."""
        return self._load

    def _measure(self, now: float) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        before, before_cpu = self._cpu
        self._cpu = (now, cpu)
        self._load = Load(
            sessions=len(self.switchboard.sessions),
            channels=len(self.channels.runners),
            cpu=round(max(0.0, (cpu - before_cpu) / max(now - before, 0.001)), 3),
        )

    def _metrics_text(self) -> bytes:
        if hasattr(self, "channels") and hasattr(self, "switchboard"):
            self.metrics.refresh(self)
        return self.metrics.text()

    # --- steward of peers ----------------------------------------------------------------------

    def open_received(self, peer: "Peer", message: "OpenChannel") -> None:
        """A peer proposes a channel."""
        self.channels.open_received(peer, message)

    def funding_created(self, runner: "ChannelRunner", message: "FundingCreated") -> None:
        """A peer names the funding output of a channel that it opens."""
        self.channels.funding_created(runner, message)

    def remember(self, peer: "Peer") -> None:
        """Keep where a peer with channels was reached."""
        if peer.runners and peer.addresses:
            self._tasks.spawn(self._store_address(peer), "address")

    async def may_speak(self, node_id: bytes) -> bool:
        """Say whether a peer is still ours, once a commit has shown it."""
        try:
            await self.store.committer.submit(subjects.shard(node_id))
        except (BackendError, LeaseLost):
            return False
        return True

    async def _store_address(self, peer: "Peer") -> None:
        stored = stored_peers.StoredPeer(peer.node_id, tuple(peer.addresses), b"", int(time.time()))
        with contextlib.suppress(BackendError):
            await self.store.committer.submit(NODE_SHARD, [stored_peers.seen(stored)])
