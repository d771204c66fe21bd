"""What the routing table learns of a channel of ours, in the form in which it takes it. Pure."""

from back.channel.model import Channel, Phase
from shared.errors import MalformedMessage
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.rules import check
from shared.gossip.signed import verify
from shared.gossip.view import update_key, update_view

__all__ = ["changes_of", "taken_back"]


def changes_of(channel: Channel, own_update: bytes | None, unix_s: int) -> tuple[Change, ...]:
    """Return the channel, our update of it, and its peer's where we have one; the channel first.

    Nothing for a channel that is not announced, or over. Once its funding is about to be spent only
    our update: the table finds out by itself what becomes of the channel.

    Args:
        channel: as it stands.
        own_update: our last one, encoded.
        unix_s: our clock.
    """
    raw, funding = channel.channel_announcement, channel.funding
    if raw is None or funding is None or funding.short_channel_id is None:
        return ()
    scid = funding.short_channel_id
    changes: list[Change] = []
    if channel.phase in {Phase.NORMAL, Phase.SHUTDOWN, Phase.NEGOTIATING}:
        capacity_sat = channel.parameters.funding_satoshis
        record = ChannelRecord(raw, capacity_sat, 0, funding.outpoint.txid)
        changes.append(Change(Kind.CHANNEL, scid, record))
    for raw_update in (own_update, _peers_update(channel, unix_s)):
        # An update that knows the channel by another name was for its receiver only.
        if raw_update is not None and (key := update_view(raw_update).key) >> 1 == scid:
            changes.append(Change(Kind.UPDATE, key, raw_update))  # noqa: PERF401 - reads better
    return tuple(changes)


def taken_back(short_channel_id: int) -> tuple[Change, ...]:
    """Return what takes a channel out of the table: a reorg put its funding elsewhere."""
    return (
        Change(Kind.UPDATE, update_key(short_channel_id, 0), None),
        Change(Kind.UPDATE, update_key(short_channel_id, 1), None),
        Change(Kind.CHANNEL, short_channel_id, None),
    )


def _peers_update(channel: Channel, unix_s: int) -> bytes | None:
    """The peer's own update where it may be passed on.

    It tells us in our session what others will hear from it only where they are its peers too.
    """
    raw = channel.remote_channel_update
    if raw is None:
        return None
    try:
        view = update_view(raw)
    except MalformedMessage:
        return None
    is_fit = check(view, channel.policy.chain_hash, unix_s) is None
    return raw if is_fit and verify(raw, channel.parameters.node_id) else None
