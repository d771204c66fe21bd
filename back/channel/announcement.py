"""What BOLT 7 sends to the other end of a channel only: kept for the graph and the API."""

from dataclasses import replace

from back.channel.model import Channel, Phase
from back.channel.rules import Step, legal
from shared.wire import AnnouncementSignatures, ChannelUpdate, encode

__all__ = ["announcement_signatures", "channel_update"]


@legal(Phase, ChannelUpdate)
def channel_update(channel: Channel, message: ChannelUpdate) -> Step:
    """Keep the peer's own update of this channel; one of another channel changes nothing."""
    names = {channel.local_alias, channel.remote_alias}
    if channel.funding is not None:
        names.add(channel.funding.short_channel_id)
    if message.short_channel_id not in names - {None}:
        return Step(channel)
    return Step(replace(channel, remote_channel_update=encode(message)))


@legal(
    (
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        Phase.WAIT_FOR_CHANNEL_READY,
        Phase.NORMAL,
        Phase.SHUTDOWN,
        Phase.NEGOTIATING,
    ),
    AnnouncementSignatures,
)
def announcement_signatures(channel: Channel, message: AnnouncementSignatures) -> Step:
    """Keep the peer's half of a channel_announcement; it may come before our own."""
    return Step(replace(channel, remote_announcement_signatures=encode(message)))
