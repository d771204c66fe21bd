"""Offers between us and LDK, both ways, and of one node of ours to another through LDK."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import Ldk, ldk_node, needs_ldk
from support.squall import balances_agree, normal, open_from_ldk, open_to_ldk, squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until

pytestmark = [needs_ldk, pytest.mark.timeout(300)]

PUSH_MSAT = 400_000_000
AMOUNTS_MSAT = (10_000, 1_200_000, 50_000_000)


@dataclass
class Pair:
    """A Squall node and an LDK node with a channel that nobody else knows."""

    bitcoind: Regtest
    node: Cluster
    ldk: Ldk


@pytest.fixture
async def pair(bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[Pair]:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "ldk") as ldk,
        squall_node(bitcoind, tmp_path, fund_btc=1) as node,
    ):
        await open_to_ldk(bitcoind, node, ldk, pushMsat=PUSH_MSAT, announceChannel="false")
        yield Pair(bitcoind, node, ldk)


async def bought(pair: Pair, text: str, amount_msat: int) -> None:
    """Have LDK pay an offer of ours."""
    paid = await pair.ldk("pay_offer", offer=text, msat=amount_msat)
    assert paid["status"] == "sent", paid
    received = await pair.node.call("getreceivedinfo", paymentHash=paid["payment_hash"])
    assert received["status"]["type"] == "received"
    assert received["status"]["amount"] == amount_msat


async def test_ldk_pays_our_offers(pair: Pair) -> None:
    made = await pair.node.call("createoffer", description="a private node")
    for amount_msat in AMOUNTS_MSAT:
        await bought(pair, made["encoded"], amount_msat)
    hidden = await pair.node.call(
        "createoffer",
        description="behind LDK",
        amountMsat=5_000,
        blindedPathsFirstNodeId=pair.ldk.node_id,
    )
    await bought(pair, hidden["encoded"], 5_000)
    await balances_agree(pair.node, pair.ldk)


async def test_we_pay_offers_of_ldk(pair: Pair) -> None:
    offer = (await pair.ldk("offer"))["offer"]
    assert await pair.node.call("parseoffer", offer=offer)
    for amount_msat in AMOUNTS_MSAT:
        paid = await pair.node.call(
            "payoffer", offer=offer, amountMsat=amount_msat, blocking="true"
        )
        assert paid["type"] == "payment-sent", paid
        assert paid["recipientAmount"] == amount_msat
    await balances_agree(pair.node, pair.ldk)


async def test_an_offer_of_ours_is_paid_through_ldk(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with (
        ldk_node(bitcoind, tmp_path / "ldk") as ldk,
        squall_node(bitcoind, tmp_path, "alice", fund_btc=1) as alice,
        squall_node(bitcoind, tmp_path, "carol") as carol,
    ):
        await open_to_ldk(bitcoind, alice, ldk, pushMsat=PUSH_MSAT, announceChannel="false")
        await open_from_ldk(bitcoind, carol, ldk, announce=False)
        await normal(alice, ldk.node_id)
        await ldk.usable_channels(2)
        made = await carol.call("createoffer", description="carol", amountMsat=7_000_000)
        parsed = await alice.call("parseoffer", offer=made["encoded"])
        assert [path["firstNodeId"] for path in parsed["paths"]] == [ldk.node_id]
        paid = await alice.call(
            "payoffer", offer=made["encoded"], amountMsat=7_000_000, blocking="true"
        )
        assert paid["type"] == "payment-sent", paid
        assert paid["fees"] > 0

        async def arrived() -> bool:
            received = await carol.call("getreceivedinfo", paymentHash=paid["paymentHash"])
            return bool(received["status"]["type"] == "received")

        await until("the payment at carol", arrived)
