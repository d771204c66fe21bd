"""Gossip with real LDK nodes: each learns the other's channel, and what is behind the other."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.bitcoind import (  # noqa: F401 - fixtures
    bitcoind,
    funded_folder,
    own_bitcoind,
)
from support.gossip_nodes import complete, shape, table_of, where
from support.gossip_peers import feeding
from support.gossip_table import Told
from support.ldk import Ldk, ldk_node, needs_ldk
from support.network import recently
from support.network_on_chain import on_chain
from support.squall import open_from_ldk, open_to_ldk, squall_node
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster
from shared.gossip.signed import verify
from shared.gossip.view import channel_view, node_view, update_view

pytestmark = [needs_ldk, pytest.mark.timeout(300)]

WITHIN_S = 60.0
AWAY_S = 3.0
QUICK = {"SQUALL_BACK_DISABLE_AFTER_S": str(AWAY_S)}
ADDRESS = "192.0.2.7:9735"
BEHIND_SAT = 500_000


async def ldk_knows(ldk: Ldk, is_enough: Callable[[dict[str, Any]], bool], what: str) -> Any:
    """Wait until LDK's network graph is as wanted, and return it."""

    async def graph() -> dict[str, Any]:
        known: dict[str, Any] = await ldk("graph")
        return known if is_enough(known) else {}

    return await until(graph, f"{what}, in LDK's graph", WITHIN_S)


async def fronts_know(node: Cluster, is_enough: Callable[[Told], bool], what: str) -> list[Told]:
    """Wait until the table of every front is as wanted, and return them."""

    async def tables() -> list[Told]:
        told = [await table_of(node, front) for front in node.fronts.values()]
        return told if all(map(is_enough, told)) else []

    found: list[Told] = await until(tables, f"{what}, in all fronts", WITHIN_S)
    return found


def is_whole(told: Told, channels: int, nodes: int) -> bool:
    """Both directions of each channel, and each node's own words."""
    counts = len(told.channels), len(told.updates), len(told.nodes)
    return counts == (channels, 2 * channels, nodes)


def both_ways(graph: dict[str, Any], channels: int) -> bool:
    """Both directions of each channel, as LDK knows them."""
    known = graph["channels"]
    return len(known) == channels and all(c["one_to_two"] and c["two_to_one"] for c in known)


@pytest.mark.parametrize("is_ours", [True, False], ids=["we open", "ldk opens"])
async def test_ldk_learns_our_channel_from_us_and_we_its(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
    is_ours: bool,
) -> None:
    settings = {"SQUALL_BACK_PUBLIC_ADDRESSES": ADDRESS}
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        squall_node(bitcoind, tmp_path, fronts=2, fund_btc=1, settings=settings) as node,
    ):
        if is_ours:
            await open_to_ldk(bitcoind, node, ldk, announceChannel="true")
        else:
            await open_from_ldk(bitcoind, node, ldk)
        await ldk_knows(ldk, lambda graph: both_ways(graph, 1), "our channel, both ways")
        await ldk_knows(ldk, lambda graph: node.node_id in graph["nodes"], "our node")
        told, _ = await fronts_know(node, lambda t: is_whole(t, 1, 2), "the channel and both ends")
        (announcement,) = told.channels.values()
        assert verify(announcement)
        ends = channel_view(announcement)
        assert {ends.node_id_1.hex(), ends.node_id_2.hex()} == {node.node_id, ldk.node_id}
        ours = node_view(told.nodes[bytes.fromhex(node.node_id)])
        assert ours.alias.rstrip(b"\0") == node.name.encode()
        assert ours.addresses == bytes([1, 192, 0, 2, 7]) + (9735).to_bytes(2, "big")
        for raw in told.updates.values():
            signer = (ends.node_id_1, ends.node_id_2)[update_view(raw).direction]
            assert verify(raw, signer)


async def test_a_third_node_behind_ldk_is_seen(bitcoind: Regtest, tmp_path: Path) -> None:  # noqa: F811
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        ldk_node(bitcoind, tmp_path / "behind", anchors=True, fund=False) as behind,
        squall_node(bitcoind, tmp_path, fronts=2, fund_btc=1) as node,
    ):
        await ldk("connect", node_id=behind.node_id, host="127.0.0.1", port=behind.port)
        await ldk("open", node_id=behind.node_id, sats=BEHIND_SAT)
        await until(bitcoind.mempool_is_not_empty, "the funding of the far channel")
        await open_to_ldk(bitcoind, node, ldk, announceChannel="true")
        await behind("sync")
        await ldk.usable_channels(2)
        tables = await fronts_know(node, lambda told: is_whole(told, 2, 3), "the far channel")
        assert all(bytes.fromhex(behind.node_id) in told.nodes for told in tables)
        # And the other way: who is behind LDK hears of us.
        await ldk_knows(behind, lambda graph: node.node_id in graph["nodes"], "our node")


async def test_a_peer_that_dies_is_disabled_for_all_and_enabled_when_it_is_back(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True, datadir=tmp_path / "kept") as ldk,
        squall_node(bitcoind, tmp_path, fund_btc=1, settings=QUICK) as node,
    ):
        await open_to_ldk(bitcoind, node, ldk, announceChannel="true")
        (told,) = await fronts_know(node, lambda t: is_whole(t, 1, 2), "the channel")
        (announcement,) = told.channels.values()
        is_second = channel_view(announcement).node_id_2.hex() == node.node_id
        ldk.kill()

        def is_disabled(told: Told, *, wanted: bool) -> bool:
            ours = [raw for key, raw in told.updates.items() if key & 1 == is_second]
            return [update_view(raw).is_disabled for raw in ours] == [wanted]

        await fronts_know(node, partial(is_disabled, wanted=True), "our side disabled")
        await ldk.start()
        await fronts_know(node, partial(is_disabled, wanted=False), "our side enabled")


async def test_a_fresh_ldk_learns_the_whole_table_from_a_front(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
) -> None:
    network = await on_chain(own_bitcoind, shape(300), recently())
    async with squall_node(own_bitcoind, tmp_path) as node:
        (front,) = node.fronts.values()
        async with feeding(*where(node, front), network) as feeder:
            await feeder.feed()
            await complete(node, front, network, within_s=WITHIN_S)
        async with ldk_node(own_bitcoind, tmp_path / "fresh", fund=False) as fresh:
            await fresh("connect", node_id=node.node_id, host="127.0.0.1", port=front.port)
            is_there = partial(both_ways, channels=len(network.channels))
            graph = await ldk_knows(fresh, is_there, "the whole table")
            assert {node_id.hex() for node_id in network.nodes} <= set(graph["nodes"])
