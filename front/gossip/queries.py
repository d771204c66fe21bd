"""Answers to what a peer asks for (BOLT 7 § Query Messages). Pure.

An answer is an iterator of raw messages that reads the table as it goes on: it holds no
announcements, each step takes about a millisecond at most, and one that found nothing to send
yields an empty message, so that whoever runs it can do something else meanwhile. How fast it is
read, and how many may be under way, is decided where it is read (`front.gossip.outbox`).
"""

from collections.abc import Iterator, Sequence

from front.gossip.filter import TimestampFilter
from shared.errors import Action, ProtocolViolation
from shared.gossip.table import Entry, Table
from shared.gossip.view import node_timestamp, update_timestamp
from shared.wire import (
    GossipTimestampFilter,
    Message,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    encode,
)
from shared.wire.query import (
    EncodedTimestamps,
    decode_query_flags,
    decode_short_ids,
    encode_short_ids,
)

__all__ = ["Queries", "is_dump"]

_BOLT = "BOLT 7 § Query Messages"
_TIMESTAMPS, _CHECKSUMS = 1, 2
_ANNOUNCEMENT, _UPDATES, _NODES = 1, (2, 4), (8, 16)
_ALL = 31
_END = 1 << 32
_BLOCK_SHIFT = 40
_CHECKSUMS_TLV = b"\x03"
_REPLY_BYTES = 62_000
"""Of the arrays of one reply: with all else it fits a message of 65,535."""
_STEPS = 100
"""Channels that are looked at between two messages at most."""
_PAUSE = b""


def is_dump(message: Message) -> bool:
    """Whether the answer replaces an earlier one of its kind, instead of following it."""
    return isinstance(message, GossipTimestampFilter)


class Queries:
    """What one peer asked for.

    Attributes:
        filter: which announcements it wants to be told of; None until it has said so.
    """

    def __init__(self) -> None:
        self.filter: TimestampFilter | None = None

    def receive(self, table: Table, chain_hash: bytes, message: Message) -> Iterator[bytes]:
        """Take a query, or a filter; return the raw messages that answer it.

        Args:
            table: the present one; read from while the answer is.
            chain_hash: of our network.
            message: of the peer.

        Raises:
            ProtocolViolation: arrays that do not fit each other.
            MalformedMessage: arrays that cannot be decoded.
        """
        match message:
            case QueryChannelRange():
                is_ours = message.chain_hash == chain_hash
                return _ranges(table if is_ours else Table(), message)
            case QueryShortChannelIds():
                wanted = _wanted(message)
                return _channels(table, message, wanted, is_ours=message.chain_hash == chain_hash)
            case GossipTimestampFilter() if message.chain_hash == chain_hash:
                self.filter = TimestampFilter(message.first_timestamp, message.timestamp_range)
                return _history(table, self.filter)
            case _:
                return iter(())


# --- query_channel_range ----------------------------------------------------------------------


def _ranges(table: Table, query: QueryChannelRange) -> Iterator[bytes]:
    first, end = query.first_blocknum, query.first_blocknum + query.number_of_blocks
    ids = table.short_channel_ids(first, min(end, _END))
    option = query.query_option or 0
    size = _REPLY_BYTES // (8 + 8 * bool(option & _TIMESTAMPS) + 8 * bool(option & _CHECKSUMS))
    start = 0
    while True:
        stop = _stop(ids, start, size)
        is_last = stop == len(ids)
        covered = end if is_last else (ids[stop - 1] >> _BLOCK_SHIFT) + 1
        live = [
            (scid, entry)
            for scid in ids[start:stop]
            if (entry := table.channel(scid)) is not None and not entry.spent_height
        ]
        yield _reply(query, first, covered - first, live, is_last=is_last)
        if is_last:
            return
        start, first = stop, ids[stop] >> _BLOCK_SHIFT if _splits(ids, stop) else covered


def _stop(ids: Sequence[int], start: int, size: int) -> int:
    """Return where a reply ends: not within a block, if that can be had."""
    stop = min(start + size, len(ids))
    if stop == len(ids):
        return stop
    whole = stop
    while whole > start and _splits(ids, whole):
        whole -= 1
    return whole if whole > start else stop


def _splits(ids: Sequence[int], at: int) -> bool:
    return ids[at - 1] >> _BLOCK_SHIFT == ids[at] >> _BLOCK_SHIFT


