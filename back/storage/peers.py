"""Peers that we know how to reach, and the blobs that we keep for them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from back.storage.statements import Write, upsert
from back.storage.tables import peers

__all__ = ["StoredPeer", "keep_blob", "load_blob", "load_peers", "seen"]

_SEEN = upsert(peers, "node_id", [peers.c.addresses, peers.c.features, peers.c.last_seen])
_KEEP = upsert(peers, "node_id", [peers.c.storage])


@dataclass(frozen=True, slots=True)
class StoredPeer:
    """A peer as last seen.

    Attributes:
        node_id: 33 bytes.
        addresses: ``host:port``, the one that worked last first.
        features: of its `init`.
        last_seen: unix seconds.
    """

    node_id: bytes
    addresses: tuple[str, ...]
    features: bytes
    last_seen: int


def seen(peer: StoredPeer) -> Write:
    """Return the write that remembers a peer; its blob stays."""
    return _SEEN.write(
        node_id=peer.node_id,
        addresses=json.dumps(peer.addresses),
        features=peer.features,
        last_seen=peer.last_seen,
        storage=None,
    )


def keep_blob(node_id: bytes, blob: bytes) -> Write:
    """Return the write that keeps a peer's `peer_storage` (BOLT 1) instead of its last one."""
    return _KEEP.write(node_id=node_id, addresses="[]", features=b"", last_seen=0, storage=blob)


def load_peers(connection: Connection, node_ids: Sequence[bytes] | None = None) -> list[StoredPeer]:
    """Return known peers; all, or those of ``node_ids`` that are known."""
    query = select(peers.c.node_id, peers.c.addresses, peers.c.features, peers.c.last_seen)
    if node_ids is not None:
        query = query.where(peers.c.node_id.in_(node_ids))
    return [
        StoredPeer(row.node_id, tuple(json.loads(row.addresses)), row.features, row.last_seen)
        for row in connection.execute(query)
    ]


def load_blob(connection: Connection, node_id: bytes) -> bytes | None:
    """Return the blob that we keep for a peer."""
    query = select(peers.c.storage).where(peers.c.node_id == node_id)
    blob: bytes | None = connection.execute(query).scalar()
    return blob
