"""Our `channel_update` of a channel: what it says now, and whether a new one is due. Pure."""

from dataclasses import dataclass

from back.channel.announcement import direction
from back.channel.model import Channel, Link, Phase
from shared.errors import InvariantError
from shared.features import Feature, FeatureSet
from shared.wire import ChannelUpdate

__all__ = ["REFRESH_S", "Terms", "due", "next_timestamp", "wanted"]

REFRESH_S = 13 * 86_400
"""Others forget a channel whose last update is two weeks old (BOLT 7 § Pruning)."""
MUST_BE_ONE = 1
DONT_FORWARD = 2
DISABLE = 2
_UNSIGNED = bytes(64)

PUBLIC_PHASES = frozenset({Phase.NORMAL, Phase.SHUTDOWN, Phase.NEGOTIATING, Phase.CLOSING})
"""Phases in which an announced channel has something to say, if only that it is disabled."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What we take for forwarding, the same in every channel.

    Attributes:
        cltv_expiry_delta: blocks between the expiries of the two HTLCs.
        disable_after_s: how long a peer may be away until its channels are disabled.
    """

    fee_base_msat: int = 1_000
    fee_proportional_millionths: int = 200
    cltv_expiry_delta: int = 144
    disable_after_s: float = 600.0


def wanted(
    channel: Channel, terms: Terms, stored: ChannelUpdate | None, away_s: float
) -> ChannelUpdate | None:
    """Return what our update of a channel should say now, with timestamp and signature zero.

    None where we have nothing to say: no `channel_ready` yet, no name for the channel that its
    peer would know, or a peer that accepts no amount which the channel can carry.

    Args:
        channel: as it stands.
        terms: of this node.
        stored: our last update of it.
        away_s: for how long its peer has been away, 0 if it is there.
    """
    is_public = channel.channel_announcement is not None
    phases = PUBLIC_PHASES if is_public else (Phase.NORMAL,)
    remote = channel.parameters.remote
    if channel.phase not in phases or not channel.is_channel_ready_received or remote is None:
        return None
    name = _real(channel) if is_public else _private_name(channel)
    capacity_msat = channel.parameters.funding_satoshis * 1000
    htlc_maximum_msat = min(
        capacity_msat - remote.channel_reserve_satoshis * 1000,
        remote.max_htlc_value_in_flight_msat,
    )
    if name is None or htlc_maximum_msat < remote.htlc_minimum_msat:
        return None
    is_disabled = is_public and _is_disabled(channel, terms, stored, away_s)
    return ChannelUpdate(
        signature=_UNSIGNED,
        chain_hash=channel.policy.chain_hash,
        short_channel_id=name,
        timestamp=0,
        message_flags=MUST_BE_ONE if is_public else MUST_BE_ONE | DONT_FORWARD,
        channel_flags=direction(channel) | (DISABLE if is_disabled else 0),
        cltv_expiry_delta=terms.cltv_expiry_delta,
        htlc_minimum_msat=remote.htlc_minimum_msat,
        fee_base_msat=terms.fee_base_msat,
        fee_proportional_millionths=terms.fee_proportional_millionths,
        htlc_maximum_msat=htlc_maximum_msat,
    )


def due(stored: ChannelUpdate | None, now_wanted: ChannelUpdate, unix_s: int) -> bool:
    """Whether ``stored`` must be replaced: it says something else, or grows old.

    Only what the network hears grows old.
    """
    if stored is None:
        return True
    is_public = not now_wanted.message_flags & DONT_FORWARD
    if is_public and unix_s - stored.timestamp >= REFRESH_S:
        return True
    same = {"signature": now_wanted.signature, "timestamp": now_wanted.timestamp}
    return stored.model_copy(update=same) != now_wanted


def next_timestamp(last: int, unix_s: int) -> int:
    """Return a timestamp after ``last`` (0: there is none), also where the clock went back."""
    return max(unix_s, last + 1)


def _is_disabled(
    channel: Channel, terms: Terms, stored: ChannelUpdate | None, away_s: float
) -> bool:
    if channel.phase is not Phase.NORMAL or channel.is_shutdown_sent:
        return True
    if channel.remote_shutdown_script is not None:
        return True
    if channel.link is Link.ONLINE:
        return False
    # A peer that was away for long stays so until it is back: a restart of ours changes nothing.
    was_disabled = stored is not None and bool(stored.channel_flags & DISABLE)
    return was_disabled or away_s >= terms.disable_after_s


def _real(channel: Channel) -> int | None:
    if channel.funding is None:
        raise InvariantError("an announced channel without a funding output")
    return channel.funding.short_channel_id


def _private_name(channel: Channel) -> int | None:
    """What the peer knows the channel by: the alias that it gave us, or the real one.

    Never the real one where option_scid_alias hides it (BOLT 2 § channel_ready).
    """
    if channel.remote_alias is not None:
        return channel.remote_alias
    if FeatureSet.from_bytes(channel.parameters.channel_type).supports(Feature.option_scid_alias):
        return None
    return channel.funding.short_channel_id if channel.funding is not None else None
