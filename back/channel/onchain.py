"""What the chain tells a channel, and force closes (BOLT 5, as far as it goes without claims).

A force close publishes our commitment; claiming its outputs, and penalties, come with the rest of
BOLT 5. What they will need is stored from the first update: see :class:`model.Htlc`.
"""

from dataclasses import dataclass, replace

from back.channel import closing, commitments, funding
from back.channel.effects import (
    Alarm,
    ChannelForgotten,
    Effect,
    PhaseChanged,
    Publish,
    Send,
    SignLocalCommitment,
    WatchConfirmed,
)
from back.channel.events import (
    BlockConnected,
    ForceClose,
    FundingSpent,
    TransactionConfirmed,
)
from back.channel.model import Channel, Phase
from back.channel.policy import CLOSING_PATIENCE_BLOCKS
from back.channel.rules import Step, error_of, moved
from back.channel.spec import remote_party
from back.transactions.closing import closing_variants
from back.transactions.commitment import commitment_number
from back.transactions.transaction import Transaction, parse_transaction
from shared.errors import CommandError
from shared.wire import encode

__all__ = [
    "block_connected",
    "force_close",
    "funding_spent",
    "is_mutual_close",
    "transaction_confirmed",
]

FINAL_DEPTH = 6
"""Confirmations after which a closing or commitment transaction is taken as final."""

OVER = (Phase.CLOSING, Phase.CLOSED, Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT)


def force_close(channel: Channel, event: ForceClose) -> Step:
    """Publish our commitment and tell the peer.

    Raises:
        CommandError: there is nothing that we may publish.
    """
    if channel.phase is Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT:
        raise CommandError("we lost data: publishing our commitment would lose the balance")
    if channel.phase in OVER:
        raise CommandError(f"the channel is {channel.phase.value} already")
    early = funding.failed_early(channel, event.reason, tell_peer=True)
    return early or fail(channel, event.reason)


def fail(channel: Channel, reason: str) -> Step:
    """Send `error` (stored, repeated from now on) and publish our commitment."""
    error = error_of(channel, reason)
    channel = replace(channel, sent_error=encode(error))
    step = publish_local(channel, reason)
    return Step(step.channel, (Send(error), *step.effects))


def publish_local(channel: Channel, reason: str) -> Step:
    """Have our current commitment signed and published; once only."""
    if channel.phase in OVER or not channel.local_commitment.signature:
        return Step(channel)
    local = channel.local_commitment
    commitment = commitments.local_commitment(channel, local.number, local.current_point)
    request = SignLocalCommitment(commitment, local.number, local.signature)
    step = moved(
        replace(channel, published=(*channel.published, commitment.txid)),
        Phase.CLOSING,
        reason=reason,
    )
    return Step(step.channel, (*step.effects, request))


def funding_spent(channel: Channel, event: FundingSpent) -> Step:
    """The funding output is spent: find out by what, and stop using the channel."""
    if (output := channel.funding) is None:
        return Step(channel)
    transaction = parse_transaction(event.transaction)
    txid = transaction.txid
    watch = _watch(channel, txid, transaction.outputs[0].script_pubkey)
    if output.spent_by == txid:
        # Told again: in a block after the mempool, or after a start, which has lost its watches.
        return Step(channel, (watch,))
    spend = kind_of_spend(channel, transaction)
    if txid not in channel.published:
        channel = replace(channel, published=(*channel.published, txid))
    step = Step(replace(channel, funding=replace(output, spent_by=txid)), (watch,))
    reason = f"the funding output was spent by {spend.name}"
    if spend.is_alarming:
        step = Step(step.channel, (*step.effects, Alarm(channel.channel_id, reason)))
    if channel.phase in {Phase.CLOSING, Phase.CLOSED}:
        return step
    return step.then(lambda now: moved(now, Phase.CLOSING, reason=reason))


@dataclass(frozen=True, slots=True)
class Spend:
    """What spends a funding output.

    Attributes:
        name: for people.
        is_alarming: we did not agree to it, or cannot get our money out of it by ourselves.
    """

    name: str
    is_alarming: bool = False


