"""Channels with something to say to the network."""

from dataclasses import replace
from typing import Any

from support.channels import Keys, deliver_all, opened, secret, wired

from back.channel.events import FundingDeep
from back.channel.model import Channel
from shared.crypto.signature import public_key
from shared.units import ShortChannelId

__all__ = ["POLICY_IDS", "SCID", "public_channel", "ready_channel"]

SCID = ShortChannelId(100, 1, 0).pack()
POLICY_IDS = sorted(public_key(Keys(name).node) for name in ("opener", "fundee"))
"""Our node id and the peer's, in BOLT 7's order."""


def _placed(channel: Channel) -> Channel:
    assert channel.funding is not None
    return replace(channel, funding=replace(channel.funding, short_channel_id=SCID))


def ready_channel(key_index: int = 0, **changes: Any) -> Channel:
    """Our end (the opener's) of a private channel, connected and usable."""
    channel = opened(announce=True)[0]
    parameters = replace(channel.parameters, announce=False, key_index=key_index)
    return replace(_placed(channel), parameters=parameters, **changes)


def public_channel(key_index: int = 0, **changes: Any) -> Channel:
    """Our end of an announced channel, connected and usable."""
    opener, fundee = opened(announce=True)
    ends = wired((_placed(opener), _placed(fundee)))
    for end in ends:
        end.do(FundingDeep(100, 1))
    deliver_all(*ends)
    channel = ends[0].channel
    assert channel.channel_announcement is not None
    parameters = replace(channel.parameters, key_index=key_index)
    channel_id = secret("channel", key_index)
    return replace(channel, parameters=parameters, channel_id=channel_id, **changes)
