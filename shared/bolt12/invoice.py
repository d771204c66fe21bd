"""Invoices that answer a request, and the errors that may come instead (BOLT 12 § Invoices)."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.bolt12.fields import (
    Invoice,
    InvoiceError,
    InvoiceRequest,
    OfferFields,
    decode_fields,
    fields_of,
    records_of,
)
from shared.bolt12.merkle import is_signed, signature_digest
from shared.bolt12.offer import has_unknown_required
from shared.bolt12.refusal import Refused
from shared.bolt12.text import INVOICE_PREFIX, decode_text, encode_text
from shared.chain import MAINNET
from shared.features import Feature, FeatureSet
from shared.wire.onion import BlindedPath, BlindedPayinfo
from shared.wire.record import encode_stream
from shared.wire.types import MAX_MONEY_MSAT

__all__ = [
    "DEFAULT_EXPIRY_S",
    "Terms",
    "check_answers",
    "check_invoice",
    "decode_invoice",
    "decode_invoice_text",
    "encode_invoice",
    "expires_at",
    "invoice_digest",
    "make_error",
    "make_invoice",
    "takes_parts",
    "usable_paths",
]

BOLT = "BOLT 12 § Invoices"
DEFAULT_EXPIRY_S = 7200
"""Seconds that an invoice is valid which does not say how long."""
MAX_ERROR_CHARACTERS = 200

_MIRRORED = (range(160), range(1_000_000_000, 3_000_000_000))
_PARTS = FeatureSet.of(optional=(Feature.basic_mpp,)).to_bytes()
_REQUIRED = ("amount", "created_at", "payment_hash", "node_id", "paths", "blindedpay")


@dataclass(frozen=True, slots=True)
class Terms:
    """What an invoice says besides the request that it answers.

    Attributes:
        amount_msat: the least that pays it.
        paths: blinded paths to the payee, the best first, each with what it takes.
        node_id: key that will sign.
        created_at: unix seconds.
        expiry_s: seconds after that.
        takes_parts: several HTLCs may pay it.
    """

    payment_hash: bytes
    amount_msat: int
    paths: Sequence[tuple[BlindedPath, BlindedPayinfo]]
    node_id: bytes
    created_at: int
    expiry_s: int = DEFAULT_EXPIRY_S
    takes_parts: bool = True


def make_invoice(request: InvoiceRequest, terms: Terms) -> Invoice:
    """Make the invoice that answers a request, without its signature."""
    expiry_s = None if terms.expiry_s == DEFAULT_EXPIRY_S else terms.expiry_s
    return Invoice.model_validate(
        {
            **fields_of(request),
            "invoice_paths": [path for path, _ in terms.paths],
            "invoice_blindedpay": [payinfo for _, payinfo in terms.paths],
            "invoice_created_at": terms.created_at,
            "invoice_relative_expiry": expiry_s,
            "invoice_payment_hash": terms.payment_hash,
            "invoice_amount": terms.amount_msat,
            "invoice_features": _PARTS if terms.takes_parts else None,
            "invoice_node_id": terms.node_id,
        }
    )


def invoice_digest(invoice: Invoice) -> bytes:
    """Return what the payee's key signs: 32 bytes."""
    return signature_digest("invoice", records_of(invoice))


def encode_invoice(invoice: Invoice) -> str:
    """Return its string, ``lni1…``: for lists and people, it travels as bytes."""
    return encode_text(INVOICE_PREFIX, encode_stream(invoice))


def decode_invoice(data: bytes) -> Invoice:
    """Read an invoice and check all that does not depend on what was asked for, and when.

    Raises:
        MalformedMessage: it is no invoice.
        Refused: BOLT 12 wants it rejected.
    """
    invoice = decode_fields(Invoice, data)
    check_invoice(invoice)
    return invoice


def decode_invoice_text(text: str) -> Invoice:
    """Read the string of an invoice, as :func:`decode_invoice` its bytes.

    Raises:
        MalformedMessage: it is no invoice.
        Refused: BOLT 12 wants it rejected.
    """
    prefix, data = decode_text(text)
    if prefix != INVOICE_PREFIX:
        raise Refused(f"begins with {prefix}, not with {INVOICE_PREFIX}", bolt=BOLT)
    return decode_invoice(data)


