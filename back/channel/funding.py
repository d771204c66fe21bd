"""From the funding transaction to a usable channel, and the ends before that (BOLT 2)."""

from dataclasses import replace

from back.channel import commitments
from back.channel.effects import (
    ChannelForgotten,
    ChannelIdAssigned,
    ChannelReady,
    Effect,
    FreeFunding,
    PhaseChanged,
    Publish,
    Send,
    SignFundingCreated,
    SignFundingSigned,
    WatchConfirmed,
    WatchSpent,
)
from back.channel.events import (
    AbandonOpening,
    Disconnected,
    FundingConfirmed,
    FundingDeep,
    FundingFailed,
    FundingTransactionMade,
)
from back.channel.model import AnnouncementTurn, Channel, Funding, Phase
from back.channel.policy import (
    ANNOUNCEMENT_DEPTH,
    FUNDEE_PATIENCE_BLOCKS,
    OPENING_PATIENCE_BLOCKS,
)
from back.channel.rules import Step, error_of, legal, moved
from back.transactions.scripts import funding_script_pubkey
from back.transactions.transaction import parse_transaction
from shared.chain import Outpoint
from shared.crypto.keys import is_valid_point
from shared.errors import Action, ProtocolViolation
from shared.units import ShortChannelId
from shared.wire import (
    ChannelReady as ChannelReadyMessage,
    FundingCreated,
    FundingSigned,
)

__all__ = [
    "UNFUNDED",
    "abandon",
    "channel_id",
    "channel_ready_message",
    "disconnected",
    "failed_early",
    "forget",
    "funding_confirmed",
    "funding_deep",
    "funding_failed",
    "funding_made",
    "out_of_patience",
    "ready_to_send",
    "watches",
]

CREATED = "BOLT 2 § funding_created"
SIGNED = "BOLT 2 § funding_signed"
READY = "BOLT 2 § channel_ready"

UNFUNDED = (
    Phase.WAIT_FOR_ACCEPT_CHANNEL,
    Phase.WAIT_FOR_FUNDING_INTERNAL,
    Phase.WAIT_FOR_FUNDING_CREATED,
    Phase.WAIT_FOR_FUNDING_SIGNED,
)
"""Phases without a published funding transaction: a disconnection ends the channel."""


def channel_id(outpoint: Outpoint) -> bytes:
    """Return the 32-byte channel_id of a funding outpoint (BOLT 2 § Definition of channel_id)."""
    tail = int.from_bytes(outpoint.txid[30:], "big") ^ outpoint.index
    return outpoint.txid[:30] + tail.to_bytes(2, "big")


def funding_made(channel: Channel, event: FundingTransactionMade) -> Step:
    """The wallet signed: ask the signer for the peer's first commitment."""
    if channel.phase is not Phase.WAIT_FOR_FUNDING_INTERNAL:
        return Step(channel, (FreeFunding(event.transaction),))
    transaction = parse_transaction(event.transaction)
    outpoint = Outpoint(transaction.txid, event.output_index)
    funded = replace(
        channel,
        channel_id=channel_id(outpoint),
        funding=Funding(outpoint, event.transaction),
    )
    step = moved(
        funded,
        Phase.WAIT_FOR_FUNDING_SIGNED,
        ChannelIdAssigned(channel.channel_id, funded.channel_id),
    )
    remote = commitments.remote_commitment(funded, 0, funded.remote_commitment.current_point)
    request = SignFundingCreated(remote, funded.remote_commitment.current_point)
    return Step(step.channel, (*step.effects, request))


def funding_failed(channel: Channel, event: FundingFailed) -> Step:
    """The wallet could not: tell the peer and forget."""
    if channel.phase is not Phase.WAIT_FOR_FUNDING_INTERNAL:
        return Step(channel)
    # The peer learns that there will be no channel, not what is in our wallet.
    step = forget(channel, f"funding failed: {event.reason}")
    return Step(step.channel, (Send(error_of(channel, "funding failed")), *step.effects))


@legal((Phase.WAIT_FOR_FUNDING_CREATED,), FundingCreated)
def funding_created(channel: Channel, message: FundingCreated) -> Step:
    """Accepter: check the signature of our first commitment and sign the opener's."""
    outpoint = Outpoint(message.funding_txid, message.funding_output_index)
    funded = replace(channel, channel_id=channel_id(outpoint), funding=Funding(outpoint))
    funded = _with_first_signature(funded, message.signature, CREATED)
    step = moved(
        funded,
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        ChannelIdAssigned(channel.channel_id, funded.channel_id),
    )
    remote = commitments.remote_commitment(funded, 0, funded.remote_commitment.current_point)
    request = SignFundingSigned(remote, funded.remote_commitment.current_point)
    return Step(step.channel, (*step.effects, request, *watches(funded)))


