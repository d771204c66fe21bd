"""The foreign node of the other interop tests works by itself: two of them have a channel."""

import asyncio
from pathlib import Path

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import LdkError, ldk_node, needs_ldk

from back.chain.regtest import Regtest

pytestmark = needs_ldk


async def test_two_ldk_nodes_open_a_channel_and_pay(bitcoind: Regtest, tmp_path: Path) -> None:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "a", anchors=True) as a,
        ldk_node(bitcoind, tmp_path / "b", anchors=True, fund=False) as b,
    ):
        await a("connect", node_id=b.node_id, host="127.0.0.1", port=b.port)
        await a("open", node_id=b.node_id, sats=1_000_000)
        await bitcoind.mine(6)
        await asyncio.gather(a("sync"), b("sync"))
        [channel], _ = await asyncio.gather(a.usable_channels(), b.usable_channels())
        assert channel["sats"] == 1_000_000
        invoice = await b("invoice", msat=1_234_567)
        paid = await a("pay", bolt11=invoice["bolt11"])
        assert paid["status"] == "sent"
        with pytest.raises(LdkError):
            await a("open", node_id="02" * 33, sats=1_000_000)