def check_invoice(invoice: Invoice) -> None:
    """Check the rules for an invoice's fields among each other, and its signature.

    Raises:
        Refused: BOLT 12 wants it rejected.
    """
    for name in _REQUIRED:
        if getattr(invoice, f"invoice_{name}") is None:
            raise Refused(f"no invoice_{name}", bolt=BOLT)
    if not 0 < (invoice.invoice_amount or 0) <= MAX_MONEY_MSAT:
        raise Refused("not an amount", bolt=BOLT, field=170)
    if has_unknown_required(invoice.invoice_features):
        # Nor is "must be paid in several parts" something that we can promise.
        raise Refused("it requires a feature that we do not have", bolt=BOLT, field=174)
    if len(invoice.invoice_paths or ()) != len(invoice.invoice_blindedpay or ()):
        raise Refused("not one payinfo for each path", bolt=BOLT, field=162)
    if not usable_paths(invoice):
        raise Refused("every path requires a feature that we do not know", bolt=BOLT, field=162)
    node_id = invoice.invoice_node_id or b""
    if not is_signed(node_id, invoice_digest(invoice), invoice.signature):
        raise Refused("the signature is not the payee's", bolt=BOLT, field=240)


def check_answers(
    invoice: Invoice,
    request: InvoiceRequest,
    *,
    asked: bytes,
    chain_hash: bytes,
    unix_s: float,
) -> None:
    """Check an invoice that came by the reply path of a request of ours.

    Args:
        invoice: checked by :func:`check_invoice`.
        request: as we sent it; it names the amount.
        asked: the node that was asked: the last blinded_node_id of the offer's path that was
            taken, or the issuer.
        chain_hash: of our chain.
        unix_s: now.

    Raises:
        Refused: BOLT 12 wants it rejected.
    """
    if _mirrored(invoice) != _mirrored(request):
        raise Refused("it does not repeat what was asked", bolt=BOLT)
    if (invoice.invreq_chain or MAINNET.chain_hash) != chain_hash:
        raise Refused("another chain", bolt=BOLT, field=80)
    expected = request.offer_issuer_id or asked
    if invoice.invoice_node_id != expected:
        raise Refused("from another node than was asked", bolt=BOLT, field=176)
    if request.invreq_amount is None or invoice.invoice_amount != request.invreq_amount:
        raise Refused("it wants another amount than was offered", bolt=BOLT, field=170)
    if unix_s > expires_at(invoice):
        raise Refused("it has expired", bolt=BOLT, field=166)


def usable_paths(invoice: Invoice) -> list[tuple[BlindedPath, BlindedPayinfo]]:
    """Return the paths that we can pay by, in the payee's order."""
    pairs = zip(invoice.invoice_paths or (), invoice.invoice_blindedpay or (), strict=False)
    return [
        (path, payinfo) for path, payinfo in pairs if not has_unknown_required(payinfo.features)
    ]


def takes_parts(invoice: Invoice) -> bool:
    """Whether several HTLCs may pay it."""
    features = FeatureSet.from_bytes(invoice.invoice_features or b"")
    return features.supports(Feature.basic_mpp)


def expires_at(invoice: Invoice) -> int:
    """Return the unix second after which it should not be paid."""
    expiry_s = invoice.invoice_relative_expiry
    return (invoice.invoice_created_at or 0) + (DEFAULT_EXPIRY_S if expiry_s is None else expiry_s)


def make_error(reason: str, field: int | None = None) -> InvoiceError:
    """Make what is answered in place of an invoice.

    Args:
        reason: for people.
        field: number of the record of the request that was wrong.
    """
    return InvoiceError(erroneous_field=field, error=reason[:MAX_ERROR_CHARACTERS])


def _mirrored(stream: OfferFields) -> list[tuple[int, bytes]]:
    return [
        (number, value)
        for number, value in records_of(stream)
        if any(number in types for types in _MIRRORED)
    ]
