"""One front from start to drain: makes the parts, starts them in order, stops them in order."""

import asyncio
import contextlib
import resource
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from front.admission import Admission
from front.bridge import Bridge, PeerRules
from front.dialer import Dialer, DialRules
from front.gossip.service import Gossip
from front.keys.local import LocalKey, load
from front.keys.remote import RemoteKey
from front.listener import Listener
from front.metrics import Metrics
from front.peer.onions import OnionGate
from shared.errors import CommandError
from shared.fabric import subjects
from shared.fabric.client import FabricClient
from shared.fabric.graph import GraphFollower
from shared.fabric.requests import Alive, Load
from shared.metrics import MetricsServer
from shared.settings import host_port
from shared.tasks import Tasks

if TYPE_CHECKING:
    from front.keys.provider import KeyProvider
    from front.settings import FrontSettings
    from shared.fabric.interface import Fabric

__all__ = ["FrontProcess"]

BEAT_S = 1.0
LOAD_PATIENCE_S = 20.0
"""A front whose table takes longer is healthy without it."""
STEP_PEERS = 50
"""How many peers a draining front closes at once."""
STEP_S = 0.05
"""Pause between two such steps."""
_SPARE_FILES = 256

log = structlog.get_logger()


class FrontProcess:
    """The parts of one front.

    Args:
        settings: all of it.
        fabric: the connection for sessions and requests; not started yet.
        bulk: the connection for gossip and the routing table; not started yet. One without streams
            (in memory) has no table to follow.

    Raises:
        CommandError: the node key cannot be loaded, or belongs to another node.
    """

    def __init__(self, settings: "FrontSettings", fabric: "Fabric", bulk: "Fabric") -> None:
        self.settings = settings
        self.fabric = fabric
        self.bulk = bulk
        self.metrics = Metrics()
        self.draining = False
        key, node_id = _key(settings, fabric)
        rules = PeerRules(settings.timing, settings.init_timeout_s)
        self.gossip = Gossip(bulk, settings.name, settings.gossip, self.metrics)
        onions = OnionGate(bulk.publish, settings.name, settings.onions, self.metrics)
        self.bridge = Bridge(
            fabric, settings.name, node_id, rules, self.metrics, self.gossip, onions
        )
        admission = Admission(settings.limits)
        self.listener = Listener(
            self.bridge, key, admission, settings.handshake_timeout_s, settings.proxies
        )
        dial_rules = DialRules(
            connect_timeout_s=settings.dial_timeout_s,
            handshake_timeout_s=settings.handshake_timeout_s,
            at_once=settings.max_dials,
            socks_proxy=settings.socks_proxy,
            socks_for_all=settings.socks_for_all,
        )
        self.dialer = Dialer(self.bridge, key, dial_rules)
        self.metrics_server = MetricsServer(self.metrics.text, self.unhealthy)
        self.follower = GraphFollower(bulk, self.gossip) if isinstance(bulk, FabricClient) else None
        self._started_at = time.monotonic()
        self._tasks = Tasks()
        self._cpu = (time.monotonic(), time.process_time())

    async def start(self) -> None:
        """Start everything; returns once peers can come in.

        Waits for the broker, and for the node id where it is not configured, as long as it takes.

        Raises:
            OSError: an address to listen on cannot be had.
        """
        _allow_files(self.settings.max_connections)
        if self.settings.metrics_listen != "none":
            await self.metrics_server.start(*host_port(self.settings.metrics_listen))
        await self.bridge.start()
        await self.dialer.start()
        await self.fabric.start()
        await self._start_gossip()
        await self.bridge.known.wait()
        await self.listener.start(self.settings.listen)
        self._tasks.spawn(self._beat(), "heartbeat")
        log.info("front_started", name=self.settings.name, instance=self.bridge.instance.hex())

    async def _start_gossip(self) -> None:
        if self.bulk is not self.fabric:
            await self.bulk.start()
        if self.follower is not None:
            self.follower.start()
        self._tasks.spawn(self._begin_gossip(), "gossip")

    async def _begin_gossip(self) -> None:
        """Gossip needs to know who we are and which chain it is about."""
        await self.bridge.introduced.wait()
        node_id, identity = self.bridge.node_id, self.bridge.identity
        if node_id is not None and identity is not None and identity.networks:
            await self.gossip.begin(node_id, identity.networks[0])

    async def drain(self) -> None:
        """Stop politely: accept nothing, say so, close peers in small steps, then everything.

        Works from any point of `start` on, also after one that failed or was cancelled.
        """
        log.info("front_draining", peers=len(self.bridge.peers))
        self.draining = True
        self.listener.stop()
        self._say_alive()
        await self.dialer.stop()
        for number, peer in enumerate(self.bridge.peers, 1):
            peer.leave()
            if number % STEP_PEERS == 0:
                await asyncio.sleep(STEP_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self.bridge.empty()
        await self.stop()
        log.info("front_stopped", untold=len(self.bridge.peers))

    async def stop(self) -> None:
        """Stop at once; peers' connections end with the process."""
        await self._tasks.stop()
        if self.follower is not None:
            await self.follower.stop()
        await self.bridge.stop()
        await self.gossip.stop()
        if self.bulk is not self.fabric:
            await self.bulk.stop()
        await self.fabric.stop()
        await self.metrics_server.stop()
        # Connections that were just aborted hear of it in the loop's next turn.
        await asyncio.sleep(0)

    def unhealthy(self) -> str:
        """Return why no peer should be sent here, or ``""``."""
        if self.draining:
            return "draining"
        if not self.fabric.connected:
            return "no connection to the broker"
        if not self.listener.addresses:
            return "not listening: the node id is not known yet"
        if self._is_loading():
            return "loading the routing table"
        return ""

    def _is_loading(self) -> bool:
        """Whether a table is on its way; not for ever: channels do not need it."""
        if self.follower is None or time.monotonic() - self._started_at > LOAD_PATIENCE_S:
            return False
        return self.gossip.is_loading or not self.follower.looked.is_set()

    async def _beat(self) -> None:
        while True:
            try:
                self._say_alive()
                self.bridge.tick()
                self._measure()
            except Exception:
                # A bug of ours; but the back ends every session of a front that is silent.
                log.exception("beat_failed")
            await asyncio.sleep(BEAT_S)

    def _measure(self) -> None:
        if self.follower is not None:
            self.metrics.graph_lag.set(self.follower.lag)
            self.metrics.graph_loads.set(self.follower.loads)
            self.metrics.graph_refused.set(self.follower.refused)

    def _say_alive(self) -> None:
        alive = Alive(
            front=self.settings.name,
            instance=self.bridge.instance,
            version=version("squall"),
            listen=tuple(f"{host}:{port}" for host, port in self.listener.addresses),
            draining=self.draining,
            load=Load(sessions=len(self.bridge.peers), cpu=self._cpu_share()),
        )
        self.fabric.publish(subjects.alive(self.settings.name), alive.to_bytes())

    def _cpu_share(self) -> float:
        now, used = time.monotonic(), time.process_time()
        wall, before = now - self._cpu[0], used - self._cpu[1]
        self._cpu = now, used
        return round(before / wall, 3) if wall > 0 else 0.0


def _key(settings: "FrontSettings", fabric: "Fabric") -> tuple["KeyProvider", bytes | None]:
    """Return who computes the handshakes' ECDH, and our node id if it is known at the start."""
    if settings.key_provider == "remote":
        return RemoteKey(fabric, settings.name), settings.node_id
    key = LocalKey(load(settings))
    if settings.node_id is not None and settings.node_id != key.node_id:
        raise CommandError(
            f"the key of provider {settings.key_provider} is of node {key.node_id.hex()},"
            f" but node_id is {settings.node_id.hex()}"
        )
    return key, key.node_id


def _allow_files(connections: int) -> None:
    """Raise the limit of open files to what the connections need, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        log.warning("too_few_files", limit=hard, connections=connections)
