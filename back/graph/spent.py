"""Which outputs on the chain the routing table hangs on, and which of them are spent. Pure."""

from collections.abc import Iterable

from back.chain.block import outpoint_bytes
from back.graph.acceptance import funding_height
from shared.chain import Outpoint
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table

__all__ = ["DELAY", "Candidates", "Outputs", "funding_outpoint", "marked"]

DELAY = 72
"""Blocks for which a channel stays after it was spent (BOLT 7)."""


def funding_outpoint(short_channel_id: int, txid: bytes) -> Outpoint:
    """Return the outpoint of a channel."""
    return Outpoint(txid, short_channel_id & 0xFFFF)


class Candidates:
    """Channels about to enter the table; blocks that arrive meanwhile are watched for them too.

    Attributes:
        lost: those that a block spent, or whose funding a reorg may have moved: ask again.
    """

    def __init__(self, outpoints: dict[bytes, int]) -> None:
        self.outpoints = outpoints
        self.lost: set[int] = set()


class Outputs:
    """Funding outputs by outpoint, and spent channels by the height of the spending block.

    Attributes:
        by_outpoint: short_channel_id by outpoint as on the wire (36 bytes); what blocks are scanned
            for, also by a thread.
        doubtful: channels that must be looked up again: something on the chain moved.
    """

    def __init__(self) -> None:
        self.by_outpoint: dict[bytes, int] = {}
        self.doubtful: set[int] = set()
        self._spent: dict[int, set[int]] = {}
        self._candidates: set[Candidates] = set()

    def replace(
        self, short_channel_id: int, old: ChannelRecord | None, new: ChannelRecord | None
    ) -> None:
        """Note that a channel of the table is another now, new, or gone."""
        if old is not None:
            if new is None or new.funding_txid != old.funding_txid:
                self.by_outpoint.pop(_wire(short_channel_id, old.funding_txid), None)
            if (spent := self._spent.get(old.spent_height)) is not None:
                spent.discard(short_channel_id)
                if not spent:
                    del self._spent[old.spent_height]
        if new is None:
            self.doubtful.discard(short_channel_id)
            return
        self.by_outpoint[_wire(short_channel_id, new.funding_txid)] = short_channel_id
        if new.spent_height:
            self._spent.setdefault(new.spent_height, set()).add(short_channel_id)

    # --- channels about to enter ------------------------------------------------------------------

    def begin(self, txids: dict[int, bytes]) -> Candidates:
        """Watch blocks for these too, from now until `end`: funding txids by short_channel_id."""
        outpoints = {
            raw: scid
            for scid, txid in txids.items()
            if (raw := _wire(scid, txid)) not in self.by_outpoint
        }
        candidates = Candidates(outpoints)
        self._candidates.add(candidates)
        self.by_outpoint |= outpoints
        return candidates

    def end(self, candidates: Candidates, table: Table) -> None:
        """Forget those that have not entered the table."""
        self._candidates.discard(candidates)
        for raw, scid in candidates.outpoints.items():
            entry = table.channel(scid)
            if entry is None or _wire(scid, entry.funding_txid) != raw:
                self.by_outpoint.pop(raw, None)

    # --- blocks -----------------------------------------------------------------------------------

    def spent_in(self, spends: Iterable[Outpoint]) -> list[int]:
        """Return the channels that a block spends by these; those about to enter are lost."""
        found = [self.by_outpoint.get(outpoint_bytes(outpoint)) for outpoint in spends]
        spent = [scid for scid in found if scid is not None]
        for candidates in self._candidates:
            candidates.lost.update(spent)
        return spent

    def undo(self, table: Table, height: int) -> list[int]:
        """Return the channels that are unspent again: a reorg took the block at this height out.

        They are doubtful, as is whatever was funded there.
        """
        undone = list(self._spent.get(height, ()))
        self.doubtful.update(undone)
        self.doubtful.update(table.short_channel_ids(height, height + 1))
        for candidates in self._candidates:
            candidates.lost.update(
                scid for scid in candidates.outpoints.values() if funding_height(scid) >= height
            )
        return undone

    def doubt_after(self, height: int) -> None:
        """Doubt spends of later blocks: whether those are still there nobody knows."""
        for at, spent in self._spent.items():
            if at > height:
                self.doubtful.update(spent)

    def due(self, height: int) -> list[int]:
        """Return the channels that are spent for long enough to go."""
        old = [at for at in self._spent if at + DELAY <= height]
        return [scid for at in old for scid in self._spent[at]]


def marked(table: Table, short_channel_id: int, spent_height: int) -> Change | None:
    """Return the change that marks a channel as spent there, or as unspent (0).

    None if it is so, or is not there.
    """
    entry = table.channel(short_channel_id)
    if entry is None or entry.spent_height == spent_height:
        return None
    record = entry.record._replace(spent_height=spent_height)
    return Change(Kind.CHANNEL, short_channel_id, record)


def _wire(short_channel_id: int, txid: bytes) -> bytes:
    return outpoint_bytes(funding_outpoint(short_channel_id, txid))
