"""Payments over three nodes: each tells its part once, and as its books have it."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.payment_lines import Node, line_of_nodes
from support.waiting import until

from back.events.books import Books, Span
from back.storage import outbox
from shared import bolt11

AMOUNT = 10_000_000
FEE = 1_000 + AMOUNT * 200 // 1_000_000
ALL = Span(0, 1 << 40)


async def told(node: Node, *types: str) -> list[dict[str, Any]]:
    """Events of a node, those of channels left out."""
    rows = await node.store.read(lambda c: outbox.pending_events(c, 100_000))
    events = [json.loads(row.payload) for row in rows]
    wanted = types or ("payment-sent", "payment-received", "payment-relayed", "payment-failed")
    return [event for event in events if event["type"] in wanted]


async def booked(node: Node) -> dict[str, list[dict[str, Any]]]:
    """The books of a node."""
    books = Books(node.store)
    return {
        name: [each async for page in pages(ALL) for each in page]
        for name, pages in (
            ("sent", books.sent),
            ("received", books.received),
            ("relayed", books.relayed),
        )
    }


async def test_a_payment_is_told_by_everyone_on_its_way(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        alice, bob, carol = line.nodes
        text = await carol.invoice(AMOUNT)
        payment_hash = bolt11.decode(text).payment_hash.hex()
        sending = await alice.pay(text)
        await line.quiet()
        (sent,) = await told(alice)
        assert (sent["type"], sent["id"]) == ("payment-sent", str(sending.payment.id))
        assert sent["paymentHash"] == payment_hash
        assert (sent["recipientAmount"], sent["fees"]) == (AMOUNT, FEE)
        (part,) = sent["parts"]
        assert part["amountWithFees"] == AMOUNT + FEE
        assert part["channelId"] == alice.channel(bob).channel_id.hex()
        assert [hop["nextNodeId"] for hop in part["route"]] == [
            bob.node_id.hex(),
            carol.node_id.hex(),
        ]
        (relayed,) = await told(bob)
        assert relayed["type"] == "payment-relayed"
        (incoming,), (outgoing,) = relayed["incoming"], relayed["outgoing"]
        assert incoming["remoteNodeId"] == alice.node_id.hex()
        assert incoming["channelId"] == bob.channel(alice).channel_id.hex()
        assert outgoing["channelId"] == bob.channel(carol).channel_id.hex()
        assert incoming["amount"] - outgoing["amount"] == FEE
        (received,) = await told(carol)
        assert received["type"] == "payment-received"
        assert received["paymentHash"] == payment_hash
        assert [p["amount"] for p in received["parts"]] == [AMOUNT]

        books = await booked(bob)
        assert books == {"sent": [], "received": [], "relayed": [_untyped(relayed)]}
        (stats,) = [s for s in await Books(bob.store).relay_stats(ALL) if s.fee_msat]
        assert (stats.node_id, stats.fee_msat) == (carol.node_id, FEE)
        (in_books,) = (await booked(alice))["sent"]
        for name in ("id", "paymentHash", "paymentPreimage", "recipientAmount", "fees"):
            assert in_books[name] == sent[name]
        assert in_books["parts"][0]["id"] == part["id"]
        assert in_books["parts"][0]["route"] == part["route"]
        (in_books,) = (await booked(carol))["received"]
        assert in_books["paymentHash"] == payment_hash
        assert in_books["parts"][0]["channelId"] == received["parts"][0]["channelId"]


def _untyped(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "type"}


async def test_a_payment_that_fails_is_told_with_what_was_tried(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        alice, bob, carol = line.nodes
        text = await carol.invoice(AMOUNT)
        await alice.pay(text)
        line.cut(bob, carol)
        bill = await carol.invoice(AMOUNT + 1)
        sending = await alice.pay(bill)
        assert sending.payment.state.value == "failed"
        (failed,) = await told(alice, "payment-failed")
        assert failed["id"] == str(sending.payment.id)
        assert failed["paymentHash"] == bolt11.decode(bill).payment_hash.hex()
        assert failed["failures"]
        for each in failed["failures"]:
            assert each.keys() >= {"amount", "route"}
        origins = {e["e"]["originNode"] for e in failed["failures"] if "e" in e}
        assert origins <= {bob.node_id.hex()}
        assert await told(carol) == await told(carol, "payment-received")


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_whoever_restarts_meanwhile_every_payment_is_told_once(
    tmp_path: Path, place: int
) -> None:
    async with line_of_nodes(tmp_path) as line:
        texts = [await line.nodes[2].invoice(AMOUNT + n) for n in range(12)]
        sendings = [await line.nodes[0].send(text) for text in texts]
        for _ in range(3):
            await asyncio.sleep(0.05)
            await line.restart(line.nodes[place])
        await line.quiet()
        alice, bob, carol = line.nodes
        ids = {str(sending.payment.id) for sending in sendings}

        async def all_ended() -> bool:
            ended = await told(alice, "payment-sent", "payment-failed")
            return {each["id"] for each in ended} == ids

        await until(all_ended)
        outcomes = Counter(each["id"] for each in await told(alice))
        assert set(outcomes.values()) == {1}
        sent = {e["paymentHash"] for e in await told(alice, "payment-sent")}
        relayed = [e["paymentHash"] for e in await told(bob)]
        received = [e["paymentHash"] for e in await told(carol)]
        assert sorted(relayed) == sorted(received) == sorted(sent)
        assert {e["paymentHash"] for e in (await booked(alice))["sent"]} == sent
        assert {e["paymentHash"] for e in (await booked(bob))["relayed"]} == sent
        assert {e["paymentHash"] for e in (await booked(carol))["received"]} == sent
