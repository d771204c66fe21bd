"""Noise_XK(secp256k1, ChaChaPoly, SHA-256): BOLT 8's handshake and frames, keyless.

Pure: bytes in, bytes out; the caller owns the socket and the random ephemeral key.

Each side needs its node key for one ECDH. That step is a request which somebody who holds the key
answers (:func:`answer_responder`, :func:`answer_initiator`), so a handshake can run in a process
without it. The request is the *transcript*, never a chaining key of the asker's choice: the
answerer recomputes the chaining key and checks the MAC: no oracle for any other protocol. ::

    initiator: initiate -> AwaitActTwo -> AwaitInitiatorKey -> Session
    responder: AwaitActOne -> AwaitResponderKey -> AwaitActThree -> Session

Shapes: private keys 32 bytes, points 33 (compressed), acts 50, 50 and 66 bytes.

Raises:
    HandshakeFailed: from every step: bad version, bad point or bad tag. BOLT 8: close the
        connection without another word.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import coincurve
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared.errors import HandshakeFailed

__all__ = [
    "ACT_ONE",
    "ACT_THREE",
    "ACT_TWO",
    "HEADER",
    "MAX_MESSAGE",
    "AwaitActOne",
    "AwaitActThree",
    "AwaitActTwo",
    "AwaitInitiatorKey",
    "AwaitResponderKey",
    "Cipher",
    "InitiatorRequest",
    "KeyAnswer",
    "ResponderRequest",
    "Session",
    "answer_initiator",
    "answer_responder",
    "initiate",
]

BOLT = "BOLT 8 § Handshake Exchange"
ACT_ONE, ACT_TWO, ACT_THREE = 50, 50, 66
MAC = 16
HEADER = 2 + MAC
"""Size of the encrypted length in front of each message."""
MAX_MESSAGE = 65535
ROTATE_AFTER = 1000
"""A key seals so many times: twice a message (BOLT 8 § Lightning Message Key Rotation)."""
_NONCES = tuple(bytes(4) + number.to_bytes(8, "little") for number in range(ROTATE_AFTER))
"""Every nonce that is ever used: looked up on the hot path, not made."""
_PROTOCOL = hashlib.sha256(b"Noise_XK_secp256k1_ChaChaPoly_SHA256").digest()
_VERSION = b"\x00"


def _hkdf(salt: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """RFC 5869 with empty info, split into two 32-byte keys."""
    root = hmac.digest(salt, secret, "sha256")
    first = hmac.digest(root, b"\x01", "sha256")
    return first, hmac.digest(root, first + b"\x02", "sha256")


def _seal(key: bytes, number: int, data: bytes, associated: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_NONCES[number], data, associated)


def _unseal(key: bytes, number: int, data: bytes, associated: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCES[number], data, associated)
    except InvalidTag:
        raise HandshakeFailed("authentication tag does not match", bolt=BOLT) from None


def _ecdh(private: bytes, point: bytes) -> bytes:
    """SHA-256 of the compressed shared point."""
    try:
        return coincurve.PrivateKey(private).ecdh(point)
    except ValueError:
        raise HandshakeFailed("not a point on the curve", bolt=BOLT) from None


def _public(private: bytes) -> bytes:
    """Return the public key; the private one may come from the fabric, so it is not trusted."""
    if len(private) != 32:
        raise HandshakeFailed(f"a private key has 32 bytes, got {len(private)}", bolt=BOLT)
    try:
        return coincurve.PrivateKey(private).public_key.format()
    except ValueError:
        raise HandshakeFailed(
            "not a private key: zero, or not below the order", bolt=BOLT
        ) from None


class _Transcript(NamedTuple):
    """The running hash and chaining key that both sides share."""

    h: bytes
    ck: bytes

    @classmethod
    def new(cls, responder: bytes) -> "_Transcript":
        return cls(_PROTOCOL, _PROTOCOL).mix(b"lightning").mix(responder)

    def mix(self, data: bytes) -> "_Transcript":
        return self._replace(h=hashlib.sha256(self.h + data).digest())

    def stir(self, secret: bytes) -> tuple["_Transcript", bytes]:
        ck, key = _hkdf(self.ck, secret)
        return self._replace(ck=ck), key


# --- the step that needs the node key -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResponderRequest:
    """What a responder asks after act one (BOLT 8 § Act One, step 4)."""

    act_one: bytes


@dataclass(frozen=True, slots=True)
class InitiatorRequest:
    """What an initiator asks after act two (BOLT 8 § Act Three, step 3).

    Attributes:
        responder: node id that was dialled.
        ephemeral: our private ephemeral key of this handshake: without it the chaining key cannot
            be recomputed.
    """

    responder: bytes
    ephemeral: bytes = field(repr=False)
    act_two: bytes


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """The full HKDF output of the step: chaining key and ``temp_k1`` or ``temp_k3``."""

    ck: bytes = field(repr=False)
    temp_k: bytes = field(repr=False)


def answer_responder(node_private_key: bytes, request: ResponderRequest) -> KeyAnswer:
    """Do the responder's ECDH with the node key, after checking act one's MAC."""
    point, tag = _split(request.act_one, ACT_ONE)
    transcript = _Transcript.new(_public(node_private_key)).mix(point)
    transcript, key = transcript.stir(_ecdh(node_private_key, point))
    _unseal(key, 0, tag, transcript.h)
    return KeyAnswer(transcript.ck, key)


def answer_initiator(node_private_key: bytes, request: InitiatorRequest) -> KeyAnswer:
    """Do the initiator's ECDH with the node key, after checking act two's MAC."""
    sent, _ = initiate(_public(node_private_key), request.ephemeral, request.responder)
    waiting = sent.receive(request.act_two)
    static = _seal(waiting.temp_k2, 1, _public(node_private_key), waiting.transcript.h)
    transcript, key = waiting.transcript.mix(static).stir(_ecdh(node_private_key, waiting.point))
    return KeyAnswer(transcript.ck, key)


# --- handshake: initiator -----------------------------------------------------------------------


def initiate(local: bytes, ephemeral: bytes, responder: bytes) -> tuple["AwaitActTwo", bytes]:
    """Start as initiator; return the first state and act one.

    Args:
        local: our node id.
        ephemeral: 32 random bytes, a valid private key.
        responder: node id of the peer.
    """
    point = _public(ephemeral)
    transcript = _Transcript.new(responder).mix(point)
    transcript, key = transcript.stir(_ecdh(ephemeral, responder))
    tag = _seal(key, 0, b"", transcript.h)
    return AwaitActTwo(local, ephemeral, responder, transcript.mix(tag)), _VERSION + point + tag


@dataclass(frozen=True, slots=True)
class AwaitActTwo:
    """Initiator, after sending act one."""

    WANTS: ClassVar[int] = ACT_TWO

    local: bytes
    ephemeral: bytes = field(repr=False)
    responder: bytes
    transcript: _Transcript = field(repr=False)

    def receive(self, act: bytes) -> "AwaitInitiatorKey":
        """Take act two; ``request`` of the result is for the holder of the node key."""
        point, tag = _split(act, ACT_TWO)
        transcript, key = self.transcript.mix(point).stir(_ecdh(self.ephemeral, point))
        _unseal(key, 0, tag, transcript.h)
        request = InitiatorRequest(self.responder, self.ephemeral, act)
        return AwaitInitiatorKey(self.local, request, point, key, transcript.mix(tag))


@dataclass(frozen=True, slots=True)
class AwaitInitiatorKey:
    """Initiator, waiting for the answer to ``request``."""

    local: bytes
    request: InitiatorRequest
    point: bytes
    temp_k2: bytes = field(repr=False)
    transcript: _Transcript = field(repr=False)

    def answer(self, answer: KeyAnswer) -> tuple["Session", bytes]:
        """Finish; return the session and act three."""
        static = _seal(self.temp_k2, 1, self.local, self.transcript.h)
        transcript = self.transcript.mix(static)
        tail = _seal(answer.temp_k, 0, b"", transcript.h)
        send, receive = _hkdf(answer.ck, b"")
        session = Session(
            self.request.responder, Cipher(send, answer.ck), Cipher(receive, answer.ck)
        )
        return session, _VERSION + static + tail


# --- handshake: responder -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwaitActOne:
    """Responder, before anything arrived.

    Attributes:
        local: our node id.
        ephemeral: 32 random bytes, a valid private key.
    """

    WANTS: ClassVar[int] = ACT_ONE

    local: bytes
    ephemeral: bytes = field(repr=False)

    def receive(self, act: bytes) -> "AwaitResponderKey":
        """Take act one; its MAC can only be checked with the node key."""
        point, tag = _split(act, ACT_ONE)
        if not _is_point(point):
            raise HandshakeFailed("not a point on the curve", bolt=BOLT)
        transcript = _Transcript.new(self.local).mix(point)
        return AwaitResponderKey(self.ephemeral, ResponderRequest(act), point, tag, transcript)


@dataclass(frozen=True, slots=True)
class AwaitResponderKey:
    """Responder, waiting for the answer to ``request``."""

    ephemeral: bytes = field(repr=False)
    request: ResponderRequest
    point: bytes
    tag: bytes
    transcript: _Transcript = field(repr=False)

    def answer(self, answer: KeyAnswer) -> tuple["AwaitActThree", bytes]:
        """Go on; return the next state and act two.

        The MAC is checked again: an answerer that is not ours would fail here.
        """
        _unseal(answer.temp_k, 0, self.tag, self.transcript.h)
        ours = _public(self.ephemeral)
        transcript = self.transcript._replace(ck=answer.ck).mix(self.tag).mix(ours)
        transcript, key = transcript.stir(_ecdh(self.ephemeral, self.point))
        tag = _seal(key, 0, b"", transcript.h)
        return AwaitActThree(self.ephemeral, key, transcript.mix(tag)), _VERSION + ours + tag


@dataclass(frozen=True, slots=True)
class AwaitActThree:
    """Responder, after sending act two."""

    WANTS: ClassVar[int] = ACT_THREE

    ephemeral: bytes = field(repr=False)
    temp_k2: bytes = field(repr=False)
    transcript: _Transcript = field(repr=False)

    def receive(self, act: bytes) -> "Session":
        """Take act three; the peer's node id is in it."""
        _check_version(act)
        if len(act) != ACT_THREE:
            raise HandshakeFailed(f"act three has {ACT_THREE} bytes, got {len(act)}", bolt=BOLT)
        static, tag = act[1:50], act[50:]
        remote = _unseal(self.temp_k2, 1, static, self.transcript.h)
        transcript, key = self.transcript.mix(static).stir(_ecdh(self.ephemeral, remote))
        _unseal(key, 0, tag, transcript.h)
        receive, send = _hkdf(transcript.ck, b"")
        return Session(remote, Cipher(send, transcript.ck), Cipher(receive, transcript.ck))


