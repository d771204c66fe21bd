"""Answers to what a peer asks for (BOLT 7 § Query Messages). Pure.

An answer is an iterator of raw messages that reads the table as it goes on: it holds no
announcements and no list of them, only where it is, so what comes meanwhile is in it and a table
that is replaced is let go. Each step takes about a millisecond at most. After every so many
channels that were looked at an answer yields an empty message, so that whoever runs it can do
something else meanwhile, and count it. How fast it is read, and how many may be under way, is
decided where it is read (`front.gossip.answers.outbox`).
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import lt
from struct import Struct
from typing import TypeAlias

from front.gossip.answers.filter import TimestampFilter
from shared.errors import Action, ProtocolViolation
from shared.gossip.table import Entry, Table
from shared.gossip.view import node_timestamp
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
_BLOCK_SHIFT = 40
_STAMPS = Struct(">II")
_CHECKSUMS_TLV = b"\x03"
_REPLY_CHANNELS = 2_500
"""Of one reply: with timestamps and checksums 60,000 bytes, which fit a message; and made in a
millisecond."""
_STEPS = 100
"""Channels that are looked at from one pause to the next."""
_PAUSE = b""

_Source: TypeAlias = Callable[[], Table]


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

    def receive(
        self, table: _Source, chain_hash: bytes, message: Message
    ) -> Iterator[bytes] | None:
        """Take a query, or a filter; return the raw messages that answer it, None if nothing does.

        Args:
            table: returns the present one; asked for it anew at each step of the answer.
            chain_hash: of our network.
            message: of the peer.

        Raises:
            ProtocolViolation: arrays that do not fit each other.
            MalformedMessage: arrays that cannot be decoded.
        """
        match message:
            case QueryChannelRange():
                return _ranges(table if message.chain_hash == chain_hash else Table, message)
            case QueryShortChannelIds() if message.chain_hash == chain_hash:
                ids, flags, repeated = _wanted(message)
                return _channels(table, message.chain_hash, ids, flags, repeated)
            case QueryShortChannelIds():
                return iter([_end(message.chain_hash, full_information=0)])
            case GossipTimestampFilter() if message.chain_hash == chain_hash:
                self.filter = TimestampFilter(message.first_timestamp, message.timestamp_range)
                return _history(table, self.filter)
            case _:
                return None


# --- query_channel_range ----------------------------------------------------------------------


def _ranges(table: _Source, query: QueryChannelRange) -> Iterator[bytes]:
    first = query.first_blocknum
    # No blocks at all is against the BOLT; but each reply has to overlap what was asked for.
    end = first + max(query.number_of_blocks, 1)
    after_last = end << _BLOCK_SHIFT
    start = first << _BLOCK_SHIFT
    while True:
        ids = table().ids_from(start, _REPLY_CHANNELS + 1)
        if not ids or ids[-1] >= after_last:
            ids = [scid for scid in ids if scid < after_last]
        if len(ids) <= _REPLY_CHANNELS:
            yield _reply(table(), query, (first, end), ids, is_last=True)
            return
        stop = _stop(ids)
        block = ids[stop - 1] >> _BLOCK_SHIFT
        yield _reply(table(), query, (first, block + 1), ids[:stop], is_last=False)
        if ids[stop] >> _BLOCK_SHIFT == block:
            first, start = block, ids[stop - 1] + 1
        else:
            first, start = block + 1, block + 1 << _BLOCK_SHIFT


def _stop(ids: Sequence[int]) -> int:
    """Return how many channels of those found go into a reply: whole blocks, if that can be had."""
    whole = len(ids) - 1
    last = ids[whole] >> _BLOCK_SHIFT
    while whole and ids[whole - 1] >> _BLOCK_SHIFT == last:
        whole -= 1
    return whole or len(ids) - 1


def _reply(
    table: Table,
    query: QueryChannelRange,
    blocks: tuple[int, int],
    ids: Sequence[int],
    *,
    is_last: bool,
) -> bytes:
    found = [(scid, table.channel(scid)) for scid in ids]
    live = [(scid, entry) for scid, entry in found if entry is not None and not entry.spent_height]
    option = query.query_option or 0
    stamps = None
    if option & _TIMESTAMPS:
        packed = b"".join([entry.timestamps for _, entry in live])
        stamps = EncodedTimestamps(encoding_type=0, encoded_timestamps=packed)
    raw = encode(
        ReplyChannelRange(
            chain_hash=query.chain_hash,
            first_blocknum=blocks[0],
            number_of_blocks=blocks[1] - blocks[0],
            sync_complete=int(is_last),
            encoded_short_ids=encode_short_ids([scid for scid, _ in live]),
            timestamps_tlv=stamps,
        )
    )
    if option & _CHECKSUMS:
        # The last TLV, written here: a model for each of thousands of channels takes too long.
        sums = b"".join([entry.checksums for _, entry in live])
        raw += _CHECKSUMS_TLV + _big_size(len(sums)) + sums
    return raw


def _big_size(size: int) -> bytes:
    return bytes([size]) if size < 0xFD else b"\xfd" + size.to_bytes(2, "big")


# --- query_short_channel_ids --------------------------------------------------------------------


def _wanted(query: QueryShortChannelIds) -> tuple["array[int]", bytes, int]:
    """Return the channels, the flags of each, and how many were named again.

    As arrays: a query may name 16,000 channels, and several may wait.
    """
    ids = decode_short_ids(query.encoded_short_ids)
    flags = bytes([_ALL]) * len(ids)
    if query.query_flags is not None:
        named = decode_query_flags(query.query_flags)
        if len(named) != len(ids):
            raise ProtocolViolation(
                f"{len(named)} query_flags for {len(ids)} channels", bolt=_BOLT, action=Action.WARN
            )
        flags = bytes([flag & _ALL for flag in named])
    if all(map(lt, ids, ids[1:])):
        return array("Q", ids), flags, 0
    merged: dict[int, int] = {}
    for scid, flag in zip(ids, flags, strict=True):
        merged[scid] = merged.get(scid, 0) | flag
    return array("Q", merged), bytes(merged.values()), len(ids) - len(merged)


def _channels(
    table: _Source, chain_hash: bytes, ids: "array[int]", flags: bytes, repeated: int
) -> Iterator[bytes]:
    for _ in range(repeated // _STEPS):
        yield _PAUSE
    told: set[bytes] = set()
    for number, (scid, wanted) in enumerate(zip(ids, flags, strict=True), 1):
        entry = table().channel(scid)
        if entry is not None and not entry.spent_height:
            yield from _channel(table, entry, wanted, told)
        if not number % _STEPS:
            yield _PAUSE
    yield _end(chain_hash, full_information=int(table().is_complete))


def _channel(table: _Source, entry: Entry, flags: int, told: set[bytes]) -> Iterator[bytes]:
    if flags & _ANNOUNCEMENT:
        yield entry.announcement
    for flag, update in zip(_UPDATES, entry.updates, strict=True):
        if flags & flag and update is not None:
            yield update
    for flag, node_id in zip(_NODES, entry.nodes, strict=True):
        node = table().node(node_id) if flags & flag else None
        if node is not None and node not in told:
            told.add(node)
            yield node


def _end(chain_hash: bytes, *, full_information: int) -> bytes:
    return encode(ReplyShortChannelIdsEnd(chain_hash=chain_hash, full_information=full_information))


# --- gossip_timestamp_filter --------------------------------------------------------------------


def _history(table: _Source, wanted: TimestampFilter) -> Iterator[bytes]:
    """What the table has of the span: each channel before its updates, and all before nodes.

    A node's announcement is worth nothing to who does not know a channel of it, and may not come
    before any of them.
    """
    if not wanted.timestamp_range:
        return
    scid = 0
    while ids := table().ids_from(scid, _STEPS):
        scid = ids[-1] + 1
        for each in ids:
            yield from _of_span(table().channel(each), wanted)
        yield _PAUSE
    node_id = b""
    while nodes := table().nodes_from(node_id, _STEPS):
        node_id = nodes[-1] + b"\0"
        for each_node in nodes:
            node = table().node(each_node)
            if node is None or not wanted.accepts(node_timestamp(node)):
                continue
            if table().has_channels(each_node):
                yield node
        yield _PAUSE


def _of_span(entry: Entry | None, wanted: TimestampFilter) -> Iterator[bytes]:
    if entry is None or entry.spent_height:
        return
    stamps = _STAMPS.unpack(entry.timestamps)
    live = [
        raw
        for raw, timestamp in zip(entry.updates, stamps, strict=True)
        if raw is not None and wanted.accepts(timestamp)
    ]
    if live:
        yield entry.announcement
        yield from live
