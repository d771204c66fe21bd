"""Routes that somebody else chose, by channels. Pure."""

from collections.abc import Iterator, Sequence

from back.payment.route import Edge, Hop, LocalChannel
from shared.errors import CommandError
from shared.gossip.table import Entry, Table
from shared.gossip.view import update_view
from shared.units import ShortChannelId

__all__ = ["hops_of_channels"]


def hops_of_channels(
    names: Sequence[int],
    own: bytes,
    local: Sequence[LocalChannel],
    table: Table,
    extra: Sequence[Edge] = (),
) -> list[Hop]:
    """Return the hops of channels in order, the first of which is ours.

    Args:
        names: their short channel ids.
        own: our node id.
        local: our channels that can send.
        table: the channels that all know.
        extra: others, of route hints: they count before the table.

    Raises:
        CommandError: a channel is not known, cannot be used, or does not follow the one before.
    """
    if not names:
        raise CommandError("the route is empty")
    ours = [channel for channel in local if channel.short_channel_id == names[0]]
    if not ours:
        raise CommandError(f"{ShortChannelId.unpack(names[0])} is no channel of ours that can send")
    hops = [Hop(own, ours[0].next_node_id, names[0])]
    for name in names[1:]:
        entry, node_id = table.channel(name), hops[-1].next_node_id
        hinted = [edge.hop for edge in extra if edge.hop.short_channel_id == name]
        found = () if entry is None else _of_entry(name, entry)
        following = [hop for hop in (*hinted, *found) if hop.node_id == node_id]
        if not following:
            shown = ShortChannelId.unpack(name)
            raise CommandError(f"{node_id.hex()} has no channel {shown} that is known")
        hops.append(following[0])
    return hops


def _of_entry(scid: int, entry: Entry) -> Iterator[Hop]:
    """Yield both directions that can be used."""
    if entry.spent_height:
        return
    nodes = entry.nodes
    for direction, raw in enumerate(entry.updates):
        if raw is None or (update := update_view(raw)).is_disabled:
            continue
        yield Hop(
            nodes[direction],
            nodes[1 - direction],
            scid,
            update.fee_base_msat,
            update.fee_proportional_millionths,
            update.cltv_expiry_delta,
        )
