"""Requests for an invoice (BOLT 12 § Invoice Requests)."""

import re
from dataclasses import dataclass

from shared.bolt12.fields import (
    InvoiceRequest,
    Offer,
    OfferFields,
    RequestFields,
    decode_fields,
    fields_of,
    records_of,
)
from shared.bolt12.merkle import SIGNATURES, is_signed, signature_digest
from shared.bolt12.offer import (
    check_offer,
    check_usable,
    expected_amount_msat,
    has_unknown_required,
    offer_records,
)
from shared.bolt12.refusal import Refused
from shared.chain import MAINNET
from shared.wire.types import MAX_MONEY_MSAT

__all__ = [
    "Order",
    "amount_asked_msat",
    "check_offer_is_repeated",
    "check_request",
    "decode_request",
    "is_for_offer",
    "make_request",
    "request_digest",
]

BOLT = "BOLT 12 § Requirements for Invoice Requests"
_REQUEST_TYPES = (range(160), range(1_000_000_000, 3_000_000_000), SIGNATURES)
_NAME = re.compile(rb"[0-9A-Za-z._-]*")


@dataclass(frozen=True, slots=True)
class Order:
    """What a payer wants of an offer.

    Attributes:
        amount_msat: None: what the offer asks for.
        quantity: of items; None where the offer knows no quantities.
        payer_note: for the payee.
    """

    amount_msat: int | None = None
    quantity: int | None = None
    payer_note: str | None = None


def make_request(
    offer: Offer, order: Order, *, metadata: bytes, payer_id: bytes, chain_hash: bytes
) -> InvoiceRequest:
    """Make the request for an offer, without its signature.

    Args:
        offer: checked, and usable on our chain.
        order: what we want.
        metadata: random, of this request only.
        payer_id: key for this request only; it will sign.
        chain_hash: of our chain.

    Raises:
        Refused: the offer does not sell that.
    """
    chain = None if offer.offer_chains is None and chain_hash == MAINNET.chain_hash else chain_hash
    request = InvoiceRequest.model_validate(
        {
            **fields_of(offer),
            "invreq_metadata": metadata,
            "invreq_chain": chain,
            "invreq_amount": order.amount_msat,
            "invreq_quantity": order.quantity,
            "invreq_payer_id": payer_id,
            "invreq_payer_note": order.payer_note,
        }
    )
    amount_asked_msat(request)
    return request


def request_digest(request: InvoiceRequest) -> bytes:
    """Return what the payer's key signs: 32 bytes."""
    return signature_digest("invoice_request", records_of(request))


def decode_request(data: bytes) -> InvoiceRequest:
    """Read a request and check all that does not depend on whose offer it is for.

    Raises:
        MalformedMessage: it is no request.
        Refused: BOLT 12 wants it rejected.
    """
    request = decode_fields(InvoiceRequest, data)
    check_request(request)
    return request


def is_for_offer(request: RequestFields) -> bool:
    """Whether it answers an offer; otherwise it offers money by itself."""
    return request.offer_issuer_id is not None or request.offer_paths is not None


def check_request(request: InvoiceRequest) -> None:
    """Check the rules for a request's fields among each other, and its signature.

    Raises:
        Refused: BOLT 12 wants it rejected.
    """
    for field, value in ((88, request.invreq_payer_id), (0, request.invreq_metadata)):
        if value is None:
            raise Refused("a field is missing", bolt=BOLT, field=field)
    for number in request.unknown_tlvs:
        if not any(number in types for types in _REQUEST_TYPES):
            raise Refused(f"type {number} is not for requests", bolt=BOLT, field=number)
    if has_unknown_required(request.invreq_features):
        raise Refused("it requires a feature that we do not know", bolt=BOLT, field=84)
    _check_name(request)
    if is_for_offer(request):
        check_offer(request)
        amount_asked_msat(request, is_priced_elsewhere=True)
    else:
        _check_alone(request)
    _check_signature(request)


def check_offer_is_repeated(
    request: InvoiceRequest, offer: Offer, chain_hash: bytes, unix_s: float
) -> int:
    """Check a request against the offer that it is for; return the amount of the invoice in msat.

    Args:
        request: checked by :func:`check_request`.
        offer: ours.
        chain_hash: of our chain.
        unix_s: now.

    Raises:
        Refused: BOLT 12 wants it rejected.
    """
    if offer_records(request) != offer_records(offer):
        raise Refused("the offer's fields are not those of the offer", bolt=BOLT)
    check_usable(offer, chain_hash, unix_s)
    if (request.invreq_chain or MAINNET.chain_hash) != chain_hash:
        raise Refused("another chain", bolt=BOLT, field=80)
    return amount_asked_msat(request)


def amount_asked_msat(request: RequestFields, *, is_priced_elsewhere: bool = False) -> int:
    """Return what a request for an offer wants to pay.

    Args:
        request: with the offer's fields.
        is_priced_elsewhere: leave amounts in a currency to whoever knows its rate (returns 0).

    Raises:
        Refused: quantity or amount are not what the offer allows.
    """
    _check_quantity(request, request.invreq_quantity)
    if is_priced_elsewhere and request.offer_currency is not None:
        return 0
    expected_msat = expected_amount_msat(request, request.invreq_quantity)
    asked_msat = request.invreq_amount if request.invreq_amount is not None else expected_msat
    if asked_msat is None:
        raise Refused("neither the offer nor the request names an amount", bolt=BOLT, field=82)
    if asked_msat < (expected_msat or 1) or asked_msat > MAX_MONEY_MSAT:
        why = f"{asked_msat} msat: the offer takes {expected_msat or 1} or more"
        raise Refused(why, bolt=BOLT, field=82)
    return asked_msat


def _check_quantity(offer: OfferFields, quantity: int | None) -> None:
    most = offer.offer_quantity_max
    if most is None:
        if quantity is not None:
            raise Refused("the offer knows no quantities", bolt=BOLT, field=86)
        return
    if quantity is None or quantity == 0:
        raise Refused("the offer wants a quantity", bolt=BOLT, field=86)
    if most and quantity > most:
        raise Refused(f"the offer is for at most {most}", bolt=BOLT, field=86)


def _check_name(request: RequestFields) -> None:
    name = request.invreq_bip_353_name
    if name is not None and not all(map(_NAME.fullmatch, (name.name, name.domain))):
        raise Refused("a name with foreign characters", bolt=BOLT, field=91)


def _check_alone(request: RequestFields) -> None:
    """Check a request that offers money by itself."""
    forbidden = (
        (2, request.offer_chains),
        (12, request.offer_features),
        (20, request.offer_quantity_max),
    )
    for field, value in forbidden:
        if value is not None:
            raise Refused("not in a request without an offer", bolt=BOLT, field=field)
    if not request.invreq_amount:
        raise Refused("no amount", bolt=BOLT, field=82)


def _check_signature(request: InvoiceRequest) -> None:
    if request.signature is None and not is_for_offer(request):
        # Its writer must not sign it: it stands on a page for everybody.
        return
    payer_id = request.invreq_payer_id or b""
    if not is_signed(payer_id, request_digest(request), request.signature):
        raise Refused("the signature is not the payer's", bolt=BOLT, field=240)