def _is_point(point: bytes) -> bool:
    try:
        coincurve.PublicKey(point)
    except ValueError:
        return False
    return True


def _split(act: bytes, size: int) -> tuple[bytes, bytes]:
    _check_version(act)
    if len(act) != size:
        raise HandshakeFailed(f"an act has {size} bytes here, got {len(act)}", bolt=BOLT)
    return act[1:34], act[34:]


def _check_version(act: bytes) -> None:
    if act[:1] != _VERSION:
        raise HandshakeFailed(f"unknown handshake version {act[:1].hex()}", bolt=BOLT)


# --- frames -------------------------------------------------------------------------------------


class Cipher:
    """One direction of a session; rotates its key after 1000 uses. Mutable: the hot path."""

    __slots__ = ("_aead", "_ck", "_key", "_used")

    def __init__(self, key: bytes, ck: bytes) -> None:
        self._key = key
        self._ck = ck
        self._aead = ChaCha20Poly1305(key)
        self._used = 0

    def seal(self, data: bytes) -> bytes:
        """Encrypt; 16 bytes longer."""
        sealed = self._aead.encrypt(_NONCES[self._used], data, None)
        self._step()
        return sealed

    def unseal(self, data: bytes) -> bytes:
        """Decrypt; the cipher is not to be used again after a failure."""
        try:
            plain = self._aead.decrypt(_NONCES[self._used], data, None)
        except InvalidTag:
            raise HandshakeFailed(
                "authentication tag does not match", bolt="BOLT 8 § Receiving and Decrypting"
            ) from None
        self._step()
        return plain

    def _step(self) -> None:
        self._used += 1
        if self._used == ROTATE_AFTER:
            self._ck, self._key = _hkdf(self._ck, self._key)
            self._aead = ChaCha20Poly1305(self._key)
            self._used = 0


@dataclass(frozen=True, slots=True)
class Session:
    """A finished handshake.

    Attributes:
        remote: the peer's node id, authenticated.
    """

    remote: bytes
    send: Cipher = field(repr=False)
    receive: Cipher = field(repr=False)

    def seal(self, message: bytes) -> bytes:
        """Return the frame of one message of at most 65535 bytes."""
        if len(message) > MAX_MESSAGE:
            raise ValueError(f"a message has at most {MAX_MESSAGE} bytes, got {len(message)}")
        return self.send.seal(len(message).to_bytes(2, "big")) + self.send.seal(message)

    def open_size(self, header: bytes) -> int:
        """Decrypt an 18-byte header; return the size of the sealed message that follows."""
        return int.from_bytes(self.receive.unseal(header), "big") + MAC

    def open_message(self, sealed: bytes) -> bytes:
        """Decrypt a message."""
        return self.receive.unseal(sealed)
