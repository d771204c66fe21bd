"""What the chain tells a channel, and force closes (BOLT 5, as far as it goes without claims).

A force close publishes our commitment; claiming its outputs, and penalties, come with the rest of
BOLT 5. What they will need is stored from the first update: see :class:`model.Htlc`.
"""

from dataclasses import replace

from back.channel import closing, commitments, funding
from back.channel.effects import (
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
from back.channel.rules import Step, moved
from back.transactions.transaction import parse_transaction
from shared.errors import CommandError
from shared.wire import Error, encode

__all__ = ["block_connected", "force_close", "funding_spent", "transaction_confirmed"]

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
    early = funding.failed_early(channel, event.reason)
    if early is not None:
        return early
    return fail(channel, event.reason)


def fail(channel: Channel, reason: str) -> Step:
    """Send `error` (stored, repeated from now on) and publish our commitment."""
    error = Error(channel_id=channel.channel_id, data=reason.encode()[:1000])
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
    if channel.funding is None:
        return Step(channel)
    transaction = parse_transaction(event.transaction)
    txid = transaction.txid
    if channel.funding.spent_by == txid:
        return Step(channel)
    channel = replace(channel, funding=replace(channel.funding, spent_by=txid))
    if txid not in channel.published:
        channel = replace(channel, published=(*channel.published, txid))
    effects: list[Effect] = [_watch(channel, txid, transaction.outputs[0].script_pubkey)]
    if channel.phase not in {Phase.CLOSING, Phase.CLOSED}:
        what = kind_of_spend(channel, txid)
        step = moved(channel, Phase.CLOSING, reason=f"the funding output was spent by {what}")
        channel = step.channel
        effects.extend(step.effects)
    return Step(channel, tuple(effects))


def kind_of_spend(channel: Channel, txid: bytes) -> str:
    """Name the transaction that spends the funding output."""
    if _is_mutual_close(channel, txid):
        return "a cooperative close"
    local = channel.local_commitment
    if commitments.local_commitment(channel, local.number, local.current_point).txid == txid:
        return "our commitment"
    remote = channel.remote_commitment
    if commitments.remote_commitment(channel, remote.number, remote.current_point).txid == txid:
        return "the peer's commitment"
    return "another commitment of the peer"


def _is_mutual_close(channel: Channel, txid: bytes) -> bool:
    if channel.closing is None:
        return False
    return any(
        closing.transaction(channel, fee).txid == txid for fee in channel.closing.sent_fees_satoshis
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
    if not _is_mutual_close(channel, event.txid):
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
    """Follow the height; a fundee forgets a channel whose funding never came."""
    channel = replace(channel, height=event.height)
    if funding.is_fundee_out_of_patience(channel, event.height):
        return funding.forget_unconfirmed(channel)
    return Step(channel)


def resume(channel: Channel) -> tuple[Effect, ...]:
    """What a start must do again for a channel that is on its way out."""
    effects: list[Effect] = []
    if channel.closing is not None and channel.closing.transaction:
        effects.append(Publish(channel.closing.transaction, "closing"))
    if channel.local_force_close:
        effects.append(Publish(channel.local_force_close, "commitment"))
    return tuple(effects)
