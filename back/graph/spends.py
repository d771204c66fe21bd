"""Follows the chain for the routing table: which funding outputs each block spends.

It goes on from where GRAPH says that the table is worked through (`ln.graph.tip`). If that is
unknown, far away or no longer in the chain, every output of the table is asked for instead.
bitcoind may come and go; a turn that it interrupts is made again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog

from back.chain.bitcoind import Bitcoind, hash_from_rpc
from back.chain.block import header, scan
from back.chain.events import BlockRef
from back.chain.tip import Branch, NeedOlder, Wait, reconcile
from back.graph.acceptance import Absent, Funds, funding_height, judge_channel
from back.graph.funding import FundingLookup
from back.graph.pruning import orphans, removal
from back.graph.spent import Outputs, funding_outpoint, marked
from shared.errors import BackendError, RpcError
from shared.gossip.record import Change
from shared.gossip.table import Entry, Table
from shared.gossip.view import channel_view

__all__ = ["SpendRules", "Spends"]

REGTEST = "regtest"
ALARM_EVERY_S = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SpendRules:
    """How the chain is followed.

    Attributes:
        poll_s: asks for new blocks so often, beside being told of them.
        retry_s: waits so long after a failure.
        far_blocks: from so many missed blocks on asking for every output is cheaper than reading
            the blocks.
        again_blocks: read again after a restart: what they changed may not have been written.
        check_batch: outputs asked for at once.
        settle_batch: doubtful channels looked up at once.
        slice: channels marked or taken out in one turn of the event loop.
    """

    poll_s: float = 5.0
    retry_s: float = 1.0
    far_blocks: int = 144
    again_blocks: int = 6
    check_batch: int = 200
    settle_batch: int = 200
    slice: int = 100


class Spends:
    """The chain's part in the table.

    Args:
        bitcoind: a client of its own.
        lookup: looks doubtful channels up.
        executor: scans blocks.
        table: the present one.
        apply: takes changes: into the table, `outputs` and the stream.
        worked: told up to which block (height, hash) the table is worked through.
        rules: times and limits.

    Attributes:
        outputs: what is watched; keep it in step with the table.
        height: of bitcoind's tip, 0 while it is away or loads old blocks.
        is_behind: whether blocks, or the table as a whole, wait to be worked in.
    """

    def __init__(
        self,
        bitcoind: Bitcoind,
        lookup: FundingLookup,
        executor: Executor,
        table: Callable[[], Table],
        apply: Callable[[Iterable[Change]], object],
        worked: Callable[[int, bytes], None],
        rules: SpendRules = SpendRules(),
    ) -> None:
        self.outputs = Outputs()
        self.height = 0
        self.is_behind = True
        self._bitcoind = bitcoind
        self._lookup = lookup
        self._executor = executor
        self._table = table
        self._apply = apply
        self._worked = worked
        self._rules = rules
        self._branch = Branch()
        self._stored: BlockRef | None = None
        self._unchecked: list[int] | None = None
        self._check_from: BlockRef | None = None
        self._wake = asyncio.Event()

    @property
    def tip(self) -> BlockRef | None:
        """The last block that is worked in."""
        return self._branch.tip

    def wake(self) -> None:
        """There may be a new block, or a doubtful channel."""
        self._wake.set()

    async def run(self, stored: BlockRef | None) -> None:
        """Follow the chain until cancelled.

        Args:
            stored: up to which block the table is worked through; None if nobody knows.
        """
        self._stored = stored
        away_since = alarmed = 0.0
        while True:
            self._wake.clear()
            pause_s = self._rules.poll_s
            try:
                while await self._turn():
                    pass
                away_since = alarmed = 0.0
            except (BackendError, RpcError, ValueError) as error:
                self.height = 0
                pause_s, now = self._rules.retry_s, time.monotonic()
                away_since = away_since or now
                if not alarmed or now - alarmed > ALARM_EVERY_S:
                    alarmed = now
                    log.warning("graph_without_chain", why=str(error), seconds=now - away_since)
            except Exception:
                # A bug of ours: gossip goes on with the chain as it was, and says so.
                log.exception("graph_chain_failed")
                pause_s = ALARM_EVERY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _turn(self) -> bool:
        """Do the next piece; return whether more waits."""
        info = await self._bitcoind.call("getblockchaininfo")
        is_loading = info["initialblockdownload"] and info["chain"] != REGTEST
        height = int(info["blocks"])
        # A bitcoind that loads old blocks knows nothing of the outputs of newer ones.
        self.height = 0 if is_loading else height
        if self.tip is None:
            if is_loading:
                return False
            return await self._begin(BlockRef(height, hash_from_rpc(info["bestblockhash"])))
        return await self._follow(self.tip, height, is_loading=is_loading)

    # --- the first block --------------------------------------------------------------------------

    async def _begin(self, best: BlockRef) -> bool:
        """Find the block from which to go on; ask for every output first where there is none."""
        if self._unchecked is None:
            start = await self._go_on_from(best)
            if start is not None:
                self._start_at(start)
                return True
            self.is_behind = True
            self._check_from = best
            self._unchecked = list(self._table().short_channel_ids(0, 1 << 24))
            log.info("graph_checking_outputs", channels=len(self._unchecked), height=best.height)
        if await self._check_some(self._unchecked):
            return True
        assert self._check_from is not None  # noqa: S101 - set with the list
        self._unchecked = None
        self._start_at(self._check_from)
        self._say_worked()
        return True

    async def _go_on_from(self, best: BlockRef) -> BlockRef | None:
        stored = self._stored
        if stored is None or not 0 <= best.height - stored.height <= self._rules.far_blocks:
            return None
        first = max(0, stored.height - self._rules.again_blocks)
        calls = [("getblockhash", (height,)) for height in (stored.height, first)]
        there, start = await self._bitcoind.batch(calls)
        if (
            isinstance(there, str)
            and isinstance(start, str)
            and hash_from_rpc(there) == stored.hash
        ):
            # A crash may have let out a block's spends, and not that it was worked in.
            self.outputs.doubt_after(stored.height)
            return BlockRef(first, hash_from_rpc(start))
        await self._undo_lately(stored.height)
        return None

    async def _undo_lately(self, height: int) -> None:
        """A reorg of unknown depth: take back what blocks down from this one did."""
        for at in range(height, max(0, height - self._rules.far_blocks), -1):
            await self._undo(at)

    async def _undo(self, height: int) -> None:
        await self._mark(self.outputs.undo(self._table(), height), 0)

    def _start_at(self, block: BlockRef) -> None:
        self._branch = Branch((block,))
        log.info("graph_follows_chain", height=block.height)

    async def _check_some(self, unchecked: list[int]) -> bool:
        """Ask for the last of these outputs, and take them off the list."""
        assert self._check_from is not None  # noqa: S101 - set with the list
        height = self._check_from.height
        part = unchecked[-self._rules.check_batch :]
        # bitcoind may be behind: it knows nothing of outputs that are to come.
        self.outputs.doubtful.update(scid for scid in part if funding_height(scid) > height)
        await self._compare([scid for scid in part if funding_height(scid) <= height], height)
        del unchecked[-self._rules.check_batch :]
        return bool(unchecked)

    async def _compare(self, short_channel_ids: Iterable[int], height: int) -> None:
        """Ask whether these are unspent, and mark what is otherwise in the table."""
        table = self._table()
        part = {scid: entry for scid in short_channel_ids if (entry := table.channel(scid))}
        coins = await self._lookup.unspent(
            [funding_outpoint(scid, entry.funding_txid) for scid, entry in part.items()]
        )
        for (scid, entry), coin in zip(part.items(), coins, strict=True):
            if bool(entry.spent_height) == (coin is not None):
                self._mark_one(scid, height if coin is None else 0)

    async def _mark(self, short_channel_ids: Iterable[int], height: int) -> None:
        """Mark any number of channels as spent at this height, or as unspent (0)."""
        for number, scid in enumerate(short_channel_ids, 1):
            self._mark_one(scid, height)
            if number % self._rules.slice == 0:
                await asyncio.sleep(0)

    def _mark_one(self, short_channel_id: int, height: int) -> None:
        change = marked(self._table(), short_channel_id, height)
        if change is not None:
            self._apply((change,))

    def _begin_anew(self) -> None:
        """Forget which blocks are worked in: every output is asked for."""
        self._branch = Branch()
        self._stored = self._unchecked = None

    # --- block after block ------------------------------------------------------------------------

    async def _follow(self, tip: BlockRef, height: int, *, is_loading: bool) -> bool:
        if height > tip.height + self._rules.far_blocks and not is_loading:
            log.info("graph_far_behind", blocks=height - tip.height)
            self._begin_anew()
            return True
        calls = [("getblockhash", (at,)) for at in (tip.height, tip.height + 1)]
        here, after = await self._bitcoind.batch(calls)
        if not isinstance(here, str) or hash_from_rpc(here) != tip.hash:
            return await self._reorganise(height, is_loading=is_loading)
        if isinstance(after, str):
            self.is_behind = height > tip.height + 1
            return await self._connect(tip, BlockRef(tip.height + 1, hash_from_rpc(after)))
        self.is_behind = False
        return await self._settle(tip.height)

    async def _connect(self, tip: BlockRef, block: BlockRef) -> bool:
        try:
            raw = await self._bitcoind.raw_block(block.hash)
        except RpcError:
            # Pruned, or not there yet: do without it.
            self._begin_anew()
            raise
        if header(raw).previous_hash != tip.hash:
            return True  # a reorg in between
        # The table's outputs as they are while it scans: what enters meanwhile was asked for later.
        found = await asyncio.get_running_loop().run_in_executor(
            self._executor, partial(scan, raw, self.outputs.by_outpoint.keys(), frozenset())
        )
        spent = self.outputs.spent_in(outpoint for match in found for outpoint in match.spends)
        await self._mark(spent, block.height)
        await self._forget(block.height)
        self._branch = self._branch.connect(block)
        self._say_worked()
        if spent:
            log.info("channels_spent", channels=len(spent), height=block.height)
        return True

    def _say_worked(self) -> None:
        """Have it noted that the table is worked through, unless something in it is doubtful."""
        if (tip := self.tip) is not None and not self.outputs.doubtful:
            self._worked(tip.height, tip.hash)

    async def _forget(self, height: int) -> None:
        """Take out what was spent long ago."""
        for number, scid in enumerate(self.outputs.due(height), 1):
            remove(self._table(), scid, self._apply)
            if number % self._rules.slice == 0:
                await asyncio.sleep(0)

    async def _reorganise(self, height: int, *, is_loading: bool) -> bool:
        """Take back the blocks that bitcoind's chain does not have."""
        ours = self._branch.blocks
        answers = await self._bitcoind.batch([("getblockhash", (b.height,)) for b in ours])
        theirs = {
            block.height: hash_from_rpc(answer)
            for block, answer in zip(ours, answers, strict=True)
            if isinstance(answer, str)
        }
        verdict = reconcile(ours, theirs, height, is_initial_download=is_loading)
        if isinstance(verdict, Wait):
            return False
        gone = tuple(reversed(ours)) if isinstance(verdict, NeedOlder) else verdict.disconnect
        log.info("graph_reorganised", blocks=len(gone), from_height=ours[-1].height)
        for block in gone:
            await self._undo(block.height)
            self._branch = self._branch.disconnect()
        if isinstance(verdict, NeedOlder):
            # Deeper than we remember: everything is asked for again.
            await self._undo_lately(ours[0].height - 1)
            self._begin_anew()
        return True

    async def _settle(self, height: int) -> bool:
        """Look up what a reorg, or our own announcement, left doubtful."""
        # A chain that was made shorter by hand may get its blocks back: those above it wait.
        waiting = (scid for scid in self.outputs.doubtful if funding_height(scid) <= height)
        doubtful = list(islice(waiting, self._rules.settle_batch))
        if not doubtful:
            return False
        found = await self._lookup.locate(doubtful)
        table = self._table()
        known = {scid: entry for scid in doubtful if (entry := table.channel(scid)) is not None}
        moved = {scid for scid, entry in known.items() if not _may_be(entry, found[scid])}
        await self._mark((scid for scid in moved if not known[scid].spent_height), height)
        await self._compare([scid for scid in known if scid not in moved], height)
        self.outputs.doubtful.difference_update(doubtful)
        self._say_worked()
        return True


def _may_be(entry: Entry, funds: Funds) -> bool:
    """Whether the chain does not say that a channel's funding output is no longer where it was."""
    if isinstance(funds, Absent):
        return funds is Absent.PRUNED
    if funds.txid != entry.funding_txid:
        return False
    return not judge_channel(channel_view(entry.announcement), funds).why


def remove(
    table: Table, short_channel_id: int, apply: Callable[[Iterable[Change]], object]
) -> None:
    """Take a channel out, and its nodes if it was their last."""
    entry = table.channel(short_channel_id)
    if entry is not None:
        nodes = entry.nodes
        apply(removal(table, short_channel_id))
        apply(orphans(table, nodes))
