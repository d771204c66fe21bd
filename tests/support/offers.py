"""Offers, requests and invoices of BOLT 12 as tests want them: valid, with keys that are known."""

from typing import Any

import coincurve

from shared.bolt12 import (
    Invoice,
    InvoiceRequest,
    Offer,
    Order,
    Terms,
    invoice_digest,
    make_invoice,
    make_request,
    request_digest,
)
from shared.chain import REGTEST
from shared.crypto.blinding import blind
from shared.crypto.recipient_data import RecipientData, encode_recipient_data, payinfo
from shared.crypto.signature import public_key
from shared.wire.onion import BlindedPath, BlindedPayinfo

__all__ = [
    "ISSUER",
    "NOW",
    "PAYER",
    "offer",
    "path_to",
    "payment_path",
    "request",
    "signed_invoice",
    "signed_request",
]

ISSUER, PAYER = b"\x41" * 32, b"\x42" * 32
"""Private keys."""
NOW = 1_800_000_000


def offer(**fields: Any) -> Offer:
    """An offer on regtest, of any amount unless fields say otherwise."""
    default = {"offer_chains": [REGTEST.chain_hash], "offer_issuer_id": public_key(ISSUER)}
    return Offer.model_validate({**default, **fields})


def path_to(*secrets: bytes, path_id: bytes = b"cookie") -> BlindedPath:
    """A blinded path through nodes with these private keys."""
    nodes = [public_key(secret) for secret in secrets]
    hops = [RecipientData(next_node_id=following) for following in nodes[1:]]
    data = [encode_recipient_data(hop) for hop in [*hops, RecipientData(path_id=path_id)]]
    return blind(b"\x17" * 32, list(zip(nodes, data, strict=True)))


def payment_path(**more: Any) -> tuple[BlindedPath, BlindedPayinfo]:
    """A path that an invoice can name."""
    terms = payinfo(
        [], min_final_cltv_expiry_delta=30, htlc_minimum_msat=1, htlc_maximum_msat=10**12
    )
    return path_to(ISSUER), terms.model_copy(update=more)


def signed_request(request: InvoiceRequest, key: bytes = PAYER) -> InvoiceRequest:
    """Sign, whatever it says."""
    signature = coincurve.PrivateKey(key).sign_schnorr(request_digest(request), bytes(32))
    return request.model_copy(update={"signature": signature})


def request(of: Offer, order: Order | None = None, **fields: Any) -> InvoiceRequest:
    """A signed request for an offer; ``fields`` replace what it says."""
    made = make_request(
        of,
        order or Order(10_000),
        metadata=b"metadata",
        payer_id=public_key(PAYER),
        chain_hash=REGTEST.chain_hash,
    )
    return signed_request(InvoiceRequest.model_validate({**dict(made), **fields}))


def signed_invoice(of: InvoiceRequest, key: bytes = ISSUER, **fields: Any) -> Invoice:
    """A signed invoice that answers a request; ``fields`` replace what it says."""
    terms = Terms(bytes(32), of.invreq_amount or 10_000, [payment_path()], public_key(key), NOW)
    made = Invoice.model_validate({**dict(make_invoice(of, terms)), **fields})
    signature = coincurve.PrivateKey(key).sign_schnorr(invoice_digest(made), bytes(32))
    return made.model_copy(update={"signature": signature})
