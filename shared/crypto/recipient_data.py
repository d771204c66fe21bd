"""What the maker of a blinded path writes to each of its hops (BOLT 4 § encrypted_data_tlv)."""

from typing import Annotated, NamedTuple

from shared.wire.record import Record, TlvStream
from shared.wire.tlv import Tlv
from shared.wire.types import TU32, TU64, U16, U32, Point, Scid, Tail

__all__ = ["Opened", "PaymentConstraints", "PaymentRelay", "RecipientData"]


class PaymentRelay(Record):
    """What a hop takes, as the maker of the path has it from its channel_update."""

    cltv_expiry_delta: U16
    fee_proportional_millionths: U32
    fee_base_msat: TU32

    def amt_to_forward_msat(self, amount_msat: int) -> int:
        """Return what is left of an incoming HTLC (BOLT 4's formula, which rounds up)."""
        ppm = self.fee_proportional_millionths
        return ((amount_msat - self.fee_base_msat) * 1_000_000 + 1_000_000 + ppm - 1) // (
            1_000_000 + ppm
        )


class PaymentConstraints(Record):
    """When a path may be used."""

    max_cltv_expiry: U32
    htlc_minimum_msat: TU64


class RecipientData(TlvStream):
    """encrypted_data_tlv; fields that are not there are None."""

    short_channel_id: Annotated[Scid | None, Tlv(2)] = None
    next_node_id: Annotated[Point | None, Tlv(4)] = None
    path_id: Annotated[Tail | None, Tlv(6)] = None
    payment_relay: Annotated[PaymentRelay | None, Tlv(10)] = None
    payment_constraints: Annotated[PaymentConstraints | None, Tlv(12)] = None
    allowed_features: Annotated[Tail | None, Tlv(14)] = None


class Opened(NamedTuple):
    """What was decrypted.

    Attributes:
        next_path_key: for the next hop.
    """

    data: RecipientData
    next_path_key: bytes
