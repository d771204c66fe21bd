"""ECDSA on secp256k1 as the BOLTs use it: 64-byte compact signatures, RFC 6979, low S.

Shapes: private keys 32 bytes, public keys 33 bytes compressed, digests 32 bytes.
"""

from functools import lru_cache

import coincurve
from coincurve.ecdsa import serialize_compact

from shared.errors import MalformedMessage

__all__ = [
    "from_der",
    "public_key",
    "recover",
    "sign_compact",
    "sign_recoverable",
    "to_der",
    "verify_compact",
]

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER = ORDER // 2
_INTEGER = 0x02
_SEQUENCE = 0x30


@lru_cache(maxsize=4096)
def _parsed(public: bytes) -> coincurve.PublicKey:
    return coincurve.PublicKey(public)


def public_key(private: bytes) -> bytes:
    """Return the compressed public key."""
    return coincurve.PrivateKey(private).public_key.format()


def sign_compact(private: bytes, digest: bytes) -> bytes:
    """Sign a digest: r and s, 32 bytes each, deterministic, low S."""
    return coincurve.PrivateKey(private).sign_recoverable(digest, hasher=None)[:64]


def verify_compact(public: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether a compact signature is valid and low-S (BOLT 2 asks for LOW-S)."""
    if len(signature) != 64 or int.from_bytes(signature[32:], "big") > HALF_ORDER:
        return False
    try:
        return _parsed(public).verify(to_der(signature), digest, hasher=None)
    except ValueError:
        return False


def sign_recoverable(private: bytes, digest: bytes) -> bytes:
    """Sign a digest: 64 bytes and the recovery id (0 to 3), as BOLT 11 has it."""
    return coincurve.PrivateKey(private).sign_recoverable(digest, hasher=None)


def recover(signature: bytes, digest: bytes) -> bytes:
    """Return the public key that made a 65-byte recoverable signature.

    Raises:
        MalformedMessage: it is no signature of any key.
    """
    try:
        return coincurve.PublicKey.from_signature_and_message(
            signature, digest, hasher=None
        ).format()
    except Exception as error:
        # coincurve raises bare Exception for some malformed recovery ids.
        raise MalformedMessage(
            "signature recovers to no public key", bolt="BOLT 11 § Data Part"
        ) from error


def to_der(signature: bytes) -> bytes:
    """Return the DER form that Bitcoin's scripts carry, without a sighash byte."""
    body = _der_integer(signature[:32]) + _der_integer(signature[32:])
    return bytes((_SEQUENCE, len(body))) + body


def from_der(der: bytes) -> bytes:
    """Return the compact form of a strict DER signature.

    Raises:
        ValueError: not a DER signature.
    """
    compact: bytes = serialize_compact(coincurve.ecdsa.der_to_cdata(der))
    return compact


def _der_integer(number: bytes) -> bytes:
    stripped = number.lstrip(b"\0") or b"\0"
    if stripped[0] & 0x80:
        stripped = b"\0" + stripped
    return bytes((_INTEGER, len(stripped))) + stripped
