"""Onion messages and blinded paths (BOLT 4 § Onion Messages, § Route Blinding)."""

from typing import Annotated, TypeAlias

from pydantic import Field

from shared.wire.codec import Counted
from shared.wire.message import Message
from shared.wire.record import Nested, Record
from shared.wire.types import U16, U32, U64, Blob, NodeRef, Point

__all__ = ["BlindedHop", "BlindedPath", "BlindedPayinfo", "OnionMessage"]


class OnionMessage(Message, type=513):
    """A message for another node, or an answer (BOLT 4 § The `onion_message` Message)."""

    path_key: Point
    onion_message_packet: Blob
    """Version, public key, payloads, hmac; usually 1366 or 32834 bytes."""


class BlindedHop(Record):
    """``blinded_path_hop``: one node of a blinded path, which only it can tell that it is."""

    blinded_node_id: Point
    encrypted_recipient_data: Blob
    """What the path's maker tells this node: :mod:`shared.crypto.recipient_data`."""


BlindedHops: TypeAlias = Annotated[
    list[BlindedHop], Field(min_length=1, max_length=255), Counted(Nested(BlindedHop), 1)
]


class BlindedPath(Record):
    """``blinded_path``: a way to a node that does not say which."""

    first_node_id: NodeRef
    """The introduction point, the only node that is named: by its id, or by a channel of it."""
    first_path_key: Point
    """For the introduction point, which makes the next hop's of it."""
    path: BlindedHops
    """The introduction point's first, the recipient's last."""


class BlindedPayinfo(Record):
    """``blinded_payinfo``: what a payment by a blinded path costs (BOLT 12 § Invoices)."""

    fee_base_msat: U32
    fee_proportional_millionths: U32
    cltv_expiry_delta: U16
    htlc_minimum_msat: U64
    htlc_maximum_msat: U64
    features: Blob = b""
