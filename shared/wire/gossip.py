"""Announcements of channels and nodes (BOLT 7)."""

from typing import Annotated, ClassVar

from pydantic import Field

from shared.wire.codec import Fixed
from shared.wire.message import Announcement, Message
from shared.wire.types import (
    U8,
    U16,
    U32,
    Amount,
    Blob,
    BlockHash,
    ChannelId,
    Point,
    Scid,
    Signature,
)

__all__ = [
    "AnnouncementSignatures",
    "ChannelAnnouncement",
    "ChannelUpdate",
    "NodeAnnouncement",
]


class ChannelAnnouncement(Announcement, type=256):
    """There is a channel (BOLT 7 § `channel_announcement`)."""

    SIGNATURES: ClassVar[int] = 4

    node_signature_1: Signature
    node_signature_2: Signature
    bitcoin_signature_1: Signature
    bitcoin_signature_2: Signature
    features: Blob
    chain_hash: BlockHash
    short_channel_id: Scid
    node_id_1: Point
    """The lesser of the two node ids, as bytes."""
    node_id_2: Point
    bitcoin_key_1: Point
    bitcoin_key_2: Point


class NodeAnnouncement(Announcement, type=257):
    """About a node (BOLT 7 § `node_announcement`)."""

    SIGNATURES: ClassVar[int] = 1

    signature: Signature
    features: Blob
    timestamp: U32
    """Orders the announcements of one node; usually Unix seconds."""
    node_id: Point
    rgb_color: Annotated[bytes, Field(min_length=3, max_length=3), Fixed(3)]
    alias: Annotated[bytes, Field(min_length=32, max_length=32), Fixed(32)]
    """UTF-8, padded with zero bytes."""
    addresses: Blob
    """Address descriptors; :func:`shared.wire.address.parse_addresses` reads them."""


class ChannelUpdate(Announcement, type=258):
    """Fees and limits of one direction of a channel (BOLT 7 § `channel_update`)."""

    SIGNATURES: ClassVar[int] = 1

    signature: Signature
    chain_hash: BlockHash
    short_channel_id: Scid
    timestamp: U32
    """Orders the updates of one direction; Unix seconds."""
    message_flags: U8
    """Bit 0: must be one; bit 1: dont_forward."""
    channel_flags: U8
    """Bit 0: direction; bit 1: disable."""
    cltv_expiry_delta: U16
    """Blocks."""
    htlc_minimum_msat: Amount
    fee_base_msat: U32
    fee_proportional_millionths: U32
    htlc_maximum_msat: Amount


class AnnouncementSignatures(Message, type=259):
    """The sender's half of a `channel_announcement` (BOLT 7 § `announcement_signatures`)."""

    channel_id: ChannelId
    short_channel_id: Scid
    node_signature: Signature
    bitcoin_signature: Signature
