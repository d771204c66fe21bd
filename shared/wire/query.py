"""Asking for gossip (BOLT 7 § Query Messages).

The messages keep encoded arrays as they came, with their byte of encoding type; the functions here
read and write them.
"""

from collections.abc import Iterable, Sequence
from struct import Struct, unpack
from typing import Annotated
from zlib import decompressobj, error as ZlibError  # noqa: N812 - a class

from shared.errors import Action
from shared.wire.codec import BIG_SIZE, Reader, Repeated, malformed
from shared.wire.message import Message
from shared.wire.record import Nested, Record
from shared.wire.tlv import Tlv
from shared.wire.types import U8, U32, Blob, BlockHash, Tail, VarInt

__all__ = [
    "ChannelUpdateChecksums",
    "EncodedQueryFlags",
    "EncodedTimestamps",
    "GossipTimestampFilter",
    "QueryChannelRange",
    "QueryShortChannelIds",
    "ReplyChannelRange",
    "ReplyShortChannelIdsEnd",
    "decode_query_flags",
    "decode_short_ids",
    "decode_timestamps",
    "encode_query_flags",
    "encode_short_ids",
    "encode_timestamps",
]

_BOLT = "BOLT 7 § Query Messages"
_UNCOMPRESSED = 0
_ZLIB = 1
"""BOLT 7 forbids it today; old peers still send it, so it is read, and never written."""
_MAX_INFLATED = 1 << 17
"""Twice what an uncompressed message could hold."""

_SINGLE_BYTES = bytes(range(0xFD))
"""Flags of one byte each: all that have a meaning today."""
_MAX_WIDE_FLAGS = 6_000
"""Bytes of flags that are read if not each is one byte: that takes a hundred times as long."""


class EncodedQueryFlags(Record):
    """What is wanted of each channel asked for (BOLT 7 § `query_short_channel_ids`)."""

    encoding_type: U8
    """0: uncompressed."""
    encoded_query_flags: Tail
    """One bigsize per channel."""


class EncodedTimestamps(Record):
    """The two updates' timestamps of each channel (BOLT 7 § `reply_channel_range`)."""

    encoding_type: U8
    """0: uncompressed."""
    encoded_timestamps: Tail
    """Two u32 per channel; 0 where there is no update."""


class ChannelUpdateChecksums(Record):
    """CRC32C of the two updates of one channel; 0 where there is none (BOLT 7)."""

    checksum_node_id_1: U32
    checksum_node_id_2: U32


class QueryShortChannelIds(Message, type=261):
    """Send what you know of these channels (BOLT 7 § `query_short_channel_ids`)."""

    chain_hash: BlockHash
    encoded_short_ids: Blob
    query_flags: Annotated[EncodedQueryFlags | None, Tlv(1)] = None


class ReplyShortChannelIdsEnd(Message, type=262):
    """That was all (BOLT 7 § `reply_short_channel_ids_end`)."""

    chain_hash: BlockHash
    full_information: U8


class QueryChannelRange(Message, type=263):
    """Which channels were opened in these blocks (BOLT 7 § `query_channel_range`)."""

    chain_hash: BlockHash
    first_blocknum: U32
    number_of_blocks: U32
    query_option: Annotated[VarInt | None, Tlv(1)] = None
    """Bit 0: with timestamps; bit 1: with checksums."""


class ReplyChannelRange(Message, type=264):
    """Some of the channels opened in these blocks (BOLT 7 § `reply_channel_range`)."""

    chain_hash: BlockHash
    first_blocknum: U32
    number_of_blocks: U32
    sync_complete: U8
    encoded_short_ids: Blob
    timestamps_tlv: Annotated[EncodedTimestamps | None, Tlv(1)] = None
    checksums_tlv: Annotated[
        list[ChannelUpdateChecksums] | None, Tlv(3), Repeated(Nested(ChannelUpdateChecksums))
    ] = None


