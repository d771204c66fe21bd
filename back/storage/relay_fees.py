"""What the operator wants for forwarding to peers and into channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, select

from back.storage.statements import Write, delete, upsert
from back.storage.tables import channel_fees, channels, peer_fees
from shared.fabric.subjects import shard

__all__ = [
    "SetFees",
    "StoredFees",
    "channel_fees_forgotten",
    "channel_fees_set",
    "load_fees",
    "peer_fees_forgotten",
    "peer_fees_set",
]


class SetFees(NamedTuple):
    """What was set for a peer or a channel.

    Attributes:
        cltv_expiry_delta: blocks; None: nothing was set.
    """

    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int | None = None


@dataclass(frozen=True, slots=True)
class StoredFees:
    """All that is set.

    Attributes:
        peers: by node id.
        channels: by key index.
    """

    peers: dict[bytes, SetFees]
    channels: dict[int, SetFees]


_PEER = upsert(peer_fees, "node_id")
_CHANNEL = upsert(channel_fees, "key_index")
_FORGET_PEER = delete(peer_fees, "node_id")
_FORGET_CHANNEL = delete(channel_fees, "key_index")


def peer_fees_set(node_id: bytes, fees: SetFees, unix_s: int) -> Write:
    """Return the write that keeps what is wanted of a peer; it belongs to the peer's shard."""
    return _PEER.write(node_id=node_id, shard=shard(node_id), changed_at=unix_s, **fees._asdict())


def peer_fees_forgotten(node_id: bytes) -> Write:
    """Return the write after which a peer has the default again."""
    return _FORGET_PEER.write(node_id=node_id)


def channel_fees_set(key_index: int, fees: SetFees, unix_s: int) -> Write:
    """Return the write that keeps what is wanted in a channel."""
    return _CHANNEL.write(key_index=key_index, changed_at=unix_s, **fees._asdict())


def channel_fees_forgotten(key_index: int) -> Write:
    """Return the write after which a channel has what its peer has."""
    return _FORGET_CHANNEL.write(key_index=key_index)


def load_fees(connection: Connection, shards: Sequence[int]) -> StoredFees:
    """Return what is set for peers of ``shards``, and for channels that are not over."""
    of_peers = select(peer_fees).where(peer_fees.c.shard.in_(shards))
    of_channels = (
        select(channel_fees)
        .join(channels, channels.c.key_index == channel_fees.c.key_index)
        .where(channels.c.shard.in_(shards) & ~channels.c.is_over)
    )
    return StoredFees(
        {row.node_id: _fees(row) for row in connection.execute(of_peers)},
        {row.key_index: _fees(row) for row in connection.execute(of_channels)},
    )


def _fees(row: Row[Any]) -> SetFees:
    return SetFees(row.fee_base_msat, row.fee_proportional_millionths, row.cltv_expiry_delta)
