"""Onions (BOLT 4): build and peel packets, make and unwrap returned errors. Pure.

Shapes: session keys and secrets 32 bytes; a payment's packet 1366 bytes: version, 33-byte point,
1300 bytes of payloads, 32-byte HMAC. Payloads here are without their length.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import coincurve
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from shared.crypto.failures import (
    INVALID_ONION_BLINDING,
    INVALID_ONION_HMAC,
    INVALID_ONION_KEY,
    INVALID_ONION_PAYLOAD,
    INVALID_ONION_VERSION,
)
from shared.errors import InvalidOnion, MalformedMessage
from shared.wire.codec import BIG_SIZE, Reader

__all__ = [
    "PAYMENT_PAYLOADS",
    "Hop",
    "Onion",
    "Peeled",
    "UnwrappedError",
    "build",
    "create_error",
    "peel",
    "shared_secrets",
    "unwrap_error",
    "wrap_error",
]

PAYMENT_PAYLOADS = 1300
HMAC = 32
OVERHEAD = 1 + 33 + HMAC
ERROR_CONTENT = 256
"""Failure message and padding together have at least so many bytes."""
MAX_HOPS = 27
"""Errors are unwrapped so often, whatever the route's length."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop of a route.

    Attributes:
        node_id: 33 bytes, or a blinded one.
        payload: its TLV stream, without length.
    """

    node_id: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Onion:
    """A built packet and what its maker keeps.

    Attributes:
        packet: what update_add_htlc carries.
        shared_secrets: one per hop, to unwrap errors.
    """

    packet: bytes
    shared_secrets: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peeled:
    """One layer taken off.

    Attributes:
        payload: ours, without length.
        next_packet: for the next hop; None: we are the last.
        shared_secret: to wrap errors.
    """

    payload: bytes
    next_packet: bytes | None
    shared_secret: bytes = field(repr=False)

    @property
    def is_final(self) -> bool:
        """Whether the onion ends here."""
        return self.next_packet is None


def _key(kind: bytes, secret: bytes) -> bytes:
    return hmac.digest(kind, secret, "sha256")


def _stream(key: bytes, size: int) -> bytes:
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None)
    return cipher.encryptor().update(bytes(size))


def _xor(one: bytes, other: bytes) -> bytes:
    size = len(one)
    return (int.from_bytes(one, "big") ^ int.from_bytes(other[:size], "big")).to_bytes(size, "big")


def _blinding(point: bytes, secret: bytes) -> bytes:
    return hashlib.sha256(point + secret).digest()


def shared_secrets(
    session_key: bytes, node_ids: Sequence[bytes]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return each hop's ephemeral point and shared secret (BOLT 4 § Shared Secret)."""
    points, secrets = [], []
    ephemeral = coincurve.PrivateKey(session_key)
    for node_id in node_ids:
        point = ephemeral.public_key.format()
        secret = ephemeral.ecdh(node_id)
        points.append(point)
        secrets.append(secret)
        ephemeral = ephemeral.multiply(_blinding(point, secret))
    return tuple(points), tuple(secrets)


def build(
    session_key: bytes,
    hops: Sequence[Hop],
    associated_data: bytes,
    payloads_size: int = PAYMENT_PAYLOADS,
) -> Onion:
    """Build a packet (BOLT 4 § Packet Construction).

    Raises:
        ValueError: no hops, or the payloads do not fit.
    """
    framed = [BIG_SIZE.write(len(hop.payload)) + hop.payload for hop in hops]
    total = sum(len(payload) + HMAC for payload in framed)
    if not hops or total > payloads_size:
        raise ValueError(f"{len(hops)} payloads of {total} bytes do not fit in {payloads_size}")
    points, secrets = shared_secrets(session_key, [hop.node_id for hop in hops])
    filler = _filler(framed, secrets, payloads_size)
    payloads = _stream(_key(b"pad", session_key), payloads_size)
    mac = bytes(HMAC)
    for index in range(len(hops) - 1, -1, -1):
        layer = framed[index] + mac
        stream = _stream(_key(b"rho", secrets[index]), payloads_size)
        payloads = _xor((layer + payloads)[:payloads_size], stream)
        if index == len(hops) - 1 and filler:
            payloads = payloads[: -len(filler)] + filler
        mac = hmac.digest(_key(b"mu", secrets[index]), payloads + associated_data, "sha256")
    return Onion(b"\x00" + points[0] + payloads + mac, secrets)


def _filler(framed: Sequence[bytes], secrets: Sequence[bytes], payloads_size: int) -> bytes:
    """What the last hop sees behind its payload (BOLT 4 § Filler Generation)."""
    filler = b""
    for payload, secret in zip(framed[:-1], secrets, strict=False):
        start = payloads_size - len(filler)
        end = payloads_size + len(payload) + HMAC
        filler += bytes(len(payload) + HMAC)
        filler = _xor(filler, _stream(_key(b"rho", secret), end)[start:end])
    return filler


