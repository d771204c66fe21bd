"""What every part of the bench starts: a chain, nodes, and load in processes of its own."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp

from back.chain import regtest
from back.demo.cluster import Bitcoind, Cluster, until

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"SQUALL_BACK_LOG_LEVEL": "WARNING", "SQUALL_BACK_MINIMUM_DEPTH": "3"}


@asynccontextmanager
async def nodes(
    *names: str, **settings: str
) -> AsyncIterator[tuple[regtest.Regtest, list[Cluster]]]:
    """Run a bitcoind and one node per name, each with one front; ``settings`` of the backs."""
    with tempfile.TemporaryDirectory(prefix="squall-bench-") as folder:
        async with AsyncExitStack() as stack:
            chain = await stack.enter_async_context(regtest.running(Path(folder) / "bitcoind"))
            access = Bitcoind(
                chain.rpc_url, chain.user, chain.password, chain.zmq_block, chain.zmq_tx
            )
            running = []
            for name in names:
                node = Cluster(name, Path(folder) / name, access)
                node.settings.update(QUIET | settings)
                node.front_settings["SQUALL_FRONT_LOG_LEVEL"] = "WARNING"
                stack.push_async_callback(node.stop)
                await node.start(1)
                running.append(node)
            yield chain, running


async def open_channels(
    chain: regtest.Regtest, opener: Cluster, other: Cluster, count: int, sat: int
) -> None:
    """Open ``count`` channels, half of each on the other side, and wait until all are usable."""
    await chain.send_to(await opener.call("getnewaddress"), 2)
    await chain.mine(1)

    async def funded() -> bool:
        return bool((await opener.call("onchainbalance"))["confirmed"])

    await until("the wallet", funded)
    await opener.call("connect", uri=other.uri())
    for _ in range(count):
        await opener.call("open", nodeId=other.node_id, fundingSatoshis=sat, pushMsat=sat * 500)
        await chain.mine(1)
    await chain.mine(6)
    for node in (opener, other):
        await until("the channels", partial(_all_normal, node, count), 60)


async def _all_normal(node: Cluster, count: int) -> bool:
    return [c["state"] for c in await node.call("channels")] == ["NORMAL"] * count


async def load(kind: str, **arguments: object) -> dict[str, float]:
    """Run :mod:`.load` in a process of its own and return what it measured."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        kind,
        json.dumps(arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"load {kind} ended with {process.returncode}")
    return dict(json.loads(output.splitlines()[-1]))


async def metric(port: int, name: str) -> float:
    """One value of a process's metrics."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        for line in (await response.text()).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise RuntimeError(f"no metric {name}")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children, the ended ones it has waited for included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(tree_cpu_s(int(c)) for file in children for c in file.read_text().split())


def rss_kb(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")
