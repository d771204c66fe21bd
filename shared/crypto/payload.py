"""What an onion tells one hop of a payment (BOLT 4 § payload format)."""

from typing import Annotated

from pydantic import Field

from shared.crypto.failures import INVALID_ONION_PAYLOAD
from shared.errors import InvalidOnion, MalformedMessage
from shared.wire.record import Record, TlvStream, decode_stream, encode_stream
from shared.wire.tlv import Tlv
from shared.wire.types import TU32, TU64, Point, Scid, Secret, Sha256, Tail

__all__ = ["Payload", "PaymentData", "decode_payload", "encode_payload"]


class PaymentData(Record):
    """Proof that the payer has the invoice, and how much all parts together pay."""

    payment_secret: Secret
    total_msat: TU64


class Payload(TlvStream):
    """One hop's TLV stream; fields that are not there are None."""

    amt_to_forward: Annotated[TU64 | None, Tlv(2)] = None
    outgoing_cltv_value: Annotated[TU32 | None, Tlv(4)] = None
    short_channel_id: Annotated[Scid | None, Tlv(6)] = None
    payment_data: Annotated[PaymentData | None, Tlv(8)] = None
    encrypted_recipient_data: Annotated[Tail | None, Tlv(10)] = None
    current_path_key: Annotated[Point | None, Tlv(12)] = None
    payment_metadata: Annotated[Tail | None, Tlv(16)] = None
    total_amount_msat: Annotated[TU64 | None, Tlv(18)] = None
    keysend_preimage: Annotated[Sha256 | None, Tlv(5482373484)] = Field(default=None, repr=False)
    """The preimage itself: a payment without an invoice."""


def encode_payload(payload: Payload) -> bytes:
    """Return the TLV stream, without its length."""
    return encode_stream(payload)


def decode_payload(data: bytes) -> Payload:
    """Read a hop's payload.

    Raises:
        InvalidOnion: with invalid_onion_payload.
    """
    try:
        return decode_stream(Payload, data)
    except MalformedMessage as error:
        raise InvalidOnion(str(error), code=INVALID_ONION_PAYLOAD) from None
