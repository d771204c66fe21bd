"""Paying over HTTP, in a line of nodes: what goes out, and how the books show it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.api import Api, Wallet, api_node, served
from support.payment_lines import Line, Node, line_of_nodes
from support.waiting import until

from back.payment.decision import Fail, settlement
from shared import bolt11
from shared.bolt11 import RouteHint
from shared.crypto.failures import encode_failure
from shared.units import ShortChannelId

AMOUNT = 10_000_000
BETWEEN = 3_000
"""What the node in the middle takes for it: 1,000 msat and 200 millionths."""


@dataclass(repr=False)
class Scene:
    """Three nodes, two channels between neighbours, and the API of the first."""

    line: Line
    first: Node
    last: Node
    api: Api


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with line_of_nodes(tmp_path, 3, channels=2) as line:
        seen: Any = api_node(line.nodes[0], Wallet())  # type: ignore[arg-type]
        seen.paths = line.nodes[0].finder
        async with served(seen, Wallet()) as api:
            yield Scene(line=line, first=line.nodes[0], last=line.nodes[2], api=api)


async def info(scene: Scene, **of: object) -> list[dict[str, Any]]:
    """What the API says once all has ended."""
    await until(lambda: not len(scene.first.payments.sender._live), "payments have ended")
    return list(await scene.api.call("getsentinfo", **of))


def scid(number: int) -> str:
    return str(ShortChannelId.unpack(number))


async def test_a_payment_in_parts_is_shown_part_by_part(scene: Scene) -> None:
    amount = 900_000_000
    text = await scene.last.invoice(amount)
    paid = await scene.api.call("payinvoice", invoice=text, blocking="true", externalId="rent")
    assert (paid["type"], paid["recipientAmount"]) == ("payment-sent", amount), paid
    parts = await info(scene, id=paid["id"])
    assert len(parts) == 2
    assert {each["parentId"] for each in parts} == {paid["id"]}
    assert {each["id"] for each in parts} == {part["id"] for part in paid["parts"]}
    assert len({each["id"] for each in parts} | {paid["id"]}) == 3
    assert sum(each["amount"] for each in parts) == amount
    assert [each["recipientAmount"] for each in parts] == [amount] * 2
    assert sum(each["status"]["feesPaid"] for each in parts) == paid["fees"] > 0
    for each in parts:
        assert each["externalId"] == "rent"
        assert each["paymentType"] == "Standard"
        assert each["invoice"]["serialized"] == text
        assert each["status"]["paymentPreimage"] == paid["paymentPreimage"]
        ends = [hop["nextNodeId"] for hop in each["status"]["route"]]
        assert ends == [node.node_id.hex() for node in scene.line.nodes[1:]]
    assert await info(scene, paymentHash=paid["paymentHash"]) == parts


async def test_keysend_is_shown_as_such(scene: Scene) -> None:
    payment_id = await scene.api.call(
        "sendtonode",
        nodeId=scene.last.node_id.hex(),
        amountMsat=AMOUNT,
        maxFeeFlatSat=3,
        externalId="tip",
    )
    [sent] = await info(scene, id=payment_id)
    assert (sent["id"], sent["parentId"]) == (payment_id, payment_id)
    assert (sent["paymentType"], sent["externalId"]) == ("KeySend", "tip")
    assert (sent["status"]["type"], sent["status"]["feesPaid"]) == ("sent", BETWEEN)
    assert "invoice" not in sent
    payment_id = await scene.api.call(
        "sendtonode", nodeId=scene.last.node_id.hex(), amountMsat=AMOUNT, maxFeeFlatSat=2
    )
    [failed] = await info(scene, id=payment_id)
    assert failed["status"]["type"] == "failed"
    own = scene.first.node_id.hex()
    assert "own node" in await scene.api.refused("sendtonode", nodeId=own, amountMsat=5)


async def hinted(scene: Scene, *channels: int) -> str:
    """An invoice that says by which channels of its own it is reached."""
    middle = scene.line.nodes[1]
    plain = bolt11.decode(await scene.last.invoice(AMOUNT))
    hints = [(RouteHint(middle.node_id, number, 1_000, 200, 40),) for number in channels]
    invoice = replace(plain, routes=tuple(hints))
    signature = scene.last.signer.sign_invoice(bolt11.signing_digest(invoice))
    return bolt11.assemble(invoice, signature)


async def test_a_route_may_be_given_by_nodes(scene: Scene) -> None:
    ids = ",".join(node.node_id.hex() for node in scene.line.nodes)
    text = await hinted(scene, *scene.line.scids[1])
    for most in (BETWEEN - 1, BETWEEN):
        form = {"invoice": text, "amountMsat": AMOUNT, "nodeIds": ids, "maxFeeMsat": most}
        if most < BETWEEN:
            assert f"costs {BETWEEN}" in await scene.api.refused("sendtoroute", **form)
        else:
            given = await scene.api.call("sendtoroute", **form)
    assert given["paymentId"] == given["parentId"]
    [sent] = await info(scene, id=given["paymentId"])
    assert (sent["status"]["type"], sent["status"]["feesPaid"]) == ("sent", BETWEEN)


async def test_parts_of_an_invoice_go_by_given_channels_and_are_found_together(
    scene: Scene,
) -> None:
    """The last channel is one that only the invoice knows; the whole is what the invoice says."""
    ours, hidden = scene.line.scids[0], scene.line.scids[1][1]
    text = await hinted(scene, hidden)
    half = {"invoice": text, "amountMsat": AMOUNT // 2}
    one = await scene.api.call(
        "sendtoroute", **half, shortChannelIds=f"{scid(ours[0])},{scid(hidden)}"
    )
    parent = one["parentId"]
    again = f"{scid(ours[1])},{scid(hidden)}"
    assert "being paid" in await scene.api.refused("sendtoroute", **half, shortChannelIds=again)
    other = await scene.api.call("sendtoroute", **half, shortChannelIds=again, parentId=parent)
    assert other["parentId"] == parent
    assert UUID(other["paymentId"]) != UUID(one["paymentId"])
    parts = await info(scene, id=parent)
    assert {each["id"] for each in parts} == {one["paymentId"], other["paymentId"]}
    assert {each["parentId"] for each in parts} == {parent}
    assert [each["status"]["type"] for each in parts] == ["sent"] * 2
    names = [[hop["shortChannelId"] for hop in each["status"]["route"]] for each in parts]
    assert sorted(names) == sorted([scid(number), scid(hidden)] for number in ours)


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ({}, "either 'nodeIds' or 'shortChannelIds'"),
        ({"nodeIds": "here"}, "begins with our own node"),
        ({"shortChannelIds": "1x2x3"}, "is no channel of ours"),
        ({"shortChannelIds": "own"}, "does not end at the invoice's payee"),
        ({"shortChannelIds": "own,9x9x9"}, "has no channel 9x9x9"),
    ],
)
async def test_a_route_that_leads_nowhere_is_refused(
    scene: Scene, route: dict[str, str], why: str
) -> None:
    text = await scene.last.invoice(AMOUNT)
    places = {"here": scene.last.node_id.hex(), "own": scid(scene.line.scids[0][0])}
    named = {
        name: ",".join(places.get(each, each) for each in value.split(","))
        for name, value in route.items()
    }
    payment_hash = bolt11.decode(text).payment_hash.hex()
    words = await scene.api.refused("sendtoroute", invoice=text, amountMsat=AMOUNT, **named)
    assert why in words
    assert await scene.api.call("getsentinfo", paymentHash=payment_hash) == []


async def test_a_payment_that_fails_says_where_and_is_one_entry(scene: Scene) -> None:
    receiver, refused = scene.last.payments.receiver, encode_failure("temporary_node_failure")

    def refuse(runner: Any, final: Any, **_: object) -> None:
        runner.post(settlement(final.htlc, Fail(refused), final.shared_secret))

    receiver.received = refuse  # type: ignore[method-assign, assignment]
    text = await scene.last.invoice(AMOUNT)
    failed = await scene.api.call("payinvoice", invoice=text, blocking="true", maxAttempts=3)
    assert failed["type"] == "payment-failed"
    [entry] = await info(scene, id=failed["id"])
    assert entry["id"] == failed["id"]
    assert entry["status"]["failures"] == failed["failures"]
    told = [failure["failureMessage"] for failure in failed["failures"]]
    assert told[:2] == ["temporary_node_failure"] * 2
    assert failed["failures"][0]["failedNode"] == scene.last.node_id.hex()
