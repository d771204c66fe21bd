"""What is watched, what is known of it, and what to tell. No I/O: blocks and transactions come in.

The book never reads the chain; :class:`back.chain.watcher.Watcher` feeds it. Telling twice is
allowed (a watch that is set again is told again what is known), telling what is not so is not.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from back.chain.block import Match, inputs, outpoint_bytes, txid
from back.chain.events import (
    BlockRef,
    Confirmed,
    Spent,
    Unconfirmed,
    Watch,
    WatchConfirmed,
    WatchSpent,
)
from shared.chain import Outpoint

__all__ = ["News", "WatchBook"]

News = Confirmed | Spent | Unconfirmed


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a transaction is; ``block`` None: in the mempool."""

    block: BlockRef | None
    index: int
    txid: bytes
    transaction: bytes = field(repr=False)


@dataclass(slots=True)
class _Confirmation:
    """One watched txid. ``told``: those watches that have been told."""

    watches: set[WatchConfirmed] = field(default_factory=set)
    told: set[WatchConfirmed] = field(default_factory=set)
    place: _Place | None = None


@dataclass(slots=True)
class _Spend:
    """One watched outpoint."""

    watches: set[WatchSpent] = field(default_factory=set)
    place: _Place | None = None


class WatchBook:
    """All watches of a node."""

    def __init__(self) -> None:
        self._confirmations: dict[bytes, _Confirmation] = {}
        self._spends: dict[Outpoint, _Spend] = {}
        self._outpoints: dict[bytes, Outpoint] = {}
        self._unripe: set[bytes] = set()
        """Txids in a block for which some watch waits for more depth."""

    @property
    def outpoints(self) -> Collection[bytes]:
        """Watched outpoints in wire form, for :func:`block.scan`."""
        return self._outpoints.keys()

    @property
    def txids(self) -> Collection[bytes]:
        """Watched txids, for :func:`block.scan`."""
        return self._confirmations.keys()

    def add(self, watch: Watch, height: int) -> list[News]:
        """Set a watch while the tip is at ``height``; return what is known already."""
        if isinstance(watch, WatchConfirmed):
            confirmation = self._confirmations.setdefault(watch.txid, _Confirmation())
            confirmation.watches.add(watch)
            confirmation.told.discard(watch)
            if confirmation.place is not None:
                self._unripe.add(watch.txid)
            return self._ripened(height)
        self._outpoints[outpoint_bytes(watch.outpoint)] = watch.outpoint
        spend = self._spends.setdefault(watch.outpoint, _Spend())
        spend.watches.add(watch)
        return [_spent(watch, spend.place)] if spend.place is not None else []

    def remove(self, watch: Watch) -> None:
        """Forget a watch; nothing if it is not there."""
        if isinstance(watch, WatchConfirmed):
            confirmation = self._confirmations.get(watch.txid)
            if confirmation is not None:
                confirmation.watches.discard(watch)
                confirmation.told.discard(watch)
                if not confirmation.watches:
                    del self._confirmations[watch.txid]
                    self._unripe.discard(watch.txid)
            return
        spend = self._spends.get(watch.outpoint)
        if spend is not None:
            spend.watches.discard(watch)
            if not spend.watches:
                del self._spends[watch.outpoint]
                del self._outpoints[outpoint_bytes(watch.outpoint)]

    def is_watched(self, outpoint: Outpoint) -> bool:
        """Whether anybody waits for a spend of it."""
        return outpoint in self._spends

    def is_settled(self, watch: Watch) -> bool:
        """Whether nothing must be looked for in older blocks: it is found, or watched no more."""
        if isinstance(watch, WatchConfirmed):
            confirmation = self._confirmations.get(watch.txid)
            return (
                confirmation is None
                or watch not in confirmation.watches
                or confirmation.place is not None
            )
        spend = self._spends.get(watch.outpoint)
        if spend is None or watch not in spend.watches:
            return True
        return spend.place is not None and spend.place.block is not None

    # --- what happens on the chain -----------------------------------------------------------

    def found(self, block: BlockRef, matches: Iterable[Match], height: int) -> list[News]:
        """Take transactions of one block of our branch: a new one, or an older one looked up.

        ``height`` is the tip's: that of ``block`` where it is the new one.
        """
        news: list[News] = []
        for match in matches:
            place = _Place(block, match.transaction_index, match.txid, match.transaction)
            confirmation = self._confirmations.get(match.txid)
            if confirmation is not None:
                confirmation.place = place
                self._unripe.add(match.txid)
            news += self._take_spends(place, match.spends)
        return news + self._ripened(height)

    def disconnected(self, block: BlockRef) -> list[News]:
        """Take back all that was in a block."""
        news: list[News] = []
        for name, confirmation in self._confirmations.items():
            if confirmation.place is not None and confirmation.place.block == block:
                confirmation.place = None
                news += [Unconfirmed(watch) for watch in confirmation.told]
                confirmation.told.clear()
                self._unripe.discard(name)
        for spend in self._spends.values():
            if spend.place is not None and spend.place.block == block:
                spend.place = None
                news += [Unconfirmed(watch) for watch in spend.watches]
        return news

    def spent_in_mempool(self, transaction: bytes) -> list[News]:
        """Take an unconfirmed transaction that spends something watched."""
        name, spends = txid(transaction), inputs(transaction)
        return self._take_spends(_Place(None, 0, name, transaction), spends)

    def knows_mempool_spend(self, outpoint: Outpoint, spending_txid: bytes) -> bool:
        """Whether this spend was told already, or a confirmed one that outdoes it."""
        spend = self._spends.get(outpoint)
        if spend is None:
            return True
        place = spend.place
        return place is not None and (place.block is not None or place.txid == spending_txid)

    def unspent_outpoints(self) -> list[Outpoint]:
        """Return the watched outpoints that no block spends: what to ask the mempool about."""
        return [
            outpoint
            for outpoint, spend in self._spends.items()
            if spend.place is None or spend.place.block is None
        ]

    def _take_spends(self, place: _Place, spends: Iterable[Outpoint]) -> list[News]:
        news: list[News] = []
        for outpoint in spends:
            spend = self._spends.get(outpoint)
            if spend is None:
                continue
            known = spend.place
            if place.block is None and known is not None and known.block is not None:
                continue
            if known is not None and (known.block, known.txid) == (place.block, place.txid):
                continue
            spend.place = place
            news += [_spent(watch, place) for watch in spend.watches]
        return news

    def _ripened(self, height: int) -> list[News]:
        """Tell those that are deep enough now."""
        news: list[News] = []
        for name in list(self._unripe):
            confirmation = self._confirmations[name]
            place = confirmation.place
            if place is None or place.block is None:
                continue
            waiting = confirmation.watches - confirmation.told
            for watch in waiting:
                if height - place.block.height + 1 >= watch.min_depth:
                    confirmation.told.add(watch)
                    news.append(
                        Confirmed(
                            watch,
                            place.block.height,
                            place.block.hash,
                            place.index,
                            place.transaction,
                        )
                    )
            if confirmation.told >= confirmation.watches:
                self._unripe.discard(name)
        return news


def _spent(watch: WatchSpent, place: _Place) -> Spent:
    height = None if place.block is None else place.block.height
    return Spent(watch, place.transaction, height)
