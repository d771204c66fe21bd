"""Revocation secrets: made from one seed, stored in at most 49 entries (BOLT 3).

Commitment ``number`` uses the secret of index ``2^48 - 1 - number``.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from shared.errors import Action, ProtocolViolation

__all__ = ["FIRST_INDEX", "ShachainStore", "commitment_secret", "generate_secret", "index_of"]

BITS = 48
FIRST_INDEX = (1 << BITS) - 1
BOLT = "BOLT 3 § Efficient Per-commitment Secret Storage"


def index_of(commitment_number: int) -> int:
    """Return the index of a commitment's secret."""
    return FIRST_INDEX - commitment_number


def generate_secret(seed: bytes, index: int) -> bytes:
    """Derive the secret of ``index`` from ``seed``."""
    return _derive(seed, BITS, index)


def commitment_secret(seed: bytes, number: int) -> bytes:
    """Derive the per-commitment secret of commitment ``number``."""
    return generate_secret(seed, index_of(number))


def _derive(secret: bytes, bits: int, index: int) -> bytes:
    """Flip each of the lower ``bits`` that is set in ``index``, hashing after each."""
    value = bytearray(secret)
    for bit in range(bits - 1, -1, -1):
        if index >> bit & 1:
            value[bit // 8] ^= 1 << (bit % 8)
            value = bytearray(hashlib.sha256(value).digest())
    return bytes(value)


def _bucket(index: int) -> int:
    """Trailing zero bits: the entry that can hold ``index``, and derive so many bits below it."""
    return BITS if index == 0 else min((index & -index).bit_length() - 1, BITS)


@dataclass(frozen=True, slots=True)
class ShachainStore:
    """The other side's revealed secrets. A value: :meth:`insert` returns the next one.

    Attributes:
        entries: bucket (0 to 48) → (index, secret); one row each in a database.
    """

    entries: Mapping[int, tuple[int, bytes]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )

    def insert(self, index: int, secret: bytes) -> "ShachainStore":
        """Add the secret of ``index``; indexes count down.

        Raises:
            ProtocolViolation: it does not derive the ones that came before: the peer lies.
        """
        bucket = _bucket(index)
        for lower in range(bucket):
            known = self.entries.get(lower)
            if known is not None and _derive(secret, bucket, known[0]) != known[1]:
                raise ProtocolViolation(
                    f"per_commitment_secret of index {index} does not derive that of {known[0]}",
                    bolt=BOLT,
                    action=Action.FAIL_CHANNEL,
                )
        return ShachainStore(MappingProxyType({**self.entries, bucket: (index, secret)}))

    def get(self, index: int) -> bytes | None:
        """Return the secret of ``index``, None if it was not revealed."""
        for bucket, (known, secret) in self.entries.items():
            mask = ~((1 << bucket) - 1)
            if index & mask == known & mask and index >= known:
                return _derive(secret, bucket, index)
        return None

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        for bucket, (index, secret) in self.entries.items():
            yield bucket, index, secret
