"""Commitment feerates: update_fee as opener and as fundee (BOLT 2 § Updating Fees)."""

from dataclasses import replace

from back.channel.events import FeerateChanged, OfferHtlc, UpdateFeerate
from back.channel.model import Channel, FeeState, FeeUpdate, Link, Phase
from back.channel.policy import MIN_FEERATE_PER_KW
from back.channel.rules import Step, legal
from back.channel.spec import (
    Tally,
    next_local_spec,
    prospective_local_spec,
    remote_party,
    remote_spec,
)
from back.transactions.commitment import CommitmentType
from shared.errors import CommandError, ProtocolViolation
from shared.wire import UpdateFee

__all__ = [
    "feerate_changed",
    "last_feerate_per_kw",
    "propose",
    "refusal",
    "target_feerate_per_kw",
    "update_fee",
]

BOLT = "BOLT 2 § update_fee"

ANCHORS_MAX_FEERATE_PER_KW = 2_500
"""10 sat/vB: with anchors the commitment only has to enter the mempool, a child brings the rest."""

HYSTERESIS = 0.1
"""Share of the present feerate by which the target must differ before it is worth an update_fee."""


def last_feerate_per_kw(channel: Channel) -> int:
    """The newest feerate, however far it has come."""
    return channel.fees[-1].feerate_per_kw


def target_feerate_per_kw(channel: Channel, estimate_per_kw: int) -> int:
    """The feerate that the opener wants for its commitments at an estimate."""
    if channel.parameters.commitment_type is CommitmentType.ANCHORS_ZERO_FEE_HTLC:
        estimate_per_kw = min(estimate_per_kw, ANCHORS_MAX_FEERATE_PER_KW)
    return max(estimate_per_kw, MIN_FEERATE_PER_KW)


def feerate_changed(channel: Channel, event: FeerateChanged) -> Step:
    """Note the estimate; as opener, queue an update_fee when the commitments are far from it."""
    channel = replace(channel, feerate_per_kw=event.feerate_per_kw)
    return Step(with_target(channel))


def with_target(channel: Channel) -> Channel:
    """Queue an update_fee if our commitments are far from the target and one may go out."""
    if channel.feerate_per_kw <= 0 or len(channel.fees) != 1 or not _may_propose(channel):
        return channel
    now = last_feerate_per_kw(channel)
    target = target_feerate_per_kw(channel, channel.feerate_per_kw)
    if abs(target - now) <= now * HYSTERESIS:
        return channel
    return _queued(channel, target)


def propose(channel: Channel, event: UpdateFeerate) -> Step:
    """The operator wants another feerate.

    Raises:
        CommandError: not our channel to set it on, or not now, or we could not pay it.
    """
    if not channel.parameters.is_opener:
        raise CommandError("only the opener of a channel sets its feerate")
    if not _may_propose(channel):
        raise CommandError(f"no update_fee while {channel.phase.value} and {channel.link.value}")
    if event.feerate_per_kw < MIN_FEERATE_PER_KW:
        raise CommandError(f"{event.feerate_per_kw}/kw is below {MIN_FEERATE_PER_KW}/kw")
    if why := refusal(channel, event.feerate_per_kw):
        raise CommandError(why)
    return Step(_queued(channel, event.feerate_per_kw))


def _may_propose(channel: Channel) -> bool:
    return (
        channel.parameters.is_opener
        and channel.phase is Phase.NORMAL
        and channel.link is Link.ONLINE
        and channel.local_shutdown_script is None
        and channel.remote_shutdown_script is None
    )


def _queued(channel: Channel, feerate_per_kw: int) -> Channel:
    offers = tuple(update for update in channel.queue if isinstance(update, OfferHtlc))
    return replace(channel, queue=(*offers, UpdateFeerate(feerate_per_kw)))


def refusal(channel: Channel, feerate_per_kw: int) -> str:
    """Say why the opener cannot propose a feerate; empty if it can."""
    reserve_msat = remote_party(channel).channel_reserve_satoshis * 1000
    for spec in (remote_spec(channel), prospective_local_spec(channel)):
        tally = Tally.of(channel, spec, feerate_per_kw)
        cost_msat = tally.opener_cost_msat()
        if tally.local_msat - cost_msat < reserve_msat:
            return (
                f"a feerate of {feerate_per_kw}/kw costs {cost_msat} msat, {tally.local_msat} msat"
                f" are there and {reserve_msat} msat of them are reserved"
            )
        if why := _dust_refusal(channel, tally):
            return why
    return ""


def _dust_refusal(channel: Channel, tally: Tally) -> str:
    """Without anchors a higher feerate trims more HTLCs."""
    most = channel.policy.max_dust_exposure_msat
    is_anchors = tally.kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC
    if (
        is_anchors
        or tally.feerate_per_kw <= last_feerate_per_kw(channel)
        or tally.dust_msat <= most
    ):
        return ""
    return f"{tally.dust_msat} msat would have no output at {tally.feerate_per_kw}/kw, {most} may"


@legal((Phase.NORMAL, Phase.SHUTDOWN), UpdateFee)
def update_fee(channel: Channel, message: UpdateFee) -> Step:
    """The opener proposes a feerate.

    What it must afford is only the fee: an opener that dips into its reserve harms us less than a
    channel that fails (BOLT 2 names no reserve here). HTLCs of ours that it had not acknowledged
    do not count: that race is no fault of its own.
    """
    feerate = message.feerate_per_kw
    if channel.parameters.is_opener:
        raise ProtocolViolation("update_fee by the side that does not pay", bolt=BOLT)
    kind = channel.parameters.commitment_type
    # Without an estimate only the absolute bounds can be held against the peer.
    estimate = channel.feerate_per_kw or feerate
    if why := channel.policy.feerate_refusal(feerate, estimate, kind):
        raise ProtocolViolation(why, bolt=BOLT)
    tally = Tally.of(channel, next_local_spec(channel), feerate)
    if tally.remote_msat < tally.opener_cost_msat():
        raise ProtocolViolation(
            f"feerate {feerate}/kw costs {tally.opener_cost_msat()} msat, the opener has"
            f" {tally.remote_msat} msat",
            bolt=BOLT,
        )
    kept = tuple(fee for fee in channel.fees if fee.state is not FeeState.PROPOSED)
    return Step(replace(channel, fees=(*kept, FeeUpdate(feerate, FeeState.PROPOSED))))
