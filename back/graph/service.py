"""The back's side of gossip: verdicts for fronts, the routing table, and what the chain takes out.

The active back is the only judge of the table and the only writer of GRAPH. It loads the stream
once; what is decided from then on is applied to the table first and written then. The stream is
still followed: if it is replaced by another, that one gets what it lacks, and what it has and we
do not (somebody put back an older one) is taken over and checked.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import structlog

from back.chain.bitcoind import Bitcoind, ChainSettings
from back.chain.events import BlockRef
from back.graph.acceptance import Situation
from back.graph.contents import ALL_BLOCKS, current, everything, holds, is_same
from back.graph.funding import FundingLookup, FundingRules
from back.graph.judge import Judge, JudgeRules
from back.graph.pruning import orphans, stale
from back.graph.spends import SpendRules, Spends, remove
from back.graph.spent import Outputs
from shared.errors import FabricError
from shared.fabric.client import FabricClient
from shared.fabric.gossip import GraphTip
from shared.fabric.graph import GraphFollower, GraphSink
from shared.fabric.interface import Fabric, Subscription
from shared.fabric.requests import read
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table
from shared.tasks import Tasks

__all__ = ["GraphRules", "GraphService", "Writer"]

SUBMISSIONS = "ln.gossip.>"

log = structlog.get_logger()
_Item = TypeVar("_Item")


class Writer(Protocol):
    """What is needed of `back.graph.writer.GraphWriter`."""

    def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """Write what waits, for a short while."""

    def put(self, change: Change) -> None:
        """Have a value written."""

    def tip(self, height: int, block_hash: bytes) -> None:
        """Have written up to which block spends are worked in."""

    async def drained(self) -> None:
        """Return as soon as more may be put."""

    def mute(self) -> None:
        """Write nothing more, for ever."""

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this when the stream has lost what it had."""


class Follower(Protocol):
    """What is needed of `shared.fabric.graph.GraphFollower`."""

    def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """Stop."""


def _follow(
    fabric: Fabric, sink: GraphSink, on_refused: Callable[[Kind, int | bytes], None]
) -> Follower:
    if not isinstance(fabric, FabricClient):
        raise TypeError("only a broker has the stream")
    return GraphFollower(fabric, sink, on_refused=on_refused)


@dataclass(frozen=True, slots=True)
class GraphRules:
    """Limits of the graph service.

    Attributes:
        threads: for signatures and blocks.
        prune_after_s: keeps everything for so long after the start.
        prune_every_s: looks for channels that nobody speaks of so often.
        prune_channels: how many of them at a time.
        slice: changes in one turn of the event loop where there are many.
        gone: removed channels that are remembered, so that an echo does not bring them back.
    """

    threads: int = 2
    prune_after_s: float = 3_600.0
    prune_every_s: float = 2.0
    prune_channels: int = 100
    slice: int = 200
    gone: int = 20_000
    judge: JudgeRules = field(default_factory=JudgeRules)
    funding: FundingRules = field(default_factory=FundingRules)
    spends: SpendRules = field(default_factory=SpendRules)