def _reply(
    query: QueryChannelRange,
    first: int,
    blocks: int,
    channels: list[tuple[int, Entry]],
    *,
    is_last: bool,
) -> bytes:
    option = query.query_option or 0
    stamps = None
    if option & _TIMESTAMPS:
        packed = b"".join([entry.timestamps for _, entry in channels])
        stamps = EncodedTimestamps(encoding_type=0, encoded_timestamps=packed)
    raw = encode(
        ReplyChannelRange(
            chain_hash=query.chain_hash,
            first_blocknum=first,
            number_of_blocks=blocks,
            sync_complete=int(is_last),
            encoded_short_ids=encode_short_ids([scid for scid, _ in channels]),
            timestamps_tlv=stamps,
        )
    )
    if option & _CHECKSUMS:
        # The last TLV, written here: a model for each of thousands of channels takes too long.
        sums = b"".join([entry.checksums for _, entry in channels])
        raw += _CHECKSUMS_TLV + _big_size(len(sums)) + sums
    return raw


def _big_size(size: int) -> bytes:
    return bytes([size]) if size < 0xFD else b"\xfd" + size.to_bytes(2, "big")


# --- query_short_channel_ids --------------------------------------------------------------------


def _wanted(query: QueryShortChannelIds) -> dict[int, int]:
    """Return the flags of each channel; one that is named twice is sent once."""
    ids = decode_short_ids(query.encoded_short_ids)
    if query.query_flags is None:
        return dict.fromkeys(ids, _ALL)
    flags = decode_query_flags(query.query_flags)
    if len(flags) != len(ids):
        raise ProtocolViolation(
            f"{len(flags)} query_flags for {len(ids)} channels", bolt=_BOLT, action=Action.WARN
        )
    wanted: dict[int, int] = {}
    for scid, flag in zip(ids, flags, strict=True):
        wanted[scid] = wanted.get(scid, 0) | flag
    return wanted


def _channels(
    table: Table, query: QueryShortChannelIds, wanted: dict[int, int], *, is_ours: bool
) -> Iterator[bytes]:
    if is_ours:
        told: set[bytes] = set()
        idle = 0
        for scid, flags in wanted.items():
            entry = table.channel(scid)
            idle += 1
            if entry is not None and not entry.spent_height:
                for raw in _channel(table, entry, flags, told):
                    idle = 0
                    yield raw
            if idle >= _STEPS:
                idle = 0
                yield _PAUSE
    end = ReplyShortChannelIdsEnd(chain_hash=query.chain_hash, full_information=int(is_ours))
    yield encode(end)


def _channel(table: Table, entry: Entry, flags: int, told: set[bytes]) -> Iterator[bytes]:
    if flags & _ANNOUNCEMENT:
        yield entry.announcement
    for flag, update in zip(_UPDATES, entry.updates, strict=True):
        if flags & flag and update is not None:
            yield update
    for flag, node_id in zip(_NODES, entry.nodes, strict=True):
        node = table.node(node_id)
        if flags & flag and node is not None and node_id not in told:
            told.add(node_id)
            yield node


# --- gossip_timestamp_filter --------------------------------------------------------------------


def _history(table: Table, wanted: TimestampFilter) -> Iterator[bytes]:
    """What the table has of the span: a channel with its updates, then its nodes."""
    if not wanted.timestamp_range:
        return
    told: set[bytes] = set()
    idle = 0
    for scid in table.short_channel_ids(0, _END):
        entry = table.channel(scid)
        idle += 1
        if entry is not None and not entry.spent_height:
            for raw in _of_span(table, entry, wanted, told):
                idle = 0
                yield raw
        if idle >= _STEPS:
            idle = 0
            yield _PAUSE


def _of_span(
    table: Table, entry: Entry, wanted: TimestampFilter, told: set[bytes]
) -> Iterator[bytes]:
    updates = [raw for raw in entry.updates if raw is not None]
    live = [raw for raw in updates if wanted.accepts(update_timestamp(raw))]
    if live:
        yield entry.announcement
        yield from live
    if not updates:
        return
    for node_id in entry.nodes:
        node = table.node(node_id)
        if node is not None and node_id not in told and wanted.accepts(node_timestamp(node)):
            told.add(node_id)
            yield node
