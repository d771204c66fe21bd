"""The signer's answers take the place of a step's requests, before the step is committed."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from back.channel.announcement import with_signatures
from back.channel.effects import (
    AnnouncementSigned,
    Answer,
    ChannelAnnounced,
    ClosingSignature,
    CommitmentSignatures,
    Effect,
    Publish,
    Request,
    Revocation,
    RevokeLocalCommitment,
    Send,
    SignAnnouncement,
    SignClosing,
    SignedCommitment,
    SignFundingCreated,
    SignFundingSigned,
    SignLocalCommitment,
    SignRemoteCommitment,
)
from back.channel.model import Channel, ClosingNegotiation, Funding, UnrevokedCommitment
from back.channel.rules import Step
from shared.errors import InvariantError
from shared.wire import (
    AnnouncementSignatures,
    ClosingSigned,
    CommitmentSigned,
    FeeRange,
    FundingCreated,
    FundingSigned,
    RevokeAndAck,
    encode,
)

__all__ = ["fill"]

A = TypeVar("A")


def fill(step: Step, answer: Callable[[Request], Answer]) -> Step:
    """Return ``step`` with each request replaced by what the signer's answer makes of it.

    The answers are recorded in the channel too (the batch for a retransmission, our next point,
    signed transactions). A request that the signer refuses (recovery) leaves nothing behind.

    Raises:
        InvariantError: an answer does not fit its request.
    """
    channel = step.channel
    effects: list[Effect] = []
    for effect in step.effects:
        if isinstance(effect, Request):
            channel, filled = _filled(channel, effect, answer(effect))
            effects.extend(filled)
        else:
            effects.append(effect)
    return replace(step, channel=channel, effects=tuple(effects))


def _filled(
    channel: Channel, request: Request, answer: Answer
) -> tuple[Channel, tuple[Effect, ...]]:
    match request:
        case RevokeLocalCommitment():
            filled = _revocation(channel, request, _expect(answer, Revocation))
        case SignRemoteCommitment():
            filled = _remote_commitment(channel, request, _expect(answer, CommitmentSignatures))
        case SignFundingCreated():
            filled = _funding_created(channel, _expect(answer, CommitmentSignatures))
        case SignFundingSigned():
            filled = _funding_signed(channel, _expect(answer, CommitmentSignatures))
        case SignClosing():
            filled = _closing(channel, request, _expect(answer, ClosingSignature))
        case SignLocalCommitment():
            filled = _local_commitment(channel, _expect(answer, SignedCommitment))
        case SignAnnouncement():
            filled = _announcement(channel, request, _expect(answer, AnnouncementSigned))
        case _:
            raise InvariantError(f"{type(request).__name__} cannot be part of a step")
    return filled


def _expect(answer: Answer, kind: type[A]) -> A:
    if not isinstance(answer, kind):
        raise InvariantError(f"the signer answered {type(answer).__name__}, not {kind.__name__}")
    return answer


def _revocation(
    channel: Channel, request: RevokeLocalCommitment, answer: Revocation
) -> tuple[Channel, tuple[Effect, ...]]:
    local = channel.local_commitment
    if request.number + 1 == local.number:
        local = replace(local, next_point=answer.next_per_commitment_point)
    message = RevokeAndAck(
        channel_id=channel.channel_id,
        per_commitment_secret=answer.per_commitment_secret,
        next_per_commitment_point=answer.next_per_commitment_point,
    )
    return replace(channel, local_commitment=local), (Send(message),)


def _remote_commitment(
    channel: Channel, request: SignRemoteCommitment, answer: CommitmentSignatures
) -> tuple[Channel, tuple[Effect, ...]]:
    signed = CommitmentSigned(
        channel_id=channel.channel_id,
        signature=answer.signature,
        htlc_signature=list(answer.htlc_signatures),
        funding_txid=_funding(channel).outpoint.txid,
    )
    messages = (*request.updates, signed)
    unrevoked = UnrevokedCommitment(request.number, tuple(encode(message) for message in messages))
    return replace(channel, unrevoked=unrevoked), tuple(Send(message) for message in messages)


def _funding_created(
    channel: Channel, answer: CommitmentSignatures
) -> tuple[Channel, tuple[Effect, ...]]:
    outpoint = _funding(channel).outpoint
    message = FundingCreated(
        temporary_channel_id=channel.parameters.temporary_channel_id,
        funding_txid=outpoint.txid,
        funding_output_index=outpoint.index,
        signature=answer.signature,
    )
    return channel, (Send(message),)


def _funding_signed(
    channel: Channel, answer: CommitmentSignatures
) -> tuple[Channel, tuple[Effect, ...]]:
    message = FundingSigned(channel_id=channel.channel_id, signature=answer.signature)
    return channel, (Send(message),)


def _funding(channel: Channel) -> Funding:
    if channel.funding is None:
        raise InvariantError("a commitment is signed before its funding output is known")
    return channel.funding


def _closing(
    channel: Channel, request: SignClosing, answer: ClosingSignature
) -> tuple[Channel, tuple[Effect, ...]]:
    effects: list[Effect] = []
    if request.is_sent:
        span = request.fee_range_satoshis
        message = ClosingSigned(
            channel_id=channel.channel_id,
            fee_satoshis=request.fee_satoshis,
            signature=answer.signature,
            fee_range=None
            if span is None
            else FeeRange(min_fee_satoshis=span[0], max_fee_satoshis=span[1]),
        )
        effects.append(Send(message))
    if request.remote_signature is not None:
        if not answer.transaction:
            raise InvariantError("the signer did not assemble the closing transaction")
        negotiation = channel.closing or ClosingNegotiation()
        channel = replace(
            channel,
            closing=replace(negotiation, transaction=answer.transaction),
            published=(*channel.published, request.closing.txid),
        )
        effects.append(Publish(answer.transaction, "closing"))
    return channel, tuple(effects)


def _local_commitment(
    channel: Channel, answer: SignedCommitment
) -> tuple[Channel, tuple[Effect, ...]]:
    if not answer.transaction:
        return channel, ()
    return (
        replace(channel, local_force_close=answer.transaction),
        (Publish(answer.transaction, "commitment"),),
    )


def _announcement(
    channel: Channel, request: SignAnnouncement, answer: AnnouncementSigned
) -> tuple[Channel, tuple[Effect, ...]]:
    ours = answer.node_signature, answer.bitcoin_signature
    effects: list[Effect] = []
    if request.is_sent:
        message = AnnouncementSignatures(
            channel_id=channel.channel_id,
            short_channel_id=request.announcement.short_channel_id,
            node_signature=ours[0],
            bitcoin_signature=ours[1],
        )
        effects.append(Send(message))
    if request.remote_signatures is not None:
        complete = with_signatures(request.announcement, channel, ours, request.remote_signatures)
        channel = replace(channel, channel_announcement=encode(complete))
        effects.append(ChannelAnnounced(channel.channel_id))
    return channel, tuple(effects)
