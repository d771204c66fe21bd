"""The whole of a routing table, and whether it has a certain thing. Pure."""

from collections.abc import Iterator

from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Entry, Table
from shared.gossip.view import node_timestamp, update_timestamp

__all__ = ["ALL_BLOCKS", "current", "everything", "holds", "is_same"]

ALL_BLOCKS = 1 << 24
"""More than a short_channel_id can name."""


def current(table: Table, kind: Kind, key: int | bytes) -> ChannelRecord | bytes | None:
    """Return the value of a key, None if there is none."""
    if isinstance(key, bytes):
        return table.node(key)
    if kind is Kind.UPDATE:
        return table.update(key >> 1, key & 1)
    entry = table.channel(key)
    return None if entry is None else entry.record


def everything(table: Table) -> Iterator[Change]:
    """Go through a table that may change meanwhile: channels, their updates, then nodes."""
    names: dict[bytes, None] = {}
    for scid in list(table.short_channel_ids(0, ALL_BLOCKS)):
        if (entry := table.channel(scid)) is None:
            continue
        names.update(dict.fromkeys(entry.nodes))
        yield Change(Kind.CHANNEL, scid, entry.record)
        for direction, raw in enumerate(entry.updates):
            if raw is not None:
                yield Change(Kind.UPDATE, scid << 1 | direction, raw)
    for name in names:
        if (node := table.node(name)) is not None:
            yield Change(Kind.NODE, name, node)


def holds(table: Table, change: Change) -> bool:
    """Whether a table has this very channel, or an update or node that is as new."""
    kind, key, value = change
    if isinstance(key, bytes):
        return isinstance(value, bytes) and table.node_timestamp(key) >= node_timestamp(value)
    if kind is Kind.CHANNEL:
        entry = table.channel(key)
        return entry is not None and entry.record == value
    raw = table.update(key >> 1, key & 1)
    return (
        raw is not None
        and isinstance(value, bytes)
        and (update_timestamp(raw) >= update_timestamp(value))
    )


def is_same(entry: Entry | None, record: ChannelRecord | bytes) -> bool:
    """Whether a channel is as announced, spent or not."""
    if entry is None or not isinstance(record, ChannelRecord):
        return False
    return entry.record._replace(spent_height=0) == record._replace(spent_height=0)
