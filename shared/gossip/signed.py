"""The signatures of announcements (BOLT 7). Pure, and slow: not in an event loop by the hundred."""

from hashlib import sha256

from shared.crypto.signature import verify_compact
from shared.gossip.view import (
    CHANNEL_ANNOUNCEMENT,
    CHANNEL_UPDATE,
    channel_view,
    message_type,
    node_view,
)

__all__ = ["digest", "signatures", "verify"]

_SIGNATURE = 64
_CHANNEL_SIGNED = 2 + 4 * _SIGNATURE
_SIGNED = 2 + _SIGNATURE


def signatures(raw: bytes) -> int:
    """Return how many signatures an announcement carries: 4 or 1."""
    return 4 if message_type(raw) == CHANNEL_ANNOUNCEMENT else 1


def digest(raw: bytes) -> bytes:
    """Return what is signed: the double-SHA256 of all that follows the signatures."""
    start = _CHANNEL_SIGNED if message_type(raw) == CHANNEL_ANNOUNCEMENT else _SIGNED
    return sha256(sha256(raw[start:]).digest()).digest()


def verify(raw: bytes, update_signer: bytes = b"") -> bool:
    """Whether all signatures of an announcement are right.

    Args:
        raw: of any of the three kinds.
        update_signer: for a `channel_update`, the node id at the start of its direction.

    Raises:
        MalformedMessage: it is no announcement.
    """
    kind = message_type(raw)
    if kind == CHANNEL_ANNOUNCEMENT:
        channel = channel_view(raw)
        signers: tuple[bytes, ...] = (
            channel.node_id_1,
            channel.node_id_2,
            channel.bitcoin_key_1,
            channel.bitcoin_key_2,
        )
    elif kind == CHANNEL_UPDATE:
        signers = (update_signer,)
    else:
        signers = (node_view(raw).node_id,)
    signed = digest(raw)
    at = 2
    for signer in signers:
        if not verify_compact(signer, signed, raw[at : at + _SIGNATURE]):
            return False
        at += _SIGNATURE
    return True
