"""What a node announces is in its own routing table, for its API and for its path-finding."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bitcoind import bitcoind, funded_folder  # noqa: F401 - fixtures
from support.squall import normal, squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until
from shared.errors import CommandError

pytestmark = pytest.mark.timeout(120)

WITHIN_S = 30.0
SATOSHIS = 1_000_000
SETTINGS = {"SQUALL_BACK_PUBLIC_ADDRESSES": "192.0.2.7:9735"}


@pytest.fixture
async def nodes(bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[tuple[Cluster, Cluster]]:  # noqa: F811
    """Two nodes; the first has coins."""
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(
            squall_node(bitcoind, tmp_path, "alice", settings=SETTINGS, fund_btc=1)
        )
        bob = await stack.enter_async_context(squall_node(bitcoind, tmp_path, "bob"))
        yield alice, bob


async def told(node: Cluster, path: str, count: int, **form: object) -> list[dict[str, Any]]:
    """Wait until a list of the API is as long as it should be."""

    async def enough() -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = await node.call(path, **form)
        except CommandError as error:
            if "not loaded yet" in str(error):
                return []
            raise
        return found if len(found) == count else []

    return list(await until(f"{count} of {path} of {node.name}", enough, WITHIN_S))


async def figures(node: Cluster) -> str:
    """Return the back's metrics."""
    url = f"http://127.0.0.1:{node.metrics_port}/metrics"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return await answer.text()


async def test_a_channel_of_ours_is_in_our_table_also_after_a_crash(
    nodes: tuple[Cluster, Cluster],
    bitcoind: Regtest,  # noqa: F811
) -> None:
    alice, bob = nodes
    await alice.call("connect", uri=bob.uri())
    await alice.call("open", nodeId=bob.node_id, fundingSatoshis=SATOSHIS, announceChannel="true")
    await until("the funding transaction", bitcoind.mempool_is_not_empty)
    await bitcoind.mine(6)
    channel = await normal(alice)
    (described,) = await told(alice, "allchannels", 1)
    assert {described["a"], described["b"]} == {alice.node_id, bob.node_id}
    assert described["a"] < described["b"]
    (ours,) = await told(alice, "allupdates", 1, nodeId=alice.node_id)
    assert ours["shortChannelId"] == described["shortChannelId"]
    assert ours["channelFlags"]["isNode1"] is (described["a"] == alice.node_id)
    assert ours["channelFlags"]["isEnabled"] is True
    (node,) = await told(alice, "nodes", 1, nodeIds=alice.node_id)
    assert (node["alias"], node["addresses"]) == ("alice", ["192.0.2.7:9735"])
    assert node["features"]["activated"]["gossip_queries"] == "optional"
    text = await figures(alice)
    assert 'squall_graph_table{kind="channels"} 1.0' in text
    assert "squall_graph_ready 1.0" in text
    # Nothing of it is kept but in GRAPH and in the database: it is there again, and not said anew.
    assert alice.back is not None
    alice.back.kill()
    await alice.back.wait(10)
    await alice.start_back()
    assert await told(alice, "allchannels", 1) == [described]
    assert await told(alice, "nodes", 1, nodeIds=alice.node_id) == [node]
    assert (await normal(alice))["channelId"] == channel["channelId"]
