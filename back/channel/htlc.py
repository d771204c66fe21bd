"""Adding and removing HTLCs (BOLT 2 § Adding an HTLC, § Removing an HTLC).

Our own adds wait in ``Channel.queue``, our own removals as ``Htlc.resolution``; :mod:`.outgoing`
makes messages of them when a signature may go with them.
Received updates change the state of their HTLC at once and are signed for in :mod:`.commitments`.

Where a received add could go against a limit, we hold against the peer only what BOLT 2 says, at
the moment of the update: our own HTLCs that it had not acknowledged then are no fault of its own.
"""

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType

from back.channel.effects import (
    Effect,
    HtlcFulfilled,
    HtlcReceived,
    OfferRefused,
)
from back.channel.events import (
    FailHtlc,
    FailMalformedHtlc,
    FulfillHtlc,
    OfferHtlc,
)
from back.channel.model import (
    Channel,
    Failed,
    FeeState,
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
    remote_party,
    remote_spec,
)
from shared.errors import CommandError, ProtocolViolation
from shared.wire import (
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFulfillHtlc,
)

__all__ = [
    "fail",
    "fail_malformed",
    "forget_uncommitted",
    "fulfill",
    "may_offer",
    "offer",
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
    return Step(channel.with_htlcs(replace(htlc, resolution=resolution, onion_routing_packet=b"")))


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
    return Step(replace(channel.with_htlcs(htlc), next_remote_htlc_id=message.id + 1))


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
    return Step(channel.with_htlcs(paid), effects)


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
    return Step(channel.with_htlcs(replace(htlc, state=S.RCVD_REMOVE_HTLC, resolution=resolution)))


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
