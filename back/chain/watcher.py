"""Follows bitcoind's chain and mempool and tells what happens to what is watched.

One task does everything in turn: take blocks back and on, look up older history for new watches,
ask the mempool. So an event never overtakes another, and a reorg in the middle of any of it is met
by the next turn. ZMQ and new watches only wake it earlier; every fact comes by RPC.

Blocks are fetched raw: a look-up in a set for each input of a block costs some ten milliseconds,
the same block as JSON some seconds.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from back.chain.bitcoind import Bitcoind, Call, hash_from_rpc, hash_to_rpc
from back.chain.block import Match, header, inputs, outpoint_bytes, scan
from back.chain.events import (
    BlockConnected,
    BlockDisconnected,
    BlockRef,
    ChainEvent,
    Watch,
    WatchConfirmed,
    WatchSpent,
)
from back.chain.interface import BlockStore
from back.chain.tip import Branch, Follow, NeedOlder, Wait, reconcile
from back.chain.watches import WatchBook
from back.chain.zmq import Notifications
from shared.errors import BackendError, ChainRefused, RpcError

__all__ = ["Watcher"]

log = structlog.get_logger()

PARALLEL_BLOCKS = 4
"""Fetched at once while catching up."""
STORED_AT_ONCE = 32
"""Blocks, while catching up."""
LOOKUP_BLOCKS = 24
"""Older blocks read in one turn; then new ones go first again."""
PROBED_OUTPUTS = 8
"""Outputs of a watched transaction that are tried in the UTXO set before blocks are read."""
OUTPOINTS_PER_CALL = 500
SMALL_BLOCK = 50_000
"""Bytes; a larger one is scanned in a thread."""
FIRST_RETRY_S = 0.2
LAST_RETRY_S = 5.0
ALARM_EVERY_S = 60.0
TRUSTED_ZMQ_POLL_S = 30.0
"""How often the mempool is asked while transactions are heard by ZMQ."""


def _probes(watch: Watch) -> list[Call]:
    """Return calls that may spare reading blocks: coins first, then a mempool entry."""
    if isinstance(watch, WatchSpent):
        outpoint = watch.outpoint
        name, indexes = outpoint.rpc_txid, range(outpoint.index, outpoint.index + 1)
    else:
        name, indexes = hash_to_rpc(watch.txid), range(PROBED_OUTPUTS)
    return [*(("gettxout", (name, i, False)) for i in indexes), ("getmempoolentry", (name,))]


class _Lookup:
    """A walk down through older blocks for watches that may have been met already."""

    def __init__(self, watches: Sequence[Watch], height: int) -> None:
        self.watches = list(watches)
        self.height = height

    def wanted(self, book: WatchBook) -> list[Watch]:
        """Return what is still looked for at the present height."""
        self.watches = [
            watch
            for watch in self.watches
            if watch.since_height <= self.height and not book.is_settled(watch)
        ]
        return self.watches


class Watcher:
    """The chain as events.

    Args:
        emit: called with every event, in chain order; in the event loop, must not raise.
        came_back: awaited when bitcoind answers again after it was away.

    Attributes:
        branch: the last processed blocks.
        is_synced: bitcoind answers, is not loading old blocks, and we have processed its tip.
    """

    def __init__(
        self,
        bitcoind: Bitcoind,
        store: BlockStore,
        emit: Callable[[ChainEvent], None],
        *,
        is_regtest: bool = False,
        came_back: Callable[[], Any] | None = None,
    ) -> None:
        self.branch = Branch()
        self.is_synced = False
        self._bitcoind = bitcoind
        self._store = store
        self._emit = emit
        self._is_regtest = is_regtest
        self._came_back = came_back
        self._book = WatchBook()
        self._new: dict[Watch, None] = {}
        self._lookups: list[_Lookup] = []
        self._unstored: list[BlockRef] = []
        self._unstored_fork: int | None = None
        self._wake = asyncio.Event()
        self._mempool_is_due = True
        self._mempool_asked_s = 0.0
        self._is_loaded = False
        settings = bitcoind.settings
        self.notifications = Notifications(
            {"hashblock": settings.zmq_block, "rawtx": settings.zmq_tx}, self._heard, self._missed
        )

    # --- watches -----------------------------------------------------------------------------

    def add(self, watch: Watch) -> None:
        """Set a watch. What is known already is told at once, what the chain knows soon."""
        tip = self.branch.tip
        for news in self._book.add(watch, tip.height if tip else 0):
            self._emit(news)
        self._new[watch] = None
        self._mempool_is_due = True
        self._wake.set()

    def remove(self, watch: Watch) -> None:
        """Forget a watch; nothing if it is not there."""
        self._new.pop(watch, None)
        self._book.remove(watch)

    # --- the task ----------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the last processed blocks from the store, once."""
        if not self._is_loaded:
            self.branch = Branch(tuple(await self._store.load_blocks()))
            self._is_loaded = True

    async def run(self) -> None:
        """Follow the chain until cancelled. bitcoind may come and go.

        Raises:
            ExceptionGroup: of ChainRefused (bitcoind follows a chain that has never held our last
                block) or of what the store raises for good.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.notifications.run())
            group.create_task(self._follow())

    async def _follow(self) -> None:
        retry_s, away_since, alarmed = FIRST_RETRY_S, 0.0, 0.0
        while True:
            self._wake.clear()
            try:
                if away_since and self._came_back is not None:
                    await self._came_back()
                is_more = await self._turn()
            except (BackendError, RpcError) as error:
                now = time.monotonic()
                self.is_synced = False
                away_since = away_since or now
                if not alarmed or now - alarmed >= ALARM_EVERY_S:
                    seconds = round(now - away_since)
                    log.error("bitcoind_away", why=str(error), seconds=seconds)  # noqa: TRY400
                    alarmed = now
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, LAST_RETRY_S)
                continue
            if away_since:
                log.info("bitcoind_back", seconds=round(time.monotonic() - away_since))
            retry_s, away_since, alarmed = FIRST_RETRY_S, 0.0, 0.0
            if not is_more:
                await self._rest()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._bitcoind.settings.poll_interval_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _turn(self) -> bool:
        """Do what is to be done; return whether more waits."""
        await self.load()
        self.is_synced = await self._sync()
        await self._store_blocks()
        if self.branch.tip is None:
            return False
        await self._ask_mempool()
        return await self._look_up()

    # --- the tip -----------------------------------------------------------------------------

    async def _sync(self) -> bool:
        """Go to bitcoind's tip; return whether we are there and it is the network's."""
        while True:
            info = await self._bitcoind.call("getblockchaininfo")
            best = BlockRef(info["blocks"], hash_from_rpc(info["bestblockhash"]))
            is_loading = bool(info["initialblockdownload"]) and not self._is_regtest
            if best == self.branch.tip:
                return not is_loading
            if self.branch.tip is None:
                await self._begin(best)
                continue
            plan = await self._compare(best.height, is_initial_download=is_loading)
            if isinstance(plan, Wait):
                log.warning("bitcoind_is_behind", blocks=plan.blocks_behind)
                return False
            self._disconnect(plan)
            await self._connect_to(best.height, plan.fork.height)

    async def _begin(self, best: BlockRef) -> None:
        """At the very first start the tip is where we are."""
        self._connected(best, header(await self._block(best.hash)).time, [])

    async def _compare(self, best_height: int, *, is_initial_download: bool) -> Follow | Wait:
        while True:
            heights = [b.height for b in self.branch.blocks if b.height <= best_height]
            hashes = await self._hashes(heights)
            theirs = {h: found for h, found in zip(heights, hashes, strict=True) if found}
            plan = reconcile(
                self.branch.blocks, theirs, best_height, is_initial_download=is_initial_download
            )
            if not isinstance(plan, NeedOlder):
                return plan
            parent = await self._parent(plan.oldest, is_initial_download=is_initial_download)
            if parent is None:
                return Wait(plan.oldest.height - best_height)
            self.branch = self.branch.remember(parent)

    async def _parent(self, block: BlockRef, *, is_initial_download: bool) -> BlockRef | None:
        """Return the parent of a block that a reorg took out.

        None while bitcoind may yet learn of that block.
        """
        try:
            known = await self._bitcoind.call("getblockheader", hash_to_rpc(block.hash))
        except RpcError:
            if is_initial_download:
                return None
            raise ChainRefused(
                f"bitcoind has never seen our block {block}: it follows another chain, or this "
                "database belongs to another one"
            ) from None
        return BlockRef(block.height - 1, hash_from_rpc(known["previousblockhash"]))

    def _disconnect(self, plan: Follow) -> None:
        for block in plan.disconnect:
            log.warning("block_disconnected", height=block.height, block=hash_to_rpc(block.hash))
            self.branch = self.branch.disconnect()
            for news in self._book.disconnected(block):
                self._emit(news)
            self._emit(BlockDisconnected(block.height, block.hash))
            self._unstored = [b for b in self._unstored if b.height < block.height]
            fork = self._unstored_fork
            self._unstored_fork = block.height - 1 if fork is None else min(fork, block.height - 1)
            # what was confirmed is back in the mempool, or its rival is
            self._mempool_is_due = True

    async def _connect_to(self, height: int, fork_height: int) -> None:
        """Take on the blocks up to ``height``; stops early where bitcoind changed its mind."""
        for start in range(fork_height + 1, height + 1, PARALLEL_BLOCKS):
            hashes = await self._hashes(range(start, min(start + PARALLEL_BLOCKS, height + 1)))
            known = [name for name in hashes if name is not None]
            raws = await asyncio.gather(*map(self._block, known))
            for place, (name, raw) in enumerate(zip(known, raws, strict=True)):
                head = header(raw)
                if self.branch.tip is None or head.previous_hash != self.branch.tip.hash:
                    return
                self._connected(BlockRef(start + place, name), head.time, await self._scan(raw))
            if len(self._unstored) >= STORED_AT_ONCE:
                await self._store_blocks()

    def _connected(self, block: BlockRef, time_s: int, matches: Sequence[Match]) -> None:
        self.branch = self.branch.connect(block)
        if self._unstored_fork is None:
            self._unstored_fork = block.height - 1
        self._unstored.append(block)
        self._emit(BlockConnected(block.height, block.hash, time_s))
        for news in self._book.found(block, matches, block.height):
            self._emit(news)

    async def _store_blocks(self) -> None:
        """Keep what was told. Where the database is away it stays for the next turn."""
        if self._unstored_fork is not None:
            await self._store.store_blocks(self._unstored_fork, self._unstored)
            self._unstored_fork, self._unstored = None, []

    # --- the past ----------------------------------------------------------------------------

    async def _look_up(self) -> bool:
        """Find what new watches missed; return whether more blocks are to be read."""
        if self._new:
            watches, self._new = list(self._new), {}
            try:
                await self._probe([w for w in watches if not self._book.is_settled(w)])
            except BaseException:
                self._new.update(dict.fromkeys(watches))
                raise
        for _ in range(LOOKUP_BLOCKS):
            if not self._lookups:
                break
            lookup = self._lookups[-1]
            if lookup.wanted(self._book) and await self._look_into(lookup.height, lookup.watches):
                lookup.height -= 1
            else:
                self._lookups.pop()
        return bool(self._lookups or self._new)

    async def _probe(self, watches: Sequence[Watch]) -> None:
        """Ask the UTXO set and the mempool first; what they do not know is looked for in blocks."""
        calls: list[Call] = []
        for watch in watches:
            calls += _probes(watch)
        answers = iter(await self._bitcoind.batch(calls))
        unknown: list[Watch] = []
        heights: set[int] = set()
        for watch in watches:
            unspent = [next(answers) for _ in _probes(watch)[:-1]]
            is_in_mempool = not isinstance(next(answers), RpcError)
            known = [coin for coin in unspent if coin and not isinstance(coin, RpcError)]
            if isinstance(watch, WatchConfirmed) and known:
                height = await self._height_of(known[0])
                if height is not None:
                    heights.add(height)
            elif not known and not is_in_mempool:
                unknown.append(watch)
        for height in heights:
            await self._look_into(height, watches)
        tip = self.branch.tip
        if unknown and tip is not None:
            self._lookups.append(_Lookup(unknown, tip.height))

    async def _height_of(self, coin: dict[str, Any]) -> int | None:
        """Return where a coin was made, if that is within our branch."""
        best = hash_from_rpc(coin["bestblock"])
        tip = self.branch.tip
        if tip is None:
            return None
        top = tip.height
        if best != tip.hash:
            top = (await self._bitcoind.call("getblockheader", coin["bestblock"]))["height"]
        height = int(top - coin["confirmations"] + 1)
        return height if height <= tip.height else None  # a newer one comes with its block

    async def _look_into(self, height: int, watches: Sequence[Watch]) -> bool:
        """Look for ``watches`` in an older block; return whether blocks below it can be read."""
        tip = self.branch.tip
        [name] = await self._hashes([height])
        kept = self.branch.hash_at(height)
        if tip is None or name is None or kept not in {None, name} or height > tip.height:
            return True  # a reorg that we have not met yet: its blocks come as new ones
        try:
            raw = await self._block(name)
        except RpcError as error:
            log.error("old_block_missing", height=height, why=error.reason)  # noqa: TRY400
            return False
        outpoints = {outpoint_bytes(w.outpoint) for w in watches if isinstance(w, WatchSpent)}
        txids = {w.txid for w in watches if isinstance(w, WatchConfirmed)}
        matches = await self._scan(raw, outpoints, txids)
        for news in self._book.found(BlockRef(height, name), matches, tip.height):
            self._emit(news)
        return True

    # --- the mempool -------------------------------------------------------------------------

    async def _ask_mempool(self) -> None:
        """Look for unconfirmed spends of what is watched."""
        now = time.monotonic()
        poll_s = self._bitcoind.settings.poll_interval_s
        if self.notifications.count["rawtx"]:
            poll_s = max(poll_s, TRUSTED_ZMQ_POLL_S)
        if not self._mempool_is_due and now - self._mempool_asked_s < poll_s:
            return
        self._mempool_is_due, self._mempool_asked_s = False, now
        outpoints = self._book.unspent_outpoints()
        forms = [{"txid": o.rpc_txid, "vout": o.index} for o in outpoints]
        calls: list[Call] = [
            ("gettxspendingprevout", (forms[i : i + OUTPOINTS_PER_CALL],))
            for i in range(0, len(forms), OUTPOINTS_PER_CALL)
        ]
        spenders: dict[str, None] = {}
        answers = []
        for part in await self._bitcoind.batch(calls):
            if isinstance(part, RpcError):
                raise part
            answers += part
        for outpoint, answer in zip(outpoints, answers, strict=True):
            name = answer.get("spendingtxid")
            if name and not self._book.knows_mempool_spend(outpoint, hash_from_rpc(name)):
                spenders[name] = None
        for raw in await self._bitcoind.batch([("getrawtransaction", (n,)) for n in spenders]):
            if isinstance(raw, RpcError):
                self._mempool_is_due = True  # gone into a block, or replaced, in between
                continue
            for news in self._book.spent_in_mempool(bytes.fromhex(raw)):
                self._emit(news)

    def _heard(self, topic: str, body: bytes) -> None:
        if topic == "rawtx":
            with contextlib.suppress(ValueError):
                if not any(map(self._book.is_watched, inputs(body))):
                    return
            self._mempool_is_due = True
        self._wake.set()

    def _missed(self, topic: str) -> None:
        if topic == "rawtx":
            self._mempool_is_due = True
        self._wake.set()

    # --- bitcoind ----------------------------------------------------------------------------

    async def _hashes(self, heights: Sequence[int]) -> list[bytes | None]:
        """Return the hashes of bitcoind's chain at these heights; None above its tip."""
        answers = await self._bitcoind.batch([("getblockhash", (height,)) for height in heights])
        return [None if isinstance(name, RpcError) else hash_from_rpc(name) for name in answers]

    async def _block(self, name: bytes) -> bytes:
        return bytes.fromhex(await self._bitcoind.call("getblock", hash_to_rpc(name), 0))

    async def _scan(
        self, raw: bytes, outpoints: set[bytes] | None = None, txids: set[bytes] | None = None
    ) -> list[Match]:
        # copies: watches may come and go while a thread scans
        outpoints = set(self._book.outpoints) if outpoints is None else outpoints
        txids = set(self._book.txids) if txids is None else txids
        if len(raw) <= SMALL_BLOCK:
            return scan(raw, outpoints, txids)
        return await asyncio.to_thread(scan, raw, outpoints, txids)
