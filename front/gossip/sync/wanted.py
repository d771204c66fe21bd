"""What a peer has and the table has not: compared, kept compactly, asked for in chunks. Pure."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from front.gossip.sync.ranges import Rows
from shared.gossip.rules import FUTURE_S, STALE_S
from shared.gossip.table import Entry, Table
from shared.gossip.view import update_timestamp

if TYPE_CHECKING:
    from front.gossip.link import Link

__all__ = ["CHANNEL", "EVERYTHING", "NODES", "UPDATES", "Chunk", "Comparison", "Wanted"]

CHANNEL = 0b00001
"""query_flag: the `channel_announcement` (BOLT 7 § `query_short_channel_ids`)."""
UPDATES = (0b00010, 0b00100)
"""query_flag: the `channel_update` of node 1, of node 2."""
NODES = (0b01000, 0b10000)
"""query_flag: the `node_announcement` of node 1, of node 2."""
EVERYTHING = 0b11111
_KNOWN = EVERYTHING & ~CHANNEL


@dataclass(slots=True, eq=False)
class Chunk:
    """Channels that are asked for at once.

    Attributes:
        short_channel_ids: u64, ascending.
        flags: query_flag of each.
        timestamps: two u32 each: what was said of the two updates; 0: not said.
        source: the peer that named them, None if nobody in particular.
        is_doubtful: asked for in vain before: only who named them is asked.
        asked: node ids of the peers that were asked for them.
    """

    short_channel_ids: "array[int]"
    flags: bytearray
    timestamps: "array[int]"
    source: "Link | None" = None
    asked: tuple[bytes, ...] = ()
    is_doubtful: bool = False

    def lacking(self, table: Table) -> "Chunk":
        """Return what of it did not come into the table; nodes are left out, few have any."""
        rest = self._rest()
        for place, scid in enumerate(self.short_channel_ids):
            first, second = self.timestamps[2 * place : 2 * place + 2]
            entry = table.channel(scid)
            flags = self.flags[place]
            if entry is not None:
                flags &= _missing_updates(entry, (first, second))
            if flags:
                rest.add(scid, flags, first, second)
        return rest

    def of_channels(self) -> "Chunk":
        """Return what of it a peer that knows no query_flags should be asked for."""
        rest = self._rest()
        for place, scid in enumerate(self.short_channel_ids):
            if self.flags[place] & (CHANNEL | UPDATES[0] | UPDATES[1]):
                first, second = self.timestamps[2 * place : 2 * place + 2]
                rest.add(scid, self.flags[place], first, second)
        return rest

    def add(self, scid: int, flags: int, first: int, second: int) -> None:
        """Put a channel behind the others."""
        self.short_channel_ids.append(scid)
        self.flags.append(flags)
        self.timestamps.extend((first, second))

    def _rest(self) -> "Chunk":
        return Chunk(array("Q"), bytearray(), array("I"), self.source, self.asked, self.is_doubtful)

    @staticmethod
    def of(short_channel_ids: Iterable[int], table: Table) -> "Chunk":
        """Return a chunk that asks for everything about some channels that the table lacks."""
        chunk = Chunk(array("Q"), bytearray(), array("I"))
        for scid in sorted(short_channel_ids):
            known = table.channel(scid) is not None
            chunk.add(scid, _KNOWN if known else EVERYTHING, 0, 0)
        return chunk


def _missing_updates(entry: Entry, timestamps: tuple[int, int]) -> int:
    flags = 0
    for flag, raw, named in zip(UPDATES, entry.updates, timestamps, strict=True):
        if named > (0 if raw is None else update_timestamp(raw)):
            flags |= flag
    return flags


@dataclass(slots=True)
class Wanted:
    """What one peer named and the table lacks, from the front on."""

    _all: Chunk = field(default_factory=lambda: Chunk(array("Q"), bytearray(), array("I")))
    _taken: int = 0

    def __len__(self) -> int:
        return len(self._all.short_channel_ids) - self._taken

    def add(self, scid: int, flags: int, first: int, second: int) -> None:
        """Put a channel behind the others."""
        self._all.add(scid, flags, first, second)

    def take(self, size: int, source: "Link | None", *, is_doubtful: bool = False) -> Chunk:
        """Take up to ``size`` channels from the front, as one peer named them."""
        start = self._taken
        end = self._taken = min(start + size, len(self._all.short_channel_ids))
        everything = self._all
        chunk = Chunk(
            everything.short_channel_ids[start:end],
            everything.flags[start:end],
            everything.timestamps[2 * start : 2 * end],
            source,
            is_doubtful=is_doubtful,
        )
        if not len(self):
            self.clear()
        return chunk

    def clear(self) -> None:
        """Want nothing any more."""
        self._all = Chunk(array("Q"), bytearray(), array("I"))
        self._taken = 0


class Comparison:
    """Compares what a peer has with the table, a slice at a time.

    Args:
        is_futile: says whether a channel was asked for in vain too often.
        checksum: of a raw `channel_update`; None: timestamps alone decide.

    Attributes:
        wanted: what the table lacks.
        doubtful: the same, but asked for in vain before.
    """

    def __init__(
        self, is_futile: Callable[[int], bool], checksum: Callable[[bytes], int] | None
    ) -> None:
        self.wanted = Wanted()
        self.doubtful = Wanted()
        self._is_futile = is_futile
        self._checksum = checksum
        self._rows: list[Rows] = []
        self._place = 0
        self._nodes: set[bytes] = set()
        """Nodes without announcement that this round asks for already: once is enough."""

    @property
    def is_idle(self) -> bool:
        """Whether everything was compared, and all that is wanted was taken."""
        return not (self._rows or self.wanted or self.doubtful)

    def add(self, rows: Rows) -> None:
        """Take the channels of one reply."""
        if rows.short_channel_ids:
            self._rows.append(rows)

    def clear(self) -> None:
        """Forget what was not compared yet, and what is wanted."""
        self.wanted.clear()
        self.doubtful.clear()
        self._rows.clear()
        self._place = 0
        self._nodes.clear()

    def work(self, table: Table, unix_s: int, rows: int) -> None:
        """Compare up to ``rows`` channels."""
        while rows and self._rows:
            reply = self._rows[0]
            end = min(self._place + rows, len(reply.short_channel_ids))
            for place in range(self._place, end):
                self._compare(table, unix_s, reply, place)
            rows -= end - self._place
            self._place = end
            if end == len(reply.short_channel_ids):
                self._rows.pop(0)
                self._place = 0

    def _compare(self, table: Table, unix_s: int, rows: Rows, place: int) -> None:
        scid = rows.short_channel_ids[place]
        has_times = bool(rows.timestamps)
        first, second = rows.timestamps[2 * place : 2 * place + 2] if has_times else (0, 0)
        # Too old is pruned, too far ahead is refused: such an update is as good as none.
        oldest, newest = unix_s - STALE_S, unix_s + FUTURE_S
        first = first if oldest <= first <= newest else 0
        second = second if oldest <= second <= newest else 0
        entry = table.channel(scid)
        if entry is None:
            flags = EVERYTHING if first or second or not has_times else 0
        elif entry.spent_height:
            flags = 0
        else:
            sums = rows.checksums[2 * place : 2 * place + 2]
            flags = self._newer(entry, (first, second), tuple(sums))
            flags |= self._unknown_nodes(entry, table) if has_times else 0
        if flags:
            wanted = self.doubtful if self._is_futile(scid) else self.wanted
            wanted.add(scid, flags, first, second)

    def _newer(self, entry: Entry, timestamps: tuple[int, int], sums: tuple[int, ...]) -> int:
        flags = _missing_updates(entry, timestamps)
        if not flags or not sums or self._checksum is None:
            return flags
        for flag, raw, checksum in zip(UPDATES, entry.updates, sums, strict=True):
            if flags & flag and raw is not None and self._checksum(raw) == checksum:
                flags &= ~flag
        return flags

    def _unknown_nodes(self, entry: Entry, table: Table) -> int:
        flags = 0
        for flag, node_id in zip(NODES, entry.nodes, strict=True):
            if table.node(node_id) is None and node_id not in self._nodes:
                self._nodes.add(node_id)
                flags |= flag
        return flags
