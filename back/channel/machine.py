"""The channel's one entrance: ``apply(channel, event) -> Step``.

The shell does, for all that waits in a channel's inbox::

    events = [machine.prepare(channel, event, answer) for event in inbox]
    step = machine.fill(machine.apply_batch(channel, events), answer)
    (commit step.channel, step.removed and the facts among step.effects; then run the effects)

Rules are in the other files of this package; each enters itself in the table :data:`LEGAL`
({(phase, message): rule}, see :mod:`.rules`) or in :data:`RULES` below ({event: rule}).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from back.channel import (
    announcement,
    closing,
    commitments,
    fees,
    funding,
    htlc,
    onchain,
    opening,
    reestablish,
)
from back.channel.answers import fill
from back.channel.effects import (
    Answer,
    CheckSecret,
    CloseConnection,
    Effect,
    Publish,
    Request,
    SecretCheck,
    Send,
)
from back.channel.events import (
    AbandonOpening,
    BlockConnected,
    Close,
    Connected,
    Disconnected,
    Event,
    FailHtlc,
    FailMalformedHtlc,
    FeerateChanged,
    ForceClose,
    FulfillHtlc,
    FundingConfirmed,
    FundingDeep,
    FundingFailed,
    FundingSpent,
    FundingTransactionMade,
    OfferHtlc,
    Received,
    TransactionConfirmed,
    UpdateFeerate,
)
from back.channel.model import Channel, Link, Phase
from back.channel.rules import LEGAL, MAX_REASON_BYTES, Rule, Step, legal, moved, printable
from shared.errors import Action, CommandError, InvariantError, PeerError, ProtocolViolation
from shared.wire import (
    AcceptChannel,
    ChannelReestablish,
    ClosingSigned,
    Error,
    Message,
    Warning as WarningMessage,
    encode,
)

__all__ = [
    "LEGAL",
    "RULES",
    "Answer",
    "Step",
    "apply",
    "apply_batch",
    "fill",
    "legal",
    "moved",
    "prepare",
    "resume",
]

OVER = frozenset({Phase.CLOSING, Phase.CLOSED, Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT})
"""Phases in which a message without a rule is ignored instead of refused."""

Signer: TypeAlias = Callable[[Request], Answer]


def prepare(channel: Channel, event: Event, answer: Signer) -> Event:
    """Have the signer check what only it can: the secret in a channel_reestablish.

    Raises:
        InvariantError: the signer answered something else.
    """
    del channel
    if not isinstance(event, Received) or not isinstance(event.message, ChannelReestablish):
        return event
    message = event.message
    if message.next_revocation_number == 0:
        return event
    number = message.next_revocation_number - 1
    check = answer(CheckSecret(number, message.your_last_per_commitment_secret))
    if not isinstance(check, SecretCheck):
        raise InvariantError(f"the signer answered a CheckSecret with {type(check).__name__}")
    return replace(event, is_secret_ours=check.is_ours)


def apply(channel: Channel, event: Event) -> Step:
    """Return what becomes of ``channel`` when ``event`` happens.

    Raises:
        PeerError: the peer broke a rule; :func:`apply_batch` does what its action says.
        CommandError: our side asked for something impossible; nothing has changed.
        InvariantError: a bug of ours.
    """
    if isinstance(event, Received):
        return _received(channel, event)
    return RULES[type(event)](channel, event)


def apply_batch(channel: Channel, events: Sequence[Event]) -> Step:
    """Apply ``events`` in turn, then say what is due: a signature, shutdown, closing_signed.

    A PeerError ends in what its action demands, and the events after it meet the state it left; a
    CommandError is reported in ``refusals`` under the event's index. An OfferHtlc is never refused
    that way, but by the effect OfferRefused: it may happen later than its step.
    """
    step = Step(channel)
    for index, event in enumerate(events):
        if isinstance(event, Received) and isinstance(event.message, ClosingSigned):
            # The message before it may be the one that made the commitments empty.
            step = _with_what_is_due(step)
        try:
            step = step.then(lambda now, event=event: apply(now, event))  # type: ignore[misc]
        except PeerError as error:
            step = step.then(lambda now, error=error: _failed(now, error))  # type: ignore[misc]
        except CommandError as error:
            step = replace(step, refusals=(*step.refusals, (index, error)))
    return _with_what_is_due(step)


DUE = (
    announcement.announce_if_due,
    commitments.sign_if_due,
    closing.shutdown_if_due,
    closing.negotiate_if_due,
)


def _with_what_is_due(step: Step) -> Step:
    for rule in DUE:
        try:
            step = step.then(rule)
        except PeerError as error:
            step = step.then(lambda now, error=error: _failed(now, error))  # type: ignore[misc]
    return step


def resume(channel: Channel) -> tuple[Effect, ...]:
    """Return what a start must do again: watches, publications, decisions that are open.

    Holds no request. What a stop took back (uncommitted updates, an unfunded channel) is the
    business of a :class:`events.Disconnected`, which every start applies to each channel that it
    loads.
    """
    if channel.phase is Phase.CLOSED or channel.phase in funding.UNFUNDED:
        return ()
    return (
        *_funding_again(channel),
        *funding.watches(channel),
        *htlc.resume(channel),
        *onchain.resume(channel),
    )


def _funding_again(channel: Channel) -> tuple[Effect, ...]:
    """Opener: the funding transaction may not have left before the stop."""
    funding = channel.funding
    if (
        funding is None
        or not channel.parameters.is_opener
        or funding.confirmed_height is not None
        or funding.spent_by is not None
    ):
        return ()
    return (Publish(funding.transaction, "funding"),)


# --- messages -------------------------------------------------------------------------------------


EARLY = frozenset({"channel_ready", "announcement_signatures", "channel_update"})
"""Messages that some peers send before their channel_reestablish, and that need none."""


def _received(channel: Channel, event: Received) -> Step:
    message = event.message
    if channel.phase is Phase.CLOSED:
        return Step(channel)
    if isinstance(message, Error):
        return _error_received(channel, message)
    if channel.sent_error is not None or channel.link is Link.OFFLINE:
        # BOLT 2 § Message Retransmission: an error state ignores all else. A message of a
        # connection that we ended is none either.
        return Step(channel)
    if isinstance(message, ChannelReestablish):
        return reestablish.channel_reestablish(channel, message, event.is_secret_ours)
    if channel.link is Link.SYNCING and message.NAME not in EARLY:
        raise _illegal(channel, message, "before channel_reestablish")
    if message.NAME not in EARLY:
        commitments.check_batch(channel, message)
    rule = LEGAL.get((channel.phase, type(message)))
    if rule is not None:
        return rule(channel, message)
    if channel.phase in OVER:
        return Step(channel)
    raise _illegal(channel, message, f"in {channel.phase.value}")


def _illegal(channel: Channel, message: Message, when: str) -> ProtocolViolation:
    del channel
    return ProtocolViolation(f"{message.NAME} is not legal {when}", bolt=f"BOLT 2 § {message.NAME}")


def _error_received(channel: Channel, message: Error) -> Step:
    """The peer failed the channel (BOLT 1 § error): so do we."""
    text = message.data[:MAX_REASON_BYTES].decode("utf-8", "backslashreplace")
    reason = f"error of the peer: {text}"
    early = funding.failed_early(channel, reason)
    if early is not None:
        return early
    if _has_nothing_at_stake(channel):
        return funding.forget(channel, reason)
    channel = replace(channel, received_error=encode(message))
    return onchain.publish_local(channel, reason)


def _has_nothing_at_stake(channel: Channel) -> bool:
    """Fundee: the opener gave up, as it does where our funding_signed was lost (BOLT 2)."""
    return (
        channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED
        and not channel.parameters.is_opener
        and channel.local_msat == 0
        and not channel.is_channel_ready_received
    )


@legal((Phase.WAIT_FOR_ACCEPT_CHANNEL,), AcceptChannel)
def _accept_channel(channel: Channel, message: AcceptChannel) -> Step:
    return opening.accept_received(channel, message, channel.policy)


# --- what a broken rule costs --------------------------------------------------------------------


def _failed(channel: Channel, error: PeerError) -> Step:
    reason = printable(str(error)).decode()
    if error.action is Action.WARN:
        warning = WarningMessage(channel_id=channel.channel_id, data=reason.encode())
        return Step(channel, (Send(warning),))
    if error.action is Action.DISCONNECT:
        return Step(channel, (CloseConnection(reason),)).then(
            lambda now: funding.failed_early(now, reason) or reestablish.disconnected(now)
        )
    early = funding.failed_early(channel, reason, tell_peer=True)
    return early or onchain.fail(channel, reason)


# --- events --------------------------------------------------------------------------------------


def _disconnected(channel: Channel, event: Disconnected) -> Step:
    return funding.disconnected(channel, event) or reestablish.disconnected(channel)


def _block_connected(channel: Channel, event: BlockConnected) -> Step:
    step = onchain.block_connected(channel, event)
    reason = htlc.overdue(step.channel)
    return step.then(lambda now: onchain.fail(now, reason)) if reason else step


RULES: dict[type[Event], Rule] = {
    Connected: reestablish.connected,
    Disconnected: _disconnected,
    FundingTransactionMade: funding.funding_made,
    FundingFailed: funding.funding_failed,
    FundingConfirmed: funding.funding_confirmed,
    FundingDeep: funding.funding_deep,
    OfferHtlc: htlc.offer,
    FulfillHtlc: htlc.fulfill,
    FailHtlc: htlc.fail,
    FailMalformedHtlc: htlc.fail_malformed,
    UpdateFeerate: fees.propose,
    FeerateChanged: fees.feerate_changed,
    Close: closing.close,
    ForceClose: onchain.force_close,
    AbandonOpening: funding.abandon,
    BlockConnected: _block_connected,
    FundingSpent: onchain.funding_spent,
    TransactionConfirmed: onchain.transaction_confirmed,
}
"""Every event but a message, and the rule for it."""