class GraphService:
    """Judge and keeper of the routing table; a `shared.fabric.graph.GraphSink`.

    Args:
        fabric: the connection for bulk.
        writer: of GRAPH; started and stopped here.
        chain: how to reach bitcoind; the service has connections of its own.
        chain_hash: of our network.
        trusts_fronts: do not check signatures again.
        rules: limits.
        follow: makes the follower of GRAPH.
        clock: unix seconds.

    Attributes:
        table: the routing table.
        is_ready: whether it is loaded; before, fronts get LATER.
        judge: has ``counts`` of verdicts, ``submissions`` and ``channels`` that wait.
        lookup: has ``fetched`` blocks and ``pruned`` channels.
        spends: has ``height``, ``tip`` and ``is_behind``.
        pruned: channels that were forgotten because nobody spoke of them.
        on_change: told of each change that the table took, once it is loaded.
        on_table: told that it is loaded.
    """

    def __init__(
        self,
        fabric: Fabric,
        writer: Writer,
        chain: ChainSettings,
        chain_hash: bytes,
        *,
        trusts_fronts: bool = False,
        rules: GraphRules = GraphRules(),
        follow: Callable[
            [Fabric, GraphSink, Callable[[Kind, int | bytes], None]], Follower
        ] = _follow,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = Table()
        self.is_ready = False
        self.pruned = 0
        self._fabric = fabric
        self._writer = writer
        self._chain_hash = chain_hash
        self._rules = rules
        self._clock = clock
        self._bitcoind = Bitcoind(replace(chain, wallet=""))
        self._executor = ThreadPoolExecutor(rules.threads, thread_name_prefix="graph")
        self.lookup = FundingLookup(self._bitcoind, self._executor, rules.funding)
        self.spends = Spends(
            self._bitcoind,
            self.lookup,
            self._executor,
            lambda: self.table,
            self.apply,
            writer.tip,
            rules.spends,
        )
        self.judge = Judge(
            fabric,
            self,
            self.lookup,
            self.spends,
            None if trusts_fronts else self._executor,
            rules.judge,
        )
        self._follower = follow(fabric, self, self._write_again)
        self._subscription: Subscription | None = None
        self.on_change: Callable[[Change], None] = lambda _: None
        self.on_table: Callable[[], None] = lambda: None
        self._fresh: Table | None = None
        """Another stream than the one that was loaded, while it is read."""
        self._loaded_keys: list[int | bytes] = []
        self._stored: BlockRef | None = None
        self._own: dict[tuple[Kind, int | bytes], Change] = {}
        """Ours, until the table is loaded."""
        self._own_channels: set[int] = set()
        self._own_keys: set[int | bytes] = set()
        """Of updates and of the node."""
        self._gone: OrderedDict[int, None] = OrderedDict()
        self._first_seen_s: dict[int, int] = {}
        self._tasks = Tasks()
        writer.on_lost(self._lost)

    async def start(self) -> None:
        """Follow GRAPH and the chain, hear what fronts submit."""
        self._writer.start()
        self._follower.start()
        self.judge.start()
        self._subscription = await self._fabric.subscribe(SUBMISSIONS, self.judge.receive)

    def mute(self) -> None:
        """Another back has taken over: not another verdict, not another value of GRAPH."""
        self._writer.mute()
        self.judge.mute()

    async def stop(self) -> None:
        """Judge nothing more; what was decided is written, as far as that takes no time."""
        if self._subscription is not None:
            await self._subscription.close()
        await self.judge.stop()
        await self._tasks.stop()
        await self._follower.stop()
        await self._writer.stop()
        await self._bitcoind.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def announce_own(self, changes: Iterable[Change]) -> None:
        """Take finished announcements of this node: trusted, idempotent, never blocks.

        Nothing newer is taken from others, and no silence makes a channel of ours stale. One whose
        output turns out to be spent is marked so, as any other.
        """
        ordered = sorted(changes, key=lambda change: change.kind is not Kind.CHANNEL)
        for change in ordered:
            owned: set[Any] = self._own_channels if change.kind is Kind.CHANNEL else self._own_keys
            if change.value is None:
                owned.discard(change.key)
            else:
                owned.add(change.key)
            if self.is_ready:
                self._take_own(change)
            else:
                self._own[change.kind, change.key] = change

    def block(self) -> None:
        """There may be a new block: look now, not at the next poll."""
        self.spends.wake()

    # --- the table (Keeper) -----------------------------------------------------------------------

    def situation(self, is_awaited: Callable[[int], bool]) -> Situation:
        """What decisions depend on now."""
        return Situation(
            self._chain_hash,
            int(self._clock()),
            self.spends.height,
            is_awaited,
            self._own_keys.__contains__,
        )

    def apply(self, changes: Iterable[Change]) -> bool:
        """Take changes into the table, the outputs and the stream; whether any was news."""
        is_news = False
        for change in changes:
            if self._apply(change):
                self._writer.put(change)
                is_news = True
        return is_news

    async def drained(self) -> None:
        """Return as soon as more may be written."""
        await self._writer.drained()

    def _apply(self, change: Change) -> bool:
        """Take a change into table and outputs."""
        kind, key, value = change
        if kind is not Kind.CHANNEL or not isinstance(key, int):
            is_news = self.table.apply(change)
            if is_news and self.is_ready:
                self.on_change(change)
            return is_news
        entry = self.table.channel(key)
        old = None if entry is None else entry.record
        if not self.table.apply(change):
            return False
        self.spends.outputs.replace(key, old, value if isinstance(value, ChannelRecord) else None)
        if self.is_ready:
            self._tell_of_channel(change, key)
        if value is None:
            self._gone[key] = None
            if len(self._gone) > self._rules.gone:
                self._gone.popitem(last=False)
        else:
            self._gone.pop(key, None)
        return True

    def _tell_of_channel(self, change: Change, scid: int) -> None:
        """Tell of a channel, with updates of it that may have come before it."""
        self.on_change(change)
        entry = self.table.channel(scid)
        for direction, raw in enumerate(entry.updates if entry is not None else ()):
            if raw is not None:
                self.on_change(Change(Kind.UPDATE, scid << 1 | direction, raw))

    def _take_own(self, change: Change) -> None:
        kind, key, value = change
        if isinstance(key, bytes) or value is None:
            self.apply((change,))
            return
        if kind is Kind.UPDATE:
            if self.table.channel(key >> 1) is not None:
                self.apply((change,))
            return
        entry = self.table.channel(key)
        is_known = entry is not None and isinstance(value, ChannelRecord)
        if key in self._gone or (is_known and is_same(entry, value)):
            return
        self.apply((change,))
        self.spends.outputs.doubtful.add(key)
        self.spends.wake()

    # --- GRAPH (GraphSink) ------------------------------------------------------------------------

    def loading(self) -> None:
        """A stream is read from its start: the first one, or another than before."""
        if self.is_ready:
            self._fresh = Table()
            return
        self.table = Table()
        self.spends.outputs = Outputs()
        self._loaded_keys = []
        self._stored = None

    def put(self, change: Change) -> None:
        """One value of the stream."""
        if self._fresh is not None:
            self._fresh.apply(change)
        elif not self.is_ready:
            self._apply(change)
            if change.kind is not Kind.CHANNEL and change.value is not None:
                self._loaded_keys.append(change.key)
        elif self._is_foreign(change):
            self._adopt(change)
        elif self._is_undone(change):
            self._write_again(change.kind, change.key)

    def loaded(self) -> None:
        """The stream has been read to its end."""
        if self._fresh is not None:
            fresh, self._fresh = self._fresh, None
            self._tasks.spawn(self._merge(fresh), "merge of another stream")
            return
        if self.is_ready:
            return
        self.is_ready = True
        self._gone.clear()
        self.on_table()
        log.info("graph_ready", channels=self.table.channels, nodes=self.table.nodes)
        own, self._own = self._own, {}
        self.announce_own(own.values())
        self._tasks.spawn(self._sweep(self._loaded_keys), "sweep of the table")
        self._loaded_keys = []
        self._tasks.spawn(self.spends.run(self._stored), "spent channels")
        self._tasks.spawn(self._prune(), "stale channels")

    def node_self(self, payload: bytes) -> None:
        """Who we are: we know."""

    def tip(self, payload: bytes) -> None:
        """Up to which block spends are worked in; of interest at the start only."""
        if self.is_ready:
            return
        try:
            tip = read(GraphTip, payload)
        except FabricError as error:
            log.warning("graph_tip_refused", why=str(error))
            return
        self._stored = BlockRef(tip.height, tip.hash)

    def _is_foreign(self, change: Change) -> bool:
        """Whether a value that comes along was written by another, and has a place here."""
        kind, key, value = change
        if value is None:
            return False
        if isinstance(key, bytes):
            return self.table.has_channels(key) and not holds(self.table, change)
        if kind is Kind.CHANNEL:
            return key not in self._gone and self.table.channel(key) is None
        return self.table.channel(key >> 1) is not None and not holds(self.table, change)

    def _is_undone(self, change: Change) -> bool:
        """Whether another, or a late echo of our own, stands where something of ours should."""
        value = current(self.table, change.kind, change.key)
        return value is not None and change.value != value

    def _adopt(self, change: Change) -> None:
        """Take what a former owner of the table wrote."""
        if self._apply(change) and change.kind is Kind.CHANNEL and isinstance(change.key, int):
            self.spends.outputs.doubtful.add(change.key)
            self.spends.wake()

    def _write_again(self, kind: Kind, key: int | bytes) -> None:
        """Somebody had rubbish written over a value: write the right one, or that it is gone."""
        if self.is_ready:
            self._writer.put(Change(kind, key, current(self.table, kind, key)))

    # --- in the background ------------------------------------------------------------------------

    def _lost(self) -> None:
        """The stream was gone, or lost what it had."""
        if self.is_ready:
            self._tasks.spawn(self._write_all(), "writing the table again")

    async def _write_all(self) -> None:
        log.warning("graph_written_again", channels=self.table.channels)
        await self._each(everything(self.table), self._writer.put)
        if (tip := self.spends.tip) is not None:
            self._writer.tip(tip.height, tip.hash)

    async def _merge(self, fresh: Table) -> None:
        """Give another stream what it lacks, and take what it has besides."""

        def missing(change: Change) -> None:
            if not holds(fresh, change):
                self._writer.put(change)
                # What it has of a channel that it did not have finds its place.
                fresh.apply(change)

        def unknown(change: Change) -> None:
            if self._is_foreign(change):
                self._adopt(change)
            elif current(self.table, change.kind, change.key) is None:
                self._writer.put(change._replace(value=None))

        await self._each(everything(self.table), missing)
        await self._each(everything(fresh), unknown)
        if (tip := self.spends.tip) is not None:
            self._writer.tip(tip.height, tip.hash)

    async def _sweep(self, keys: list[int | bytes]) -> None:
        """Take out of the stream what belongs to no channel: a crash may leave it so."""

        def check(key: int | bytes) -> None:
            if isinstance(key, bytes):
                self.apply(orphans(self.table, (key,)))
            elif self.table.channel(key >> 1) is None:
                gone = Change(Kind.UPDATE, key, None)
                self.table.apply(gone)
                self._writer.put(gone)

        await self._each(keys, check)

    async def _prune(self) -> None:
        # After a long absence fronts have newer updates of most, soon; a look-up is dear.
        await asyncio.sleep(self._rules.prune_after_s)
        while True:
            scids = self.table.short_channel_ids(0, ALL_BLOCKS)
            size = self._rules.prune_channels
            for start in range(0, max(1, len(scids)), size):
                await asyncio.sleep(self._rules.prune_every_s)
                await self._writer.drained()
                self._prune_some(scids[start : start + size])
            for scid in [one for one in self._first_seen_s if self.table.channel(one) is None]:
                del self._first_seen_s[scid]

    def _prune_some(self, short_channel_ids: Sequence[int]) -> None:
        others = [scid for scid in short_channel_ids if scid not in self._own_channels]
        old = list(stale(self.table, others, self._first_seen_s, int(self._clock())))
        for scid in old:
            remove(self.table, scid, self.apply)
        if old:
            self.pruned += len(old)
            log.info("channels_stale", channels=len(old))

    async def _each(self, items: Iterable[_Item], do: Callable[[_Item], None]) -> None:
        """Do something with many, a slice at a time."""
        for number, item in enumerate(items, 1):
            do(item)
            if number % self._rules.slice == 0:
                await asyncio.sleep(0)
                await self._writer.drained()
