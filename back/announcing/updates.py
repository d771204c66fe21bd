"""Our `channel_update` of a channel: what it says now, and whether a new one is due. Pure."""

from dataclasses import dataclass

from back.announcing.maximum import htlc_maximum_msat, most_msat
from back.channel.announcement import direction
from back.channel.model import Channel, Link, Phase
from back.relay.terms import ChannelTerms, RelayFees
from shared.errors import InvariantError
from shared.features import Feature, FeatureSet
from shared.wire import ChannelUpdate

__all__ = ["REFRESH_S", "Terms", "due", "next_timestamp", "terms_of", "wait_s", "wanted"]

REFRESH_S = 13 * 86_400
"""Others forget a channel whose last update is two weeks old (BOLT 7 § Pruning)."""
MUST_BE_ONE = 1
DONT_FORWARD = 2
DISABLE = 2
_UNSIGNED = bytes(64)
DEFAULT_FEES = RelayFees(1_000, 200, 144)

PUBLIC_PHASES = frozenset({Phase.NORMAL, Phase.SHUTDOWN, Phase.NEGOTIATING, Phase.CLOSING})
"""Phases in which an announced channel has something to say, if only that it is disabled."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What we take for forwarding, and how announcements follow events.

    Attributes:
        fees: where nothing else is set for a channel or its peer.
        disable_after_s: how long a peer may be away until its channels are disabled.
        grace_s: how long HTLCs may meet terms that hold no longer.
        maximum_every_s: the least age of an update that is replaced for a balance's sake alone.
    """

    fees: RelayFees = DEFAULT_FEES
    disable_after_s: float = 600.0
    grace_s: float = 600.0
    maximum_every_s: float = 900.0


def terms_of(
    channel: Channel, fees: RelayFees, stored: ChannelUpdate | None
) -> ChannelTerms | None:
    """Return what our update of a channel should promise now, whether or not it can be named.

    None where the channel is not usable yet, or its peer accepts no amount that it can carry.

    Args:
        channel: as it stands.
        fees: that we take in it.
        stored: our last update of it.
    """
    remote = channel.parameters.remote
    if not channel.is_channel_ready_received or remote is None:
        return None
    if most_msat(channel) < max(1, remote.htlc_minimum_msat):
        return None
    present = None if stored is None else stored.htlc_maximum_msat
    return ChannelTerms(
        fee_base_msat=fees.fee_base_msat,
        fee_proportional_millionths=fees.fee_proportional_millionths,
        cltv_expiry_delta=fees.cltv_expiry_delta,
        htlc_minimum_msat=remote.htlc_minimum_msat,
        htlc_maximum_msat=htlc_maximum_msat(channel, present),
    )


def wanted(
    channel: Channel, fees: RelayFees, stored: ChannelUpdate | None, *, is_long_away: bool
) -> ChannelUpdate | None:
    """Return what our update of a channel should say now, with timestamp and signature zero.

    None where we have nothing to say: no `channel_ready` yet, no name for the channel that its
    peer would know, or a peer that accepts no amount which the channel can carry.

    Args:
        channel: as it stands.
        fees: that we take in it.
        stored: our last update of it.
        is_long_away: its peer has been away for so long that the channel is to be disabled.
    """
    is_public = channel.channel_announcement is not None
    phases = PUBLIC_PHASES if is_public else (Phase.NORMAL,)
    if channel.phase not in phases or (terms := terms_of(channel, fees, stored)) is None:
        return None
    name = _real(channel) if is_public else _private_name(channel)
    if name is None:
        return None
    is_disabled = is_public and _is_disabled(channel, stored, is_long_away=is_long_away)
    return ChannelUpdate(
        signature=_UNSIGNED,
        chain_hash=channel.policy.chain_hash,
        short_channel_id=name,
        timestamp=0,
        message_flags=MUST_BE_ONE if is_public else MUST_BE_ONE | DONT_FORWARD,
        channel_flags=direction(channel) | (DISABLE if is_disabled else 0),
        cltv_expiry_delta=terms.cltv_expiry_delta,
        htlc_minimum_msat=terms.htlc_minimum_msat,
        fee_base_msat=terms.fee_base_msat,
        fee_proportional_millionths=terms.fee_proportional_millionths,
        htlc_maximum_msat=terms.htlc_maximum_msat,
    )


def due(
    stored: ChannelUpdate | None,
    now_wanted: ChannelUpdate,
    unix_s: float,
    *,
    follows_balance: bool = True,
) -> bool:
    """Whether ``stored`` must be replaced: it says something else, or grows old.

    Only what the network hears grows old.

    Args:
        stored: our last update.
        now_wanted: what it should say.
        unix_s: our clock.
        follows_balance: another htlc_maximum_msat alone is reason enough.
    """
    if stored is None:
        return True
    is_public = not now_wanted.message_flags & DONT_FORWARD
    if is_public and unix_s - stored.timestamp >= REFRESH_S:
        return True
    same: dict[str, object] = {
        "signature": now_wanted.signature,
        "timestamp": now_wanted.timestamp,
    }
    if not follows_balance:
        same["htlc_maximum_msat"] = now_wanted.htlc_maximum_msat
    return stored.model_copy(update=same) != now_wanted


def wait_s(stored: ChannelUpdate, terms: Terms, unix_s: float) -> float:
    """Return how long an update of a former process holds before a balance alone may replace it.

    Not at all where the clock went back: whoever waits for a clock may wait for years.
    """
    age_s = unix_s - stored.timestamp
    return max(0.0, terms.maximum_every_s - age_s) if age_s >= 0 else 0.0


def next_timestamp(last: int, unix_s: int) -> int:
    """Return a timestamp after ``last`` (0: there is none), also where the clock went back."""
    return max(unix_s, last + 1)


def _is_disabled(channel: Channel, stored: ChannelUpdate | None, *, is_long_away: bool) -> bool:
    if channel.phase is not Phase.NORMAL or channel.is_shutdown_sent:
        return True
    if channel.remote_shutdown_script is not None:
        return True
    if channel.link is Link.ONLINE:
        return False
    # A peer that was away for long stays so until it is back: a restart of ours changes nothing.
    was_disabled = stored is not None and bool(stored.channel_flags & DISABLE)
    return was_disabled or is_long_away


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
