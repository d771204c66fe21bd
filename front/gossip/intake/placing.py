"""How an announcement stands to the routing table. Pure."""

from struct import Struct

from shared.gossip.table import Table
from shared.gossip.view import ChannelView, UpdateView, View

__all__ = ["compare", "signer"]

_FEATURES = 2 + 4 * 64
_TO_NODES = _FEATURES + 2 + 32 + 8
_NODE_ID = 33
_U16 = Struct(">H")


def compare(table: Table, seen: View) -> tuple[int | bytes, bool, bool]:
    """Return whose it is, whether its channel is there, and whether the table has as new or newer.

    The first is the short_channel_id, or the node id of a `node_announcement`.
    """
    if isinstance(seen, UpdateView):
        scid = seen.short_channel_id
        if table.channel(scid) is None:
            return scid, False, False
        return scid, True, seen.timestamp <= table.update_timestamp(scid, seen.direction)
    if isinstance(seen, ChannelView):
        scid = seen.short_channel_id
        return scid, True, table.channel(scid) is not None
    node_id = seen.node_id
    return node_id, table.has_channels(node_id), seen.timestamp <= table.node_timestamp(node_id)


def signer(announcement: bytes, direction: int) -> bytes:
    """Return the node id that signs the updates of a channel's direction, and read nothing else."""
    at = _TO_NODES + _U16.unpack_from(announcement, _FEATURES)[0] + _NODE_ID * direction
    return announcement[at : at + _NODE_ID]
