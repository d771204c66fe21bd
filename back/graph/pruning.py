"""What leaves the routing table because nobody speaks of it any more (BOLT 7 § Pruning). Pure."""

from collections.abc import Iterable, Iterator

from shared.gossip.record import Change, Kind
from shared.gossip.rules import STALE_S
from shared.gossip.table import Entry, Table
from shared.gossip.view import update_timestamp

__all__ = ["is_stale", "orphans", "removal", "stale"]


def is_stale(entry: Entry, first_seen_s: int, unix_s: int) -> bool:
    """Whether a channel may be forgotten: one of its ends has been silent for two weeks.

    Both ends must be there for a channel to be of use, so the older update decides. An end that
    never said anything counts from when the channel was first seen.

    Args:
        entry: the channel.
        first_seen_s: unix time.
        unix_s: our clock.
    """
    heard = (first_seen_s if raw is None else update_timestamp(raw) for raw in entry.updates)
    return min(heard) < unix_s - STALE_S


def stale(
    table: Table, short_channel_ids: Iterable[int], first_seen_s: dict[int, int], unix_s: int
) -> Iterator[int]:
    """Return which of these channels may be forgotten.

    Spent ones go by their own rule. Takes down in ``first_seen_s`` those that lack an update and
    are seen for the first time, and forgets there what is complete or gone.
    """
    for scid in short_channel_ids:
        entry = table.channel(scid)
        if entry is None or None not in entry.updates:
            first_seen_s.pop(scid, None)
        if entry is None or entry.spent_height:
            continue
        seen_s = first_seen_s.setdefault(scid, unix_s) if None in entry.updates else unix_s
        if is_stale(entry, seen_s, unix_s):
            yield scid


def removal(table: Table, short_channel_id: int) -> list[Change]:
    """Return what must be written to take a channel out: its updates, then itself."""
    entry = table.channel(short_channel_id)
    if entry is None:
        return []
    gone = [
        Change(Kind.UPDATE, short_channel_id << 1 | direction, None)
        for direction, raw in enumerate(entry.updates)
        if raw is not None
    ]
    return [*gone, Change(Kind.CHANNEL, short_channel_id, None)]


def orphans(table: Table, node_ids: Iterable[bytes]) -> list[Change]:
    """Return the removal of those nodes that are announced and have no channel (any more)."""
    return [
        Change(Kind.NODE, node_id, None)
        for node_id in node_ids
        if table.node(node_id) is not None and not table.has_channels(node_id)
    ]
