"""compose.yaml for real: built, scaled, killed in part, watched and taken down in a lab of its own.

The peer is a real LDK node on the machine that runs Docker; of Squall it knows the balancer's port.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.compose import LabError, Stack, bitcoind_of, lab, needs_docker
from support.ldk import Ldk, LdkError, installed, needs_ldk

from back.demo.cluster import until
from back.demo.process import program
from shared.errors import CommandError

pytestmark = [
    needs_docker,
    needs_ldk,
    pytest.mark.timeout(900),
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

BALANCER_PORT = 9735
API = "http://127.0.0.1:8080"
NATS = "tls://localhost:4222"
FRONT_METRICS_PORT = 9091
BACK_METRICS_PORT = 9090
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, built and started as the README says; gone afterwards.

    The tests' thread is in the lab's network meanwhile, as if this machine ran that Docker.
    """
    installed()
    log = tmp_path_factory.mktemp("compose") / "lab.log"
    with lab(log) as running, running.network():
        it = Stack(running)
        try:
            it.compose("build")
            it.compose("up", "-d")
            yield it
        finally:
            it.compose("down", "-v", "--timeout", "2")
        assert not it.left()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opener(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ldk]:
    """A peer that came in through the balancer and opened a channel to us."""
    folder = tmp_path_factory.mktemp("peer")
    await healthy_fronts(stack, 2)
    bitcoind = bitcoind_of(stack, folder)
    await bitcoind.fund()
    node = Ldk(bitcoind, folder / "ldk", anchors=True)
    try:
        await node.start()
        await node.fund(1)
        await come_in(stack, node)
        await node("open", node_id=await node_id(stack), sats=1_000_000, push_msat=400_000_000)
        await until("the funding transaction", bitcoind.mempool_is_not_empty, PATIENCE_S)
        await node.mine(6)
        await usable(stack, node)
        yield node
    finally:
        await node.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def peer(stack: Stack, opener: Ldk) -> Ldk:
    """That peer, connected, whatever the test before did to it."""
    await come_in(stack, opener)
    await usable(stack, opener)
    return opener


# --- what one does with the stack -----------------------------------------------------------------


async def get(url: str) -> str:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http,
        http.get(url) as response,
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


async def node_id(stack: Stack) -> str:
    async def answers() -> str:
        return str((await call(stack, "getinfo"))["nodeId"])

    return str(await until("the API", answers, PATIENCE_S))


async def front_page(stack: Stack, front: dict[str, Any], page: str) -> str:
    """Return ``health`` or ``metrics`` of a front, as balancer and Prometheus read it."""
    return await get(f"http://{stack.address(front)}:{FRONT_METRICS_PORT}/{page}")


async def figure(stack: Stack, front: dict[str, Any], name: str) -> float:
    """Return one figure of a front."""
    lines = (await front_page(stack, front, "metrics")).splitlines()
    values = [line.split()[-1] for line in lines if line.startswith(f"{name} ")]
    assert values, f"{name} is not among the metrics"
    return float(values[0])


async def handshakes(stack: Stack, front: dict[str, Any]) -> float:
    """Return how many peers ever came in by a front."""
    return await figure(stack, front, 'squall_front_handshakes_total{reason="",result="ok"}')


async def healthy_fronts(stack: Stack, count: int) -> list[dict[str, Any]]:
    """Wait for as many fronts that may get peers."""

    async def all_healthy() -> list[dict[str, Any]]:
        fronts = stack.containers("front")
        for front in fronts:
            await front_page(stack, front, "health")
        return fronts if len(fronts) == count else []

    return list(await until(f"{count} healthy fronts", all_healthy, PATIENCE_S, 0.2))


async def carrier_of(stack: Stack) -> dict[str, Any]:
    """Return the one front that holds the peer's connection."""

    async def only_one() -> dict[str, Any]:
        fronts = stack.containers("front")
        holding = [f for f in fronts if await figure(stack, f, "squall_front_peers") > 0]
        return holding[0] if len(holding) == 1 else {}

    return dict(await until("one front with the peer", only_one, PATIENCE_S, 0.2))


