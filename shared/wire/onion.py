"""Onion messages (BOLT 4 § Onion Messages)."""

from shared.wire.message import Message
from shared.wire.types import Blob, Point

__all__ = ["OnionMessage"]


class OnionMessage(Message, type=513):
    """A message for another node, or an answer (BOLT 4 § The `onion_message` Message)."""

    path_key: Point
    onion_message_packet: Blob
    """Version, public key, payloads, hmac; usually 1366 or 32834 bytes."""
