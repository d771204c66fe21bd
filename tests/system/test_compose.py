"""compose.yaml for real: built, scaled, killed in part, watched and taken down in a lab of its own.

The peer is a real LDK node in the lab's network, which knows only the balancer's port.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.compose import Stack, StackBitcoind, bitcoind_of, lab, needs_docker
from support.ldk import Ldk, LdkError, installed, needs_ldk

from back.demo.cluster import until
from shared.errors import CommandError

pytestmark = [needs_docker, needs_ldk, pytest.mark.timeout(900), pytest.mark.slow]

BALANCER_PORT = 9735
API = "http://127.0.0.1:8080"
FRONT_METRICS_PORT = 9091
BACK_METRICS_PORT = 9090
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, built and started as the README says; gone afterwards."""
    installed()
    log = tmp_path_factory.mktemp("compose") / "lab.log"
    with lab(log) as running:
        it = Stack(running)
        try:
            it.compose("build")
            it.compose("up", "-d")
            yield it
        finally:
            it.compose("down", "-v", "--timeout", "2")
        assert not it.left()


@pytest.fixture(autouse=True)
def network(stack: Stack) -> Iterator[None]:
    """Every test is in the lab's network, as if it were on the machine that runs Docker."""
    with stack.lab.network():
        yield


async def get(url: str, **options: Any) -> str:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        http.get(url, **options) as response,
    ):
        text = await response.text()
        if response.status != 200:
            raise CommandError(f"{url}: {response.status} {text[:300]}")
        return text


async def call(stack: Stack, path: str, **form: object) -> Any:
    """Call the back's API where compose publishes it."""
    authorization = aiohttp.encode_basic_auth("", stack.api_password)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as http,
        http.post(
            f"{API}/{path}",
            data={key: str(value) for key, value in form.items()},
            headers={"Authorization": authorization},
        ) as response,
    ):
        text = await response.text()
        if response.status != 200:
            raise CommandError(f"{path}: {response.status} {text[:300]}")
        return json.loads(text)


async def metric(stack: Stack, front: dict[str, Any], name: str) -> float:
    """Return one figure of a front, as Prometheus reads it."""
    text = await get(f"http://{stack.address(front)}:{FRONT_METRICS_PORT}/metrics")
    values = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
    assert values, f"{name} is not among the metrics"
    return float(values[0])


async def carriers(stack: Stack) -> list[dict[str, Any]]:
    """Return the fronts that hold a peer's connection."""
    fronts = stack.containers("front")
    return [f for f in fronts if await metric(stack, f, "squall_front_peers") > 0]


async def healthy_fronts(stack: Stack, count: int) -> list[dict[str, Any]]:
    """Wait for as many fronts that may get peers."""

    async def all_healthy() -> list[dict[str, Any]]:
        fronts = stack.containers("front")
        for front in fronts:
            await get(f"http://{stack.address(front)}:{FRONT_METRICS_PORT}/health")
        return fronts if len(fronts) == count else []

    return list(await until(f"{count} healthy fronts", all_healthy, PATIENCE_S, 0.2))


async def node_id(stack: Stack) -> str:
    async def answers() -> str:
        return str((await call(stack, "getinfo"))["nodeId"])

    return str(await until("the API", answers, PATIENCE_S))


# --- the peer -------------------------------------------------------------------------------------


@asynccontextmanager
async def funded_peer(bitcoind: StackBitcoind, folder: Path) -> AsyncIterator[Ldk]:
    await bitcoind.fund()
    peer = Ldk(bitcoind, folder, anchors=True)
    try:
        await peer.start()
        await peer.fund(1)
        yield peer
    finally:
        await peer.stop()


async def connect(stack: Stack, peer: Ldk) -> None:
    """Come in through the balancer, again and again as a peer does, until the channel is usable."""
    node = await node_id(stack)

    async def connected() -> bool:
        try:
            await peer("connect", node_id=node, host="127.0.0.1", port=BALANCER_PORT)
        except LdkError as error:
            raise CommandError(str(error)) from None
        return any(p["node_id"] == node for p in await peer("peers"))

    await until("the peer's connection", connected, PATIENCE_S, 0.2)


async def usable(stack: Stack, peer: Ldk) -> None:
    """Wait until both sides would pay through the channel."""
    await peer.usable_channels(1, PATIENCE_S)

    async def normal() -> bool:
        channels = await call(stack, "channels")
        return [c["state"] for c in channels] == ["NORMAL"]

    await until("the channel", normal, PATIENCE_S)


async def open_channel(stack: Stack, peer: Ldk) -> None:
    node = await node_id(stack)
    await peer("open", node_id=node, sats=1_000_000, push_msat=400_000_000)
    await until("the funding transaction", peer.bitcoind.mempool_is_not_empty, PATIENCE_S)
    await peer.mine(6)
    await usable(stack, peer)


async def pay_both_ways(stack: Stack, peer: Ldk) -> None:
    invoice = await peer("invoice", msat=1_200_000)
    sent = await call(stack, "payinvoice", invoice=invoice["bolt11"], blocking="true")
    assert sent["type"] == "payment-sent", sent
    ours = await call(stack, "createinvoice", amountMsat=50_000_000, description="compose")
    got = await peer("pay", bolt11=ours["serialized"])
    assert got["status"] == "sent", got


# --- the tests ------------------------------------------------------------------------------------


async def test_a_peer_outlives_the_front_that_carries_it(stack: Stack, tmp_path: Path) -> None:
    await healthy_fronts(stack, 2)
    bitcoind = bitcoind_of(stack, tmp_path)
    async with funded_peer(bitcoind, tmp_path / "ldk") as peer:
        await connect(stack, peer)
        await open_channel(stack, peer)
        await pay_both_ways(stack, peer)
        (carrier,) = await carriers(stack)

        stack.compose("up", "-d", "--no-build", "--scale", "front=3")
        await healthy_fronts(stack, 3)
        assert [f["Id"] for f in await carriers(stack)] == [carrier["Id"]]
        assert await metric(stack, carrier, "squall_front_connections") == 1

        stack.docker("kill", carrier["Id"])
        await connect(stack, peer)
        await usable(stack, peer)
        (other,) = await carriers(stack)
        assert other["Id"] != carrier["Id"]
        await pay_both_ways(stack, peer)
