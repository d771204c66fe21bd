"""Channels with a real LDK node: opened by either side, both types, payments, close."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import Ldk, ldk_node, needs_ldk
from support.squall import (
    balances_agree,
    channel_of,
    normal,
    open_from_ldk,
    open_to_ldk,
    pay,
    squall_node,
)

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until

pytestmark = [needs_ldk, pytest.mark.timeout(300)]

AMOUNTS_MSAT = (10_000, 1_200_000, 50_000_000)


@dataclass
class Pair:
    """A Squall node and an LDK node on one chain."""

    bitcoind: Regtest
    node: Cluster
    ldk: Ldk


@pytest.fixture(params=[False, True], ids=["static_remotekey", "anchors"])
async def pair(request, bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[Pair]:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=request.param) as ldk,
        squall_node(bitcoind, tmp_path, fronts=2, fund_btc=1) as node,
    ):
        yield Pair(bitcoind, node, ldk)


async def pay_both_ways(pair: Pair, amount_msat: int) -> None:
    invoice = await pair.ldk("invoice", msat=amount_msat)
    sent = await pay(pair.node, invoice["bolt11"])
    assert sent["type"] == "payment-sent", sent
    ours = await pair.node.call("createinvoice", amountMsat=amount_msat, description="back")
    got = await pair.ldk("pay", bolt11=ours["serialized"])
    assert got["status"] == "sent", got
    received = await pair.node.call("getreceivedinfo", paymentHash=ours["paymentHash"])
    assert received["status"]["type"] == "received"


async def test_we_open_pay_both_ways_and_close(pair: Pair) -> None:
    await open_to_ldk(pair.bitcoind, pair.node, pair.ldk, pushMsat=200_000_000)
    for amount in AMOUNTS_MSAT:
        await pay_both_ways(pair, amount)
    await balances_agree(pair.node, pair.ldk)
    channel = await channel_of(pair.node)
    await pair.node.call("close", channelId=channel["channelId"])
    await closed(pair)


async def test_ldk_opens_pays_both_ways_and_closes(pair: Pair) -> None:
    await open_from_ldk(pair.bitcoind, pair.node, pair.ldk, push_msat=300_000_000)
    for amount in AMOUNTS_MSAT:
        await pay_both_ways(pair, amount)
    await balances_agree(pair.node, pair.ldk)
    await pair.ldk("close", channel_id=(await pair.ldk("channels"))[0]["channel_id"])
    await closed(pair)


async def closed(pair: Pair) -> None:
    """Mine the closing transaction; both sides must forget the channel."""
    await until("the closing transaction", pair.bitcoind.mempool_is_not_empty)
    await pair.ldk.mine(6)

    async def gone() -> bool:
        return not await channel_of(pair.node) and not await pair.ldk("channels")

    await until("the end of the channel on both sides", gone)


async def test_a_hundred_in_a_row_and_forty_at_once(bitcoind: Regtest, tmp_path: Path) -> None:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        squall_node(bitcoind, tmp_path, fund_btc=1) as node,
    ):
        pair = Pair(bitcoind, node, ldk)
        await open_to_ldk(bitcoind, node, ldk, pushMsat=400_000_000)
        for _ in range(100):
            invoice = await ldk("invoice", msat=10_000)
            assert (await pay(node, invoice["bolt11"]))["type"] == "payment-sent"
        theirs = [await ldk("invoice", msat=20_000 + i) for i in range(20)]
        ours = [
            await node.call("createinvoice", amountMsat=30_000 + i, description="many")
            for i in range(20)
        ]
        outcomes = await asyncio.gather(
            *(pay(node, invoice["bolt11"]) for invoice in theirs),
            *(ldk("pay", bolt11=invoice["serialized"]) for invoice in ours),
        )
        assert [o["type"] for o in outcomes[:20]] == ["payment-sent"] * 20
        assert [o["status"] for o in outcomes[20:]] == ["sent"] * 20
        await balances_agree(pair.node, pair.ldk)


async def test_payments_survive_disconnections_in_their_middle(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        squall_node(bitcoind, tmp_path, fund_btc=1) as node,
    ):
        pair = Pair(bitcoind, node, ldk)
        await open_to_ldk(bitcoind, node, ldk, pushMsat=400_000_000)
        invoices = [await ldk("invoice", msat=15_000 + i) for i in range(20)]
        payments = asyncio.gather(*(pay(node, i["bolt11"]) for i in invoices))
        for _ in range(3):
            await asyncio.sleep(0.05)
            await ldk("disconnect", node_id=node.node_id)
            await normal_again(pair)
        outcomes = await payments
        assert {o["type"] for o in outcomes} <= {"payment-sent", "payment-failed"}
        await balances_agree(pair.node, pair.ldk)


async def normal_again(pair: Pair) -> None:
    """Wait for the reconnection of the peer and of its channel."""
    with_ldk = pair.ldk.node_id
    await normal(pair.node, with_ldk)
    await pair.ldk.usable_channels(1)
