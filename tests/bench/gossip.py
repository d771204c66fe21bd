"""The part `gossip`: what a network of mainnet's size costs fronts and back.

``GOSSIP_CHANNELS=3000 python -m tests.bench gossip`` tries it with a smaller one.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from statistics import median

import coincurve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.gossip_nodes import admin_stream, complete, where
from support.gossip_peers import observing
from support.network import FULL, Network, Shape, recently
from support.network_on_chain import on_chain

from back.chain import regtest
from back.demo.cluster import Bitcoind, Cluster, Front
from tests.bench.setting import QUIET, ROOT, rss_kb, tree_cpu_s

Figures = dict[str, float]

ARRIVES_WITHIN_S = 900.0
RAW_SIGNATURES = 20_000
RANGE_TRIES = 3
_STREAM = "GRAPH"


def wanted_shape() -> Shape:
    """The size that the figures are promised for, or the one of ``GOSSIP_CHANNELS``."""
    channels = int(os.environ.get("GOSSIP_CHANNELS", FULL.channels))
    return Shape(channels=channels, nodes=channels * FULL.nodes // FULL.channels)


def raw_signatures() -> Figures:
    """Bare libsecp256k1 through coincurve, one core: parsed keys, DER signatures, a hot loop."""
    keys = [coincurve.PrivateKey(sha256(bytes([n])).digest()) for n in range(200)]
    digest = sha256(b"bench").digest()
    jobs = [(key.public_key, key.sign(digest, hasher=None)) for key in keys]
    began = time.process_time()
    for _ in range(RAW_SIGNATURES // len(jobs)):
        for public, signature in jobs:
            public.verify(signature, digest, hasher=None)
    return {"raw_signatures_per_s_per_core": RAW_SIGNATURES / (time.process_time() - began)}


async def gossip() -> Figures:
    """Feed one of two fronts, then start a third; once with a back that trusts, once without."""
    figures = raw_signatures()
    shape, newest = wanted_shape(), recently()
    with tempfile.TemporaryDirectory(prefix="squall-bench-") as folder:
        async with regtest.running(Path(folder) / "bitcoind") as chain:
            first_block = await chain.height() + 2
            network = await on_chain(chain, shape, newest)
            for is_trusting in (True, False):
                name = "trusting" if is_trusting else "checking"
                async with running(chain, Path(folder), name, is_trusting=is_trusting) as node:
                    told = await _ingest(node, network, newest, first_block)
                    suffix = "" if is_trusting else "_unless_trusted"
                    figures[f"back_cpu_share_of_ingest{suffix}"] = told.pop("share")
                    figures |= told if is_trusting else {}
                    if not is_trusting:
                        figures |= await _load(node, network)
    return figures


@asynccontextmanager
async def running(
    chain: regtest.Regtest, folder: Path, name: str, *, is_trusting: bool
) -> AsyncIterator[Cluster]:
    """Run a node with two fronts."""
    access = Bitcoind(chain.rpc_url, chain.user, chain.password, chain.zmq_block, chain.zmq_tx)
    node = Cluster(name, folder / name, access)
    node.settings.update(QUIET)
    node.settings["SQUALL_BACK_GRAPH_TRUST_FRONTS"] = str(is_trusting).lower()
    node.front_settings["SQUALL_FRONT_LOG_LEVEL"] = "WARNING"
    try:
        await node.start(2)
        yield node
    finally:
        await node.stop()


async def _ingest(node: Cluster, network: Network, newest: int, first_block: int) -> Figures:
    """Tell one front everything; count CPU seconds until all of it is in the stream."""
    one, two = node.fronts.values()
    assert node.back is not None
    pids = one.child.pid, two.child.pid, node.back.pid
    before = [tree_cpu_s(pid) for pid in pids]
    began = time.perf_counter()
    node_id, port = where(node, one)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        "feed",
        json.dumps(
            {
                "node_id": node_id.hex(),
                "port": port,
                "channels": network.shape.channels,
                "nodes": network.shape.nodes,
                "newest": newest,
                "first_block": first_block,
            }
        ),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await _stored(node, len(network.channels) + len(network.updates) + len(network.nodes))
        seconds = time.perf_counter() - began
        front, other, back = (tree_cpu_s(pid) - at for pid, at in zip(pids, before, strict=True))
        for each in (one, two):
            await complete(node, each, network, within_s=120)
    finally:
        await process.communicate(b"")
    return {
        "gossip_signatures_per_s_per_core": network.signatures / front,
        "gossip_ingest_s": seconds,
        "share": back / (front + other),
    }


async def _stored(node: Cluster, count: int) -> None:
    """Wait until the stream holds so many values; asking the broker costs no front anything."""
    deadline = time.monotonic() + ARRIVES_WITHIN_S
    async with admin_stream(node) as streams:
        while (found := (await streams.stream_info(_STREAM)).state.messages) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} of {count} in the stream")
            await asyncio.sleep(0.25)


async def _load(node: Cluster, network: Network) -> Figures:
    """Start another front: it loads the table before it is healthy."""
    began = time.perf_counter()
    front = await node.start_front("new")
    seconds = time.perf_counter() - began
    megabytes = rss_kb(front.child.pid) / 1000
    await complete(node, front, network, within_s=30)
    return {
        "table_load_s": seconds,
        "table_mb": megabytes,
        "range_reply_s": await _range(node, front, len(network.channels)),
    }


async def _range(node: Cluster, front: Front, channels: int) -> float:
    took = []
    async with observing(*where(node, front)) as observer:
        for _ in range(RANGE_TRIES):
            assert len(await observer.ask_range()) == channels
            took.append(observer.range_s)
    return median(took)
