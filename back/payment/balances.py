"""What a channel can send and receive now (BOLT 2 § Adding an HTLC). Pure."""

from dataclasses import dataclass

from back.channel.model import Channel, Phase
from back.channel.policy import MAX_ACCEPTED_HTLCS
from back.channel.spec import (
    Tally,
    local_spec,
    next_local_spec,
    offer_limits,
    prospective_local_spec,
    remote_party,
    remote_spec,
)
from back.transactions.weights import htlc_success_fee_sat, htlc_timeout_fee_sat

__all__ = ["Balances", "balances", "can_receive_msat", "can_send_msat"]


@dataclass(frozen=True, slots=True)
class Balances:
    """The largest single HTLC in either direction, were the peer connected.

    Attributes:
        can_send_msat: that we could offer.
        can_receive_msat: that the peer could offer.
    """

    can_send_msat: int
    can_receive_msat: int


def balances(channel: Channel) -> Balances:
    """Return both; zero where the channel takes no HTLCs."""
    return Balances(can_send_msat(channel), can_receive_msat(channel))


def can_send_msat(channel: Channel) -> int:
    """Return the largest HTLC that the channel takes from us now; 0 if it takes none."""
    if not _is_open(channel):
        return 0
    limits, remote = offer_limits(channel), Tally.of(channel, remote_spec(channel))
    if remote.offered_count >= limits.htlcs:
        return 0
    local = Tally.of(channel, prospective_local_spec(channel))
    most = _most_msat(channel, (local, remote), offered=True)
    most = min(most, limits.value_msat - remote.offered_msat)
    return most if most >= max(1, remote_party(channel).htlc_minimum_msat) else 0


def can_receive_msat(channel: Channel) -> int:
    """Return the largest HTLC that the peer could add, if it keeps the same buffers as we do."""
    if not _is_open(channel):
        return 0
    ours = channel.parameters.local
    local = Tally.of(channel, next_local_spec(channel))
    if local.received_count >= min(ours.max_accepted_htlcs, MAX_ACCEPTED_HTLCS):
        return 0
    others = (Tally.of(channel, spec) for spec in (local_spec(channel), remote_spec(channel)))
    most = _most_msat(channel, (local, *others), offered=False)
    most = min(most, ours.max_htlc_value_in_flight_msat - local.received_msat)
    return most if most >= max(1, ours.htlc_minimum_msat) else 0


def _is_open(channel: Channel) -> bool:
    return (
        channel.phase is Phase.NORMAL
        and channel.local_shutdown_script is None
        and channel.remote_shutdown_script is None
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """What one commitment allows to one more HTLC.

    Attributes:
        least_msat: from here on it has an output.
        trimmed_msat: the most without one; negative: none.
        untrimmed_msat: the most with one.
    """

    least_msat: int
    trimmed_msat: int
    untrimmed_msat: int


def _most_msat(channel: Channel, tallies: tuple[Tally, ...], *, offered: bool) -> int:
    """The largest HTLC that fits in every commitment; 0 if none does.

    An HTLC may have an output in one commitment and none in another, so each side of every
    commitment's dust threshold is tried, the largest amounts first.
    """
    rooms = [_room(channel, tally, offered=offered) for tally in tallies]
    bounds = sorted({0, *(room.least_msat for room in rooms)}, reverse=True)
    above: int | None = None
    for lowest in bounds:
        most = min(
            room.untrimmed_msat if lowest >= room.least_msat else room.trimmed_msat
            for room in rooms
        )
        if above is not None:
            most = min(most, above - 1)
        if most >= lowest and most > 0:
            return most
        above = lowest
    return 0


def _room(channel: Channel, tally: Tally, *, offered: bool) -> _Room:
    least = _least_msat(tally, offered=offered)
    with_output = tally.with_offered(least) if offered else tally.with_received(least)
    return _Room(
        least_msat=least,
        trimmed_msat=min(
            _left_msat(channel, tally, tally, offered=offered),
            channel.policy.max_dust_exposure_msat - tally.dust_msat,
        ),
        untrimmed_msat=_left_msat(channel, tally, with_output, offered=offered),
    )


def _least_msat(tally: Tally, *, offered: bool) -> int:
    """The smallest HTLC with an output (BOLT 3 § Trimmed Outputs)."""
    fee = htlc_timeout_fee_sat if offered == tally.is_local else htlc_success_fee_sat
    return (tally.dust_limit_satoshis + fee(tally.kind, tally.feerate_per_kw)) * 1000


def _left_msat(channel: Channel, before: Tally, after: Tally, *, offered: bool) -> int:
    """What the offerer may still give away, with as many outputs as ``after`` has."""
    ours_msat = remote_party(channel).channel_reserve_satoshis * 1000
    theirs_msat = channel.parameters.local.channel_reserve_satoshis * 1000
    if offered:
        has_msat, reserve_msat = before.local_msat, ours_msat
        other_has_msat, other_reserve_msat = before.remote_msat, theirs_msat
    else:
        has_msat, reserve_msat = before.remote_msat, theirs_msat
        other_has_msat, other_reserve_msat = before.local_msat, ours_msat
    cost_msat = after.opener_cost_msat()
    if offered == before.is_opener:
        cost_msat = max(cost_msat, after.opener_cost_msat(spike=True))
        return has_msat - cost_msat - reserve_msat
    had_msat = other_has_msat - before.opener_cost_msat()
    least_msat = other_reserve_msat if had_msat >= other_reserve_msat else 0
    if other_has_msat - cost_msat < least_msat:
        return -1
    return has_msat - reserve_msat
