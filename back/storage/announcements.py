"""What we said of our channels and of ourselves last (BOLT 7): no timestamp may come twice."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from back.storage.statements import Write, upsert
from back.storage.tables import channels, own_node, own_updates

__all__ = ["load_node", "load_updates", "node_said", "update_said"]

_UPDATE = upsert(own_updates, "key_index")
_NODE = upsert(own_node, "id")


def update_said(key_index: int, raw: bytes) -> Write:
    """Return the write that keeps our `channel_update` of a channel instead of its last one."""
    return _UPDATE.write(key_index=key_index, raw=raw)


def node_said(raw: bytes) -> Write:
    """Return the write that keeps our `node_announcement` instead of the last one."""
    return _NODE.write(id=1, raw=raw)


def load_updates(connection: Connection, shards: Sequence[int]) -> dict[int, bytes]:
    """Return our last update of each channel that is not over, by its key index."""
    query = (
        select(own_updates.c.key_index, own_updates.c.raw)
        .join(channels, channels.c.key_index == own_updates.c.key_index)
        .where(channels.c.shard.in_(shards) & ~channels.c.is_over)
    )
    return {row.key_index: row.raw for row in connection.execute(query)}


def load_node(connection: Connection) -> bytes | None:
    """Return our last `node_announcement`."""
    raw = connection.execute(select(own_node.c.raw)).scalar()
    return None if raw is None else bytes(raw)
