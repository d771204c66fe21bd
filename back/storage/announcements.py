"""What we said of our channels and of ourselves last (BOLT 7): no timestamp may come twice."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, select

from back.relay.terms import ChannelTerms, Former
from back.storage.statements import Write, upsert
from back.storage.tables import channels, own_node, own_updates

__all__ = ["SaidUpdate", "load_node", "load_updates", "node_said", "update_said"]

_UPDATE = upsert(own_updates, "key_index")
_NODE = upsert(own_node, "id")


class SaidUpdate(NamedTuple):
    """What we said of a channel.

    Attributes:
        raw: our last `channel_update` of it.
        former: what updates before it promised, the newest first.
    """

    raw: bytes
    former: tuple[Former, ...] = ()


def update_said(key_index: int, raw: bytes, former: Iterable[Former] = ()) -> Write:
    """Return the write that keeps our `channel_update` of a channel instead of its last one.

    Args:
        key_index: of the channel.
        raw: the update, encoded.
        former: terms that HTLCs may meet besides, the newest first.
    """
    kept = [[each.replaced_at, *_numbers(each.terms)] for each in former]
    return _UPDATE.write(key_index=key_index, raw=raw, former=json.dumps(kept))


def node_said(raw: bytes) -> Write:
    """Return the write that keeps our `node_announcement` instead of the last one."""
    return _NODE.write(id=1, raw=raw)


def load_updates(connection: Connection, shards: Sequence[int]) -> dict[int, SaidUpdate]:
    """Return our last update of each channel that is not over, by its key index."""
    query = (
        select(own_updates)
        .join(channels, channels.c.key_index == own_updates.c.key_index)
        .where(channels.c.shard.in_(shards) & ~channels.c.is_over)
    )
    return {
        row.key_index: SaidUpdate(row.raw, _former(row.former)) for row in connection.execute(query)
    }


def load_node(connection: Connection) -> bytes | None:
    """Return our last `node_announcement`."""
    raw = connection.execute(select(own_node.c.raw)).scalar()
    return None if raw is None else bytes(raw)


def _numbers(terms: ChannelTerms) -> tuple[int, ...]:
    return (
        terms.fee_base_msat,
        terms.fee_proportional_millionths,
        terms.cltv_expiry_delta,
        terms.htlc_minimum_msat,
        terms.htlc_maximum_msat,
    )


def _former(text: str) -> tuple[Former, ...]:
    return tuple(Former(ChannelTerms(*numbers), at) for at, *numbers in json.loads(text))
