"""Answers to the requests in a channel's step, before it is committed."""

from typing import TYPE_CHECKING

import structlog

from back.channel.effects import (
    AnnouncementSigned,
    Answer,
    CheckSecret,
    ClosingSignature,
    CommitmentSignatures,
    Request,
    Revocation,
    RevokeLocalCommitment,
    SecretCheck,
    SignAnnouncement,
    SignClosing,
    SignedCommitment,
    SignFundingCreated,
    SignFundingSigned,
    SignLocalCommitment,
    SignRemoteCommitment,
)
from back.transactions.witness import signed_commitment, signed_funding_spend
from shared.errors import SigningRefused

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.signer.signer import Signer

__all__ = ["answer"]

log = structlog.get_logger()


def answer(signer: "Signer", channel: "Channel", request: Request) -> Answer:
    """Answer one request of a step.

    Args:
        signer: holds the keys.
        channel: the value that the step makes; its local commitment number says what is revoked.
        request: of that step.

    Raises:
        InvariantError: it asks to sign what is revoked, or to revoke what is current.
    """
    key_index = channel.parameters.key_index
    match request:
        case RevokeLocalCommitment(number=number):
            return Revocation(
                signer.release_secret(key_index, number, current=channel.local_commitment.number),
                signer.per_commitment_point(key_index, number + 2),
            )
        case SignRemoteCommitment() | SignFundingCreated() | SignFundingSigned():
            signed = signer.sign_remote_commitment(
                key_index, request.commitment, request.per_commitment_point
            )
            return CommitmentSignatures(*signed)
        case SignClosing():
            return _closing(signer, key_index, request)
        case SignLocalCommitment():
            return _local_commitment(signer, channel, request)
        case SignAnnouncement(announcement=announcement):
            return AnnouncementSigned(*signer.sign_channel_announcement(key_index, announcement))
        case CheckSecret(number=number, secret=secret):
            return SecretCheck(signer.is_secret_of(key_index, number, secret))


def _closing(signer: "Signer", key_index: int, request: SignClosing) -> ClosingSignature:
    closing = request.closing
    signature = signer.sign_closing(key_index, closing)
    if request.remote_signature is None:
        return ClosingSignature(signature)
    transaction = signed_funding_spend(
        closing.unsigned,
        (closing.local_funding_pubkey, signature),
        (closing.remote_funding_pubkey, request.remote_signature),
    )
    return ClosingSignature(signature, transaction)


def _local_commitment(
    signer: "Signer", channel: "Channel", request: SignLocalCommitment
) -> SignedCommitment:
    try:
        signature = signer.sign_local_commitment(
            channel.parameters.key_index,
            request.commitment,
            current=channel.local_commitment.number,
        )
    except SigningRefused as refusal:
        log.warning(
            "signing_refused",
            channel=channel.channel_id.hex(),
            number=request.number,
            why=str(refusal),
        )
        return SignedCommitment(b"")
    return SignedCommitment(
        signed_commitment(request.commitment, signature, request.remote_signature)
    )
