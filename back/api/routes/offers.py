"""Offers (BOLT 12), ours and those of others, as Eclair has them."""

import asyncio

from back.api.calls import call
from back.api.forms import (
    AMOUNT_MSAT,
    BOOLEAN,
    COUNT,
    NODE_ID,
    OFFER,
    SECONDS,
    TEXT,
    UNSUPPORTED,
    Form,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.offer_json import offer_json, own_offer_json
from back.api.routes.payments import LIMITS, limits_of
from back.api.sent import payment_event_json
from back.offers.book import NewOffer
from back.offers.payer import Purchase
from shared.bolt12 import offer_id


@call(
    "createoffer",
    "offers",
    optional("description", TEXT, "needed where there is an amount"),
    optional("amountMsat", AMOUNT_MSAT, "any amount by default"),
    optional("expireInSeconds", SECONDS, "never by default"),
    optional("issuer", TEXT, "who you are, for people"),
    optional("blindedPathsFirstNodeId", NODE_ID, "a peer behind which the offer hides our node id"),
)
async def createoffer(node: ApiNode, form: Form) -> object:
    """Make an offer, which anybody may pay as often as they like."""
    new = NewOffer(
        amount_msat=form.get("amountMsat"),
        description=form.get("description"),
        expires_in_s=form.get("expireInSeconds"),
        issuer=form.get("issuer"),
    )
    return own_offer_json(await node.offers.create(new, form.get("blindedPathsFirstNodeId")))


@call("disableoffer", "offers", required("offer", OFFER))
async def disableoffer(node: ApiNode, form: Form) -> object:
    """Answer an offer of ours no more; invoices that were given out can still be paid."""
    own = await node.offers.book.disable(offer_id(form["offer"]))
    return {own.row.offer_id.hex(): True}


@call("listoffers", "offers", optional("activeOnly", BOOLEAN, "true by default"))
async def listoffers(node: ApiNode, form: Form) -> object:
    """List our offers."""
    listed = node.offers.book.listed(active_only=form.get("activeOnly", True))
    return [own_offer_json(own) for own in listed]


@call("parseoffer", "offers", required("offer", OFFER))
async def parseoffer(node: ApiNode, form: Form) -> object:
    """Show what an offer says."""
    del node
    return offer_json(form["offer"])


@call(
    "payoffer",
    "offers",
    required("offer", OFFER),
    required("amountMsat", AMOUNT_MSAT, "in total"),
    optional("quantity", COUNT, "of items, 1 by default"),
    *LIMITS,
    optional("externalId", TEXT, "whatever you call it"),
    optional("connectDirectly", BOOLEAN, "connect to whom the request goes; false by default"),
    optional("blocking", BOOLEAN, "wait for the outcome; false by default"),
    optional("pathFindingExperimentName", UNSUPPORTED),
)
async def payoffer(node: ApiNode, form: Form) -> object:
    """Fetch an invoice for an offer and pay it; answers with the payment's id, or its outcome."""
    amount_msat = form["amountMsat"]
    sending = await node.offers.payer.pay(
        Purchase(
            form["offer"],
            amount_msat,
            quantity=form.get("quantity", 1),
            external_id=form.get("externalId"),
            limits=limits_of(form, amount_msat),
            connects_directly=form.get("connectDirectly", False),
        )
    )
    if not form.get("blocking", False):
        return str(sending.payment.id)
    return payment_event_json(await asyncio.shield(sending.done))
