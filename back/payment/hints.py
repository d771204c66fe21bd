"""Route hints in our invoices (BOLT 11 field `r`): the last hop, which others cannot see. Pure."""

from collections.abc import Iterable
from functools import lru_cache

from back.channel.model import Channel, Phase
from shared.bolt11 import RouteHint
from shared.wire import ChannelUpdate, decode

__all__ = ["MAX_HINTS", "remote_update", "route_hint", "route_hints"]

MAX_HINTS = 3
"""Each makes an invoice some 85 characters longer."""


def route_hints(channels: Iterable[Channel]) -> tuple[tuple[RouteHint, ...], ...]:
    """Return hints for channels that others do not know, those through which most can come first.

    None at all while a channel that all know leads to us. A channel whose peer has not told its
    fees (in a `channel_update`) is left out: a wrong hint is worse than none.
    """
    usable = [channel for channel in channels if channel.phase is Phase.NORMAL]
    if any(channel.channel_announcement is not None for channel in usable):
        return ()
    richest = sorted(usable, key=lambda channel: channel.remote_msat, reverse=True)
    hints = (route_hint(channel) for channel in richest)
    return tuple((hint,) for hint in hints if hint is not None)[:MAX_HINTS]


def route_hint(channel: Channel) -> RouteHint | None:
    """Return the hop from the peer to us; None while its scid or its terms are not known.

    The scid is the alias that the peer gave us, by which it knows the channel (BOLT 2 §
    channel_ready), or the real one.
    """
    real = channel.funding.short_channel_id if channel.funding is not None else None
    scid = channel.remote_alias if channel.remote_alias is not None else real
    update = remote_update(channel)
    if scid is None or update is None:
        return None
    return RouteHint(
        node_id=channel.parameters.node_id,
        short_channel_id=scid,
        fee_base_msat=update.fee_base_msat,
        fee_proportional_millionths=update.fee_proportional_millionths,
        cltv_expiry_delta=update.cltv_expiry_delta,
    )


def remote_update(channel: Channel) -> ChannelUpdate | None:
    """Return the peer's last `channel_update` of a channel; None: it has told none."""
    return _update(channel.remote_channel_update) if channel.remote_channel_update else None


@lru_cache(maxsize=4096)
def _update(encoded: bytes) -> ChannelUpdate | None:
    message = decode(encoded)
    return message if isinstance(message, ChannelUpdate) else None