async def come_in(stack: Stack, peer: Ldk) -> None:
    """Connect through the balancer, again and again as a peer does."""
    node = await node_id(stack)

    async def connected() -> bool:
        if any(p["node_id"] == node for p in await peer("peers")):
            return True
        try:
            await peer("connect", node_id=node, host="127.0.0.1", port=BALANCER_PORT)
        except LdkError as error:
            raise CommandError(str(error)) from None
        return False

    await until("the peer's connection", connected, PATIENCE_S, 0.2)


async def usable(stack: Stack, peer: Ldk) -> None:
    """Wait until both sides would pay through the channel."""
    await peer.usable_channels(1, PATIENCE_S)

    async def normal() -> bool:
        channels = await call(stack, "channels")
        return [c["state"] for c in channels] == ["NORMAL"]

    await until("the channel", normal, PATIENCE_S)


async def pay_both_ways(stack: Stack, peer: Ldk) -> None:
    invoice = await peer("invoice", msat=1_200_000)
    sent = await call(stack, "payinvoice", invoice=invoice["bolt11"], blocking="true")
    assert sent["type"] == "payment-sent", json.dumps(sent)
    ours = await call(stack, "createinvoice", amountMsat=2_000_000, description="compose")
    got = await peer("pay", bolt11=ours["serialized"])
    assert got["status"] == "sent", got


# --- peers and fronts -----------------------------------------------------------------------------


async def test_a_peer_pays_and_is_paid_through_the_balancer(stack: Stack, peer: Ldk) -> None:
    await pay_both_ways(stack, peer)


async def test_the_front_knows_the_peers_address_and_not_the_balancers(
    stack: Stack, peer: Ldk
) -> None:
    carrier = await carrier_of(stack)
    came = [e for e in stack.logs(carrier) if e["event"] == "peer_connected"][-1]
    (balancer,) = stack.containers("balancer")
    assert came["peer"] == peer.node_id
    assert came["address"].rpartition(":")[0] == stack.gateway(carrier)
    assert came["address"].rpartition(":")[0] != stack.address(balancer)


async def test_a_front_may_be_added_and_the_peers_one_killed(stack: Stack, peer: Ldk) -> None:
    carrier = await carrier_of(stack)
    stack.compose("up", "-d", "--no-build", "--scale", "front=3")
    await healthy_fronts(stack, 3)
    assert (await carrier_of(stack))["Id"] == carrier["Id"]
    assert await handshakes(stack, carrier) == 1

    stack.docker("kill", carrier["Id"])
    await come_in(stack, peer)
    await usable(stack, peer)
    assert (await carrier_of(stack))["Id"] != carrier["Id"]
    await pay_both_ways(stack, peer)


async def test_a_front_that_is_stopped_hands_its_peer_to_the_others(
    stack: Stack, peer: Ldk
) -> None:
    stack.compose("up", "-d", "--no-build", "--scale", "front=2")
    await healthy_fronts(stack, 2)
    carrier = await carrier_of(stack)
    stack.docker("stop", carrier["Id"])
    assert stack.logs(carrier)[-1]["event"] == "front_stopped"
    await come_in(stack, peer)
    await usable(stack, peer)
    await pay_both_ways(stack, peer)


async def test_the_back_keeps_its_channels_over_a_restart(stack: Stack, peer: Ldk) -> None:
    node = await node_id(stack)
    stack.compose("restart", "back")
    assert await node_id(stack) == node
    await come_in(stack, peer)
    await usable(stack, peer)
    await pay_both_ways(stack, peer)


async def test_a_broker_that_is_away_for_a_while_drops_no_peer(stack: Stack, peer: Ldk) -> None:
    carrier = await carrier_of(stack)
    before = await handshakes(stack, carrier)
    (broker,) = stack.containers("nats")
    stack.docker("kill", broker["Id"])

    async def unhealthy() -> bool:
        try:
            await front_page(stack, carrier, "health")
        except CommandError:
            return True
        return False

    await until("a front that knows of it", unhealthy, PATIENCE_S)
    await until("a balancer that knows of it", balancer_refuses, PATIENCE_S)
    stack.docker("start", broker["Id"])
    await until("the front's health", lambda: front_page(stack, carrier, "health"), PATIENCE_S)
    await pay_both_ways(stack, peer)
    assert await handshakes(stack, carrier) == before


async def balancer_refuses() -> bool:
    """Whether the balancer has no front for a new peer: a front waits for the first act."""
    reader, writer = await asyncio.open_connection("127.0.0.1", BALANCER_PORT)
    try:
        async with asyncio.timeout(1):
            return not await reader.read(1)
    except TimeoutError:
        return False
    finally:
        writer.close()


