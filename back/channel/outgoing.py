"""Our own updates become messages, and whether an add of ours has room (BOLT 2 § Adding an HTLC).

Only :func:`commitments.sign_if_due` calls this: what it returns leaves with a signature.
"""

from dataclasses import dataclass, replace

from back.channel import fees
from back.channel.effects import Effect, HtlcOffered, OfferRefused
from back.channel.events import OfferHtlc, UpdateFeerate
from back.channel.model import (
    Channel,
    Failed,
    FeeState,
    FeeUpdate,
    Fulfilled,
    Htlc,
    HtlcState,
    Malformed,
)
from back.channel.spec import (
    OfferLimits,
    Tally,
    offer_limits,
    prospective_local_spec,
    remote_party,
    remote_spec,
)
from shared.wire import (
    Message,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)

__all__ = ["Outgoing", "taken"]

S = HtlcState

LEAST_BLOCKS = 3
"""An HTLC of ours that expires in fewer is not added: a peer that keeps us waiting for its
revocation must not get one so late that its preimage comes too late for whoever it is from."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Our updates for one signature.

    Attributes:
        channel: with the updates in the peer's commitment and an empty queue.
        messages: in the order in which they must go out.
        effects: facts about them.
    """

    channel: Channel
    messages: tuple[Message, ...]
    effects: tuple[Effect, ...]


def taken(channel: Channel, number: int) -> Outgoing:
    """Turn what waits into messages for remote commitment ``number``; refuse what has no room."""
    removed = _removals(channel, number)
    if not channel.queue:
        return removed
    channel = replace(removed.channel, queue=())
    messages, effects = list(removed.messages), list(removed.effects)
    room, limits = _Room.of(channel, number), offer_limits(channel)
    added: list[Htlc] = []
    next_id = channel.next_local_htlc_id
    for update in removed.channel.queue:
        if isinstance(update, UpdateFeerate):
            if not fees.refusal(channel.with_htlcs(*added), update.feerate_per_kw):
                channel = _with_feerate(channel, update)
                room = _Room.of(channel.with_htlcs(*added), number)
                messages.append(_update_fee(channel, update))
            continue
        after = room.with_offered(update.amount_msat)
        why = _limit_refusal(limits, after.remote) or _expiry_refusal(channel, update)
        if why := why or _room_refusal(channel, room, after, update.amount_msat):
            effects.append(OfferRefused(update.origin, why))
            continue
        room = after
        htlc = _offered(update, next_id, number)
        next_id += 1
        added.append(htlc)
        messages.append(_update_add_htlc(channel, htlc, update))
        effects.append(HtlcOffered(htlc))
    channel = replace(channel.with_htlcs(*added), next_local_htlc_id=next_id)
    return Outgoing(channel, tuple(messages), tuple(effects))


def _removals(channel: Channel, number: int) -> Outgoing:
    decided = [
        htlc
        for htlc in channel.htlcs.values()
        if htlc.state is S.RCVD_ADD_ACK_REVOCATION and htlc.resolution is not None
    ]
    if not decided:
        return Outgoing(channel, (), ())
    removed = [
        replace(htlc, state=S.SENT_REMOVE_COMMIT, remote_last=number - 1) for htlc in decided
    ]
    messages = tuple(_removal(channel, htlc) for htlc in decided)
    return Outgoing(channel.with_htlcs(*removed), messages, ())


def _removal(channel: Channel, htlc: Htlc) -> Message:
    match htlc.resolution:
        case Fulfilled(payment_preimage=preimage):
            return UpdateFulfillHtlc(
                channel_id=channel.channel_id, id=htlc.id, payment_preimage=preimage
            )
        case Failed(reason=reason):
            return UpdateFailHtlc(channel_id=channel.channel_id, id=htlc.id, reason=reason)
        case Malformed(sha256_of_onion=digest, failure_code=code):
            return UpdateFailMalformedHtlc(
                channel_id=channel.channel_id,
                id=htlc.id,
                sha256_of_onion=digest,
                failure_code=code,
            )
    raise TypeError(f"HTLC {htlc.id} has no resolution")


