"""Adding and removing HTLCs (BOLT 2 § Adding an HTLC, § Removing an HTLC).

Our own adds wait in ``Channel.queue``, our own removals as ``Htlc.resolution``; :func:`outgoing`
makes messages of them when a signature may go with them, and decides there whether an add has room.
Received updates change the state of their HTLC at once and are signed for in :mod:`.commitments`.

Where a received add could go against a limit, we hold against the peer only what BOLT 2 says, at
the moment of the update: our own HTLCs that it had not acknowledged then are no fault of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType

from back.channel import fees
from back.channel.effects import (
    Effect,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    OfferRefused,
)
from back.channel.events import (
    FailHtlc,
    FailMalformedHtlc,
    FulfillHtlc,
    OfferHtlc,
    UpdateFeerate,
)
from back.channel.model import (
    Channel,
    Failed,
    FeeState,
    FeeUpdate,
    Fulfilled,
    Htlc,
    HtlcKey,
    HtlcState,
    Link,
    Malformed,
    Phase,
    Resolution,
)
from back.channel.policy import MAX_ACCEPTED_HTLCS
from back.channel.rules import Step, legal
from back.channel.spec import (
    Tally,
    local_spec,
    next_local_spec,
    prospective_local_spec,
    remote_party,
    remote_spec,
)
from shared.errors import CommandError, ProtocolViolation
from shared.wire import (
    Message,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)

__all__ = [
    "Outgoing",
    "fail",
    "fail_malformed",
    "forget_uncommitted",
    "fulfill",
    "may_offer",
    "offer",
    "outgoing",
    "overdue",
    "received",
    "refuse_all",
    "resume",
]

ADD = "BOLT 2 § update_add_htlc"
FULFILL = "BOLT 2 § update_fulfill_htlc"
FAIL = "BOLT 2 § update_fail_htlc"
FAIL_MALFORMED = "BOLT 2 § update_fail_malformed_htlc"

MIN_CLTV_SECONDS = 500_000_000
"""From here on a cltv_expiry would be a time, not a height."""
BADONION = 0x8000

OFFERED_GRACE_BLOCKS = 2
"""After the cltv_expiry of an HTLC of ours; then the channel fails (BOLT 2)."""
FULFILLED_MARGIN_BLOCKS = 18
"""Before the cltv_expiry of one that we fulfilled: room to claim it on chain."""

UPDATING = (Phase.NORMAL, Phase.SHUTDOWN)

S = HtlcState


def _with(channel: Channel, *changed: Htlc) -> Channel:
    htlcs = {**channel.htlcs, **{htlc.key: htlc for htlc in changed}}
    return replace(channel, htlcs=MappingProxyType(htlcs))


# --- commands -------------------------------------------------------------------------------------


def may_offer(channel: Channel) -> bool:
    """Whether HTLCs may be added at all now."""
    return not _no_offer(channel)


def _no_offer(channel: Channel) -> str:
    if channel.phase is not Phase.NORMAL:
        return f"the channel is {channel.phase.value}"
    if channel.link is not Link.ONLINE:
        return f"the channel is {channel.link.value}"
    if channel.local_shutdown_script is not None or channel.remote_shutdown_script is not None:
        return "the channel is about to close"
    return ""


def offer(channel: Channel, event: OfferHtlc) -> Step:
    """Queue an HTLC; refused by the effect OfferRefused, now or when it would have to be signed."""
    why = _no_offer(channel)
    if not why and event.amount_msat < max(1, remote_party(channel).htlc_minimum_msat):
        least = remote_party(channel).htlc_minimum_msat
        why = f"{event.amount_msat} msat is below the peer's htlc_minimum_msat {least}"
    if not why and event.cltv_expiry >= MIN_CLTV_SECONDS:
        why = f"cltv_expiry {event.cltv_expiry} is not a height"
    if not why and len(channel.queue) >= MAX_ACCEPTED_HTLCS:
        why = f"{len(channel.queue)} updates wait already"
    if why:
        return Step(channel, (OfferRefused(event.origin, why),))
    return Step(replace(channel, queue=(*channel.queue, event)))


def refuse_all(channel: Channel, why: str = "") -> Step:
    """Empty the queue: nothing in it can go out any more."""
    why = why or _no_offer(channel)
    effects = tuple(
        OfferRefused(update.origin, why)
        for update in channel.queue
        if isinstance(update, OfferHtlc)
    )
    return Step(replace(channel, queue=()), effects)


def fulfill(channel: Channel, event: FulfillHtlc) -> Step:
    """Decide that a received HTLC is paid.

    Raises:
        CommandError: not this preimage, or the HTLC is not irrevocably committed yet.
    """
    htlc = _undecided(channel, event.id)
    if htlc is None:
        return Step(channel)
    if sha256(event.payment_preimage).digest() != htlc.payment_hash:
        raise CommandError(f"the preimage is not that of HTLC {event.id}")
    return _decided(channel, htlc, Fulfilled(event.payment_preimage))


def fail(channel: Channel, event: FailHtlc) -> Step:
    """Decide that a received HTLC fails.

    Raises:
        CommandError: the HTLC is not irrevocably committed yet.
    """
    htlc = _undecided(channel, event.id)
    return Step(channel) if htlc is None else _decided(channel, htlc, Failed(event.reason))


def fail_malformed(channel: Channel, event: FailMalformedHtlc) -> Step:
    """Decide that a received HTLC's onion cannot be read.

    Raises:
        CommandError: the code lacks BADONION, or the HTLC is not irrevocably committed yet.
    """
    if not event.failure_code & BADONION:
        raise CommandError(f"failure_code {event.failure_code:#06x} lacks BADONION")
    htlc = _undecided(channel, event.id)
    if htlc is None:
        return Step(channel)
    return _decided(channel, htlc, Malformed(event.sha256_of_onion, event.failure_code))


def _undecided(channel: Channel, htlc_id: int) -> Htlc | None:
    """The received HTLC; None if it is resolved or gone already."""
    htlc = channel.htlcs.get((False, htlc_id))
    if htlc is None:
        if htlc_id >= channel.next_remote_htlc_id:
            raise CommandError(f"there is no received HTLC {htlc_id}")
        return None
    if htlc.resolution is not None:
        return None
    if htlc.state is not S.RCVD_ADD_ACK_REVOCATION:
        raise CommandError(f"HTLC {htlc_id} is not irrevocably committed yet")
    return htlc


def _decided(channel: Channel, htlc: Htlc, resolution: Resolution) -> Step:
    return Step(_with(channel, replace(htlc, resolution=resolution, onion_routing_packet=b"")))


# --- our updates leave ---------------------------------------------------------------------------


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


def outgoing(channel: Channel, number: int) -> Outgoing:
    """Turn what waits into messages for remote commitment ``number``; refuse what has no room."""
    removed = _removals(channel, number)
    if not channel.queue:
        return removed
    channel = replace(removed.channel, queue=())
    messages, effects = list(removed.messages), list(removed.effects)
    room = _Room.of(channel, number)
    added: list[Htlc] = []
    next_id = channel.next_local_htlc_id
    for update in removed.channel.queue:
        if isinstance(update, UpdateFeerate):
            if not fees.refusal(_with(channel, *added), update.feerate_per_kw):
                channel = _with_feerate(channel, update)
                room = _Room.of(_with(channel, *added), number)
                messages.append(_update_fee(channel, update))
            continue
        after = room.with_offered(update.amount_msat)
        if why := _room_refusal(channel, room, after, update.amount_msat):
            effects.append(OfferRefused(update.origin, why))
            continue
        room = after
        htlc = _offered(update, next_id, number)
        next_id += 1
        added.append(htlc)
        messages.append(_update_add_htlc(channel, htlc, update))
        effects.append(HtlcOffered(htlc))
    channel = replace(_with(channel, *added), next_local_htlc_id=next_id)
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
    return Outgoing(_with(channel, *removed), messages, ())


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


def _room_refusal(channel: Channel, before: _Room, after: _Room, amount_msat: int) -> str:
    """Say why one more HTLC of ours does not fit; empty if it does."""
    party = remote_party(channel)
    if after.remote.offered_count > min(party.max_accepted_htlcs, MAX_ACCEPTED_HTLCS):
        return f"the peer's max_accepted_htlcs {party.max_accepted_htlcs} is reached"
    if after.remote.offered_msat > party.max_htlc_value_in_flight_msat:
        return (
            f"{after.remote.offered_msat} msat would be in flight, the peer's"
            f" max_htlc_value_in_flight_msat is {party.max_htlc_value_in_flight_msat}"
        )
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


# --- updates of the peer ------------------------------------------------------------------------


@legal(UPDATING, UpdateAddHtlc)
def update_add_htlc(channel: Channel, message: UpdateAddHtlc) -> Step:
    """The peer adds an HTLC."""
    if channel.remote_shutdown_script is not None:
        raise ProtocolViolation("update_add_htlc after shutdown", bolt=ADD)
    if message.id != channel.next_remote_htlc_id:
        raise ProtocolViolation(
            f"id {message.id} where {channel.next_remote_htlc_id} is next", bolt=ADD
        )
    if why := _add_refusal(channel, message):
        raise ProtocolViolation(why, bolt=ADD)
    htlc = Htlc(
        offered=False,
        id=message.id,
        amount_msat=message.amount_msat,
        payment_hash=message.payment_hash,
        cltv_expiry=message.cltv_expiry,
        state=S.RCVD_ADD_HTLC,
        onion_routing_packet=message.onion_routing_packet,
        path_key=message.path_key,
    )
    return Step(replace(_with(channel, htlc), next_remote_htlc_id=message.id + 1))


def _add_refusal(channel: Channel, message: UpdateAddHtlc) -> str:
    local = channel.parameters.local
    amount = message.amount_msat
    if amount < max(1, local.htlc_minimum_msat):
        return f"amount_msat {amount} is below {max(1, local.htlc_minimum_msat)}"
    if message.cltv_expiry >= MIN_CLTV_SECONDS:
        return f"cltv_expiry {message.cltv_expiry} is not a height"
    tally = Tally.of(channel, next_local_spec(channel)).with_received(amount)
    if tally.received_count > local.max_accepted_htlcs:
        return f"more than max_accepted_htlcs {local.max_accepted_htlcs}"
    if tally.received_msat > local.max_htlc_value_in_flight_msat:
        return (
            f"{tally.received_msat} msat are more than max_htlc_value_in_flight_msat"
            f" {local.max_htlc_value_in_flight_msat}"
        )
    cost_msat = 0 if tally.is_opener else tally.opener_cost_msat()
    needed_msat = cost_msat + local.channel_reserve_satoshis * 1000
    if tally.remote_msat < needed_msat:
        return f"{tally.remote_msat} msat would be left, fee and reserve are {needed_msat} msat"
    return ""


def _removable(channel: Channel, htlc_id: int, bolt: str) -> Htlc:
    htlc = channel.htlcs.get((True, htlc_id))
    if htlc is None or htlc.state is not S.SENT_ADD_ACK_REVOCATION:
        raise ProtocolViolation(f"HTLC {htlc_id} is not there to be removed", bolt=bolt)
    return htlc


@legal(UPDATING, UpdateFulfillHtlc)
def update_fulfill_htlc(channel: Channel, message: UpdateFulfillHtlc) -> Step:
    """The peer shows the preimage: ours at once, whatever becomes of the update."""
    htlc = _removable(channel, message.id, FULFILL)
    preimage = message.payment_preimage
    if sha256(preimage).digest() != htlc.payment_hash:
        raise ProtocolViolation(f"payment_preimage is not that of HTLC {htlc.id}", bolt=FULFILL)
    paid = replace(htlc, state=S.RCVD_REMOVE_HTLC, resolution=Fulfilled(preimage))
    effects = () if htlc.resolution is not None else (HtlcFulfilled(paid, preimage),)
    return Step(_with(channel, paid), effects)


@legal(UPDATING, UpdateFailHtlc)
def update_fail_htlc(channel: Channel, message: UpdateFailHtlc) -> Step:
    """The peer fails an HTLC of ours; told as HtlcFailed when that is irrevocable."""
    return _failed(channel, message.id, Failed(message.reason), FAIL)


@legal(UPDATING, UpdateFailMalformedHtlc)
def update_fail_malformed_htlc(channel: Channel, message: UpdateFailMalformedHtlc) -> Step:
    """The peer could not read the onion of an HTLC of ours."""
    if not message.failure_code & BADONION:
        raise ProtocolViolation(
            f"failure_code {message.failure_code:#06x} lacks BADONION", bolt=FAIL_MALFORMED
        )
    resolution = Malformed(message.sha256_of_onion, message.failure_code)
    return _failed(channel, message.id, resolution, FAIL_MALFORMED)


def _failed(channel: Channel, htlc_id: int, resolution: Resolution, bolt: str) -> Step:
    htlc = _removable(channel, htlc_id, bolt)
    if htlc.resolution is not None:
        raise ProtocolViolation(f"HTLC {htlc_id} fails after its preimage was shown", bolt=bolt)
    return Step(_with(channel, replace(htlc, state=S.RCVD_REMOVE_HTLC, resolution=resolution)))


# --- received HTLCs are to be decided ------------------------------------------------------------


def received(channel: Channel, htlcs: Iterable[Htlc]) -> tuple[Effect, ...]:
    """Ask for decisions on irrevocably committed HTLCs, and say which of them are too much dust."""
    undecided = tuple(htlcs)
    if not undecided:
        return ()
    tallies = (
        Tally.of(channel, local_spec(channel)),
        Tally.of(channel, remote_spec(channel)),
    )
    most = channel.policy.max_dust_exposure_msat
    full = tuple(tally for tally in tallies if tally.dust_msat > most)
    return tuple(
        HtlcReceived(
            htlc,
            exceeds_dust_exposure=any(
                tally.is_trimmed(htlc.amount_msat, offered=False) for tally in full
            ),
        )
        for htlc in undecided
    )


def resume(channel: Channel) -> tuple[Effect, ...]:
    """What a start must tell again: HTLCs without a decision, preimages of our own."""
    undecided = tuple(
        htlc
        for htlc in channel.htlcs.values()
        if htlc.state is S.RCVD_ADD_ACK_REVOCATION and htlc.resolution is None
    )
    preimages = tuple(
        HtlcFulfilled(htlc, htlc.resolution.payment_preimage)
        for htlc in channel.htlcs.values()
        if htlc.offered and isinstance(htlc.resolution, Fulfilled)
    )
    return (*preimages, *received(channel, undecided))


# --- time and disconnections ---------------------------------------------------------------------


def overdue(channel: Channel) -> str:
    """Say which HTLC makes the channel fail at its present height; empty if none (BOLT 2).

    One that we offered and that the peer has paid for is no risk of ours.
    """
    if channel.phase not in UPDATING:
        return ""
    for htlc in channel.htlcs.values():
        is_paid = isinstance(htlc.resolution, Fulfilled)
        grace = OFFERED_GRACE_BLOCKS if htlc.offered else -FULFILLED_MARGIN_BLOCKS
        if htlc.offered is not is_paid and channel.height >= htlc.cltv_expiry + grace:
            whose = "our" if htlc.offered else "the peer's (paid)"
            return f"{whose} HTLC {htlc.id} with cltv_expiry {htlc.cltv_expiry} is overdue"
    return ""


def forget_uncommitted(channel: Channel) -> Channel:
    """Take back the peer's updates that it did not sign (BOLT 2 § Message Retransmission).

    A preimage that it showed stays known.
    """
    kept: dict[HtlcKey, Htlc] = {}
    next_id = channel.next_remote_htlc_id
    has_changed = False
    for key, htlc in channel.htlcs.items():
        if htlc.state is S.RCVD_ADD_HTLC:
            next_id = min(next_id, htlc.id)
            has_changed = True
        elif htlc.state is S.RCVD_REMOVE_HTLC:
            shown = htlc.resolution if isinstance(htlc.resolution, Fulfilled) else None
            kept[key] = replace(htlc, state=S.SENT_ADD_ACK_REVOCATION, resolution=shown)
            has_changed = True
        else:
            kept[key] = htlc
    unproposed = tuple(fee for fee in channel.fees if fee.state is not FeeState.PROPOSED)
    if not has_changed and len(unproposed) == len(channel.fees):
        return channel
    return replace(
        channel,
        htlcs=MappingProxyType(kept) if has_changed else channel.htlcs,
        next_remote_htlc_id=next_id,
        fees=unproposed,
    )
