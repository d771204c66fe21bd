"""What we pay."""

import asyncio
import json
from typing import Any

from back.api.calls import call
from back.api.forms import (
    AMOUNT_MSAT,
    AMOUNT_SAT,
    BOOLEAN,
    COUNT,
    HASH,
    INVOICE,
    PERCENT,
    TEXT,
    UNSUPPORTED,
    UUID_,
    BadRequest,
    Form,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.json import payment_event_json, payment_json
from back.payment.sending import MAX_ATTEMPTS, PaymentRequest
from back.storage.payments import Attempt, PaymentState


@call(
    "payinvoice",
    "payments",
    required("invoice", INVOICE),
    optional("amountMsat", AMOUNT_MSAT, "where the invoice names none, or to pay more"),
    optional("maxAttempts", COUNT, f"{MAX_ATTEMPTS} by default"),
    optional("maxFeeFlatSat", AMOUNT_SAT, "direct payments have no fees"),
    optional("maxFeePct", PERCENT, "direct payments have no fees"),
    optional("externalId", TEXT, "whatever you call it"),
    optional("blocking", BOOLEAN, "wait for the outcome; false by default"),
    optional("pathFindingExperimentName", UNSUPPORTED),
)
async def payinvoice(node: ApiNode, form: Form) -> object:
    """Pay an invoice; answers with the payment's id, or with its outcome."""
    text, invoice = form["invoice"]
    sending = await node.payments.sender.pay(
        PaymentRequest(
            invoice=invoice,
            bolt11=text,
            amount_msat=form.get("amountMsat"),
            external_id=form.get("externalId"),
            max_attempts=form.get("maxAttempts", MAX_ATTEMPTS),
        )
    )
    if not form.get("blocking", False):
        return str(sending.payment.id)
    return payment_event_json(await asyncio.shield(sending.done))


@call(
    "getsentinfo",
    "payments",
    optional("id", UUID_),
    optional("paymentHash", HASH, "instead of id"),
)
async def getsentinfo(node: ApiNode, form: Form) -> object:
    """Tell what became of payments."""
    if ("id" in form) == ("paymentHash" in form):
        raise BadRequest("Give either 'id' or 'paymentHash'")
    found = await node.payments.find(form.get("id"), form.get("paymentHash"))
    return [payment_json(payment, _route(attempts)) for payment, attempts in found]


def _route(attempts: list[Attempt]) -> list[Any]:
    """Hops of the attempt that paid."""
    sent = [attempt for attempt in attempts if attempt.state is PaymentState.SENT]
    return list(json.loads(sent[0].route)) if sent else []
