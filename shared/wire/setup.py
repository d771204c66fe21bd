"""Setup and control messages, and peer storage (BOLT 1)."""

from typing import Annotated

from shared.wire.message import Message
from shared.wire.tlv import Tlv
from shared.wire.types import U16, Blob, BlockHashes, ChannelId, Tail

__all__ = [
    "Error",
    "Init",
    "PeerStorage",
    "PeerStorageRetrieval",
    "Ping",
    "Pong",
    "Warning",
]


class Warning(Message, type=1):
    """Something is wrong, but nothing need be closed (BOLT 1 § `error` and `warning`)."""

    channel_id: ChannelId
    """All zero when no channel in particular is meant."""
    data: Blob
    """Text; printed only if it is printable ASCII."""


class PeerStorage(Message, type=7):
    """Keep this blob for me (BOLT 1 § Peer storage)."""

    blob: Blob
    """At most 65531 bytes, encrypted by its owner."""


class PeerStorageRetrieval(Message, type=9):
    """The last blob I kept for you (BOLT 1 § Peer storage)."""

    blob: Blob


class Init(Message, type=16):
    """The first message of a connection: what each side can do (BOLT 1 § `init`)."""

    globalfeatures: Blob
    """Old field; combined with ``features`` by bitwise OR."""
    features: Blob
    """Feature bits, big-endian (BOLT 9)."""
    networks: Annotated[BlockHashes | None, Tlv(1)] = None
    """Chain hashes the node is interested in."""
    remote_addr: Annotated[Tail | None, Tlv(3)] = None
    """The address descriptor we are seen as (BOLT 7 § `node_announcement`)."""


class Error(Message, type=17):
    """The channel has failed (BOLT 1 § `error` and `warning`)."""

    channel_id: ChannelId
    """All zero for every channel with this peer."""
    data: Blob
    """Text; printed only if it is printable ASCII."""


class Ping(Message, type=18):
    """Are you there (BOLT 1 § `ping` and `pong`)."""

    num_pong_bytes: U16
    """Length of ``ignored`` in the pong; 65532 or more asks for no pong."""
    ignored: Blob


class Pong(Message, type=19):
    """Yes (BOLT 1 § `ping` and `pong`)."""

    ignored: Blob
