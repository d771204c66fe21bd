"""Our values as JSON with the names and units of Eclair's API.

Amounts are millisatoshis, but for fundings and what is on chain: satoshis. Hashes of blocks and
channel ids are in internal byte order as there, txids reversed.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from shared.units import ShortChannelId

if TYPE_CHECKING:
    from back.peer import Peer
    from shared.bolt11 import Invoice, RouteHint
    from shared.features import FeatureSet

__all__ = [
    "Json",
    "features_json",
    "invoice_json",
    "peer_json",
    "scid_json",
    "timestamp_json",
]

Json: TypeAlias = dict[str, Any]


def timestamp_json(unix_s: float) -> Json:
    """A moment, for people and for programs."""
    moment = datetime.fromtimestamp(int(unix_s), UTC)
    return {"iso": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "unix": int(unix_s)}


@lru_cache(maxsize=256)
def features_json(features: "FeatureSet") -> Json:
    """Feature names with how strongly they are meant. Shared: not to be changed."""
    activated = {
        f.name: "mandatory" if features.requires(f) else "optional" for f in features.features
    }
    return {"activated": activated}


def scid_json(short_channel_id: int) -> str:
    """``539268x845x1``."""
    return str(ShortChannelId.unpack(short_channel_id))


def peer_json(peer: "Peer") -> Json:
    """A peer; ``front`` is Squall's own: which front carries the connection."""
    shown: Json = {
        "nodeId": peer.node_id.hex(),
        "state": "CONNECTED" if peer.session is not None else "DISCONNECTED",
    }
    if peer.addresses:
        shown["address"] = peer.addresses[0]
    shown["channels"] = len(peer.runners)
    if peer.session is not None:
        shown["front"] = peer.session.front
    return shown


# --- invoices ---------------------------------------------------------------------------------


def invoice_json(text: str, invoice: "Invoice") -> Json:
    """A BOLT 11 invoice and its string."""
    shown: Json = {
        "prefix": "ln" + invoice.chain.invoice_prefix,
        "timestamp": invoice.timestamp,
        "nodeId": invoice.payee.hex(),
        "serialized": text,
    }
    if invoice.description is not None:
        shown["description"] = invoice.description
    elif invoice.description_hash is not None:
        shown["descriptionHash"] = invoice.description_hash.hex()
    shown["paymentHash"] = invoice.payment_hash.hex()
    if invoice.payment_metadata is not None:
        shown["paymentMetadata"] = invoice.payment_metadata.hex()
    shown["expiry"] = invoice.expiry_s
    shown["minFinalCltvExpiry"] = invoice.min_final_cltv_expiry_delta
    if invoice.amount_msat is not None:
        shown["amount"] = invoice.amount_msat
    shown["features"] = features_json(invoice.features)
    shown["routingInfo"] = [[_hint_json(hop) for hop in route] for route in invoice.routes]
    return shown


def _hint_json(hop: "RouteHint") -> Json:
    return {
        "nodeId": hop.node_id.hex(),
        "shortChannelId": scid_json(hop.short_channel_id),
        "feeBase": hop.fee_base_msat,
        "feeProportionalMillionths": hop.fee_proportional_millionths,
        "cltvExpiryDelta": hop.cltv_expiry_delta,
    }