# --- watching it ----------------------------------------------------------------------------------


async def test_the_tap_sees_both_directions_from_a_container_and_from_outside(
    stack: Stack, peer: Ldk, tmp_path: Path
) -> None:
    stack.copy_out("certs", "/roles/tap", tmp_path)
    tap = ["tap", "--json"]
    in_container = ["run", "--rm", "-T", "tap", "squall", *tap, "--certs", "/tls"]
    outputs = [tmp_path / "container", tmp_path / "outside"]
    commands = [
        ["docker-compose", *in_container, "--nats", "tls://nats:4222"],
        [program("squall"), *tap, "--certs", str(tmp_path / "tap"), "--nats", NATS],
    ]

    async def seen() -> bool:
        await pay_both_ways(stack, peer)
        return all(
            {"ln.in", "ln.out"} == {".".join(line["subject"].split(".")[:2]) for line in lines}
            for lines in map(adds, outputs)
        )

    with ExitStack() as running:
        for output, command in zip(outputs, commands, strict=True):
            running.enter_context(stack.background(output, *command))
        await until("traffic at both taps", seen, PATIENCE_S)
    ours = [line for line in adds(outputs[0]) if line["subject"].startswith("ln.out")]
    assert ours[0]["message"]["amount_msat"] == 1_200_000


def adds(output: Path) -> list[dict[str, Any]]:
    """Return the update_add_htlc that a tap printed."""
    lines = [json.loads(x) for x in output.read_text().splitlines() if x.startswith("{")]
    return [line for line in lines if line.get("subject", "").endswith(".update_add_htlc")]


async def test_prometheus_finds_the_figures_of_fronts_and_back(stack: Stack, peer: Ldk) -> None:
    for front in stack.containers("front"):
        text = await front_page(stack, front, "metrics")
        for name in ("peers", "sessions", "resends_total"):
            assert f"\nsquall_front_{name} " in text
    (back,) = stack.containers("back")

    async def settled() -> str:
        text = await get(f"http://{stack.address(back)}:{BACK_METRICS_PORT}/metrics")
        lines = text.splitlines()
        return text if {"squall_peers 1.0", "squall_sessions 1.0"} <= set(lines) else ""

    # the session with a front that was killed ends when nothing was heard of it for a while
    text = await until("one session of one peer", settled, PATIENCE_S)
    assert '\nsquall_channels{state="NORMAL"} 1.0' in text
    for name in ("squall_payments_total{", "squall_resends ", "squall_commit_seconds_bucket{"):
        assert f"\n{name}" in text


async def test_the_command_line_answers_in_the_backs_container(stack: Stack) -> None:
    answer = stack.compose("exec", "-T", "back", "squall", "getinfo")
    assert json.loads(answer)["nodeId"] == await node_id(stack)


# --- who holds what -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "keys"),
    [("front", {"/tls/front.key"}), ("back", {"/tls/back.key"})],
)
async def test_a_process_holds_its_own_key_alone_and_may_do_nothing_else(
    stack: Stack, service: str, keys: set[str]
) -> None:
    container = stack.containers(service)[0]
    search = "find / /tls -xdev -name '*.key' 2>/dev/null || true"
    found = stack.inside(container, "sh", "-c", search)
    assert set(found.split()) == keys
    assert stack.inside(container, "stat", "-c", "%a %U", *keys).split() == ["600", "squall"]
    assert stack.inside(container, "id", "-u").strip() != "0"
    assert "CapBnd:\t0000000000000000" in stack.inside(container, "cat", "/proc/1/status")
    with pytest.raises(LabError, match="Read-only file system"):
        stack.inside(container, "touch", "/opt/squall/here")


async def test_the_broker_and_the_tap_hold_no_key_of_a_process(stack: Stack) -> None:
    (broker,) = stack.containers("nats")
    volumes = {mount["Name"] for mount in broker["Mounts"] if mount["Type"] == "volume"}
    assert volumes == {f"{stack.name}_tls-nats", f"{stack.name}_jetstream"}
    listing = stack.compose("run", "--rm", "-T", "tap", "ls", "/tls")
    assert set(listing.split()) == {"ca.pem", "tap.pem", "tap.key"}
