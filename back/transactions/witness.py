"""Signed, final transactions: witnesses around what the other modules built."""

from back.transactions.commitment import CommitmentTransaction, HtlcTransaction
from back.transactions.scripts import funding_script
from back.transactions.transaction import SIGHASH_ALL, witness_bytes
from shared.crypto.signature import to_der

__all__ = ["signed_commitment", "signed_funding_spend", "signed_htlc"]


def signed_funding_spend(
    unsigned: bytes, one: tuple[bytes, bytes], other: tuple[bytes, bytes]
) -> bytes:
    """Spend the 2-of-2.

    Args:
        unsigned: serialized without witness.
        one: (funding pubkey, compact signature).
        other: the other side's.
    """
    signatures = [
        to_der(signature) + bytes((SIGHASH_ALL,)) for _, signature in sorted((one, other))
    ]
    stack = (b"", *signatures, funding_script(one[0], other[0]))
    return witness_bytes(unsigned, (stack,))


def signed_commitment(
    commitment: CommitmentTransaction, local_signature: bytes, remote_signature: bytes
) -> bytes:
    """The holder's commitment, ready to publish."""
    keys = commitment.parameters.keys
    return signed_funding_spend(
        commitment.unsigned,
        (keys.local_funding_pubkey, local_signature),
        (keys.remote_funding_pubkey, remote_signature),
    )


def signed_htlc(
    transaction: HtlcTransaction,
    local_signature: bytes,
    remote_signature: bytes,
    payment_preimage: bytes = b"",
) -> bytes:
    """The holder's HTLC-timeout (no preimage) or HTLC-success transaction, ready to publish."""
    stack = (
        b"",
        to_der(remote_signature) + bytes((transaction.sighash_flag,)),
        to_der(local_signature) + bytes((SIGHASH_ALL,)),
        payment_preimage,
        transaction.script,
    )
    return witness_bytes(transaction.unsigned, (stack,))
