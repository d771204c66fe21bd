"""What we asked for and got, as JSON with Eclair's names."""

from functools import lru_cache
from typing import TYPE_CHECKING

from back.api.forms import read_invoice
from back.api.json import Json, features_json, invoice_json, timestamp_json
from back.payment.invoices import INVOICE_FEATURES
from back.payment.kind import InvoiceKind
from back.payment.receive import MIN_FINAL_CLTV_EXPIRY_DELTA
from back.storage.invoices import InvoiceState
from shared import bolt11, bolt12
from shared.features import FeatureSet

if TYPE_CHECKING:
    from back.api.interface import ApiNode
    from back.storage.invoices import Invoice

__all__ = ["asked_json", "received_json"]

PAYMENT_TYPES = {
    InvoiceKind.BOLT11: "Standard",
    InvoiceKind.BOLT12: "Blinded",
    InvoiceKind.KEYSEND: "KeySend",
}
KEYSEND_DESCRIPTION = "keysend"


def asked_json(node: "ApiNode", stored: "Invoice") -> Json:
    """An invoice of ours; for keysend, what one would have said, without a string."""
    match stored.kind:
        case InvoiceKind.BOLT11:
            return invoice_json(stored.bolt11, read_invoice(stored.bolt11))
        case InvoiceKind.BOLT12:
            return _bolt12_json(node, stored)
        case InvoiceKind.KEYSEND:
            invoice = bolt11.Invoice(
                chain=node.settings.network,
                timestamp=stored.created_at,
                payment_hash=stored.payment_hash,
                payment_secret=stored.payment_secret,
                amount_msat=stored.amount_msat,
                description=KEYSEND_DESCRIPTION,
                expiry_s=stored.expiry_s,
                min_final_cltv_expiry_delta=MIN_FINAL_CLTV_EXPIRY_DELTA,
                payee=node.signer.node_id,
                features=INVOICE_FEATURES,
            )
            return invoice_json("", invoice)


def _bolt12_json(node: "ApiNode", stored: "Invoice") -> Json:
    """A BOLT 12 invoice; what only its string says is left empty where that was not kept."""
    invoice = _read_bolt12(stored.bolt11) if stored.bolt11 else bolt12.Invoice()
    paths = invoice.invoice_paths or []
    return {
        "amount": stored.amount_msat,
        "nodeId": (invoice.invoice_node_id or node.signer.node_id).hex(),
        "paymentHash": stored.payment_hash.hex(),
        "description": stored.description,
        "features": features_json(FeatureSet.from_bytes(invoice.invoice_features or b"")),
        "blindedPaths": [
            {
                "introductionNodeId": path.first_node_id.hex(),
                "blindedNodeIds": [hop.blinded_node_id.hex() for hop in path.path],
            }
            for path in paths
        ],
        "createdAt": stored.created_at,
        "expiresAt": stored.created_at + stored.expiry_s,
        "serialized": stored.bolt11,
    }


@lru_cache(maxsize=64)
def _read_bolt12(text: str) -> bolt12.Invoice:
    return bolt12.decode_invoice_text(text)


def received_json(node: "ApiNode", stored: "Invoice", unix_s: int) -> Json:
    """What became of an invoice of ours, or a payment that came without one."""
    state = stored.state_at(unix_s)
    status: Json
    if state is InvoiceState.PAID:
        received_at = timestamp_json(stored.paid_at or 0)
        status = {"type": "received", "amount": stored.received_msat, "receivedAt": received_at}
    else:
        status = {"type": "expired" if state is InvoiceState.EXPIRED else "pending"}
    return {
        "invoice": asked_json(node, stored),
        "paymentPreimage": stored.preimage.hex(),
        "paymentType": PAYMENT_TYPES[stored.kind],
        "createdAt": timestamp_json(stored.created_at),
        "status": status,
    }
