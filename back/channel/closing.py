"""Cooperative close (BOLT 2 § Channel Close): shutdown, then closing_signed with fee_range.

The fee logic is a pure function of what was sent and received (:func:`answer_fee`); negotiation
starts anew at each connection. The funder pays.
"""

from dataclasses import dataclass, replace

from back.channel import commitments
from back.channel.effects import Effect, Send, SignClosing
from back.channel.events import Close
from back.channel.model import Channel, ClosingNegotiation, Phase
from back.channel.policy import MIN_FEERATE_PER_KW
from back.channel.rules import Step, legal, moved
from back.transactions.closing import (
    ClosingTransaction,
    build_closing,
    closing_variants,
    closing_weight,
    is_closing_signature_valid,
)
from back.transactions.scripts import is_standard_shutdown_script
from shared.errors import Action, CommandError, ProtocolViolation
from shared.features import Feature
from shared.wire import ClosingSigned, Shutdown

__all__ = ["close", "negotiate_if_due", "shutdown_message"]

SHUTDOWN = "BOLT 2 § shutdown"
CLOSING = "BOLT 2 § closing_signed"
MAXIMUM_OVER_PREFERRED = 2
"""The most a funder pays, as a multiple of what it prefers, where the operator set no range."""

OPEN_PHASES = (
    Phase.WAIT_FOR_FUNDING_CONFIRMED,
    Phase.WAIT_FOR_CHANNEL_READY,
    Phase.NORMAL,
    Phase.SHUTDOWN,
)


# --- shutdown ---------------------------------------------------------------------------------


def close(channel: Channel, event: Close) -> Step:
    """The operator asks for a cooperative close.

    Raises:
        CommandError: not now, or not to this script.
    """
    if channel.phase not in (*OPEN_PHASES, Phase.NEGOTIATING):
        raise CommandError(f"cannot close while {channel.phase.value}")
    if event.feerate_range_per_kw is not None:
        low, preferred, high = event.feerate_range_per_kw
        if not MIN_FEERATE_PER_KW <= low <= preferred <= high:
            raise CommandError(
                f"feerates {low}, {preferred}, {high} are not {MIN_FEERATE_PER_KW} or more, rising"
            )
    if channel.local_shutdown_script is not None:
        if event.feerate_range_per_kw is None:
            raise CommandError("cannot close twice: it is already under way")
        # Where fees are being negotiated, it counts from the next connection on.
        return Step(replace(channel, closing_feerate_range_per_kw=event.feerate_range_per_kw))
    promised = channel.parameters.local.upfront_shutdown_script
    if promised and event.script != promised:
        raise CommandError("upfront_shutdown_script promised another script")
    if not is_standard_shutdown_script(event.script, anysegwit=True):
        raise CommandError("the script has a form that BOLT 2 does not allow for a shutdown")
    channel = replace(
        channel,
        local_shutdown_script=event.script,
        closing_feerate_range_per_kw=event.feerate_range_per_kw,
    )
    return shutdown_if_due(channel)


def shutdown_if_due(channel: Channel) -> Step:
    """Send our shutdown once it may go: connected, and no update of ours waits for a revocation.

    BOLT 2: MUST NOT send a shutdown while updates are pending on the receiver's commitment.
    """
    if (
        channel.local_shutdown_script is None
        or channel.is_shutdown_sent
        or not commitments.is_online(channel)
        or commitments.has_pending_remote_updates(channel)
    ):
        return Step(channel)
    channel = replace(channel, is_shutdown_sent=True)
    return _both_out(channel, (Send(shutdown_message(channel)),))


def shutdown_message(channel: Channel) -> Shutdown:
    """Our shutdown; the same at each retransmission."""
    assert channel.local_shutdown_script is not None  # noqa: S101 - set before it is sent
    return Shutdown(channel_id=channel.channel_id, scriptpubkey=channel.local_shutdown_script)


