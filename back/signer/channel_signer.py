"""The keys of one channel at work. Whether to sign at all is :mod:`.guard`'s business."""

import hmac
from hashlib import sha256

import coincurve

from back.channel.opening import LocalKeys
from back.signer.keys import ExtendedKey, channel_secrets, funding_secret
from back.transactions.closing import ClosingTransaction
from back.transactions.commitment import CommitmentTransaction, HtlcTransaction
from shared.crypto.shachain import commitment_secret
from shared.crypto.signature import ORDER, public_key
from shared.errors import InvariantError

__all__ = ["ChannelSigner"]


class ChannelSigner:
    """Holds the derived private keys of one channel, ready for use.

    Attributes:
        public: the public side of them, and our first two per-commitment points.
    """

    __slots__ = ("_funding", "_htlc_secret", "_shachain_seed", "public")

    def __init__(self, root: ExtendedKey, key_index: int) -> None:
        self._funding = coincurve.PrivateKey(funding_secret(root, key_index))
        funding_pubkey = self._funding.public_key.format()
        secrets = channel_secrets(root, funding_pubkey)
        self._htlc_secret = secrets.htlc_basepoint
        self._shachain_seed = secrets.shachain_seed
        self.public = LocalKeys(
            key_index=key_index,
            funding_pubkey=funding_pubkey,
            revocation_basepoint=public_key(secrets.revocation_basepoint),
            payment_basepoint=public_key(secrets.payment_basepoint),
            delayed_payment_basepoint=public_key(secrets.delayed_payment_basepoint),
            htlc_basepoint=public_key(secrets.htlc_basepoint),
            first_point=self.per_commitment_point(0),
            second_point=self.per_commitment_point(1),
        )

    def __repr__(self) -> str:
        return f"ChannelSigner(key_index={self.public.key_index})"

    def per_commitment_secret(self, number: int) -> bytes:
        """Our secret of commitment ``number``; whoever has it can take all of that commitment."""
        return commitment_secret(self._shachain_seed, number)

    def per_commitment_point(self, number: int) -> bytes:
        """Our per_commitment_point of commitment ``number``."""
        return public_key(self.per_commitment_secret(number))

    def is_secret_of(self, number: int, secret: bytes) -> bool:
        """Whether ``secret`` is ours of commitment ``number``."""
        return hmac.compare_digest(self.per_commitment_secret(number), secret)

    def sign_remote_commitment(
        self, commitment: CommitmentTransaction, per_commitment_point: bytes
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """Sign the peer's commitment and each of its HTLC transactions, in output order.

        Args:
            commitment: held by the peer.
            per_commitment_point: the peer's, of this commitment.

        Raises:
            InvariantError: it is not a commitment of this channel that the peer holds.
        """
        keys = commitment.parameters.keys
        if (
            keys.remote_funding_pubkey != self.public.funding_pubkey
            or keys.per_commitment_point != per_commitment_point
        ):
            raise InvariantError("not a commitment of this channel's peer with this point")
        _check_sums(commitment)
        signature = self._sign_funding(commitment.sighash)
        if not commitment.htlc_transactions:
            return signature, ()
        key = self._htlc_key(per_commitment_point)
        return signature, tuple(
            _sign(key, transaction.sighash) for transaction in commitment.htlc_transactions
        )

    def sign_local_commitment(self, commitment: CommitmentTransaction) -> bytes:
        """Sign our own commitment.

        Raises:
            InvariantError: it is not a commitment of this channel that we hold.
        """
        self._check_ours(commitment)
        return self._sign_funding(commitment.sighash)

    def sign_local_htlc(
        self, commitment: CommitmentTransaction, transaction: HtlcTransaction
    ) -> bytes:
        """Sign our HTLC transaction that spends our own commitment.

        Raises:
            InvariantError: it is not of a commitment of this channel that we hold.
        """
        self._check_ours(commitment)
        if transaction not in commitment.htlc_transactions:
            raise InvariantError("not an HTLC transaction of this commitment")
        key = self._htlc_key(commitment.parameters.keys.per_commitment_point)
        return _sign(key, transaction.local_sighash)

    def sign_closing(self, closing: ClosingTransaction) -> bytes:
        """Sign a cooperative close.

        Raises:
            InvariantError: it does not close this channel.
        """
        if closing.local_funding_pubkey != self.public.funding_pubkey:
            raise InvariantError("not a closing transaction of this channel")
        return self._sign_funding(closing.sighash)

    def sign_announcement(self, digest: bytes) -> bytes:
        """Sign a channel_announcement with the funding key (bitcoin_signature)."""
        return self._sign_funding(digest)

    def _check_ours(self, commitment: CommitmentTransaction) -> None:
        parameters = commitment.parameters
        point = self.per_commitment_point(parameters.number)
        if (
            parameters.keys.local_funding_pubkey != self.public.funding_pubkey
            or parameters.keys.per_commitment_point != point
        ):
            raise InvariantError(f"not our commitment {parameters.number} of this channel")
        _check_sums(commitment)

    def _sign_funding(self, digest: bytes) -> bytes:
        return _sign(self._funding, digest)

    def _htlc_key(self, per_commitment_point: bytes) -> coincurve.PrivateKey:
        """The private key of derive_public_key(htlc_basepoint, point); one addition."""
        tweak = sha256(per_commitment_point + self.public.htlc_basepoint).digest()
        number = int.from_bytes(self._htlc_secret, "big") + int.from_bytes(tweak, "big")
        return coincurve.PrivateKey((number % ORDER).to_bytes(32, "big"))


def _check_sums(commitment: CommitmentTransaction) -> None:
    """Never sign towards a state that makes money, loses it, or could not be settled on chain."""
    parameters = commitment.parameters
    total_msat = parameters.to_local_msat + parameters.to_remote_msat
    total_msat += sum(htlc.amount_msat for htlc in parameters.htlcs)
    if total_msat != parameters.funding_satoshis * 1000 or commitment.fee_sat < 0:
        raise InvariantError(
            f"commitment {parameters.number} shares out {total_msat} msat of"
            f" {parameters.funding_satoshis} sat, with a fee of {commitment.fee_sat} sat"
        )


def _sign(key: coincurve.PrivateKey, digest: bytes) -> bytes:
    """64 bytes compact, RFC 6979, low-S."""
    return key.sign_recoverable(digest, hasher=None)[:64]
