"""The signatures of announcements (BOLT 7). Pure, and slow: not in an event loop by the hundred.

Nearly all of a node's CPU goes here, so coincurve's functions for one signature, which make and
drop objects at each step, are left out, and node keys, of which there are few, are parsed once.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Any

from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]
from coincurve.context import GLOBAL_CONTEXT

from shared.errors import Action, MalformedMessage
from shared.gossip.view import (
    CHANNEL_ANNOUNCEMENT,
    CHANNEL_UPDATE,
    NODE_ANNOUNCEMENT,
    channel_view,
    message_type,
    node_view,
)

__all__ = ["digest", "signatures", "verify", "with_low_s"]

_SIGNATURE = 64
_CHANNEL_SIGNED = 2 + 4 * _SIGNATURE
_SIGNED = 2 + _SIGNATURE
_NODES_KEPT = 50_000
"""More than there are nodes; 250 bytes each."""

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

_SIGNATURE_TYPE = ffi.typeof("secp256k1_ecdsa_signature *")
_context = GLOBAL_CONTEXT.ctx
_parse, _check = lib.secp256k1_ecdsa_signature_parse_compact, lib.secp256k1_ecdsa_verify


def signatures(raw: bytes) -> int:
    """Return how many signatures an announcement carries: 4 or 1."""
    return 4 if message_type(raw) == CHANNEL_ANNOUNCEMENT else 1


def digest(raw: bytes) -> bytes:
    """Return what is signed: the double-SHA256 of all that follows the signatures."""
    start = _CHANNEL_SIGNED if message_type(raw) == CHANNEL_ANNOUNCEMENT else _SIGNED
    return sha256(sha256(raw[start:]).digest()).digest()


def verify(raw: bytes, update_signer: bytes = b"") -> bool:
    """Whether all signatures of an announcement are right, and of low S as libsecp256k1 wants them.

    Args:
        raw: of any of the three kinds.
        update_signer: for a `channel_update`, the node id at the start of its direction.

    Raises:
        MalformedMessage: it is no announcement.
    """
    kind = message_type(raw)
    if kind == CHANNEL_ANNOUNCEMENT:
        channel = channel_view(raw)
        signed = digest(raw)
        return (
            _is_signed(_node_key(channel.node_id_1), signed, raw[2:66])
            and _is_signed(_node_key(channel.node_id_2), signed, raw[66:130])
            and _is_signed(_key(channel.bitcoin_key_1), signed, raw[130:194])
            and _is_signed(_key(channel.bitcoin_key_2), signed, raw[194:258])
        )
    if kind == CHANNEL_UPDATE:
        return _is_signed(_node_key(update_signer), digest(raw), raw[2:_SIGNED])
    if kind == NODE_ANNOUNCEMENT:
        return _is_signed(_node_key(node_view(raw).node_id), digest(raw), raw[2:_SIGNED])
    text = f"type {kind} is no announcement"
    raise MalformedMessage(text, bolt="BOLT 7", action=Action.WARN)


def with_low_s(raw: bytes) -> bytes:
    """Return an announcement with the low S in each of its signatures.

    Anybody can turn a right signature into its twin of high S, which some nodes take and pass on.
    """
    parts, end = [raw[:2]], 2 + signatures(raw) * _SIGNATURE
    for at in range(2, end, _SIGNATURE):
        s = int.from_bytes(raw[at + 32 : at + _SIGNATURE], "big")
        s = _ORDER - s if _ORDER // 2 < s < _ORDER else s
        parts += (raw[at : at + 32], s.to_bytes(32, "big"))
    return b"".join((*parts, raw[end:]))


def _key(public: bytes) -> Any:  # noqa: ANN401 - coincurve's structures have no types
    """Parse a compressed public key; None if it is none."""
    key = ffi.new("secp256k1_pubkey *")
    if len(public) != 33 or not lib.secp256k1_ec_pubkey_parse(_context, key, public, 33):
        return None
    return key


_node_key = lru_cache(maxsize=_NODES_KEPT)(_key)


def _is_signed(key: Any, signed: bytes, signature: bytes) -> bool:  # noqa: ANN401
    if key is None:
        return False
    # A structure of its own: the back checks in threads, and these calls let others run.
    parsed = ffi.new(_SIGNATURE_TYPE)
    if not _parse(_context, parsed, signature):
        return False
    return bool(_check(_context, parsed, signed, key))
