"""Route blinding (BOLT 4 § Route Blinding): paths that name only their first node. Pure.

The maker of a path shares a secret with each of its nodes, by a chain of points that begins with
the path's ``session_key``: each node makes the next node's ``path_key`` of its own. The secret
hides the node's id, and encrypts what the maker tells it.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import coincurve
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared.crypto.failures import INVALID_ONION_BLINDING
from shared.crypto.sphinx import shared_secrets
from shared.errors import InvalidOnion
from shared.wire.onion import BlindedHop, BlindedPath

__all__ = ["HopKeys", "Unsealed", "blind", "hop_keys", "joined", "opened"]

_NONCE = bytes(12)
TAG_BYTES = 16
"""By so much is what is encrypted longer than what it says."""


@dataclass(frozen=True, slots=True)
class HopKeys:
    """What the maker of a path shares with one of its nodes.

    Attributes:
        path_key: E_i, 33 bytes, which reaches the node with the onion.
        shared_secret: ss_i, 32 bytes.
        blinded_node_id: B_i, 33 bytes.
    """

    path_key: bytes
    shared_secret: bytes = field(repr=False)
    blinded_node_id: bytes

    @property
    def rho(self) -> bytes:
        """The key that encrypts what the node is told."""
        return _derived(b"rho", self.shared_secret)


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What a node of a path reads.

    Attributes:
        plaintext: an encrypted_data_tlv.
        next_path_key: E_{i+1}, unless the plaintext names another.
    """

    plaintext: bytes
    next_path_key: bytes


def hop_keys(session_key: bytes, node_ids: Sequence[bytes]) -> tuple[HopKeys, ...]:
    """Return the keys of each node of a path.

    Args:
        session_key: e_0, 32 random bytes, for one path only.
        node_ids: 33 bytes each, the introduction point first.

    Raises:
        ValueError: a node id is no point, or the session key no scalar.
    """
    points, secrets = shared_secrets(session_key, node_ids)
    return tuple(
        HopKeys(point, secret, _blinded(node_id, secret))
        for point, secret, node_id in zip(points, secrets, node_ids, strict=True)
    )


def blind(
    session_key: bytes, hops: Sequence[tuple[bytes, bytes]], first_node_id: bytes | None = None
) -> BlindedPath:
    """Make a blinded path.

    Args:
        session_key: 32 random bytes, for this path only.
        hops: node id and encrypted_data_tlv of each, the introduction point first and we last.
        first_node_id: names the introduction point otherwise: 9 bytes, one end of a channel.

    Raises:
        ValueError: a node id is no point, or there is no hop.
    """
    keys = hop_keys(session_key, [node_id for node_id, _ in hops])
    path = [
        BlindedHop(blinded_node_id=key.blinded_node_id, encrypted_recipient_data=_seal(key, data))
        for key, (_, data) in zip(keys, hops, strict=True)
    ]
    if not path:
        raise ValueError("a blinded path has at least one node")
    return BlindedPath(
        first_node_id=first_node_id or hops[0][0], first_path_key=keys[0].path_key, path=path
    )


def joined(first: BlindedPath, second: BlindedPath) -> BlindedPath:
    """Return one path that leads through ``first`` into ``second``, which another may have made.

    The last hop of ``first`` must forward to the first of ``second`` and name its
    ``first_path_key`` as ``next_path_key_override``.
    """
    return BlindedPath(
        first_node_id=first.first_node_id,
        first_path_key=first.first_path_key,
        path=[*first.path, *second.path],
    )


def opened(private_key: bytes, path_key: bytes, encrypted: bytes) -> Unsealed:
    """Decrypt what the maker of a path tells us.

    Args:
        private_key: the node key.
        path_key: E_i, as it came with the onion.
        encrypted: our encrypted_recipient_data.

    Raises:
        InvalidOnion: with invalid_onion_blinding; it is not for us, or garbage.
    """
    try:
        secret = coincurve.PrivateKey(private_key).ecdh(path_key)
        cipher = ChaCha20Poly1305(_derived(b"rho", secret))
        plaintext = cipher.decrypt(_NONCE, encrypted, None)
    except ValueError:
        raise InvalidOnion("path_key is not a point", code=INVALID_ONION_BLINDING) from None
    except InvalidTag:
        why = "encrypted_recipient_data does not decrypt"
        raise InvalidOnion(why, code=INVALID_ONION_BLINDING) from None
    factor = hashlib.sha256(path_key + secret).digest()
    return Unsealed(plaintext, coincurve.PublicKey(path_key).multiply(factor).format())


def _seal(keys: HopKeys, plaintext: bytes) -> bytes:
    return ChaCha20Poly1305(keys.rho).encrypt(_NONCE, plaintext, None)


def _blinded(node_id: bytes, secret: bytes) -> bytes:
    return coincurve.PublicKey(node_id).multiply(_derived(b"blinded_node_id", secret)).format()


def _derived(kind: bytes, secret: bytes) -> bytes:
    return hmac.digest(kind, secret, "sha256")
