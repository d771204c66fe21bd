"""Offers and invoices of BOLT 12 as JSON with Eclair's names."""

from typing import TYPE_CHECKING

from back.api.json import Json, features_json, scid_json, timestamp_json
from shared.bolt12 import expires_at
from shared.features import FeatureSet

if TYPE_CHECKING:
    from back.offers.book import OwnOffer
    from shared.bolt12 import Invoice, Offer

__all__ = ["bolt12_invoice_json", "offer_json", "own_offer_json"]

MSAT_DIGITS = 3
"""Digits of a satoshi that an amount in millisatoshis has after the point."""
_WHOLE = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905
)
_THOUSANDTHS = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])


def offer_json(offer: "Offer") -> Json:
    """What an offer says; fields that it does not have are left out."""
    shown: Json = {
        "chains": None if offer.offer_chains is None else [c.hex() for c in offer.offer_chains],
        "amount": _amount(offer),
        "currency": None if offer.offer_amount is None else offer.offer_currency or "satoshi",
        "description": offer.offer_description,
        "expiry": _moment(offer.offer_absolute_expiry),
        "issuer": offer.offer_issuer,
        "nodeId": _hex(offer.offer_issuer_id),
        "paths": [
            {"firstNodeId": _first_node(path.first_node_id), "length": len(path.path)}
            for path in offer.offer_paths or ()
        ]
        or None,
        "quantityMax": offer.offer_quantity_max,
        "features": _features(offer.offer_features),
        "metadata": _hex(offer.offer_metadata),
        "unknownTlvs": {str(n): value.hex() for n, value in offer.unknown_tlvs.items()} or None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def own_offer_json(own: "OwnOffer") -> Json:
    """An offer of ours, and where it stands."""
    offer, row = own.offer, own.row
    paths = [p.first_node_id for p in offer.offer_paths or () if len(p.first_node_id) == 33]
    shown: Json = {
        "amountMsat": offer.offer_amount,
        "description": offer.offer_description,
        "issuer": offer.offer_issuer,
        "nodeId": _hex(offer.offer_issuer_id),
        "blindedPathFirstNodeId": paths[0].hex() if paths else None,
        "createdAt": timestamp_json(row.created_at / 1000),
        "expiry": _moment(offer.offer_absolute_expiry),
        "disabled": not own.is_active,
        "disabledAt": _moment(None if row.disabled_at is None else row.disabled_at // 1000),
        "encoded": row.text,
    }
    return {name: value for name, value in shown.items() if value is not None}


def bolt12_invoice_json(text: str, invoice: "Invoice") -> Json:
    """What an invoice says, of ours or of another."""
    shown: Json = {
        "amount": invoice.invoice_amount,
        "nodeId": _hex(invoice.invoice_node_id),
        "paymentHash": _hex(invoice.invoice_payment_hash),
    }
    if invoice.offer_description is not None:
        shown["description"] = invoice.offer_description
    paths = [
        {
            "introductionNodeId": _first_node(path.first_node_id),
            "blindedNodeIds": [hop.blinded_node_id.hex() for hop in path.path],
        }
        for path in invoice.invoice_paths or ()
    ]
    return {
        **shown,
        "features": _features(invoice.invoice_features or b""),
        "blindedPaths": paths,
        "createdAt": invoice.invoice_created_at,
        "expiresAt": expires_at(invoice),
        "serialized": text,
    }


def _amount(offer: "Offer") -> str | None:
    """Return an amount in units of its currency, with as many digits as that has."""
    if offer.offer_amount is None:
        return None
    currency = offer.offer_currency
    if currency is None or currency in _THOUSANDTHS:
        digits = MSAT_DIGITS
    else:
        digits = 0 if currency in _WHOLE else 2
    whole, rest = divmod(offer.offer_amount, 10**digits)
    return f"{whole}.{rest:0{digits}d}" if digits else str(whole)


def _first_node(first_node_id: bytes) -> str:
    """A node id, or which end of which channel."""
    if len(first_node_id) == 33:
        return first_node_id.hex()
    scid = scid_json(int.from_bytes(first_node_id[1:], "big"))
    return f"<-{scid}" if first_node_id[0] == 0 else f"{scid}->"


def _features(features: bytes | None) -> Json | None:
    return None if features is None else features_json(FeatureSet.from_bytes(features))


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _moment(unix_s: int | None) -> Json | int | None:
    """A moment for people; a number where no calendar goes so far."""
    if unix_s is None:
        return None
    return timestamp_json(unix_s) if unix_s < 253_402_300_800 else unix_s
