"""Asking for gossip (BOLT 7 § Query Messages).

The encoded arrays are kept as they came, with their leading byte of encoding type.
"""

from typing import Annotated

from shared.wire.codec import Repeated
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
]


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
