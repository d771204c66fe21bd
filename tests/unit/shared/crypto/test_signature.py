import hashlib

import pytest

from shared.crypto.signature import (
    HALF_ORDER,
    ORDER,
    from_der,
    public_key,
    recover,
    sign_compact,
    sign_recoverable,
    to_der,
    verify_compact,
)
from shared.errors import MalformedMessage

PRIVATE = b"\x11" * 32
PUBLIC = public_key(PRIVATE)
DIGESTS = [hashlib.sha256(bytes([number])).digest() for number in range(20)]


def high(signature: bytes) -> bytes:
    """Return the other valid s of a signature."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big")


@pytest.mark.parametrize("digest", DIGESTS[:5])
def test_a_signature_is_deterministic_low_s_and_valid(digest: bytes) -> None:
    signature = sign_compact(PRIVATE, digest)
    assert signature == sign_compact(PRIVATE, digest)
    assert len(signature) == 64
    assert int.from_bytes(signature[32:], "big") <= HALF_ORDER
    assert verify_compact(PUBLIC, digest, signature)


def test_the_nonce_is_that_of_rfc_6979() -> None:
    """The often published vector for secp256k1: private key 1, message "Satoshi Nakamoto"."""
    signature = sign_compact(bytes(31) + b"\x01", hashlib.sha256(b"Satoshi Nakamoto").digest())
    assert signature.hex() == (
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )


@pytest.mark.parametrize("digest", DIGESTS[:5])
def test_a_high_s_signature_is_refused_but_its_key_is_recovered(digest: bytes) -> None:
    signature = sign_recoverable(PRIVATE, digest)
    assert not verify_compact(PUBLIC, digest, high(signature))
    flipped = high(signature) + bytes([signature[64] ^ 1])
    assert recover(flipped, digest) == recover(signature, digest) == PUBLIC


def test_a_signature_of_something_or_somebody_else_is_refused() -> None:
    signature = sign_compact(PRIVATE, DIGESTS[0])
    assert not verify_compact(PUBLIC, DIGESTS[1], signature)
    assert not verify_compact(public_key(b"\x12" * 32), DIGESTS[0], signature)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        bytes(64),
        b"\xff" * 64,
        bytes(63),
        bytes(65),
        bytes(32) + bytes(31) + b"\x01",
        bytes(31) + b"\x01" + bytes(32),
        ORDER.to_bytes(32, "big") + bytes(31) + b"\x01",
    ],
    ids=["empty", "zero", "ones", "short", "long", "r-zero", "s-zero", "r-order"],
)
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    assert not verify_compact(PUBLIC, DIGESTS[0], signature)


@pytest.mark.parametrize("public", [bytes(33), b"\x02" + b"\xff" * 32, b"", b"\x02"])
def test_no_signature_is_valid_for_what_is_no_key(public: bytes) -> None:
    assert not verify_compact(public, DIGESTS[0], sign_compact(PRIVATE, DIGESTS[0]))


@pytest.mark.parametrize(
    "signature",
    [
        bytes(65),
        b"\xff" * 65,
        sign_recoverable(PRIVATE, DIGESTS[0])[:64] + b"\x04",
        sign_recoverable(PRIVATE, DIGESTS[0])[:64],
        b"",
    ],
    ids=["zero", "ones", "recovery-id-4", "no-recovery-id", "empty"],
)
def test_what_recovers_to_no_key_is_malformed(signature: bytes) -> None:
    with pytest.raises(MalformedMessage):
        recover(signature, DIGESTS[0])


@pytest.mark.parametrize("digest", DIGESTS)
def test_der_and_back(digest: bytes) -> None:
    signature = sign_compact(PRIVATE, digest)
    der = to_der(signature)
    assert 8 <= len(der) <= 71
    assert der[1] == len(der) - 2
    assert from_der(der) == signature


@pytest.mark.parametrize("cut", [0, 1, 8, -1])
def test_a_cut_off_der_signature_is_refused(cut: int) -> None:
    der = to_der(sign_compact(PRIVATE, DIGESTS[0]))
    with pytest.raises(ValueError, match=r".+"):
        from_der(der[:cut])