def _offered(update: OfferHtlc, htlc_id: int, number: int) -> Htlc:
    return Htlc(
        offered=True,
        id=htlc_id,
        amount_msat=update.amount_msat,
        payment_hash=update.payment_hash,
        cltv_expiry=update.cltv_expiry,
        state=S.SENT_ADD_COMMIT,
        path_key=update.path_key,
        origin=update.origin,
        remote_first=number,
    )


def _update_add_htlc(channel: Channel, htlc: Htlc, update: OfferHtlc) -> UpdateAddHtlc:
    return UpdateAddHtlc(
        channel_id=channel.channel_id,
        id=htlc.id,
        amount_msat=htlc.amount_msat,
        payment_hash=htlc.payment_hash,
        cltv_expiry=htlc.cltv_expiry,
        onion_routing_packet=update.onion_routing_packet,
        path_key=update.path_key,
    )


def _with_feerate(channel: Channel, update: UpdateFeerate) -> Channel:
    proposed = FeeUpdate(update.feerate_per_kw, FeeState.IN_FUNDEE)
    return replace(channel, fees=(*channel.fees, proposed))


def _update_fee(channel: Channel, update: UpdateFeerate) -> UpdateFee:
    return UpdateFee(channel_id=channel.channel_id, feerate_per_kw=update.feerate_per_kw)


@dataclass(frozen=True, slots=True)
class _Room:
    """Both commitments as they will be with what we have sent."""

    local: Tally
    remote: Tally

    @classmethod
    def of(cls, channel: Channel, number: int) -> "_Room":
        local = Tally.of(channel, prospective_local_spec(channel))
        return cls(local, Tally.of(channel, remote_spec(channel, number)))

    def with_offered(self, amount_msat: int) -> "_Room":
        return _Room(self.local.with_offered(amount_msat), self.remote.with_offered(amount_msat))


def _limit_refusal(limits: OfferLimits, after: Tally) -> str:
    """Say which limit, the peer's or our own, one more HTLC of ours would break."""
    if after.offered_count > limits.htlcs:
        return (
            f"{limits.htlcs} HTLCs of ours are pending: the peer's max_accepted_htlcs"
            " or our max_offered_htlcs is reached"
        )
    if after.offered_msat > limits.value_msat:
        return (
            f"{after.offered_msat} msat would be in flight, the peer's"
            f" max_htlc_value_in_flight_msat or our max_offered_in_flight_ratio allows"
            f" {limits.value_msat}"
        )
    return ""


def _expiry_refusal(channel: Channel, update: OfferHtlc) -> str:
    if update.cltv_expiry >= channel.height + LEAST_BLOCKS:
        return ""
    return f"it expires at {update.cltv_expiry}, the height is {channel.height}"


def _room_refusal(channel: Channel, before: _Room, after: _Room, amount_msat: int) -> str:
    """Say why one more HTLC of ours does not fit; empty if it does."""
    for was, now in ((before.remote, after.remote), (before.local, after.local)):
        why = _balance_refusal(channel, was, now) or _dust_refusal(channel, now, amount_msat)
        if why:
            return why
    return ""


def _balance_refusal(channel: Channel, before: Tally, after: Tally) -> str:
    ours_msat = remote_party(channel).channel_reserve_satoshis * 1000
    theirs_msat = channel.parameters.local.channel_reserve_satoshis * 1000
    cost_msat = after.opener_cost_msat()
    if after.is_opener:
        # BOLT 2's fee spike buffer, so that the channel does not get stuck when fees rise.
        cost_msat = max(cost_msat, after.opener_cost_msat(spike=True))
        left_msat = after.local_msat - cost_msat
    else:
        left_msat = after.local_msat
    if left_msat < ours_msat:
        return f"{left_msat} msat would be left, the reserve is {ours_msat} msat"
    if not after.is_opener:
        # An opener that is below its reserve anyway only has to pay the fee.
        had_msat = before.remote_msat - before.opener_cost_msat()
        least_msat = theirs_msat if had_msat >= theirs_msat else 0
        if after.remote_msat - cost_msat < least_msat:
            return "the peer, who opened the channel, could not pay the commitment's fee"
    return ""


def _dust_refusal(channel: Channel, after: Tally, amount_msat: int) -> str:
    most = channel.policy.max_dust_exposure_msat
    if after.dust_msat <= most or not after.is_trimmed(amount_msat, offered=True):
        return ""
    return f"{after.dust_msat} msat would be in HTLCs without an output, {most} may"