@legal((Phase.WAIT_FOR_FUNDING_SIGNED,), FundingSigned)
def funding_signed(channel: Channel, message: FundingSigned) -> Step:
    """Opener: we can get our money back, so the funding transaction may be published."""
    funded = _with_first_signature(channel, message.signature, SIGNED)
    assert funded.funding is not None  # noqa: S101 - set in funding_made
    funding = replace(funded.funding, is_published=True)
    funded = replace(funded, funding=funding)
    return moved(
        funded,
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        Publish(funding.transaction, "funding"),
        *watches(funded),
    )


def _with_first_signature(channel: Channel, signature: bytes, bolt: str) -> Channel:
    local = commitments.local_commitment(channel, 0, channel.local_commitment.current_point)
    if not commitments.is_funding_signature_valid(channel, local, signature):
        raise ProtocolViolation(
            "signature of the first commitment is not valid",
            bolt=bolt,
            action=Action.FAIL_CHANNEL,
        )
    return replace(channel, local_commitment=replace(channel.local_commitment, signature=signature))


def watches(channel: Channel) -> tuple[Effect, ...]:
    """What must be watched from the moment that the channel holds money."""
    parameters = channel.parameters
    if channel.funding is None or parameters.remote is None:
        return ()
    script_pubkey = funding_script_pubkey(
        parameters.local.funding_pubkey, parameters.remote.funding_pubkey
    )
    depth = max(parameters.minimum_depth, 1)
    confirmed = WatchConfirmed(
        channel.funding.outpoint.txid, script_pubkey, depth, parameters.created_height, "funding"
    )
    spent = WatchSpent(channel.funding.outpoint, script_pubkey, parameters.created_height)
    if not parameters.announce or channel.channel_announcement is not None:
        return (spent, confirmed)
    depth = max(depth, ANNOUNCEMENT_DEPTH)
    return (spent, confirmed, replace(confirmed, depth=depth, what="announcement"))


# --- confirmation ------------------------------------------------------------------------------


def funding_confirmed(channel: Channel, event: FundingConfirmed) -> Step:
    """The funding transaction is deep enough: check what it pays, send channel_ready."""
    funding = channel.funding
    remote = channel.parameters.remote
    if funding is None or remote is None or channel.phase in UNFUNDED:
        return Step(channel)
    transaction = parse_transaction(event.transaction)
    script_pubkey = funding_script_pubkey(
        channel.parameters.local.funding_pubkey, remote.funding_pubkey
    )
    outputs = transaction.outputs
    if (
        transaction.txid != funding.outpoint.txid
        or funding.outpoint.index >= len(outputs)
        or outputs[funding.outpoint.index].value_sat != channel.parameters.funding_satoshis
        or outputs[funding.outpoint.index].script_pubkey != script_pubkey
    ):
        raise ProtocolViolation(
            f"output {funding.outpoint} does not pay {channel.parameters.funding_satoshis} sat"
            " to the channel",
            bolt=READY,
            action=Action.FAIL_CHANNEL,
        )
    scid = ShortChannelId(event.height, event.transaction_index, funding.outpoint.index)
    is_moved = funding.short_channel_id not in {None, scid.pack()}
    step = _moved_on_chain(channel) if is_moved else None
    channel = replace(
        step.channel if step is not None else channel,
        funding=replace(
            funding,
            confirmed_height=event.height,
            short_channel_id=scid.pack(),
            transaction=event.transaction,
            is_published=True,
        ),
    )
    effects = step.effects if step is not None else ()
    ready = ready_to_send(channel)
    return replace(ready, effects=(*effects, *ready.effects))


def _moved_on_chain(channel: Channel) -> Step:
    """A reorg put the funding elsewhere: what was announced of the old place is void."""
    channel = replace(
        channel,
        channel_announcement=None,
        announcement_turn=AnnouncementTurn.OWED,
    )
    return Step(channel, watches(channel))


def funding_deep(channel: Channel, event: FundingDeep) -> Step:
    """Its place in the chain is where it will stay: it may be announced."""
    funding = channel.funding
    if funding is None:
        return Step(channel)
    scid = ShortChannelId(event.height, event.transaction_index, funding.outpoint.index).pack()
    return Step(replace(channel, funding=replace(funding, deep_short_channel_id=scid)))


