"""Everything that needs a private key, and nothing else.

The channel core asks by :data:`~back.channel.effects.Request`; handshakes, onions, gossip and invoices by
methods. Signatures are deterministic (RFC 6979): the same request gives the same bytes, also after a crash.

Two refusals guard the money whatever the caller believes: our own commitment is never signed once the secret
of it or of a later one has been released, and not at all in recovery (a database that was restored from a
backup may hold an old state: publishing it would forfeit the balance).
"""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from back.channel.effects import (
    Answer,
    CheckSecret,
    ClosingSignature,
    CommitmentSignatures,
    Request,
    Revocation,
    RevokeLocalCommitment,
    SecretCheck,
    SignClosing,
    SignedCommitment,
    SignFundingCreated,
    SignFundingSigned,
    SignLocalCommitment,
    SignRemoteCommitment,
)
from back.channel.opening import LocalKeys
from back.signer.keys import ChannelSecrets, NodeKeys
from back.transactions.commitment import CommitmentTransaction
from back.transactions.witness import signed_commitment, signed_funding_spend
from shared.crypto import noise, sphinx
from shared.crypto.keys import derive_private_key
from shared.crypto.signature import public_key, sign_compact, sign_recoverable
from shared.errors import InvariantError

if TYPE_CHECKING:
    from back.channel.model import Channel

__all__ = ["Signer"]

CACHED_CHANNELS = 10_000


class Signer:
    """Holds the keys of one node.

    Args:
        seed: 32 or 64 bytes.
        coin_type: of the chain.
        in_recovery: refuse to sign any commitment of ours.
    """

    def __init__(self, seed: bytes, coin_type: int, *, in_recovery: bool = False) -> None:
        self._keys = NodeKeys(seed, coin_type)
        self._channels: OrderedDict[int, ChannelSecrets] = OrderedDict()
        self._released: dict[int, int] = {}
        self._lock = threading.Lock()
        self.in_recovery = in_recovery
        self.node_id = public_key(self._keys.node)
        """Our public node id, 33 bytes."""

    def __repr__(self) -> str:
        return f"Signer({self.node_id.hex()})"

    # --- the node key -----------------------------------------------------------------------------

    def answer_responder(self, act_one: bytes) -> noise.KeyAnswer:
        """The responder's step of a handshake; see :mod:`shared.crypto.noise`."""
        return noise.answer_responder(self._keys.node, noise.ResponderRequest(act_one))

    def answer_initiator(self, peer: bytes, ephemeral: bytes, act_two: bytes) -> noise.KeyAnswer:
        """The initiator's step of a handshake."""
        request = noise.InitiatorRequest(peer, ephemeral, act_two)
        return noise.answer_initiator(self._keys.node, request)

    def peel_onion(
        self, packet: bytes, associated_data: bytes, path_key: bytes | None = None
    ) -> sphinx.Peeled:
        """Peel our layer of an onion (BOLT 4 § Packet Decryption)."""
        return sphinx.peel(self._keys.node, packet, associated_data, path_key)

    def sign_invoice(self, digest: bytes) -> bytes:
        """65 bytes: signature and recovery id (BOLT 11)."""
        return sign_recoverable(self._keys.node, digest)

    def sign_gossip(self, digest: bytes) -> bytes:
        """64 bytes with the node key (BOLT 7)."""
        return sign_compact(self._keys.node, digest)

    # --- channels ----------------------------------------------------------------------------------

    def _secrets(self, key_index: int) -> ChannelSecrets:
        with self._lock:
            secrets = self._channels.get(key_index)
            if secrets is None:
                secrets = self._channels[key_index] = self._keys.channel(key_index)
                if len(self._channels) > CACHED_CHANNELS:
                    self._channels.popitem(last=False)
            else:
                self._channels.move_to_end(key_index)
            return secrets

    def channel_keys(self, key_index: int) -> LocalKeys:
        """Our public keys of channel ``key_index`` and the points of its first two commitments."""
        secrets = self._secrets(key_index)
        return LocalKeys(
            key_index=key_index,
            funding_pubkey=public_key(secrets.funding),
            revocation_basepoint=public_key(secrets.revocation),
            payment_basepoint=public_key(secrets.payment),
            delayed_payment_basepoint=public_key(secrets.delayed_payment),
            htlc_basepoint=public_key(secrets.htlc),
            first_point=secrets.per_commitment_point(0),
            second_point=secrets.per_commitment_point(1),
        )

    def sign_channel_announcement(self, key_index: int, digest: bytes) -> tuple[bytes, bytes]:
        """Node signature and bitcoin signature (BOLT 7 § announcement_signatures)."""
        funding = self._secrets(key_index).funding
        return sign_compact(self._keys.node, digest), sign_compact(funding, digest)

    def answer(self, channel: "Channel", request: Request) -> Answer:
        """Answer one request of a step of ``channel``.

        Raises:
            InvariantError: a commitment of ours whose secret is out.
        """
        index = channel.parameters.key_index
        secrets = self._secrets(index)
        match request:
            case RevokeLocalCommitment(number=number):
                return self._revoke(index, secrets, number)
            case SignRemoteCommitment():
                return _signed_remote(secrets, request.commitment, request.per_commitment_point)
            case SignFundingCreated() | SignFundingSigned():
                return _signed_remote(secrets, request.commitment, request.per_commitment_point)
            case SignClosing():
                return _signed_closing(secrets, request)
            case SignLocalCommitment():
                return self._signed_local(channel, secrets, request)
            case CheckSecret(number=number, secret=secret):
                return SecretCheck(secrets.per_commitment_secret(number) == secret)

    def _revoke(self, index: int, secrets: ChannelSecrets, number: int) -> Revocation:
        with self._lock:
            self._released[index] = max(self._released.get(index, -1), number)
        return Revocation(
            per_commitment_secret=secrets.per_commitment_secret(number),
            next_per_commitment_point=secrets.per_commitment_point(number + 2),
        )

    def _signed_local(
        self, channel: "Channel", secrets: ChannelSecrets, request: SignLocalCommitment
    ) -> SignedCommitment:
        if self.in_recovery:
            return SignedCommitment(b"")
        index = channel.parameters.key_index
        released = max(self._released.get(index, -1), channel.local_commitment.number - 1)
        if request.number <= released:
            raise InvariantError(
                f"commitment {request.number} is revoked: the secret of {released} is out"
            )
        signature = sign_compact(secrets.funding, request.commitment.sighash)
        return SignedCommitment(
            signed_commitment(request.commitment, signature, request.remote_signature)
        )


def _signed_remote(
    secrets: ChannelSecrets, commitment: CommitmentTransaction, point: bytes
) -> CommitmentSignatures:
    htlc_key = derive_private_key(secrets.htlc, point) if commitment.htlc_transactions else b""
    return CommitmentSignatures(
        signature=sign_compact(secrets.funding, commitment.sighash),
        htlc_signatures=tuple(
            sign_compact(htlc_key, claim.sighash) for claim in commitment.htlc_transactions
        ),
    )


def _signed_closing(secrets: ChannelSecrets, request: SignClosing) -> ClosingSignature:
    closing = request.closing
    signature = sign_compact(secrets.funding, closing.sighash)
    if request.remote_signature is None:
        return ClosingSignature(signature)
    signed = signed_funding_spend(
        closing.unsigned,
        (closing.local_funding_pubkey, signature),
        (closing.remote_funding_pubkey, request.remote_signature),
    )
    return ClosingSignature(signature, signed)