def kind_of_spend(channel: Channel, transaction: Transaction) -> Spend:
    """Name the transaction that spends the funding output (BOLT 5's cases)."""
    txid = transaction.txid
    if is_mutual_close(channel, txid):
        return Spend("a cooperative close")
    local = channel.local_commitment
    if commitments.local_commitment(channel, local.number, local.current_point).txid == txid:
        return Spend("our commitment")
    remote = channel.remote_commitment
    valid = [(remote.number, remote.current_point)]
    if channel.unrevoked is not None:
        valid.append((channel.unrevoked.number, remote.next_point))
    if any(commitments.remote_commitment(channel, *one).txid == txid for one in valid):
        return Spend("the peer's commitment")
    number_seen = _commitment_number(channel, transaction)
    if number_seen is None:
        return Spend("a transaction that is none of this channel's", is_alarming=True)
    if number_seen < remote.number:
        return Spend(f"commitment {number_seen}, which is revoked", is_alarming=True)
    return Spend(f"commitment {number_seen}, which we do not know", is_alarming=True)


def _commitment_number(channel: Channel, transaction: Transaction) -> int | None:
    ours, theirs = channel.parameters.local, remote_party(channel)
    opener, accepter = (ours, theirs) if channel.parameters.is_opener else (theirs, ours)
    return commitment_number(
        transaction.locktime,
        transaction.inputs[0].sequence,
        opener.payment_basepoint,
        accepter.payment_basepoint,
    )


def is_mutual_close(channel: Channel, txid: bytes) -> bool:
    """Whether we signed it as a closing transaction, with the peer's output or without."""
    if channel.closing is None:
        return False
    return any(
        variant.txid == txid
        for fee in channel.closing.sent_fees_satoshis
        for variant in closing_variants(closing.transaction(channel, fee))
    )


def _watch(channel: Channel, txid: bytes, script_pubkey: bytes) -> WatchConfirmed:
    since = channel.parameters.created_height
    if channel.funding is not None and channel.funding.confirmed_height is not None:
        since = channel.funding.confirmed_height
    return WatchConfirmed(txid, script_pubkey, FINAL_DEPTH, since, "closing")


def transaction_confirmed(channel: Channel, event: TransactionConfirmed) -> Step:
    """The spending transaction is final.

    A cooperative close ends the channel. After a commitment it stays CLOSING: claiming what
    is in it comes with the rest of BOLT 5.
    """
    if channel.phase is not Phase.CLOSING or channel.funding is None:
        return Step(channel)
    if not is_mutual_close(channel, event.txid):
        return Step(channel)
    before = channel.phase
    closed = replace(channel, phase=Phase.CLOSED)
    return Step(
        closed,
        (
            PhaseChanged(channel.channel_id, before, Phase.CLOSED, "closed cooperatively"),
            ChannelForgotten(channel.channel_id, "closed cooperatively"),
        ),
    )


def block_connected(channel: Channel, event: BlockConnected) -> Step:
    """Follow the height, and give up what takes too long."""
    channel = replace(channel, height=event.height)
    if (ended := funding.out_of_patience(channel, event.height)) is not None:
        return ended
    negotiation = channel.closing
    if channel.phase is not Phase.NEGOTIATING or negotiation is None:
        return Step(channel)
    if negotiation.since_height is None:
        since = replace(negotiation, since_height=event.height)
        return Step(replace(channel, closing=since))
    if event.height - negotiation.since_height < CLOSING_PATIENCE_BLOCKS:
        return Step(channel)
    reason = f"no agreement on the closing fee in {CLOSING_PATIENCE_BLOCKS} blocks"
    return fail(channel, reason)


def resume(channel: Channel) -> tuple[Effect, ...]:
    """What a start must do again for a channel that is on its way out."""
    effects: list[Effect] = []
    if channel.closing is not None and channel.closing.transaction:
        effects.append(Publish(channel.closing.transaction, "closing"))
    if channel.local_force_close:
        effects.append(Publish(channel.local_force_close, "commitment"))
    return tuple(effects)