def ready_to_send(channel: Channel) -> Step:
    """Send channel_ready as soon as the funding is deep and the peer is there."""
    if channel.phase is not Phase.WAIT_FOR_FUNDING_CONFIRMED:
        return Step(channel)
    channel = replace(channel, is_channel_ready_sent=True)
    step = moved(channel, Phase.WAIT_FOR_CHANNEL_READY)
    effects: tuple[Effect, ...] = step.effects
    if commitments.is_online(channel):
        effects = (*effects, Send(channel_ready_message(channel)))
    if channel.is_channel_ready_received:
        normal = _normal(step.channel)
        return Step(normal.channel, (*effects, *normal.effects))
    return Step(step.channel, effects)


def channel_ready_message(channel: Channel) -> ChannelReadyMessage:
    """Our channel_ready; the same bytes at each retransmission.

    Only sent or repeated while our commitment number is 0, so next_point is of commitment 1.
    """
    return ChannelReadyMessage(
        channel_id=channel.channel_id,
        second_per_commitment_point=channel.local_commitment.next_point,
        short_channel_id=channel.local_alias,
    )


@legal(
    (
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        Phase.WAIT_FOR_CHANNEL_READY,
        Phase.NORMAL,
        Phase.SHUTDOWN,
        Phase.NEGOTIATING,
    ),
    ChannelReadyMessage,
)
def channel_ready(channel: Channel, message: ChannelReadyMessage) -> Step:
    """The peer saw the funding transaction; later ones only bring a new alias (BOLT 2)."""
    if message.short_channel_id is not None:
        channel = replace(channel, remote_alias=message.short_channel_id)
    if channel.is_channel_ready_received:
        return Step(channel)
    if not is_valid_point(message.second_per_commitment_point):
        raise ProtocolViolation(
            "second_per_commitment_point is not a point on the curve",
            bolt=READY,
            action=Action.FAIL_CHANNEL,
        )
    channel = replace(
        channel,
        is_channel_ready_received=True,
        remote_commitment=replace(
            channel.remote_commitment, next_point=message.second_per_commitment_point
        ),
    )
    if channel.phase is Phase.WAIT_FOR_CHANNEL_READY:
        return _normal(channel)
    return Step(channel)


def _normal(channel: Channel) -> Step:
    return moved(channel, Phase.NORMAL, ChannelReady(channel.channel_id))


# --- ends before the start ------------------------------------------------------------------------


def disconnected(channel: Channel, _event: Disconnected) -> Step | None:
    """End a channel whose funding was never published; None for all others."""
    return failed_early(channel, "disconnected before the funding was signed")


def failed_early(channel: Channel, reason: str, *, tell_peer: bool = False) -> Step | None:
    """End a channel whose funding was never published; None for all others."""
    if channel.phase not in UNFUNDED:
        return None
    step = forget(channel, reason)
    if not tell_peer:
        return step
    return Step(step.channel, (Send(error_of(channel, reason)), *step.effects))


def abandon(channel: Channel, event: AbandonOpening) -> Step:
    """Our side gives an opening up: it took too long."""
    return failed_early(channel, event.reason, tell_peer=True) or Step(channel)


def out_of_patience(channel: Channel, height: int) -> Step | None:
    """Give up what has not become a channel in time; None: there is still time.

    A fundee forgets a channel whose funding never showed (BOLT 2: after 2016 blocks), whatever else
    the peer did with it: nothing of it is on chain. Nobody waits for ever for the messages before
    that; they hold our coins or a place among the openings.
    """
    age = height - channel.parameters.created_height
    if channel.phase in UNFUNDED and age > OPENING_PATIENCE_BLOCKS:
        reason = f"the opening made no progress in {OPENING_PATIENCE_BLOCKS} blocks"
        return failed_early(channel, reason, tell_peer=True)
    funding = channel.funding
    if (
        channel.parameters.is_opener
        or channel.phase in {*UNFUNDED, Phase.CLOSED}
        or funding is None
        or funding.confirmed_height is not None
        or funding.spent_by is not None
        # It may be in a block already, and not deep enough to be told.
        or age <= FUNDEE_PATIENCE_BLOCKS + channel.parameters.minimum_depth
    ):
        return None
    return forget(channel, "the funding transaction did not confirm in time")


def forget(channel: Channel, reason: str) -> Step:
    """End a channel of which nothing is on chain."""
    effects: list[Effect] = []
    if channel.parameters.is_opener and channel.funding is not None and channel.funding.transaction:
        effects.append(FreeFunding(channel.funding.transaction))
    before = channel.phase
    closed = replace(channel, phase=Phase.CLOSED)
    effects.append(PhaseChanged(channel.channel_id, before, Phase.CLOSED, reason))
    effects.append(ChannelForgotten(channel.channel_id, reason))
    return Step(closed, tuple(effects))
