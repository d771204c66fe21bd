"""Where a payment would go."""

from typing import TYPE_CHECKING, Any

from back.api.calls import call
from back.api.forms import (
    AMOUNT_MSAT,
    COUNT,
    INVOICE,
    NODE_ID,
    NODE_IDS,
    SHORT_CHANNEL_IDS,
    UNSUPPORTED,
    BadRequest,
    Form,
    Kind,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.json import Json, scid_json
from back.api.network_json import update_json
from back.payment.route import MAX_ROUTE_CLTV, Edge, Hop, Route, RouteRequest
from back.payment.send import hint_edges
from back.payment.sending import MAX_PARTS, MIN_PART_MSAT, SendLimits

if TYPE_CHECKING:
    from shared.gossip.table import Table

FORMATS = ("nodeId", "shortChannelId", "full")


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"{text[:40]!r} is not one of {', '.join(FORMATS)}")
    return text


ROUTE_FORMAT = Kind({"type": "string", "enum": list(FORMATS)}, _format)


def _free(text: str) -> bool:
    if text != "false":
        raise ValueError("our own channels cost nothing here: only 'false' is supported")
    return False


FREE = Kind({"type": "boolean", "enum": [False]}, _free)
COMMON = (
    optional("routeFormat", ROUTE_FORMAT, "nodeId by default"),
    optional("includeLocalChannelCost", FREE, "our own channels cost nothing here"),
    optional("ignoreNodeIds", NODE_IDS, "not through these"),
    optional("ignoreShortChannelIds", SHORT_CHANNEL_IDS, "not through these"),
    optional("maxFeeMsat", AMOUNT_MSAT, "21 sat or 3 % by default, whichever is more"),
    optional("maxCltvExpiryDelta", COUNT, f"{MAX_ROUTE_CLTV} blocks by default"),
    optional("pathFindingExperimentName", UNSUPPORTED),
)


@call(
    "findroute",
    "paths",
    required("invoice", INVOICE),
    optional("amountMsat", AMOUNT_MSAT, "where the invoice names none"),
    *COMMON,
)
async def findroute(node: ApiNode, form: Form) -> object:
    """Find routes to the payee of an invoice."""
    _, invoice = form["invoice"]
    amount_msat = form.get("amountMsat", invoice.amount_msat)
    if amount_msat is None:
        raise BadRequest(
            "The invoice must have an amount or you need to specify one using 'amountMsat'"
        )
    own = node.signer.node_id
    extra = tuple(hint_edges(invoice, own))
    return await _found(node, form, own, invoice.payee, amount_msat, extra)


@call(
    "findroutetonode",
    "paths",
    required("nodeId", NODE_ID),
    required("amountMsat", AMOUNT_MSAT),
    *COMMON,
)
async def findroutetonode(node: ApiNode, form: Form) -> object:
    """Find routes to a node."""
    return await _found(node, form, node.signer.node_id, form["nodeId"], form["amountMsat"])


@call(
    "findroutebetweennodes",
    "paths",
    required("sourceNodeId", NODE_ID),
    required("targetNodeId", NODE_ID),
    required("amountMsat", AMOUNT_MSAT),
    *COMMON,
)
async def findroutebetweennodes(node: ApiNode, form: Form) -> object:
    """Find routes between any two nodes."""
    return await _found(node, form, form["sourceNodeId"], form["targetNodeId"], form["amountMsat"])


async def _found(
    node: ApiNode,
    form: Form,
    source: bytes,
    target: bytes,
    amount_msat: int,
    extra: tuple[Edge, ...] = (),
) -> Json:
    if source == target:
        raise BadRequest("The route begins and ends at the same node")
    if amount_msat <= 0:
        raise BadRequest("The form field 'amountMsat' was malformed: it must be positive")
    table = node.graph.table
    is_ours = source == node.signer.node_id
    request = RouteRequest(
        source=source,
        payee=target,
        amount_msat=amount_msat,
        max_fee_msat=form.get("maxFeeMsat", SendLimits().fee_msat(amount_msat)),
        max_cltv_expiry_delta=form.get("maxCltvExpiryDelta", MAX_ROUTE_CLTV),
        local=node.payments.sender.exits.local() if is_ours else None,
        extra=extra,
        ignored_nodes=frozenset(form.get("ignoreNodeIds", ())),
        ignored_channels=frozenset(_both_sides(form, table)),
        max_parts=MAX_PARTS,
        min_part_msat=MIN_PART_MSAT,
    )
    routes = await node.paths.find(request)
    how = form.get("routeFormat", "nodeId")
    return {"routes": [_route_json(route, table, how) for route in routes]}


def _both_sides(form: Form, table: "Table") -> list[tuple[int, bytes]]:
    sides = []
    for scid in form.get("ignoreShortChannelIds", ()):
        entry = table.channel(scid.pack())
        if entry is not None:
            sides += [(scid.pack(), node_id) for node_id in entry.nodes]
    return sides


def _route_json(route: Route, table: "Table", how: str) -> Json:
    shown: Json = {"amount": route.amount_msat}
    if how == "nodeId":
        ends = [route.hops[0].node_id, *(hop.next_node_id for hop in route.hops)]
        shown["nodeIds"] = [node_id.hex() for node_id in ends]
    elif how == "shortChannelId":
        shown["shortChannelIds"] = [scid_json(hop.short_channel_id) for hop in route.hops]
    else:
        shown["hops"] = [_hop_json(hop, table) for hop in route.hops]
    return shown


def _hop_json(hop: Hop, table: "Table") -> Json:
    source: dict[str, Any] = {"type": "hint"}
    entry = table.channel(hop.short_channel_id)
    if entry is not None and hop.node_id in entry.nodes:
        raw = entry.updates[entry.nodes.index(hop.node_id)]
        if raw is not None:
            source = {"type": "announcement", "channelUpdate": update_json(raw)}
    if source["type"] == "hint":
        source["extraHop"] = {
            "shortChannelId": scid_json(hop.short_channel_id),
            "feeBase": hop.fee_base_msat,
            "feeProportionalMillionths": hop.fee_proportional_millionths,
            "cltvExpiryDelta": hop.cltv_expiry_delta,
        }
    return {
        "nodeId": hop.node_id.hex(),
        "nextNodeId": hop.next_node_id.hex(),
        "source": source,
    }
