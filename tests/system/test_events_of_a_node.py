"""Events of real nodes: on `/ws` as they happen, on EVENTS for who was away, over kills."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.bitcoind import bitcoind, funded_folder  # noqa: F401 - fixtures
from support.events import log_of, numbers
from support.squall import normal, pay, squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until
from shared.fabric import certificates, server
from shared.fabric.client import FabricClient

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def nodes(bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[tuple[Cluster, Cluster]]:  # noqa: F811
    """Two nodes; the first has coins."""
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(
            squall_node(bitcoind, tmp_path, "alice", fund_btc=1)
        )
        bob = await stack.enter_async_context(squall_node(bitcoind, tmp_path, "bob"))
        yield alice, bob


@asynccontextmanager
async def listening(node: Cluster) -> AsyncIterator[list[dict[str, Any]]]:
    """Collect what `/ws` tells."""
    heard: list[dict[str, Any]] = []
    headers = {"Authorization": aiohttp.encode_basic_auth("", node.password)}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://127.0.0.1:{node.api_port}/ws", headers=headers) as socket,
    ):

        async def collect() -> None:
            while True:
                heard.append(json.loads(await socket.receive_str()))

        collecting = asyncio.ensure_future(collect())
        try:
            yield heard
        finally:
            collecting.cancel()


@asynccontextmanager
async def reader_of(node: Cluster) -> AsyncIterator[FabricClient]:
    """A client with the certificate of the role events."""
    assert node.nats is not None
    credentials = certificates.credentials(node.certificates, "events")
    fabric = FabricClient([node.nats.url], credentials, role="events", name="books")
    await fabric.start(timeout_s=10)
    try:
        yield fabric
    finally:
        await fabric.stop()


def types(events: list[dict[str, Any]]) -> list[str]:
    return [each["type"] for each in events]


async def has_told(log: list[dict[str, Any]], kind: str, count: int = 1) -> None:
    async def enough() -> bool:
        return types(log).count(kind) >= count

    await until(f"{count} times {kind}", enough)


async def open_channel(alice: Cluster, bob: Cluster, bitcoind: Regtest) -> dict[str, Any]:  # noqa: F811
    await alice.call("connect", uri=bob.uri())
    await alice.call("open", nodeId=bob.node_id, fundingSatoshis=1_000_000)
    await until("the funding transaction", bitcoind.mempool_is_not_empty)
    await bitcoind.mine(6)
    await normal(bob)
    return await normal(alice)


async def invoice(node: Cluster, amount_msat: int = 10_000_000) -> str:
    made = await node.call("createinvoice", amountMsat=amount_msat, description="events")
    return str(made["serialized"])


async def test_events_of_a_channel_and_of_payments_are_told_once_over_a_kill(
    nodes: tuple[Cluster, Cluster],
    bitcoind: Regtest,  # noqa: F811
) -> None:
    alice, bob = nodes
    async with listening(alice) as to_alice, listening(bob) as to_bob:
        channel = await open_channel(alice, bob, bitcoind)
        outcome = await pay(alice, await invoice(bob))
        assert outcome["type"] == "payment-sent"
        await has_told(to_alice, "payment-sent")
        await has_told(to_bob, "payment-received")
        for heard, is_opener in ((to_alice, True), (to_bob, False)):
            order = [name for name in types(heard) if name != "channel-state-changed"]
            assert order[:5] == [
                "channel-created",
                "channel-funding-created",
                "channel-confirmed",
                "channel-ready",
                "channel-opened",
            ]
            assert heard[0]["isOpener"] is is_opener
            ready = next(each for each in heard if each["type"] == "channel-ready")
            assert ready["channelId"] == channel["channelId"]
        sent = next(each for each in to_alice if each["type"] == "payment-sent")
        assert sent["recipientAmount"] == 10_000_000
        assert sent["recipientNodeId"] == bob.node_id
        assert [part["channelId"] for part in sent["parts"]] == [channel["channelId"]]
        got = next(each for each in to_bob if each["type"] == "payment-received")
        assert got["paymentHash"] == sent["paymentHash"]
        assert [part["amount"] for part in got["parts"]] == [10_000_000]
        before = list(to_alice)
    async with reader_of(alice) as reader:

        async def is_there() -> bool:
            return len(await log_of(reader)) >= len(before)

        await until("the events in the stream", is_there)
        log = await log_of(reader, durable="books")
        assert [each["event"] for each in log] == before
        assert numbers(log) == sorted(set(numbers(log)))
        # The reader is away, and the back dies in the middle of payments.
        bills = [await invoice(bob, 1_000_000 + n) for n in range(10)]
        for bill in bills:
            await alice.call("payinvoice", invoice=bill)
        assert alice.back is not None
        alice.back.kill()
        await alice.back.wait(10)
        await alice.start_back()
        await normal(alice)

        async def is_over() -> bool:
            infos = [
                await alice.call("getsentinfo", paymentHash=(await parsed(alice, bill)))
                for bill in bills
            ]
            return all(info and info[0]["status"]["type"] != "pending" for info in infos)

        await until("all payments", is_over, 60)
        missed: list[dict[str, Any]] = []

        async def has_all() -> bool:
            missed.extend(await log_of(reader, durable="books"))
            ended = [e for e in missed if e["event"]["type"] in {"payment-sent", "payment-failed"}]
            return len(ended) >= len(bills)

        await until("what the reader missed", has_all)
        assert numbers(missed) == sorted(set(numbers(missed)))
        assert numbers(missed)[0] > numbers(log)[-1]
        outcomes = {
            each["event"]["paymentHash"]: each["event"]["type"]
            for each in missed
            if each["event"]["type"].startswith("payment-")
        }
        assert len(outcomes) == len(bills)
        audited = await alice.call("audit")
        paid = {each["paymentHash"] for each in audited["sent"]} - {sent["paymentHash"]}
        assert paid == {hash_ for hash_, kind in outcomes.items() if kind == "payment-sent"}


async def parsed(node: Cluster, bill: str) -> str:
    return str((await node.call("parseinvoice", invoice=bill))["paymentHash"])


async def test_what_happens_while_the_broker_is_away_is_in_the_stream_after(
    nodes: tuple[Cluster, Cluster],
    bitcoind: Regtest,  # noqa: F811
) -> None:
    alice, bob = nodes
    channel = await open_channel(alice, bob, bitcoind)
    assert alice.nats is not None
    await alice.nats.kill()
    async with listening(alice) as heard:
        # The peer is out of reach with the broker: a force close is ours alone.
        await alice.call("forceclose", channelId=channel["channelId"])
        await has_told(heard, "channel-state-changed")
    assert heard[-1]["currentState"] == "CLOSING"
    port = alice.nats.port
    await alice.nats.stop()

    alice.nats = await server.start(alice.certificates, alice.root / "nats", port=port)
    async with reader_of(alice) as reader:

        async def is_there() -> bool:
            log = await log_of(reader)
            return heard[-1] in [each["event"] for each in log]

        await until("the event in the stream", is_there, 60)