@legal((*OPEN_PHASES, Phase.NEGOTIATING), Shutdown)
def shutdown(channel: Channel, message: Shutdown) -> Step:
    """The peer wants to close; answer with ours."""
    script = message.scriptpubkey
    anysegwit = Feature.option_shutdown_anysegwit in channel.features
    if not is_standard_shutdown_script(script, anysegwit=anysegwit):
        raise ProtocolViolation(
            f"scriptpubkey {script.hex()} has a form that is not allowed",
            bolt=SHUTDOWN,
            action=Action.WARN,
        )
    remote = channel.parameters.remote
    promised = remote.upfront_shutdown_script if remote else b""
    if promised and script != promised:
        raise ProtocolViolation("scriptpubkey differs from upfront_shutdown_script", bolt=SHUTDOWN)
    if channel.remote_shutdown_script not in {None, script}:
        raise ProtocolViolation("scriptpubkey differs from the one before", bolt=SHUTDOWN)
    if commitments.has_uncommitted_remote_adds(channel):
        raise ProtocolViolation("shutdown with updates that are not signed", bolt=SHUTDOWN)
    channel = replace(channel, remote_shutdown_script=script)
    if channel.local_shutdown_script is None:
        ours = (
            channel.parameters.local.upfront_shutdown_script
            or channel.parameters.default_shutdown_script
        )
        channel = replace(channel, local_shutdown_script=ours)
    step = shutdown_if_due(channel)
    if step.channel.is_shutdown_sent and not step.effects:
        return _both_out(step.channel, ())
    return step


def _both_out(channel: Channel, effects: tuple[Effect, ...]) -> Step:
    """Enter SHUTDOWN when both shutdowns are out."""
    if channel.remote_shutdown_script is None or channel.phase in {
        Phase.SHUTDOWN,
        Phase.NEGOTIATING,
    }:
        return Step(channel, effects)
    step = moved(channel, Phase.SHUTDOWN)
    return Step(step.channel, (*effects, *step.effects))


# --- closing_signed ---------------------------------------------------------------------------


def negotiate_if_due(channel: Channel) -> Step:
    """Enter NEGOTIATING once both commitments are empty and clean; the funder speaks first."""
    if (
        channel.phase is not Phase.SHUTDOWN
        or not channel.is_shutdown_sent
        or channel.remote_shutdown_script is None
        or not commitments.is_online(channel)
        or not commitments.is_empty_and_clean(channel)
    ):
        return Step(channel)
    step = moved(replace(channel, closing=ClosingNegotiation()), Phase.NEGOTIATING)
    begun = begin(step.channel)
    return Step(begun.channel, (*step.effects, *begun.effects))


def begin(channel: Channel) -> Step:
    """Make the first offer of a connection, if that is ours to make."""
    if channel.phase is not Phase.NEGOTIATING or not channel.parameters.is_opener:
        return Step(channel)
    fees = our_fees(channel)
    return _offer(channel, fees.preferred_sat, fees)


@dataclass(frozen=True, slots=True)
class ClosingFees:
    """What we would pay (funder) or accept (fundee) for the closing transaction."""

    minimum_sat: int
    preferred_sat: int
    maximum_sat: int


