"""Offers, requests and invoices (BOLT 12). Pure.

* ``text``: the strings, bech32 without a checksum.
* ``fields``: the TLV streams, every field under the BOLT's name.
* ``merkle``: what signatures sign.
* ``offer``, ``request``, ``invoice``: make them, read them, and check them against each other.
"""

from shared.bolt12.fields import (
    Bip353Name,
    FallbackAddress,
    Invoice,
    InvoiceError,
    InvoiceRequest,
    Offer,
    records_of,
)
from shared.bolt12.invoice import (
    Terms,
    check_answers,
    decode_invoice,
    decode_invoice_text,
    encode_invoice,
    expires_at,
    invoice_digest,
    make_error,
    make_invoice,
    takes_parts,
    usable_paths,
)
from shared.bolt12.offer import (
    check_offer,
    check_usable,
    decode_offer,
    encode_offer,
    expected_amount_msat,
    offer_id,
)
from shared.bolt12.refusal import Refused
from shared.bolt12.request import (
    Order,
    check_offer_is_repeated,
    decode_request,
    make_request,
    request_digest,
)

__all__ = [
    "Bip353Name",
    "FallbackAddress",
    "Invoice",
    "InvoiceError",
    "InvoiceRequest",
    "Offer",
    "Order",
    "Refused",
    "Terms",
    "check_answers",
    "check_offer",
    "check_offer_is_repeated",
    "check_usable",
    "decode_invoice",
    "decode_invoice_text",
    "decode_offer",
    "decode_request",
    "encode_invoice",
    "encode_offer",
    "expected_amount_msat",
    "expires_at",
    "invoice_digest",
    "make_error",
    "make_invoice",
    "make_request",
    "offer_id",
    "records_of",
    "request_digest",
    "takes_parts",
    "usable_paths",
]