def peel(
    private_key: bytes, packet: bytes, associated_data: bytes, path_key: bytes | None = None
) -> Peeled:
    """Take our layer off (BOLT 4 § Onion Decryption).

    Args:
        private_key: the node key.
        packet: 1366 bytes for a payment; other sizes for onion messages.
        associated_data: the payment hash; empty for onion messages.
        path_key: of update_add_htlc or onion_message, inside a blinded route.

    Raises:
        InvalidOnion: carries the failure code to answer; inside a blinded route always
            invalid_onion_blinding.
    """
    if path_key is None:
        return _peel(private_key, packet, associated_data)
    try:
        return _peel(_blinded_key(private_key, path_key), packet, associated_data)
    except InvalidOnion as error:
        # Inside a blinded route there is one answer to every error, so that none tells where.
        error.code, error.shared_secret = INVALID_ONION_BLINDING, None
        raise


def _peel(key: bytes, packet: bytes, associated_data: bytes) -> Peeled:
    size = len(packet) - OVERHEAD
    if size <= 0 or packet[0] != 0:
        why = f"onion of {len(packet)} bytes, version {packet[:1].hex() or 'none'}"
        raise InvalidOnion(why, code=INVALID_ONION_VERSION)
    point, payloads, mac = packet[1:34], packet[34:-HMAC], packet[-HMAC:]
    try:
        secret = coincurve.PrivateKey(key).ecdh(point)
    except ValueError:
        raise InvalidOnion("ephemeral key is not a point", code=INVALID_ONION_KEY) from None
    expected = hmac.digest(_key(b"mu", secret), payloads + associated_data, "sha256")
    if not hmac.compare_digest(expected, mac):
        raise InvalidOnion("onion HMAC does not match", code=INVALID_ONION_HMAC)
    plain = _xor(payloads + bytes(size), _stream(_key(b"rho", secret), 2 * size))
    payload, next_mac, rest = _split(plain, size, secret)
    if next_mac == bytes(HMAC):
        return Peeled(payload, None, secret)
    next_point = coincurve.PublicKey(point).multiply(_blinding(point, secret)).format()
    return Peeled(payload, b"\x00" + next_point + rest[:size] + next_mac, secret)


def _blinded_key(private_key: bytes, path_key: bytes) -> bytes:
    try:
        secret = coincurve.PrivateKey(private_key).ecdh(path_key)
    except ValueError:
        raise InvalidOnion("path_key is not a point", code=INVALID_ONION_BLINDING) from None
    tweak = _key(b"blinded_node_id", secret)
    return coincurve.PrivateKey(private_key).multiply(tweak).secret


def _split(plain: bytes, size: int, secret: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut the decrypted payloads into ours, the next HMAC and the rest."""

    def wrong(why: str) -> InvalidOnion:
        return InvalidOnion(why, code=INVALID_ONION_PAYLOAD, shared_secret=secret)

    reader = Reader(plain)
    try:
        length = BIG_SIZE.read(reader)
        if length < 2:
            raise wrong(f"payload of {length} bytes")
        payload = reader.take(length)
        mac = reader.take(HMAC)
    except MalformedMessage as error:
        raise wrong(f"payload: {error}") from None
    if reader.left < size:
        raise wrong("payload is longer than the onion")
    return payload, mac, reader.take(reader.left)


# --- errors --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnwrappedError:
    """A returned error, read by the onion's maker.

    Attributes:
        hop: index of the hop that made it.
        message: its failure message, code first; empty where its frame makes no sense.
    """

    hop: int
    message: bytes


def create_error(shared_secret: bytes, message: bytes) -> bytes:
    """Make and wrap the error packet of the hop where a payment failed.

    Args:
        shared_secret: of our layer.
        message: failure code and data (:func:`failures.encode_failure`).
    """
    padding = bytes(max(0, ERROR_CONTENT - len(message)))
    content = b"".join(
        (len(message).to_bytes(2, "big"), message, len(padding).to_bytes(2, "big"), padding)
    )
    mac = hmac.digest(_key(b"um", shared_secret), content, "sha256")
    return wrap_error(shared_secret, mac + content)


def wrap_error(shared_secret: bytes, packet: bytes) -> bytes:
    """Obfuscate an error on its way back through us."""
    return _xor(packet, _stream(_key(b"ammag", shared_secret), len(packet)))


def unwrap_error(secrets: Sequence[bytes], packet: bytes) -> UnwrappedError | None:
    """Find who made an error and what it says; None if no hop of the route did.

    Takes the same time for every route: the loop always runs 27 times.
    """
    found: UnwrappedError | None = None
    dummy = bytes(32)
    for index in range(MAX_HOPS):
        is_hop = index < len(secrets)
        secret = secrets[index] if is_hop else dummy
        packet = wrap_error(secret, packet)
        mac = hmac.digest(_key(b"um", secret), packet[HMAC:], "sha256")
        if is_hop and found is None and hmac.compare_digest(mac, packet[:HMAC]):
            found = _read_error(index, packet[HMAC:])
    return found


def _read_error(hop: int, content: bytes) -> UnwrappedError:
    size = int.from_bytes(content[:2], "big")
    message = content[2 : 2 + size]
    return UnwrappedError(hop, message if len(message) == size else b"")
