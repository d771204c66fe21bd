"""The active back's part in gossip: the routing table, and what this node says of itself.

It has a connection of its own to the broker, so that the bulk of gossip never stands before a
message of a session. Nothing here holds up channels: a broker or a bitcoind that is away is waited
for in the background.

Only the owner of the node's shards may write GRAPH. That a lease is lost is noticed after a moment,
and a process may be frozen for minutes and go on with what it had in mind. So every second of
writing begins with a commit, which the database takes from the owner alone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from back.announcing.nodes import OurNode
from back.announcing.service import Announcing
from back.announcing.updates import Terms
from back.graph.service import GraphService
from back.graph.writer import GraphWriter
from back.relay.terms import RelayFees
from back.storage.store import NODE_SHARD
from shared.errors import BackendError, LeaseLost
from shared.fabric.client import FabricClient
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.chain.bitcoind import ChainSettings
    from back.runner import ChannelRunner
    from back.settings import BackSettings
    from back.signer.signer import Signer
    from back.storage.committer import Committer
    from back.storage.store import Store
    from shared.features import FeatureSet

__all__ = ["OWNED_S", "Gossip", "Ownership"]

log = structlog.get_logger()

OWNED_S = 1.0
"""So long after its start a commit shows that GRAPH is ours: less than a standby waits for us."""
RETRY_S = 0.5
"""After a commit that could not be made."""


class Ownership:
    """Whether GRAPH is ours now, as a commit has shown.

    Args:
        committer: makes the commits.
        on_shown: called when it has been shown again.
        monotonic: seconds of a clock that never goes back, and goes on while we are frozen.
    """

    def __init__(
        self,
        committer: "Committer",
        on_shown: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._committer = committer
        self._on_shown = on_shown
        self._monotonic = monotonic
        self._until = 0.0
        self._is_wanted = asyncio.Event()

    def is_shown(self) -> bool:
        """Whether it may be written now; if not, a commit is made that shows it."""
        if self._monotonic() < self._until:
            return True
        self._is_wanted.set()
        return False

    async def run(self) -> None:
        """Make commits when they are wanted, until GRAPH is another's."""
        while True:
            await self._is_wanted.wait()
            # The commit shows what was so when it was made, not when we hear of it.
            before = self._monotonic()
            try:
                await self._committer.submit(NODE_SHARD)
            except LeaseLost:
                return
            except BackendError as error:
                log.info("graph_waits_for_database", why=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            self._until = before + OWNED_S
            self._is_wanted.clear()
            self._on_shown()


class Gossip:
    """Table, verdicts, and our own announcements.

    Args:
        settings: of the back.
        chain: how to reach bitcoind.
        store: ours, with its lease.
        signer: signs our announcements.
        runners: all channels, by present channel id.
        features: what our `init` offers.

    Attributes:
        bulk: the connection.
        writer: of GRAPH.
        graph: judge and keeper of the routing table.
        announcing: says what we are.
    """

    def __init__(
        self,
        settings: "BackSettings",
        chain: "ChainSettings",
        store: "Store",
        signer: "Signer",
        runners: "dict[bytes, ChannelRunner]",
        features: "FeatureSet",
    ) -> None:
        self.bulk = FabricClient(
            settings.nats_urls, settings.credentials, role="back", name=f"back-{settings.name}.bulk"
        )
        self._ownership = Ownership(store.committer, self._owned)
        self.writer = GraphWriter(self.bulk, may_write=self._ownership.is_shown)
        self.graph = GraphService(
            self.bulk,
            self.writer,
            chain,
            settings.network.chain_hash,
            trusts_fronts=settings.graph_trust_fronts,
        )
        node = OurNode.of(
            signer.node_id, settings.alias, settings.color, features, settings.public_addresses
        )
        fees = RelayFees(
            settings.fee_base_msat,
            settings.fee_proportional_millionths,
            settings.cltv_expiry_delta,
        )
        terms = Terms(
            fees=fees,
            disable_after_s=settings.disable_after_s,
            grace_s=settings.relay_fee_grace_s,
            maximum_every_s=settings.htlc_maximum_every_s,
        )
        self.announcing = Announcing(store, signer, runners, self.graph, node, terms)
        self._starting: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin; the broker is waited for in the background.

        Raises:
            StorageUnavailable: the database is away.
        """
        await self.announcing.start()
        self._tasks.spawn(self._ownership.run(), "ownership of GRAPH")
        self._starting = self._tasks.spawn(self._start_graph(), "start of the graph")

    async def _start_graph(self) -> None:
        await self.bulk.start()
        await self.graph.start()

    def changed(self, runner: "ChannelRunner") -> None:
        """A channel is ready, announced, there, away or closing."""
        self.announcing.changed(runner)

    def block(self) -> None:
        """There is a new block, or one less."""
        self.graph.block()

    def _owned(self) -> None:
        self.writer.go_on()

    def mute(self) -> None:
        """Another back has taken over: not another word, at once."""
        self.graph.mute()

    async def stop(self) -> None:
        """Stop politely: what was decided is written, if that takes no time."""
        await self.announcing.stop()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        await self.graph.stop()
        await self._tasks.stop()
        with contextlib.suppress(BackendError):
            await self.bulk.stop()
