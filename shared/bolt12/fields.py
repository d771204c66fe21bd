"""The TLV streams of BOLT 12, with every field under its own name.

What parses is well-formed: points are on the curve, paths have hops, text is UTF-8. What the
fields mean together is checked in :mod:`.offer`, :mod:`.request` and :mod:`.invoice`. A stream is
encoded to the very bytes it came from, so that signatures over it hold.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

import coincurve
from pydantic import AfterValidator, Field

from shared.bolt12.merkle import SIGNATURES
from shared.wire.codec import Fixed, Reader, Repeated, malformed
from shared.wire.onion import BlindedPath, BlindedPayinfo
from shared.wire.record import Nested, Record, TlvStream, decode_stream, encode_stream
from shared.wire.tlv import Tlv, read_records
from shared.wire.types import TU32, TU64, U8, Blob, BlockHash, Sha256, Signature, Tail

__all__ = [
    "Bip353Name",
    "FallbackAddress",
    "Invoice",
    "InvoiceError",
    "InvoiceRequest",
    "Offer",
    "OfferFields",
    "RequestFields",
    "decode_fields",
    "fields_of",
    "records_of",
]

BOLT = "BOLT 12"
MAX_RECORDS = 256
"""Of one stream; each costs hashes, and strangers send them."""
StreamT = TypeVar("StreamT", bound=TlvStream)


@dataclass(frozen=True, slots=True)
class Utf8:
    """Text up to the end of its record."""

    def write(self, value: str) -> bytes:
        """Encode ``value``."""
        return value.encode()

    def read(self, reader: Reader) -> str:
        """Take what is left; refuses what is not UTF-8."""
        try:
            return reader.rest().decode()
        except UnicodeDecodeError:
            raise malformed("text that is not UTF-8", bolt=BOLT) from None

    def __str__(self) -> str:
        return "...*utf8"


@dataclass(frozen=True, slots=True)
class ShortBytes:
    """A ``u8`` length and that many bytes."""

    def write(self, value: bytes) -> bytes:
        """Encode ``value``; the model limits its length."""
        return len(value).to_bytes(1, "big") + value

    def read(self, reader: Reader) -> bytes:
        """Decode the length, then take that many bytes."""
        return reader.take(reader.take(1)[0])

    def __str__(self) -> str:
        return "u8 len, len*byte"


def _on_curve(value: bytes) -> bytes:
    try:
        coincurve.PublicKey(value)
    except ValueError:
        raise ValueError("not a point of the curve") from None
    return value


def _paths_on_curve(paths: list[BlindedPath]) -> list[BlindedPath]:
    for path in paths:
        if path.first_node_id[0] > 1:
            _on_curve(path.first_node_id)
        _on_curve(path.first_path_key)
        for hop in path.path:
            _on_curve(hop.blinded_node_id)
    return paths


Text: TypeAlias = Annotated[str, Utf8()]
CurvePoint: TypeAlias = Annotated[
    bytes, Field(min_length=33, max_length=33), AfterValidator(_on_curve), Fixed(33, "point")
]
"""A compressed point that is on the curve."""
Chains: TypeAlias = Annotated[
    list[BlockHash], Field(min_length=1), Repeated(Fixed(32, "chain_hash"))
]
Paths: TypeAlias = Annotated[
    list[BlindedPath],
    Field(min_length=1),
    AfterValidator(_paths_on_curve),
    Repeated(Nested(BlindedPath)),
]
Payinfos: TypeAlias = Annotated[
    list[BlindedPayinfo], Field(min_length=1), Repeated(Nested(BlindedPayinfo))
]


class Bip353Name(Record):
    """A name for people (BIP 353) by which the payer found the offer: ``name@domain``."""

    name: Annotated[bytes, Field(max_length=255), ShortBytes()]
    domain: Annotated[bytes, Field(max_length=255), ShortBytes()]


class FallbackAddress(Record):
    """Where else an invoice may be paid: a witness program."""

    version: U8
    address: Blob


Fallbacks: TypeAlias = Annotated[list[FallbackAddress], Repeated(Nested(FallbackAddress))]


class OfferFields(TlvStream):
    """Fields of an offer, which requests and invoices repeat; those that are not there are None."""

    offer_chains: Annotated[Chains | None, Tlv(2)] = None
    offer_metadata: Annotated[Tail | None, Tlv(4)] = None
    offer_currency: Annotated[Text | None, Tlv(6)] = None
    offer_amount: Annotated[TU64 | None, Tlv(8)] = None
    offer_description: Annotated[Text | None, Tlv(10)] = None
    offer_features: Annotated[Tail | None, Tlv(12)] = None
    offer_absolute_expiry: Annotated[TU64 | None, Tlv(14)] = None
    offer_paths: Annotated[Paths | None, Tlv(16)] = None
    offer_issuer: Annotated[Text | None, Tlv(18)] = None
    offer_quantity_max: Annotated[TU64 | None, Tlv(20)] = None
    offer_issuer_id: Annotated[CurvePoint | None, Tlv(22)] = None


class Offer(OfferFields):
    """``offer``: what may be bought, or where may be given (``lno``)."""


class RequestFields(OfferFields):
    """Fields of a request, which invoices repeat."""

    invreq_metadata: Annotated[Tail | None, Tlv(0)] = None
    """First of all records: what nobody can guess, for the nonces of the tree."""
    invreq_chain: Annotated[BlockHash | None, Tlv(80)] = None
    invreq_amount: Annotated[TU64 | None, Tlv(82)] = None
    invreq_features: Annotated[Tail | None, Tlv(84)] = None
    invreq_quantity: Annotated[TU64 | None, Tlv(86)] = None
    invreq_payer_id: Annotated[CurvePoint | None, Tlv(88)] = None
    invreq_payer_note: Annotated[Text | None, Tlv(89)] = None
    invreq_paths: Annotated[Paths | None, Tlv(90)] = None
    invreq_bip_353_name: Annotated[Bip353Name | None, Tlv(91)] = None
    signature: Annotated[Signature | None, Tlv(240)] = None


class InvoiceRequest(RequestFields):
    """``invoice_request``: asks for an invoice (``lnr``)."""


class Invoice(RequestFields):
    """``invoice``: what is to be paid, and how (``lni``)."""

    invoice_paths: Annotated[Paths | None, Tlv(160)] = None
    invoice_blindedpay: Annotated[Payinfos | None, Tlv(162)] = None
    invoice_created_at: Annotated[TU64 | None, Tlv(164)] = None
    invoice_relative_expiry: Annotated[TU32 | None, Tlv(166)] = None
    invoice_payment_hash: Annotated[Sha256 | None, Tlv(168)] = None
    invoice_amount: Annotated[TU64 | None, Tlv(170)] = None
    invoice_fallbacks: Annotated[Fallbacks | None, Tlv(172)] = None
    invoice_features: Annotated[Tail | None, Tlv(174)] = None
    invoice_node_id: Annotated[CurvePoint | None, Tlv(176)] = None


class InvoiceError(TlvStream):
    """``invoice_error``: why there is no invoice, or why it is not paid."""

    erroneous_field: Annotated[TU64 | None, Tlv(1)] = None
    suggested_value: Annotated[Tail | None, Tlv(3)] = None
    error: Annotated[Text | None, Tlv(5)] = None


def decode_fields(model: type[StreamT], data: bytes) -> StreamT:
    """Parse a stream of BOLT 12.

    Raises:
        MalformedMessage: it is none, or has more records than anybody needs.
    """
    if sum(1 for _ in read_records(Reader(data))) > MAX_RECORDS:
        raise malformed("too many records", bolt=BOLT)
    return decode_stream(model, data)


def records_of(stream: TlvStream) -> list[tuple[int, bytes]]:
    """Return type and value of each record, in order."""
    return list(read_records(Reader(encode_stream(stream))))


def fields_of(stream: OfferFields) -> dict[str, object]:
    """Return what a message that answers this one repeats: all fields but signatures."""
    named = {slot.name: getattr(stream, slot.name) for slot in stream.TLVS.values()}
    named.pop("signature", None)
    unknown = {n: value for n, value in stream.unknown_tlvs.items() if n not in SIGNATURES}
    return {**named, "unknown_tlvs": unknown}
