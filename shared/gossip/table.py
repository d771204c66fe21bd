"""The routing table: raw announcements with the few indexes that gossip needs. Pure.

Fifty thousand channels must fit a front many times over, so an announcement is kept as it came and
read where it is needed. What is not newer changes nothing: values may come twice and in any order.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from struct import Struct

from shared.gossip.checksum import checksum
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.view import channel_view, node_timestamp, timestamp_bytes, update_timestamp

__all__ = ["Entry", "Table"]

_BLOCK_SHIFT = 40
_U32 = Struct(">I")
_NO_UPDATES = bytes(8)
_EARLY = 20_000
"""Updates without a channel that are kept; they come before it only where writes overtook each
other, so a few are too many already."""


class Entry:
    """A channel of the table.

    Attributes:
        announcement: raw `channel_announcement`.
        capacity_sat: of the funding output.
        spent_height: of the block that spent it; 0 while it is unspent.
        funding_txid: internal byte order.
        checksums: of both updates, two u32 as peers compare them; 0 where there is none.
    """

    __slots__ = (
        "_back",
        "_there",
        "announcement",
        "capacity_sat",
        "checksums",
        "funding_txid",
        "spent_height",
    )

    def __init__(self, record: ChannelRecord) -> None:
        self.announcement = record.raw
        self.capacity_sat = record.capacity_sat
        self.spent_height = record.spent_height
        self.funding_txid = record.funding_txid
        self._there: bytes | None = None
        self._back: bytes | None = None
        self.checksums = _NO_UPDATES

    def put(self, direction: int, raw: bytes | None) -> None:
        """Take the update of a direction, or that there is none any more."""
        crc = _U32.pack(0 if raw is None else checksum(raw))
        if direction == 0:
            self._there = raw
            self.checksums = crc + self.checksums[4:]
        else:
            self._back = raw
            self.checksums = self.checksums[:4] + crc

    def put_all(self, other: "Entry") -> None:
        """Take the updates of another."""
        self._there, self._back, self.checksums = other._there, other._back, other.checksums  # noqa: SLF001

    @property
    def updates(self) -> tuple[bytes | None, bytes | None]:
        """Raw `channel_update` of each direction, None where there is none."""
        return self._there, self._back

    @property
    def timestamps(self) -> bytes:
        """Of both updates, two u32 as peers compare them; 0 where there is none."""
        return timestamp_bytes(self._there) + timestamp_bytes(self._back)

    @property
    def record(self) -> ChannelRecord:
        """The channel as the stream holds it."""
        return ChannelRecord(
            self.announcement, self.capacity_sat, self.spent_height, self.funding_txid
        )

    @property
    def nodes(self) -> tuple[bytes, bytes]:
        """node_id_1 and node_id_2."""
        channel = channel_view(self.announcement)
        return channel.node_id_1, channel.node_id_2


class Table:
    """Channels, their updates, nodes.

    Args:
        is_complete: whether it will be all that the stream holds before anybody asks.

    Attributes:
        updates: how many updates there are.
        raw_bytes: of all announcements.
    """

    def __init__(self, *, is_complete: bool = True) -> None:
        self.is_complete = is_complete
        self.updates = 0
        self.raw_bytes = 0
        self._channels: dict[int, Entry] = {}
        self._nodes: dict[bytes, bytes] = {}
        self._degrees: dict[bytes, int] = {}
        self._early: dict[int, bytes] = {}
        """Updates whose channel has not come yet: a stream may hold them in any order."""
        self._sorted: list[int] | None = None
        self._sorted_nodes: list[bytes] | None = None

    @property
    def channels(self) -> int:
        """How many channels there are, spent ones included."""
        return len(self._channels)

    @property
    def nodes(self) -> int:
        """How many nodes have announced themselves."""
        return len(self._nodes)

    # --- reading ----------------------------------------------------------------------------------

    def channel(self, short_channel_id: int) -> Entry | None:
        """Return a channel."""
        return self._channels.get(short_channel_id)

    def update(self, short_channel_id: int, direction: int) -> bytes | None:
        """Return the raw update of one direction of a channel."""
        entry = self._channels.get(short_channel_id)
        return None if entry is None else entry.updates[direction]

    def update_timestamp(self, short_channel_id: int, direction: int) -> int:
        """Return the timestamp of an update, 0 for none."""
        raw = self.update(short_channel_id, direction)
        return 0 if raw is None else update_timestamp(raw)

    def node(self, node_id: bytes) -> bytes | None:
        """Return the raw announcement of a node."""
        return self._nodes.get(node_id)

    def node_timestamp(self, node_id: bytes) -> int:
        """Return the timestamp of a node's announcement, 0 for none."""
        raw = self._nodes.get(node_id)
        return 0 if raw is None else node_timestamp(raw)

    def has_channels(self, node_id: bytes) -> bool:
        """Whether some known channel, also a spent one, is this node's."""
        return node_id in self._degrees

    def short_channel_ids(self, first_block: int, end_block: int) -> Sequence[int]:
        """Return the channels of blocks from ``first_block`` to before ``end_block``, ascending."""
        ids = self._ids()
        start = bisect_left(ids, first_block << _BLOCK_SHIFT)
        return ids[start : bisect_left(ids, end_block << _BLOCK_SHIFT)]

    def ids_from(self, short_channel_id: int, count: int) -> Sequence[int]:
        """Return so many channels from this one on, ascending: to look through a few at a time."""
        ids = self._ids()
        start = bisect_left(ids, short_channel_id)
        return ids[start : start + count]

    def nodes_from(self, node_id: bytes, count: int) -> Sequence[bytes]:
        """Return the ids of so many announced nodes from this one on, ascending."""
        if self._sorted_nodes is None:
            self._sorted_nodes = sorted(self._nodes)
        start = bisect_left(self._sorted_nodes, node_id)
        return self._sorted_nodes[start : start + count]

    def _ids(self) -> list[int]:
        if self._sorted is None:
            self._sorted = sorted(self._channels)
        return self._sorted

    def changes(self) -> Iterator[Change]:
        """Return everything as it could be written to a stream: channels, then updates, nodes.

        The table must not change meanwhile; take a list of it, or parts of one turn of a loop.
        """
        for scid, entry in self._channels.items():
            yield Change(Kind.CHANNEL, scid, entry.record)
        for scid, entry in self._channels.items():
            for direction, raw in enumerate(entry.updates):
                if raw is not None:
                    yield Change(Kind.UPDATE, scid << 1 | direction, raw)
        for node_id, raw in self._nodes.items():
            yield Change(Kind.NODE, node_id, raw)

    # --- writing ----------------------------------------------------------------------------------

    def apply(self, change: Change) -> bool:
        """Take a value; say whether the table is another now."""
        kind, key, value = change
        if isinstance(key, bytes):
            return self._apply_node(key, value if isinstance(value, bytes) else None)
        if kind is Kind.CHANNEL:
            return self._apply_channel(key, value if isinstance(value, ChannelRecord) else None)
        return self._apply_update(key, value if isinstance(value, bytes) else None)

    def _apply_channel(self, scid: int, record: ChannelRecord | None) -> bool:
        entry = self._channels.get(scid)
        if record is None:
            return self._remove_channel(scid, entry)
        if entry is not None:
            if entry.record == record:
                return False
            self._uncount(entry)
            fresh = Entry(record)
            fresh.put_all(entry)
            self.raw_bytes -= len(entry.announcement)
        else:
            fresh = Entry(record)
            if self._sorted is not None:
                insort(self._sorted, scid)
        self._channels[scid] = fresh
        self.raw_bytes += len(record.raw)
        for node_id in fresh.nodes:
            self._degrees[node_id] = self._degrees.get(node_id, 0) + 1
        for direction in (0, 1):
            early = self._early.pop(scid << 1 | direction, None)
            if early is not None:
                self._apply_update(scid << 1 | direction, early)
        return True

    def _remove_channel(self, scid: int, entry: Entry | None) -> bool:
        if entry is None:
            return False
        del self._channels[scid]
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, scid)]
        self._uncount(entry)
        self.raw_bytes -= len(entry.announcement)
        for raw in entry.updates:
            if raw is not None:
                self.updates -= 1
                self.raw_bytes -= len(raw)
        return True

    def _uncount(self, entry: Entry) -> None:
        for node_id in entry.nodes:
            left = self._degrees[node_id] - 1
            if left:
                self._degrees[node_id] = left
            else:
                del self._degrees[node_id]

    def _apply_update(self, key: int, raw: bytes | None) -> bool:
        scid, direction = key >> 1, key & 1
        entry = self._channels.get(scid)
        if entry is None:
            self._keep_early(key, raw)
            return False
        old = entry.updates[direction]
        if raw is None:
            if old is None:
                return False
        elif old is not None and update_timestamp(raw) <= update_timestamp(old):
            return False
        entry.put(direction, raw)
        self.updates += (raw is not None) - (old is not None)
        self.raw_bytes += len(raw or b"") - len(old or b"")
        return True

    def _keep_early(self, key: int, raw: bytes | None) -> None:
        old = self._early.get(key)
        if raw is None:
            self._early.pop(key, None)
        elif old is None or update_timestamp(raw) > update_timestamp(old):
            self._early[key] = raw
            if len(self._early) > _EARLY:
                del self._early[next(iter(self._early))]

    def _apply_node(self, node_id: bytes, raw: bytes | None) -> bool:
        old = self._nodes.get(node_id)
        if raw is None:
            if old is None:
                return False
            del self._nodes[node_id]
            if self._sorted_nodes is not None:
                del self._sorted_nodes[bisect_left(self._sorted_nodes, node_id)]
        else:
            if old is not None and node_timestamp(raw) <= node_timestamp(old):
                return False
            self._nodes[node_id] = raw
            if old is None and self._sorted_nodes is not None:
                insort(self._sorted_nodes, node_id)
        self.raw_bytes += len(raw or b"") - len(old or b"")
        return True
