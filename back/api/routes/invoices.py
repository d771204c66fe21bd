"""Our invoices."""

import time

from back.api.calls import NotFound, call
from back.api.forms import (
    AMOUNT_MSAT,
    ANY_INVOICE,
    CHANNEL_IDS,
    COUNT,
    HASH,
    INVOICE,
    SECONDS,
    TEXT,
    TIMESTAMP,
    UNSUPPORTED,
    BadRequest,
    Form,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.json import Json, invoice_json
from back.api.offer_json import bolt12_invoice_json
from back.api.received import asked_json, received_json
from back.payment.invoices import DEFAULT_EXPIRY_S, InvoiceRequest
from back.payment.kind import InvoiceKind
from back.storage.invoices import Invoice, InvoiceState
from shared import bolt12

DAY_S = 86_400
MOST = 10_000
PAGES = (
    optional("from", TIMESTAMP, "a day ago by default"),
    optional("to", TIMESTAMP, "now by default"),
    optional("count", COUNT, "at most so many"),
    optional("skip", COUNT, "after leaving out so many; needs count"),
)


@call(
    "createinvoice",
    "invoices",
    optional("description", TEXT, "or descriptionHash"),
    optional("descriptionHash", HASH, "sha256 of a description that is told otherwise"),
    optional("amountMsat", AMOUNT_MSAT, "any amount by default"),
    optional("expireIn", SECONDS, "an hour by default"),
    optional("fallbackAddress", UNSUPPORTED),
    optional("paymentPreimage", HASH, "a random one by default"),
    optional("privateChannelIds", CHANNEL_IDS, "channels to name in route hints"),
)
async def createinvoice(node: ApiNode, form: Form) -> object:
    """Make an invoice."""
    if ("description" in form) == ("descriptionHash" in form):
        raise BadRequest("Give either 'description' or 'descriptionHash'")
    hinted = form.get("privateChannelIds")
    text, invoice = await node.payments.invoices.create(
        InvoiceRequest(
            amount_msat=form.get("amountMsat"),
            description=form.get("description"),
            description_hash=form.get("descriptionHash"),
            expiry_s=form.get("expireIn", DEFAULT_EXPIRY_S),
            preimage=form.get("paymentPreimage"),
            hinted=None if hinted is None else frozenset(hinted),
        )
    )
    return invoice_json(text, invoice)


@call("parseinvoice", "invoices", required("invoice", ANY_INVOICE))
async def parseinvoice(node: ApiNode, form: Form) -> object:
    """Show what an invoice says."""
    del node
    text, invoice = form["invoice"]
    if isinstance(invoice, bolt12.Invoice):
        return bolt12_invoice_json(text, invoice)
    return invoice_json(text, invoice)


@call("getinvoice", "invoices", required("paymentHash", HASH))
async def getinvoice(node: ApiNode, form: Form) -> object:
    """Show an invoice of ours."""
    return asked_json(node, await _find(node, form["paymentHash"]))


async def _find(node: ApiNode, payment_hash: bytes) -> Invoice:
    found = await node.payments.invoices.find(payment_hash)
    if found is None:
        raise NotFound("Not found")
    return found


@call("deleteinvoice", "invoices", required("paymentHash", HASH))
async def deleteinvoice(node: ApiNode, form: Form) -> object:
    """Forget an invoice of ours that nobody has paid."""
    payment_hash = form["paymentHash"]
    await node.payments.invoices.delete(payment_hash)
    return f"deleted invoice {payment_hash.hex()}"


@call("listinvoices", "invoices", *PAGES)
async def listinvoices(node: ApiNode, form: Form) -> object:
    """List our invoices."""
    listed = await _listed(node, form, kind=InvoiceKind.BOLT11)
    return [asked_json(node, stored) for stored in listed]


@call("listpendinginvoices", "invoices", *PAGES)
async def listpendinginvoices(node: ApiNode, form: Form) -> object:
    """List our invoices that can still be paid."""
    listed = await _listed(node, form, InvoiceState.UNPAID, InvoiceKind.BOLT11)
    return [asked_json(node, stored) for stored in listed]


@call("listreceivedpayments", "invoices", *PAGES)
async def listreceivedpayments(node: ApiNode, form: Form) -> object:
    """List what was paid to us: invoices, offers, and what nobody had asked for."""
    return [_received(node, stored) for stored in await _listed(node, form, InvoiceState.PAID)]


async def _listed(
    node: ApiNode,
    form: Form,
    state: InvoiceState | None = None,
    kind: InvoiceKind | None = None,
) -> list[Invoice]:
    if "skip" in form and "count" not in form:
        raise BadRequest("Request is missing required form field 'count'")
    now = int(time.time())
    return await node.payments.invoices.listed(
        since=form.get("from", now - DAY_S),
        until=form.get("to", now) + 1,
        state=state,
        kind=kind,
        limit=min(form.get("count", MOST), MOST),
        skip=form.get("skip", 0),
    )


@call(
    "getreceivedinfo",
    "invoices",
    optional("paymentHash", HASH),
    optional("invoice", INVOICE, "instead of paymentHash"),
)
async def getreceivedinfo(node: ApiNode, form: Form) -> object:
    """Tell whether an invoice of ours was paid."""
    if ("paymentHash" in form) == ("invoice" in form):
        raise BadRequest("Give either 'paymentHash' or 'invoice'")
    payment_hash = form.get("paymentHash") or form["invoice"][1].payment_hash
    return _received(node, await _find(node, payment_hash))


def _received(node: ApiNode, stored: Invoice) -> Json:
    return received_json(node, stored, int(time.time()))
