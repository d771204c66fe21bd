"""What we pay."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from back.api.calls import call
from back.api.forms import (
    AMOUNT_MSAT,
    AMOUNT_SAT,
    BOOLEAN,
    COUNT,
    HASH,
    INVOICE,
    NODE_ID,
    NODE_IDS,
    PERCENT,
    SHORT_CHANNEL_IDS,
    TEXT,
    UNSUPPORTED,
    UUID_,
    BadRequest,
    Form,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.sent import payment_event_json, sent_json
from back.payment.given import hops_of_channels
from back.payment.route import Edge, LocalChannel, Route, RouteRequest
from back.payment.send import hint_edges
from back.payment.sending import MAX_ATTEMPTS, PaymentRequest, SendLimits
from shared.errors import CommandError

LIMITS = (
    optional("maxAttempts", COUNT, f"{MAX_ATTEMPTS} by default"),
    optional("maxFeeFlatSat", AMOUNT_SAT, "21 sat by default; the larger of the two counts"),
    optional("maxFeePct", PERCENT, "3 % by default"),
)
DEFAULT_FEE_FLAT_SAT = 21
DEFAULT_FEE_PCT = 3.0


def limits_of(form: Form, amount_msat: int) -> SendLimits:
    """Return how far a payment may go: fees up to the flat limit or the share, what is more.

    Without either, the defaults hold; with one of them, only that one.
    """
    flat, share = form.get("maxFeeFlatSat"), form.get("maxFeePct")
    if flat is None and share is None:
        flat, share = DEFAULT_FEE_FLAT_SAT, DEFAULT_FEE_PCT
    most_msat = max((flat or 0) * 1000, int(amount_msat * (share or 0) / 100))
    return SendLimits(
        max_fee_msat=most_msat,
        max_attempts=form.get("maxAttempts", MAX_ATTEMPTS),
    )


@call(
    "payinvoice",
    "payments",
    required("invoice", INVOICE),
    optional("amountMsat", AMOUNT_MSAT, "where the invoice names none, or to pay more"),
    *LIMITS,
    optional("externalId", TEXT, "whatever you call it"),
    optional("blocking", BOOLEAN, "wait for the outcome; false by default"),
    optional("pathFindingExperimentName", UNSUPPORTED),
)
async def payinvoice(node: ApiNode, form: Form) -> object:
    """Pay an invoice; answers with the payment's id, or with its outcome."""
    text, invoice = form["invoice"]
    amount_msat = form.get("amountMsat")
    sending = await node.payments.sender.pay(
        PaymentRequest(
            invoice=invoice,
            bolt11=text,
            amount_msat=amount_msat,
            external_id=form.get("externalId"),
            limits=limits_of(form, amount_msat or invoice.amount_msat or 0),
        )
    )
    if not form.get("blocking", False):
        return str(sending.payment.id)
    return payment_event_json(await asyncio.shield(sending.done))


@call(
    "sendtonode",
    "payments",
    required("nodeId", NODE_ID),
    required("amountMsat", AMOUNT_MSAT),
    *LIMITS,
    optional("externalId", TEXT, "whatever you call it"),
    optional("pathFindingExperimentName", UNSUPPORTED),
)
async def sendtonode(node: ApiNode, form: Form) -> object:
    """Pay a node without an invoice (keysend); answers with the payment's id."""
    amount_msat = form["amountMsat"]
    sending = await node.payments.sender.keysend(
        form["nodeId"],
        amount_msat,
        external_id=form.get("externalId"),
        limits=limits_of(form, amount_msat),
    )
    return str(sending.payment.id)


@call(
    "sendtoroute",
    "payments",
    required("invoice", INVOICE),
    required("amountMsat", AMOUNT_MSAT, "that the recipient gets by this route"),
    optional("nodeIds", NODE_IDS, "the nodes on the way, we first, the recipient last"),
    optional("shortChannelIds", SHORT_CHANNEL_IDS, "instead of nodeIds: the channels on the way"),
    optional("maxFeeMsat", AMOUNT_MSAT, "that the route may cost; any by default"),
    optional(
        "recipientAmountMsat",
        AMOUNT_MSAT,
        "of all parts together; as the invoice says by default",
    ),
    optional("externalId", TEXT, "whatever you call it"),
    optional("parentId", UUID_, "of the parts of one payment: they share it"),
    optional("trampolineSecret", UNSUPPORTED),
    optional("trampolineNodes", UNSUPPORTED),
)
async def sendtoroute(node: ApiNode, form: Form) -> object:
    """Pay an invoice, or a part of it, by a given route; answers with ids."""
    text, invoice = form["invoice"]
    if ("nodeIds" in form) == ("shortChannelIds" in form):
        raise BadRequest("Give either 'nodeIds' or 'shortChannelIds'")
    amount_msat = form["amountMsat"]
    own, table = node.signer.node_id, node.graph.table
    local, hints = node.payments.sender.exits.local(), tuple(hint_edges(invoice, own))
    if "nodeIds" in form:
        names = await _between(node, form["nodeIds"], local, amount_msat, hints)
    else:
        names = [scid.pack() for scid in form["shortChannelIds"]]
    hops = hops_of_channels(names, own, local, table, hints)
    if hops[-1].next_node_id != invoice.payee:
        raise CommandError("the route does not end at the invoice's payee")
    route = Route(amount_msat, tuple(hops))
    most_msat = form.get("maxFeeMsat")
    if most_msat is not None and route.fee_msat > most_msat:
        raise CommandError(f"the route costs {route.fee_msat} msat")
    sending = await node.payments.sender.pay(
        PaymentRequest(
            invoice=invoice,
            bolt11=text,
            amount_msat=form.get("recipientAmountMsat", invoice.amount_msat or amount_msat),
            external_id=form.get("externalId"),
            limits=SendLimits(max_fee_msat=route.fee_msat, max_attempts=1),
            routes=(route,),
            parent=form.get("parentId"),
        )
    )
    parent = sending.payment.parent or sending.payment.id
    return {"paymentId": str(sending.payment.id), "parentId": str(parent)}


async def _between(
    node: ApiNode,
    node_ids: Sequence[bytes],
    local: Sequence[LocalChannel],
    amount_msat: int,
    hints: tuple[Edge, ...],
) -> list[int]:
    """Return a channel between each two neighbours that carries an amount."""
    if len(node_ids) < 2 or node_ids[0] != node.signer.node_id:
        raise CommandError("the route begins with our own node")
    ours = [channel for channel in local if channel.next_node_id == node_ids[1]]
    if not ours:
        raise CommandError(f"no channel of ours with {node_ids[1].hex()} can send")
    names = [max(ours, key=lambda channel: channel.can_send_msat).short_channel_id]
    for one, other in pairwise(node_ids[1:]):
        request = RouteRequest(
            one, other, amount_msat, max_fee_msat=amount_msat, max_hops=1, extra=hints
        )
        (found,) = await node.paths.find(request)
        names.append(found.hops[0].short_channel_id)
    return names


@call(
    "getsentinfo",
    "payments",
    optional("id", UUID_),
    optional("paymentHash", HASH, "instead of id"),
)
async def getsentinfo(node: ApiNode, form: Form) -> object:
    """Tell what became of payments: one entry for each, or for each part of several."""
    if ("id" in form) == ("paymentHash" in form):
        raise BadRequest("Give either 'id' or 'paymentHash'")
    found = await node.payments.find(form.get("id"), form.get("paymentHash"))
    return [shown for payment, attempts in found for shown in sent_json(payment, attempts)]
