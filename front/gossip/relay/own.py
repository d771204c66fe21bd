"""Which announcements are our own: of our node, and of our ends of our channels. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from shared.gossip.record import Kind

if TYPE_CHECKING:
    from shared.gossip.table import Entry, Table

__all__ = ["Own"]

_ALL_BLOCKS = 1 << 24
"""A short_channel_id has 24 bits for its block (BOLT 7)."""


class Own:
    """Our channels in the table: nobody else keeps an index of them.

    Args:
        node_id: ours.
        per_scan: channels looked at in one call of `scan`.
    """

    def __init__(self, node_id: bytes, per_scan: int) -> None:
        self._node_id = node_id
        self._per_scan = per_scan
        self._table: Table | None = None
        self._rest: Sequence[int] = ()
        self._place = 0
        self._channels: dict[int, None] = {}

    def scan(self, table: "Table", each: "Callable[[int, Entry], None]") -> bool:
        """Look through a part of a table that is new; say whether all of it was.

        Args:
            table: as it is now.
            each: is shown every channel.
        """
        if table is not self._table:
            self._table = table
            self._rest = table.short_channel_ids(0, _ALL_BLOCKS)
            self._place = 0
            self._channels.clear()
        end = min(self._place + self._per_scan, len(self._rest))
        for place in range(self._place, end):
            entry = table.channel(self._rest[place])
            if entry is None:
                continue
            each(self._rest[place], entry)
            if self.direction(entry) is not None:
                self._channels[self._rest[place]] = None
        self._place = end
        if end < len(self._rest):
            return False
        self._rest, self._place = (), 0
        return True

    def direction(self, entry: "Entry") -> int | None:
        """Return the direction of a channel that is ours, None if neither is."""
        if self._node_id not in entry.announcement:
            return None
        nodes = entry.nodes
        return nodes.index(self._node_id) if self._node_id in nodes else None

    def has(self, kind: Kind, key: int | bytes, entry: "Entry | None") -> bool:
        """Whether an announcement is our own; notes the channels that are."""
        if isinstance(key, bytes):
            return key == self._node_id
        direction = None if entry is None else self.direction(entry)
        if direction is None:
            if kind is Kind.CHANNEL:
                self._channels.pop(key, None)
            return False
        if kind is Kind.CHANNEL:
            self._channels[key] = None
            return True
        return key & 1 == direction

    def announcements(self, table: "Table") -> Iterator[bytes]:
        """Return all of ours, channels that are spent or without update left out."""
        for scid in tuple(self._channels):
            entry = table.channel(scid)
            if entry is None or entry.spent_height:
                continue
            direction = self.direction(entry)
            raw = None if direction is None else entry.updates[direction]
            if raw is not None:
                yield entry.announcement
                yield raw
        node = table.node(self._node_id)
        if node is not None and table.has_channels(self._node_id):
            yield node
