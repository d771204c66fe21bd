"""kill -9 in the middle of payments with a real LDK node: nothing is lost, nothing paid twice."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import Ldk, ldk_node, needs_ldk
from support.squall import balances_agree, normal, open_to_ldk, pay, squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until
from shared.errors import CommandError

pytestmark = [needs_ldk, pytest.mark.timeout(300)]

COUNT = 20


async def pay_or_tell(node: Cluster, bolt11: str) -> dict[str, Any]:
    """Pay; where the back dies under the call, say so."""
    try:
        return await pay(node, bolt11)
    except (TimeoutError, CommandError, OSError) as error:
        return {"type": "unknown", "error": str(error)}


async def settled(node: Cluster, payment_hash: str) -> str:
    """Wait until a payment of ours is sent or failed; return which."""

    async def outcome() -> str:
        found = await node.call("getsentinfo", paymentHash=payment_hash)
        states = {attempt["status"]["type"] for attempt in found}
        if not found:
            return "failed"
        return "" if "pending" in states else ("sent" if "sent" in states else "failed")

    return str(await until(f"the end of payment {payment_hash}", outcome, 60))


async def claimed_by(ldk: Ldk, payment_hash: str) -> bool:
    """Whether LDK has been paid."""
    return any(
        p["payment_hash"] == payment_hash and p["direction"] == "in" and p["status"] == "claimed"
        for p in await ldk("payments")
    )


async def outcomes_agree(node: Cluster, ldk: Ldk, ours: list[str], theirs: list[str]) -> None:
    """Every payment has ended, and both sides say the same of it."""
    for payment_hash in ours:
        state = await settled(node, payment_hash)
        assert (state == "sent") == await claimed_by(ldk, payment_hash), payment_hash
    for payment_hash in theirs:

        async def ended(payment_hash: str = payment_hash) -> str:
            found = [p for p in await ldk("payments") if p["payment_hash"] == payment_hash]
            return found[0]["status"] if found and found[0]["status"] in {"sent", "failed"} else ""

        state = await until("the end of LDK's payment", ended, 60)
        info = await node.call("getreceivedinfo", paymentHash=payment_hash)
        assert (state == "sent") == (info["status"]["type"] == "received"), payment_hash


async def payments_under_way(
    node: Cluster, ldk: Ldk
) -> tuple["asyncio.Future[list[Any]]", list[str], list[str]]:
    """Start payments both ways; return them and their hashes."""
    ours = [await ldk("invoice", msat=20_000 + i) for i in range(COUNT)]
    theirs = [
        await node.call("createinvoice", amountMsat=30_000 + i, description="kill")
        for i in range(COUNT)
    ]
    running = asyncio.gather(
        *(pay_or_tell(node, invoice["bolt11"]) for invoice in ours),
        *(ldk("pay", bolt11=invoice["serialized"], wait_ms=100) for invoice in theirs),
        return_exceptions=True,
    )
    return running, [i["payment_hash"] for i in ours], [i["paymentHash"] for i in theirs]


async def test_a_killed_front_loses_no_payment(bitcoind: Regtest, tmp_path: Path) -> None:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        squall_node(bitcoind, tmp_path, fronts=2, fund_btc=1) as node,
    ):
        await open_to_ldk(bitcoind, node, ldk, pushMsat=400_000_000)
        running, ours, theirs = await payments_under_way(node, ldk)
        carrier = next(p["front"] for p in await node.call("peers") if p["nodeId"] == ldk.node_id)
        await asyncio.sleep(0.1)
        node.fronts.pop(carrier).child.kill()
        await normal(node, ldk.node_id)
        await ldk.usable_channels(1, 30)
        await running
        await outcomes_agree(node, ldk, ours, theirs)
        await balances_agree(node, ldk)


async def test_a_killed_back_loses_no_payment(bitcoind: Regtest, tmp_path: Path) -> None:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        squall_node(bitcoind, tmp_path, fronts=2, fund_btc=1) as node,
    ):
        await open_to_ldk(bitcoind, node, ldk, pushMsat=400_000_000)
        for delay_s in (0.05, 0.2):
            running, ours, theirs = await payments_under_way(node, ldk)
            await asyncio.sleep(delay_s)
            assert node.back is not None
            node.back.kill()
            await node.back.wait()
            await node.start_back()
            await normal(node, ldk.node_id)
            await ldk.usable_channels(1, 60)
            await running
            await outcomes_agree(node, ldk, ours, theirs)
            await balances_agree(node, ldk)
