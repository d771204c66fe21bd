"""Keys of one commitment, derived from basepoints (BOLT 3 § Key Derivation)."""

import hashlib
from functools import lru_cache

import coincurve

from shared.crypto.signature import ORDER, public_key
from shared.errors import ProtocolViolation

__all__ = [
    "derive_private_key",
    "derive_public_key",
    "derive_revocation_private_key",
    "derive_revocation_public_key",
    "is_valid_point",
]

BOLT = "BOLT 3 § Key Derivation"


def _sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _point(point: bytes) -> coincurve.PublicKey:
    try:
        return coincurve.PublicKey(point)
    except ValueError:
        raise ProtocolViolation(f"{point.hex()} is not a point on the curve", bolt=BOLT) from None


@lru_cache(maxsize=4096)
def is_valid_point(point: bytes) -> bool:
    """Whether 33 bytes are a compressed point on the curve."""
    if len(point) != 33:
        return False
    try:
        coincurve.PublicKey(point)
    except ValueError:
        return False
    return True


def derive_public_key(basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """``basepoint + SHA256(per_commitment_point || basepoint) * G``."""
    return _point(basepoint).add(_sha(per_commitment_point, basepoint)).format()


def derive_private_key(basepoint_secret: bytes, per_commitment_point: bytes) -> bytes:
    """The private key of :func:`derive_public_key`."""
    tweak = _sha(per_commitment_point, public_key(basepoint_secret))
    return coincurve.PrivateKey(basepoint_secret).add(tweak).secret


def derive_revocation_public_key(revocation_basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """The key that one side owns once the other revealed the commitment's secret."""
    by_basepoint = _sha(revocation_basepoint, per_commitment_point)
    by_point = _sha(per_commitment_point, revocation_basepoint)
    left = _point(revocation_basepoint).multiply(by_basepoint)
    right = _point(per_commitment_point).multiply(by_point)
    return coincurve.PublicKey.combine_keys([left, right]).format()


def derive_revocation_private_key(
    revocation_basepoint_secret: bytes, per_commitment_secret: bytes
) -> bytes:
    """The private key of :func:`derive_revocation_public_key`."""
    basepoint, point = public_key(revocation_basepoint_secret), public_key(per_commitment_secret)
    left = int.from_bytes(revocation_basepoint_secret, "big") * int.from_bytes(
        _sha(basepoint, point), "big"
    )
    right = int.from_bytes(per_commitment_secret, "big") * int.from_bytes(
        _sha(point, basepoint), "big"
    )
    return ((left + right) % ORDER).to_bytes(32, "big")