def our_fees(channel: Channel) -> ClosingFees:
    """Derive our fee range from the operator's feerates or the present estimate.

    Never more than the payer has; where the other side has no output, less what keeps one of the
    payer's: a transaction needs one. A fundee pays nothing and only wants it to be relayed.
    """
    local, remote = channel.local_shutdown_script, channel.remote_shutdown_script
    assert local is not None  # noqa: S101 - both are set in NEGOTIATING
    assert remote is not None  # noqa: S101
    weight = closing_weight(local, remote)
    if channel.closing_feerate_range_per_kw is not None:
        low, preferred, high = channel.closing_feerate_range_per_kw
    else:
        preferred = max(channel.feerate_per_kw, MIN_FEERATE_PER_KW)
        low, high = MIN_FEERATE_PER_KW, preferred * MAXIMUM_OVER_PREFERRED
    most = _payable_sat(channel)
    return ClosingFees(*(min(rate * weight // 1000, most) for rate in (low, preferred, high)))


def _payable_sat(channel: Channel) -> int:
    balances = channel.local_msat // 1000, channel.remote_msat // 1000
    payer_sat, other_sat = balances if channel.parameters.is_opener else reversed(balances)
    dust_limit = channel.parameters.local.dust_limit_satoshis
    return payer_sat if other_sat >= dust_limit else max(0, payer_sat - dust_limit)


@dataclass(frozen=True, slots=True)
class FeeAnswer:
    """What to do with a received closing_signed.

    Attributes:
        fee_satoshis: the fee that we sign.
        is_agreed: it is the received one: the transaction is final.
        is_sent: whether our closing_signed goes out (not where we had sent that very fee).
    """

    fee_satoshis: int
    is_agreed: bool
    is_sent: bool


def answer_fee(
    message: ClosingSigned, negotiation: ClosingNegotiation, fees: ClosingFees, *, is_opener: bool
) -> FeeAnswer:
    """Decide on a received fee, as BOLT 2's list of the receiving node goes.

    Raises:
        ProtocolViolation: WARN where the ranges do not meet, FAIL_CHANNEL where BOLT 2 leaves no
            choice, else DISCONNECT.
    """
    theirs = message.fee_satoshis
    last = negotiation.last_sent_fee_satoshis
    if theirs == last:
        return FeeAnswer(theirs, is_agreed=True, is_sent=False)
    if last is not None and fees.minimum_sat <= theirs <= fees.maximum_sat:
        return FeeAnswer(theirs, is_agreed=True, is_sent=True)
    if message.fee_range is not None:
        return _answer_range(message, last, fees, is_opener=is_opener)
    return _answer_without_range(theirs, negotiation, fees)


def _answer_range(
    message: ClosingSigned, last: int | None, fees: ClosingFees, *, is_opener: bool
) -> FeeAnswer:
    theirs, span = message.fee_satoshis, message.fee_range
    assert span is not None  # noqa: S101 - the caller saw to it
    # A fundee's maximum is the funder's business (BOLT 2: at least the one received).
    ceiling = fees.maximum_sat if is_opener else max(fees.maximum_sat, span.max_fee_satoshis)
    low, high = max(fees.minimum_sat, span.min_fee_satoshis), min(ceiling, span.max_fee_satoshis)
    if low > high:
        raise ProtocolViolation(
            f"fee_range {span.min_fee_satoshis}..{span.max_fee_satoshis} does not meet ours,"
            f" {fees.minimum_sat}..{ceiling}",
            bolt=CLOSING,
            action=Action.WARN,
        )
    if is_opener:
        if not low <= theirs <= high:
            raise ProtocolViolation(
                f"fee_satoshis {theirs} is not in {low}..{high}, where both ranges meet",
                bolt=CLOSING,
                action=Action.FAIL_CHANNEL,
            )
        return FeeAnswer(theirs, is_agreed=True, is_sent=True)
    if last is not None:
        raise ProtocolViolation(
            f"fee_satoshis {theirs} is not our {last}", bolt=CLOSING, action=Action.FAIL_CHANNEL
        )
    chosen = theirs if low <= theirs <= high else min(max(fees.preferred_sat, low), high)
    return FeeAnswer(chosen, is_agreed=chosen == theirs, is_sent=True)


def _answer_without_range(
    theirs: int, negotiation: ClosingNegotiation, fees: ClosingFees
) -> FeeAnswer:
    """An old peer: meet in the middle, strictly between (BOLT 2)."""
    last, before = negotiation.last_sent_fee_satoshis, negotiation.last_received_fee_satoshis
    if fees.minimum_sat <= theirs <= fees.maximum_sat:
        return FeeAnswer(theirs, is_agreed=True, is_sent=True)
    if last is None:
        return FeeAnswer(fees.preferred_sat, is_agreed=False, is_sent=True)
    if before is not None and not min(last, before) < theirs < max(last, before):
        raise ProtocolViolation(
            f"fee_satoshis {theirs} is not strictly between {last} and {before}", bolt=CLOSING
        )
    middle = (last + theirs) // 2
    clamped = min(max(middle, fees.minimum_sat), fees.maximum_sat)
    if not min(last, theirs) < clamped < max(last, theirs):
        raise ProtocolViolation(
            f"no fee between {last} and {theirs} is in {fees.minimum_sat}..{fees.maximum_sat}",
            bolt=CLOSING,
        )
    return FeeAnswer(clamped, is_agreed=False, is_sent=True)


@legal((Phase.NEGOTIATING,), ClosingSigned)
def closing_signed(channel: Channel, message: ClosingSigned) -> Step:
    """The peer offers a fee and its signature."""
    closing = _signed_by_peer(channel, message)
    fees = our_fees(channel)
    negotiation = channel.closing or ClosingNegotiation()
    answer = answer_fee(message, negotiation, fees, is_opener=channel.parameters.is_opener)
    channel = replace(
        channel,
        closing=replace(negotiation, last_received_fee_satoshis=message.fee_satoshis),
    )
    if not answer.is_agreed:
        return _offer(channel, answer.fee_satoshis, fees)
    request = SignClosing(
        closing,
        answer.fee_satoshis,
        is_sent=answer.is_sent,
        fee_range_satoshis=(fees.minimum_sat, fees.maximum_sat),
        remote_signature=message.signature,
    )
    step = moved(_remember(channel, answer.fee_satoshis), Phase.CLOSING)
    return Step(step.channel, (*step.effects, request))


def _signed_by_peer(channel: Channel, message: ClosingSigned) -> ClosingTransaction:
    """Find what the peer signed: it may leave its own output out (BOLT 3)."""
    remote = channel.parameters.remote
    assert remote is not None  # noqa: S101 - set since accept_channel
    for closing in closing_variants(transaction(channel, message.fee_satoshis)):
        if is_closing_signature_valid(closing, remote.funding_pubkey, message.signature):
            return closing
    raise ProtocolViolation("signature of the closing transaction is not valid", bolt=CLOSING)


@legal((Phase.CLOSING,), ClosingSigned)
def closing_signed_again(channel: Channel, _message: ClosingSigned) -> Step:
    """The peer repeats the fee on which both agreed: it is published already."""
    return Step(channel)


def _offer(channel: Channel, fee_satoshis: int, fees: ClosingFees) -> Step:
    request = SignClosing(
        transaction(channel, fee_satoshis),
        fee_satoshis,
        is_sent=True,
        fee_range_satoshis=(fees.minimum_sat, fees.maximum_sat),
    )
    return Step(_remember(channel, fee_satoshis), (request,))


def _remember(channel: Channel, fee_satoshis: int) -> Channel:
    negotiation = channel.closing or ClosingNegotiation()
    return replace(
        channel,
        closing=replace(
            negotiation,
            last_sent_fee_satoshis=fee_satoshis,
            # Every connection starts anew, often with the same fee.
            sent_fees_satoshis=tuple(
                dict.fromkeys((*negotiation.sent_fees_satoshis, fee_satoshis))
            ),
        ),
    )


def transaction(channel: Channel, fee_satoshis: int) -> ClosingTransaction:
    """Build the closing transaction for a fee (BOLT 3 § Closing Transaction).

    Raises:
        ProtocolViolation: the funder cannot pay that fee, or what is left is dust for its script:
            then BOLT 2 has the channel fail.
    """
    parameters, funding, remote = (
        channel.parameters,
        channel.funding,
        channel.parameters.remote,
    )
    assert funding is not None  # noqa: S101 - both are set since funding_created
    assert remote is not None  # noqa: S101
    assert channel.local_shutdown_script is not None  # noqa: S101 - set in NEGOTIATING
    assert channel.remote_shutdown_script is not None  # noqa: S101
    payer_sat = (channel.local_msat if parameters.is_opener else channel.remote_msat) // 1000
    if fee_satoshis > payer_sat:
        raise ProtocolViolation(
            f"fee_satoshis {fee_satoshis} is above the funder's {payer_sat} sat", bolt=CLOSING
        )
    closing = build_closing(
        funding_outpoint=funding.outpoint,
        funding_satoshis=parameters.funding_satoshis,
        local_funding_pubkey=parameters.local.funding_pubkey,
        remote_funding_pubkey=remote.funding_pubkey,
        local_script=channel.local_shutdown_script,
        remote_script=channel.remote_shutdown_script,
        local_sat=channel.local_msat // 1000,
        remote_sat=channel.remote_msat // 1000,
        fee_satoshis=fee_satoshis,
        is_local_payer=parameters.is_opener,
        dust_limit_satoshis=parameters.local.dust_limit_satoshis,
    )
    if not closing.is_relayable:
        raise ProtocolViolation(
            f"with a fee of {fee_satoshis} sat an output would be dust, or none would be left",
            bolt=CLOSING,
            action=Action.FAIL_CHANNEL,
        )
    return closing


def reconnected(channel: Channel) -> Step:
    """After a reestablish: shutdown again, and a negotiation that starts anew (BOLT 2)."""
    if channel.phase is Phase.NEGOTIATING:
        return begin(replace(channel, closing=_restarted(channel.closing)))
    return shutdown_if_due(channel)


def _restarted(negotiation: ClosingNegotiation | None) -> ClosingNegotiation:
    if negotiation is None:
        return ClosingNegotiation()
    return ClosingNegotiation(
        sent_fees_satoshis=negotiation.sent_fees_satoshis, since_height=negotiation.since_height
    )