class GossipTimestampFilter(Message, type=265):
    """Send me gossip of this time only (BOLT 7 § `gossip_timestamp_filter`)."""

    chain_hash: BlockHash
    first_timestamp: U32
    timestamp_range: U32
    """Seconds."""


def encode_short_ids(short_ids: Sequence[int]) -> bytes:
    """Return ``encoded_short_ids`` for ``short_ids``, which ascend (BOLT 7 § Query Messages)."""
    return bytes([_UNCOMPRESSED]) + b"".join(scid.to_bytes(8, "big") for scid in short_ids)


def decode_short_ids(data: bytes) -> list[int]:
    """Read ``encoded_short_ids``.

    Raises:
        MalformedMessage: the encoding is unknown, or there is no whole number of ids.
    """
    reader = Reader(data)
    encoding = reader.take(1)[0] if data else _UNCOMPRESSED
    return list(_array(encoding, reader.rest(), 8, "Q"))


def decode_timestamps(tlv: EncodedTimestamps) -> list[tuple[int, int]]:
    """Read the timestamps of both updates of each channel; 0 where there is none.

    Raises:
        MalformedMessage: the encoding is unknown, or there is no whole number of pairs.
    """
    stamps = _array(tlv.encoding_type, tlv.encoded_timestamps, 8, "II")
    return list(zip(stamps[::2], stamps[1::2], strict=True))


def encode_timestamps(pairs: Iterable[tuple[int, int]]) -> EncodedTimestamps:
    """Return the timestamps of both updates of each channel as they are sent."""
    packed = b"".join(Struct(">II").pack(*pair) for pair in pairs)
    return EncodedTimestamps(encoding_type=_UNCOMPRESSED, encoded_timestamps=packed)


def decode_query_flags(tlv: EncodedQueryFlags) -> list[int]:
    """Read the flags, one bit field per channel asked for.

    Raises:
        MalformedMessage: the encoding is unknown, or a flag is truncated or not minimal.
    """
    flags = _plain(tlv.encoding_type, tlv.encoded_query_flags)
    if not flags.translate(None, _SINGLE_BYTES):
        return list(flags)
    if len(flags) > _MAX_WIDE_FLAGS:
        raise malformed("flags of more than a byte", bolt=_BOLT, action=Action.WARN)
    return Repeated(BIG_SIZE).read(Reader(flags))


def encode_query_flags(flags: Iterable[int]) -> EncodedQueryFlags:
    """Return the flags, one bit field per channel asked for, as they are sent."""
    packed = b"".join(map(BIG_SIZE.write, flags))
    return EncodedQueryFlags(encoding_type=_UNCOMPRESSED, encoded_query_flags=packed)


def _plain(encoding: int, data: bytes) -> bytes:
    if encoding == _ZLIB:
        return _inflated(data)
    if encoding != _UNCOMPRESSED:
        raise malformed(f"encoding type {encoding}", bolt=_BOLT, action=Action.WARN)
    return data


def _inflated(data: bytes) -> bytes:
    """Decompress within bounds: a kilobyte may claim to be a megabyte."""
    inflater = decompressobj()
    try:
        found = inflater.decompress(data, _MAX_INFLATED)
    except ZlibError as error:
        raise malformed(f"zlib: {error}", bolt=_BOLT, action=Action.WARN) from None
    if not inflater.eof or inflater.unused_data:
        raise malformed("zlib: truncated, or too big", bolt=_BOLT, action=Action.WARN)
    return found


def _array(encoding: int, data: bytes, size: int, codes: str) -> tuple[int, ...]:
    """Read all numbers at once: one by one, those of a full message would take milliseconds."""
    data = _plain(encoding, data)
    if len(data) % size:
        raise malformed(f"{len(data)} bytes are no array of {size}", bolt=_BOLT, action=Action.WARN)
    return unpack(f">{len(data) // size * len(codes)}{codes[0]}", data)
