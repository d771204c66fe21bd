"""Whole Squall nodes with a routing table, looked at from outside."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nats
from nats.js import JetStreamContext
from support.gossip_peers import observing
from support.gossip_table import Told, differences
from support.network import Network, Shape
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, Front
from back.signer.keys import node_secret, root_key
from back.signer.seed import load_seed
from shared.chain import REGTEST
from shared.fabric import certificates
from shared.fabric.tls import client_context

__all__ = [
    "admin_stream",
    "complete",
    "gossip_node",
    "metrics",
    "shape",
    "start_front_with_key",
    "table_of",
]

QUICK = {
    "SQUALL_FRONT_GOSSIP_FLUSH_S": "1",
    "SQUALL_FRONT_GOSSIP_QUERY_TIMEOUT_S": "3",
    "SQUALL_FRONT_GOSSIP_RESYNC_S": "5",
}
"""Settings of fronts that tests cannot wait for otherwise."""
_LOOK_EVERY_S = 0.3


def shape(channels: int, seed: int = 1) -> Shape:
    """A network with as many nodes for its channels as is usual."""
    return Shape(channels=channels, nodes=channels * 17 // 50, seed=seed)


@asynccontextmanager
async def gossip_node(
    bitcoind: Regtest,
    folder: Path,
    *,
    fronts: int = 1,
    minimum_depth: int = 3,
    front_settings: dict[str, str] | None = None,
) -> AsyncIterator[Cluster]:
    """Run a node that hears of gossip quickly."""
    settings = {"SQUALL_FRONT_LOG_LEVEL": "INFO", **QUICK, **(front_settings or {})}
    async with squall_node(
        bitcoind,
        folder,
        fronts=fronts,
        settings={
            "SQUALL_BACK_LOG_LEVEL": "INFO",
            "SQUALL_BACK_MINIMUM_DEPTH": str(minimum_depth),
        },
        front_settings=settings,
    ) as node:
        yield node


def where(node: Cluster, front: Front) -> tuple[bytes, int]:
    """Node id and port, to connect to."""
    return bytes.fromhex(node.node_id), front.port


async def table_of(node: Cluster, front: Front, *, timeout_s: float = 60.0) -> Told:
    """The whole table of a front, asked for as any peer may."""
    async with observing(*where(node, front)) as observer:
        return await observer.ask_for_everything(timeout_s=timeout_s)


async def complete(
    node: Cluster, front: Front, network: Network, *, within_s: float = 40.0
) -> Told:
    """Wait until a front's table is the network, byte for byte; returns the table.

    Raises:
        AssertionError: it is not within that time; says what is missing.
    """
    deadline = time.monotonic() + within_s
    async with observing(*where(node, front)) as observer:
        while True:
            known = await observer.ask_range(timeout_s=within_s)
            updates = sum(bool(stamp) for times in known.values() if times for stamp in times[:2])
            said = (
                f"{len(known)} of {len(network.channels)} channels and {updates}"
                f" of {len(network.updates)} updates in {front.name}"
            )
            if len(known) >= len(network.channels) and updates >= len(network.updates):
                told = await table_of(node, front, timeout_s=within_s)
                said = differences(network, told)
                if not said:
                    return told
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {said}"
            await asyncio.sleep(_LOOK_EVERY_S)


async def start_front_with_key(node: Cluster, name: str) -> Front:
    """Start a front that holds the node key itself: it takes peers while no back runs."""
    root = root_key(load_seed(node.root / "data" / "seed"), REGTEST.coin_type)
    before = dict(node.front_settings)
    node.front_settings |= {
        "SQUALL_FRONT_KEY_PROVIDER": "env",
        "SQUALL_FRONT_NODE_KEY": node_secret(root).hex(),
    }
    try:
        return await node.start_front(name)
    finally:
        node.front_settings = before


@asynccontextmanager
async def admin_stream(node: Cluster) -> AsyncIterator[JetStreamContext]:
    """The broker's streams, with the rights of an operator."""
    assert node.nats is not None
    context = client_context(certificates.credentials(node.certificates, "admin"))
    client = await nats.connect(
        node.nats.url, tls=context, tls_handshake_first=True, inbox_prefix=b"_INBOX.admin"
    )
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def metrics(front: Front) -> dict[str, float]:
    """A front's metrics by name and labels, as they are written."""
    url = f"http://127.0.0.1:{front.metrics_port}/metrics"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        lines = (await response.text()).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}
