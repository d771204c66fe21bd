"""Where a peer's message goes: to the owner of its shard, to this front itself, or nowhere. Pure.

BOLT 2 goes to the owner, and what belongs to a channel or to the back's state without being BOLT 2:
announcement_signatures, the channel_update of a peer with channels, errors, warnings, peer storage.
"""

from enum import Enum, auto

from shared.wire import (
    REGISTRY,
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
    GossipTimestampFilter,
    Init,
    Message,
    NodeAnnouncement,
    Ping,
    Pong,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

__all__ = ["ANNOUNCEMENTS", "OPENS_CHANNEL", "Route", "channel_of", "message_name", "route"]

OPENS_CHANNEL = frozenset(
    {"funding_created", "funding_signed", "tx_signatures", "channel_ready", "channel_reestablish"}
)
"""Messages of the owner after which a peer counts as one with channels."""

ANNOUNCEMENTS = frozenset(
    message.TYPE.to_bytes(2, "big")
    for message in (ChannelAnnouncement, NodeAnnouncement, ChannelUpdate)
)
"""The first two bytes of what is not even decoded here: there is too much of it."""

_FIRST_GOSSIP_TYPE = 256
"""BOLT 1: channel messages are below, routing messages from here to 511."""
_NO_CHANNEL = bytes(32)


class Route(Enum):
    """What becomes of a message."""

    OWNER = auto()
    """Numbered in the session."""
    PING = auto()
    PONG = auto()
    GOSSIP = auto()
    """Queries, their answers and filters: for this front."""
    DROP = auto()
    """Accepted and ignored."""
    ILLEGAL = auto()
    """A second `init`."""


_ROUTES: dict[type[Message], Route] = {
    Ping: Route.PING,
    Pong: Route.PONG,
    Init: Route.ILLEGAL,
    GossipTimestampFilter: Route.GOSSIP,
    QueryChannelRange: Route.GOSSIP,
    QueryShortChannelIds: Route.GOSSIP,
    ReplyChannelRange: Route.GOSSIP,
    ReplyShortChannelIdsEnd: Route.GOSSIP,
    AnnouncementSignatures: Route.OWNER,
}


def route(message: Message) -> Route:
    """Say where ``message`` goes, which the peer sent after `init`."""
    if (known := _ROUTES.get(type(message))) is not None:
        return known
    return Route.OWNER if message.TYPE < _FIRST_GOSSIP_TYPE else Route.DROP


def channel_of(message: Message) -> bytes | None:
    """Return the 32 bytes that name the channel in the subject; None for none, or for all."""
    if message.CHANNEL_FIELD is None:
        return None
    channel_id: bytes = getattr(message, message.CHANNEL_FIELD)
    return None if channel_id == _NO_CHANNEL else channel_id


def message_name(data: bytes) -> str:
    """Name a message that may not parse, for a warning."""
    if len(data) < 2:
        return f"a message of {len(data)} bytes"
    number = int.from_bytes(data[:2], "big")
    return REGISTRY[number].NAME if number in REGISTRY else f"type {number}"
