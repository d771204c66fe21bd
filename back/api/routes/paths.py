"""Where a payment would go."""

import secrets
import time
from typing import TYPE_CHECKING, TypeAlias

from back.api.calls import call
from back.api.forms import (
    AMOUNT_MSAT,
    BOOLEAN,
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
from back.payment.route import MAX_ROUTE_CLTV, Edge, Hop, LocalChannel, Route, RouteRequest
from back.payment.send import hint_edges
from back.payment.sending import SendLimits
from shared.gossip.view import update_view

if TYPE_CHECKING:
    from shared.gossip.table import Table

Sides: TypeAlias = frozenset[tuple[int, bytes]]
FORMATS = ("nodeId", "shortChannelId", "full")


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"{text[:40]!r} is not one of {', '.join(FORMATS)}")
    return text


ROUTE_FORMAT = Kind({"type": "string", "enum": list(FORMATS)}, _format)


COMMON = (
    optional("format", ROUTE_FORMAT, "nodeId by default"),
    optional("includeLocalChannelCost", BOOLEAN, "what the first node asks counts too"),
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
    local = node.payments.sender.exits.local() if source == node.signer.node_id else None
    is_costly = form.get("includeLocalChannelCost", False)
    own = tuple(_with_terms(node, channel) for channel in local or () if is_costly)
    request = RouteRequest(
        source=source,
        payee=target,
        amount_msat=amount_msat,
        max_fee_msat=form.get("maxFeeMsat", SendLimits().fee_msat(amount_msat)),
        max_cltv_expiry_delta=form.get("maxCltvExpiryDelta", MAX_ROUTE_CLTV),
        local=local,
        extra=extra + own,
        ignored_nodes=frozenset(form.get("ignoreNodeIds", ())),
        ignored_channels=_both_sides(form, table, source, extra),
        is_source_paid=is_costly,
        unix_s=time.time(),
        seed=secrets.randbits(16),
    )
    routes = await node.paths.find(request)
    how = form.get("format", "nodeId")
    minimums = {(e.hop.short_channel_id, e.hop.node_id): e.htlc_minimum_msat for e in extra}
    return {"routes": [_route_json(route, how, node, minimums) for route in routes]}


def _with_terms(node: ApiNode, channel: LocalChannel) -> Edge:
    """Return a channel of ours with what we ask of others for it."""
    hop = Hop(node.signer.node_id, channel.next_node_id, channel.short_channel_id)
    raw = _own_update(node, hop)
    if raw is not None:
        told = update_view(raw)
        hop = hop._replace(
            fee_base_msat=told.fee_base_msat,
            fee_proportional_millionths=told.fee_proportional_millionths,
            cltv_expiry_delta=told.cltv_expiry_delta,
        )
    return Edge(hop, channel.htlc_minimum_msat, channel.can_send_msat)


def _both_sides(form: Form, table: "Table", source: bytes, extra: tuple[Edge, ...]) -> Sides:
    """Return both directions of channels that are to be left alone, as far as they are known."""
    sides = set()
    for named in form.get("ignoreShortChannelIds", ()):
        scid = named.pack()
        entry = table.channel(scid)
        ends = () if entry is None else entry.nodes
        hinted = (edge.hop.node_id for edge in extra if edge.hop.short_channel_id == scid)
        sides |= {(scid, node_id) for node_id in (source, *ends, *hinted)}
    return frozenset(sides)


def _route_json(
    route: Route, how: str, node: ApiNode, minimums: dict[tuple[int, bytes], int]
) -> Json:
    shown: Json = {"amount": route.amount_msat}
    if how == "nodeId":
        ends = [route.hops[0].node_id, *(hop.next_node_id for hop in route.hops)]
        shown["nodeIds"] = [node_id.hex() for node_id in ends]
    elif how == "shortChannelId":
        shown["shortChannelIds"] = [scid_json(hop.short_channel_id) for hop in route.hops]
    else:
        shown["hops"] = [
            {
                "nodeId": hop.node_id.hex(),
                "nextNodeId": hop.next_node_id.hex(),
                "source": _source_json(hop, node, minimums),
            }
            for hop in route.hops
        ]
        shown["fee"] = route.fee_msat
    return shown


def _source_json(hop: Hop, node: ApiNode, minimums: dict[tuple[int, bytes], int]) -> Json:
    """Return where the terms of a hop are from."""
    raw = _announced(node.graph.table, hop)
    if raw is None and hop.node_id == node.signer.node_id:
        raw = _own_update(node, hop)
    if raw is not None:
        return {"type": "announcement", "channelUpdate": update_json(raw)}
    extra_hop = {
        "sourceNodeId": hop.node_id.hex(),
        "targetNodeId": hop.next_node_id.hex(),
        "shortChannelId": scid_json(hop.short_channel_id),
        "feeBase": hop.fee_base_msat,
        "feeProportionalMillionths": hop.fee_proportional_millionths,
        "cltvExpiryDelta": hop.cltv_expiry_delta,
        "htlcMinimum": minimums.get((hop.short_channel_id, hop.node_id), 0),
    }
    return {"type": "hint", "extraHop": extra_hop}


def _announced(table: "Table", hop: Hop) -> bytes | None:
    entry = table.channel(hop.short_channel_id)
    if entry is None or hop.node_id not in entry.nodes:
        return None
    return entry.updates[entry.nodes.index(hop.node_id)]


def _own_update(node: ApiNode, hop: Hop) -> bytes | None:
    runner = node.payments.sender.exits.runner(hop.short_channel_id)
    return None if runner is None else node.announcing.own_update(runner.channel)
