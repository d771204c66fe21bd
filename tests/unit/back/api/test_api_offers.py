"""The calls about offers, over HTTP, between two nodes."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.api import Api, Wallet, api_node, served
from support.offer_nodes import Desk, offer_line
from support.offers import offer, path_to

from back.api.offer_json import bolt12_invoice_json, offer_json
from shared.bolt12 import decode_invoice_text, encode_offer
from shared.chain import REGTEST


class Scene(SimpleNamespace):
    """Two desks, and the API of each."""

    payer: Desk
    payee: Desk
    buy: Api
    sell: Api


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with offer_line(tmp_path, 2) as (_, (payer, payee)):
        seen: list[Any] = []
        for desk in (payer, payee):
            seen.append(api_node(desk.node, Wallet()))
            seen[-1].offers = desk.service
        async with served(seen[0], Wallet()) as buy, served(seen[1], Wallet()) as sell:
            yield Scene(payer=payer, payee=payee, buy=buy, sell=sell)


async def test_an_offer_is_made_shown_paid_listed_and_disabled(scene: Scene) -> None:
    made = await scene.sell.call(
        "createoffer", description="coffee", amountMsat=5_000_000, expireInSeconds=600, issuer="us"
    )
    assert made.pop("createdAt")["unix"] <= made["expiry"]["unix"]
    text = made["encoded"]
    assert made == {
        "amountMsat": 5_000_000,
        "description": "coffee",
        "issuer": "us",
        "nodeId": scene.payee.node.node_id.hex(),
        "expiry": made["expiry"],
        "disabled": False,
        "encoded": text,
    }
    parsed = await scene.buy.call("parseoffer", offer=text.upper())
    assert parsed == {
        "chains": [REGTEST.chain_hash.hex()],
        "amount": "5000.000",
        "currency": "satoshi",
        "description": "coffee",
        "expiry": made["expiry"],
        "issuer": "us",
        "nodeId": scene.payee.node.node_id.hex(),
    }
    paid = await scene.buy.call(
        "payoffer", offer=text, amountMsat=5_000_000, blocking="true", externalId="mine"
    )
    assert paid["type"] == "payment-sent"
    assert paid["recipientAmount"] == 5_000_000
    received = await scene.sell.call("getreceivedinfo", paymentHash=paid["paymentHash"])
    assert received["status"]["type"] == "received"
    assert received["invoice"]["description"] == "coffee"
    shown = await scene.buy.call("parseinvoice", invoice=received["invoice"]["serialized"])
    assert shown["paymentHash"] == paid["paymentHash"]
    assert shown["amount"] == 5_000_000
    assert shown["nodeId"] == scene.payee.node.node_id.hex()
    assert shown["features"]["activated"] == {"basic_mpp": "optional"}
    assert shown["expiresAt"] - shown["createdAt"] == 7200
    (info,) = await scene.buy.call("getsentinfo", id=paid["id"])
    assert (info["externalId"], info["status"]["type"]) == ("mine", "sent")
    assert [each["encoded"] for each in await scene.sell.call("listoffers")] == [text]
    (over,) = (await scene.sell.call("disableoffer", offer=text)).items()
    assert over == (scene.payee.service.book.listed(active_only=False)[0].row.offer_id.hex(), True)
    assert await scene.sell.call("listoffers") == []
    (listed,) = await scene.sell.call("listoffers", activeOnly="false")
    assert listed["disabled"] is True
    assert listed["disabledAt"]["unix"] >= 1_700_000_000
    why = await scene.buy.refused("payoffer", offer=text, amountMsat=5_000_000)
    assert "no longer valid" in why


async def test_an_offer_behind_a_peer_says_which(scene: Scene) -> None:
    first = scene.payer.node.node_id.hex()
    made = await scene.sell.call("createoffer", blindedPathsFirstNodeId=first)
    assert made["blindedPathFirstNodeId"] == first
    assert made["nodeId"] != scene.payee.node.node_id.hex()
    parsed = await scene.buy.call("parseoffer", offer=made["encoded"])
    assert parsed["paths"] == [{"firstNodeId": first, "length": 3}]
    paid = await scene.buy.call("payoffer", offer=made["encoded"], amountMsat=42_000)
    assert len(paid) == 36


async def test_what_is_no_offer_is_refused(scene: Scene) -> None:
    for text in ("lno1qqqq", "lni1", "", encode_offer(offer(offer_amount=5))):
        assert "malformed" in await scene.buy.refused("parseoffer", offer=text)
    assert "amountMsat" in await scene.buy.refused("payoffer", offer=encode_offer(offer()))
    text = encode_offer(offer())
    assert "no offer of ours" in await scene.sell.refused("disableoffer", offer=text)
    assert "description" in await scene.sell.refused("createoffer", amountMsat=5)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [(1, None, "0.001"), (1_234_567, None, "1234.567"), (5, "EUR", "0.05"), (50, "JPY", "50")],
)
def test_amounts_have_the_digits_of_their_currency(
    amount: int, currency: str | None, shown: str
) -> None:
    priced = offer(offer_amount=amount, offer_currency=currency, offer_description="x")
    json = offer_json(priced)
    assert (json["amount"], json["currency"]) == (shown, currency or "satoshi")


def test_every_field_of_an_offer_is_shown() -> None:
    path = path_to(b"\x41" * 32)
    side = path.model_copy(update={"first_node_id": b"\1" + (539268 << 40).to_bytes(8, "big")})
    other = path.model_copy(update={"first_node_id": b"\0" + (539268 << 40).to_bytes(8, "big")})
    full = offer(
        offer_paths=[side, other],
        offer_quantity_max=0,
        offer_features=b"\x02",
        offer_metadata=b"\xab",
        offer_absolute_expiry=(1 << 64) - 1,
        unknown_tlvs={33: b"\1"},
    )
    shown = offer_json(full)
    assert [p["firstNodeId"] for p in shown["paths"]] == ["539268x0x0->", "<-539268x0x0"]
    assert shown["quantityMax"] == 0
    assert shown["metadata"] == "ab"
    assert shown["expiry"] == (1 << 64) - 1
    assert shown["unknownTlvs"] == {"33": "01"}
    assert "features" in shown


async def test_an_invoice_that_names_a_channel_is_shown(scene: Scene) -> None:
    made = await scene.sell.call("createoffer")
    paid = await scene.buy.call("payoffer", offer=made["encoded"], amountMsat=42_000)
    (info,) = await scene.buy.call("getsentinfo", id=paid)
    record = await scene.payee.node.payments.invoices.find(bytes.fromhex(info["paymentHash"]))
    assert record is not None
    invoice = decode_invoice_text(record.bolt11)
    paths = [
        path.model_copy(update={"first_node_id": b"\0" + bytes(8)})
        for path in invoice.invoice_paths or ()
    ]
    named = invoice.model_copy(update={"invoice_paths": paths})
    (shown,) = bolt12_invoice_json("lni1", named)["blindedPaths"]
    assert shown["introductionNodeId"] == "<-0x0x0"
    assert len(shown["blindedNodeIds"]) == 1
