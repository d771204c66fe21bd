"""Cheap reading of raw announcements (BOLT 7): fields by their place, nothing validated twice.

`shared.wire` reads the same messages into models; that is several times slower, and a front reads
hundreds of thousands. What follows the last known field is signed and kept, but not looked at.

Raises:
    MalformedMessage: from everything here: another type, or shorter than its fields. Its action is
        to warn: a bad announcement is hardly the fault of the peer that relays it.
"""

import struct
from struct import Struct
from typing import NamedTuple, TypeAlias

from shared.errors import Action, MalformedMessage

__all__ = [
    "CHANNEL_ANNOUNCEMENT",
    "CHANNEL_UPDATE",
    "NODE_ANNOUNCEMENT",
    "ChannelView",
    "NodeView",
    "UpdateView",
    "View",
    "channel_view",
    "direction_of",
    "message_type",
    "node_timestamp",
    "node_view",
    "timestamp_bytes",
    "update_key",
    "update_timestamp",
    "update_view",
    "view",
]

CHANNEL_ANNOUNCEMENT = 256
NODE_ANNOUNCEMENT = 257
CHANNEL_UPDATE = 258

_BOLT = "BOLT 7"
_U16, _U32 = Struct(">H"), Struct(">I")
_TYPE_AND_SIGNATURE = 2 + 64
_CHANNEL_FEATURES = 2 + 4 * 64
_CHANNEL = Struct(">32sQ33s33s33s33s")
_UPDATE = Struct(">32sQIBBHQIIQ")
_UPDATE_TIMESTAMP = _TYPE_AND_SIGNATURE + 32 + 8
_UPDATE_SCID = Struct(">Q")
_UPDATE_FLAGS = _UPDATE_TIMESTAMP + 5
_NODE = Struct(">I33s3s32sH")


class ChannelView(NamedTuple):
    """A `channel_announcement` without its signatures."""

    chain_hash: bytes
    short_channel_id: int
    node_id_1: bytes
    node_id_2: bytes
    bitcoin_key_1: bytes
    bitcoin_key_2: bytes
    features: bytes


class UpdateView(NamedTuple):
    """A `channel_update` without its signature."""

    chain_hash: bytes
    short_channel_id: int
    timestamp: int
    message_flags: int
    channel_flags: int
    cltv_expiry_delta: int
    htlc_minimum_msat: int
    fee_base_msat: int
    fee_proportional_millionths: int
    htlc_maximum_msat: int

    @property
    def direction(self) -> int:
        """0: from node_id_1 to node_id_2; 1: back."""
        return self.channel_flags & 1

    @property
    def is_disabled(self) -> bool:
        """Whether the direction cannot be used for now."""
        return bool(self.channel_flags & 2)

    @property
    def dont_forward(self) -> bool:
        """Whether it is for its receiver only."""
        return bool(self.message_flags & 2)

    @property
    def key(self) -> int:
        """Names the direction of the channel: see `update_key`."""
        return self.short_channel_id << 1 | self.channel_flags & 1


class NodeView(NamedTuple):
    """A `node_announcement` without its signature."""

    node_id: bytes
    timestamp: int
    features: bytes
    rgb_color: bytes
    alias: bytes
    addresses: bytes


View: TypeAlias = ChannelView | UpdateView | NodeView


def message_type(raw: bytes) -> int:
    """Return the type of a message, -1 if it has none."""
    return _U16.unpack_from(raw)[0] if len(raw) >= 2 else -1


def update_key(short_channel_id: int, direction: int) -> int:
    """Name one direction of a channel by one number."""
    return short_channel_id << 1 | direction


def view(raw: bytes) -> View:
    """Read any of the three announcements."""
    match message_type(raw):
        case 256:
            return channel_view(raw)
        case 258:
            return update_view(raw)
        case 257:
            return node_view(raw)
        case other:
            raise _malformed(f"type {other} is no announcement")


def channel_view(raw: bytes) -> ChannelView:
    """Read a `channel_announcement`."""
    try:
        start = _CHANNEL_FEATURES + 2
        end = start + _U16.unpack_from(raw, _CHANNEL_FEATURES)[0]
        chain_hash, scid, node_1, node_2, key_1, key_2 = _CHANNEL.unpack_from(raw, end)
    except struct.error:
        raise _malformed("channel_announcement is too short") from None
    return ChannelView(chain_hash, scid, node_1, node_2, key_1, key_2, raw[start:end])


def update_view(raw: bytes) -> UpdateView:
    """Read a `channel_update`."""
    try:
        return UpdateView._make(_UPDATE.unpack_from(raw, _TYPE_AND_SIGNATURE))
    except struct.error:
        raise _malformed("channel_update is too short") from None


def node_view(raw: bytes) -> NodeView:
    """Read a `node_announcement`; the addresses as they are, undecoded."""
    try:
        start = _TYPE_AND_SIGNATURE + 2
        end = start + _U16.unpack_from(raw, _TYPE_AND_SIGNATURE)[0]
        timestamp, node_id, color, alias, size = _NODE.unpack_from(raw, end)
    except struct.error:
        raise _malformed("node_announcement is too short") from None
    at = end + _NODE.size
    addresses = raw[at : at + size]
    if len(addresses) < size:
        raise _malformed("node_announcement is too short")
    return NodeView(node_id, timestamp, raw[start:end], color, alias, addresses)


def update_timestamp(raw: bytes) -> int:
    """Return the timestamp of a `channel_update`, and nothing else."""
    timestamp: int = _U32.unpack_from(raw, _UPDATE_TIMESTAMP)[0]
    return timestamp


def timestamp_bytes(raw: bytes | None) -> bytes:
    """Return the timestamp of a `channel_update` as it stands there, zeros if there is none."""
    if raw is None:
        return bytes(4)
    return raw[_UPDATE_TIMESTAMP : _UPDATE_TIMESTAMP + 4]


def direction_of(raw: bytes) -> tuple[int, int]:
    """Return short_channel_id and direction of a `channel_update`, and nothing else."""
    return _UPDATE_SCID.unpack_from(raw, _UPDATE_TIMESTAMP - 8)[0], raw[_UPDATE_FLAGS] & 1


def node_timestamp(raw: bytes) -> int:
    """Return the timestamp of a `node_announcement`, and nothing else."""
    at = _TYPE_AND_SIGNATURE + 2 + _U16.unpack_from(raw, _TYPE_AND_SIGNATURE)[0]
    timestamp: int = _U32.unpack_from(raw, at)[0]
    return timestamp


def _malformed(text: str) -> MalformedMessage:
    return MalformedMessage(text, bolt=_BOLT, action=Action.WARN)
