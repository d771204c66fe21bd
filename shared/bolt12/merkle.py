"""What the signatures of BOLT 12 sign (§ Signature Calculation): the root of a tree of records.

Each record is a leaf beside a nonce that nobody can guess who has not seen the first record, so
that single fields can be shown later without the others.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256

import coincurve

from shared.wire.codec import BIG_SIZE
from shared.wire.tlv import write_records

__all__ = ["SIGNATURES", "is_signed", "merkle_root", "signature_digest", "tagged_hash"]

SIGNATURES = range(240, 1001)
"""Types of the records that hold signatures, and are not signed themselves."""


@lru_cache(maxsize=64)
def _tag(tag: bytes) -> bytes:
    return sha256(tag).digest() * 2


def tagged_hash(tag: bytes, message: bytes) -> bytes:
    """Return H(tag, message) of BIP 340."""
    return sha256(_tag(tag) + message).digest()


def merkle_root(records: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the root of a TLV stream: 32 bytes.

    Args:
        records: type and value of each, in order; those of signatures are left out.

    Raises:
        ValueError: there is no record.
    """
    signed = [(number, value) for number, value in records if number not in SIGNATURES]
    if not signed:
        raise ValueError("no record to sign")
    # Not through the cache: its tag holds the first record.
    nonce_tag = sha256(b"LnNonce" + write_records(signed[:1])).digest() * 2
    level = []
    for number, value in signed:
        leaf = tagged_hash(b"LnLeaf", write_records([(number, value)]))
        nonce = sha256(nonce_tag + BIG_SIZE.write(number)).digest()
        level.append(_branch(leaf, nonce))
    while len(level) > 1:
        level = _paired(level)
    return level[0]


def signature_digest(
    message_name: str, records: Iterable[tuple[int, bytes]], field_name: str = "signature"
) -> bytes:
    """Return what a signature field signs: 32 bytes.

    Args:
        message_name: ``invoice_request`` or ``invoice``.
        records: of the message; signatures do not matter.
        field_name: of the signature.
    """
    return tagged_hash(f"lightning{message_name}{field_name}".encode(), merkle_root(records))


def is_signed(public: bytes, digest: bytes, signature: bytes | None) -> bool:
    """Whether the signature is one of this key (BIP 340).

    Args:
        public: 33 bytes; the first does not matter.
        digest: 32 bytes.
        signature: 64 bytes; None: there is none.
    """
    if signature is None or len(signature) != 64:
        return False
    try:
        return coincurve.PublicKeyXOnly(public[1:]).verify(signature, digest)
    except ValueError:
        return False


def _paired(level: Sequence[bytes]) -> list[bytes]:
    pairs = [_branch(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
    return pairs + list(level[-1:]) if len(level) % 2 else pairs


def _branch(one: bytes, other: bytes) -> bytes:
    return tagged_hash(b"LnBranch", min(one, other) + max(one, other))
