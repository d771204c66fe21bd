"""A thousand peers send onion messages as fast as they can: channels do not notice."""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.hostile import HostilePeer
from support.lightning_peer import LightningPeer, PeerClosed
from support.onion_peer import ONION_FEATURES, Keys, OnionPeer
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster
from shared.crypto import onion_message
from shared.wire import OnionMessage, Warning as WarningMessage, encode

pytestmark = pytest.mark.timeout(240)

PEERS = 1_000
FLOOD_S = 8.0
FLOOD_PER_S = 3_000
"""Messages of all of them together; what a test can send beside all else on two cores."""
TOTAL_PER_S, STRANGERS_SHARE, BURST_S = 200, 0.5, 5
PATIENCE_S = 5.0
"""For one payment meanwhile: more than is ever needed, less than any time-out of a session."""


async def strangers(node: Cluster, count: int) -> list[LightningPeer]:
    """Peers without channels, connected."""
    (front,) = node.fronts.values()
    made: list[LightningPeer] = []

    async def join() -> None:
        line = await LightningPeer.connect(bytes.fromhex(node.node_id), "127.0.0.1", front.port)
        await line.init(ONION_FEATURES)
        made.append(line)

    for start in range(0, count, 50):
        await asyncio.gather(*(join() for _ in range(min(50, count - start))))
    return made


@contextlib.asynccontextmanager
async def flooded(peers: list[LightningPeer], messages: list[bytes]) -> AsyncIterator[list[int]]:
    """Let all peers send all the while, in turns; yields how many messages went out, at the end."""
    sent = [0]

    async def flood() -> None:
        turn, started = itertools.cycle(peers), time.monotonic()
        chosen = itertools.cycle(messages)
        while True:
            due = int((time.monotonic() - started) * FLOOD_PER_S) - sent[0]
            for _ in range(max(0, due) // 10 + 1):
                with contextlib.suppress(OSError, PeerClosed):
                    await next(turn).send_bytes(*(next(chosen) for _ in range(10)))
                sent[0] += 10
            await asyncio.sleep(0.01)

    task = asyncio.create_task(flood())
    try:
        yield sent
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def outcomes(node: Cluster) -> dict[str, float]:
    """What became of onion messages at the back."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{node.metrics_port}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    found = (line.split('outcome="')[1] for line in lines if "squall_onion_messages_total{" in line)
    return {name: float(value) for name, value in (text.split('"} ') for text in found)}


def garbage(us: bytes) -> list[bytes]:
    """Messages that are ours to peel and are spoiled, each another; and some that never fit."""
    path = onion_message.path_through(secrets.token_bytes(32), [us, Keys().node_id])
    made = []
    for size in (10, 10, 10, 20_000):
        good = onion_message.build(secrets.token_bytes(32), path, {1001: bytes(size)})
        for _ in range(5):
            packet = bytearray(good.onion_message_packet)
            packet[-32:] = secrets.token_bytes(32)
            spoiled = good.model_copy(update={"onion_message_packet": bytes(packet)})
            made.append(encode(spoiled))
    made.append(encode(OnionMessage(path_key=b"\x02" * 33, onion_message_packet=b"")))
    return made


async def test_a_thousand_peers_that_flood_delay_no_channel(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
):
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    fronts = {
        "SQUALL_FRONT_HANDSHAKES_PER_ADDRESS_PER_S": "10000",
        "SQUALL_FRONT_LOG_LEVEL": "INFO",
    }
    async with squall_node(bitcoind, tmp_path, settings=settings, front_settings=fronts) as node:
        partner = HostilePeer(node, bitcoind, "partner")
        wire = await partner.connect()
        await partner.open_channel()
        await partner.works()
        crowd = await strangers(node, PEERS)
        took: list[float] = []
        async with flooded(crowd, garbage(bytes.fromhex(node.node_id))) as sent:
            started = time.monotonic()
            while time.monotonic() - started < FLOOD_S:
                before = time.monotonic()
                await asyncio.wait_for(partner.works(), PATIENCE_S)
                took.append(time.monotonic() - before)
            flooded_s = time.monotonic() - started
        counts = await outcomes(node)
        assert sent[0] > FLOOD_PER_S * FLOOD_S / 4, "the test did not flood"
        # Every message that was peeled is counted, and no more were than strangers may have.
        allowed = TOTAL_PER_S * STRANGERS_SHARE * (flooded_s + 2 * BURST_S)
        assert 0 < counts["dropped_invalid"] <= allowed
        assert partner.wire is wire
        assert len(took) > 3
        await partner.works()
        await asyncio.gather(*(peer.close() for peer in crowd))
        await partner.close()


async def test_who_goes_on_and_on_is_sent_away_unless_it_has_channels(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
):
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    async with squall_node(bitcoind, tmp_path, settings=settings) as node:
        (front,) = node.fronts.values()
        us = bytes.fromhex(node.node_id)
        partner = HostilePeer(node, bitcoind, "partner", features=ONION_FEATURES)
        wire = await partner.connect()
        await partner.open_channel()
        stranger = await OnionPeer.connect(node.node_id, front.port)
        messages = garbage(us)[:10] * 200
        for line in (wire, stranger.line):
            with contextlib.suppress(OSError, PeerClosed):
                await line.send_bytes(*messages)
        assert "onion messages" in await stranger.line.expect_warning_then_closed()
        await stranger.close()
        await partner.works()
        assert partner.wire is wire
        assert not any(isinstance(message, WarningMessage) for message in wire.seen)
        await partner.close()


async def test_a_peer_that_does_not_read_gets_no_more_and_holds_nobody_up(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
):
    rates = {"ONION_MESSAGES_PER_S_WITHOUT_CHANNELS": "1000", "ONION_MESSAGES_TOTAL_PER_S": "4000"}
    rates["ONION_MESSAGE_BYTES_PER_S"] = "40000000"
    async with squall_node(
        bitcoind,
        tmp_path,
        settings={f"SQUALL_BACK_{name}": value for name, value in rates.items()},
        front_settings={f"SQUALL_FRONT_{name}": value for name, value in rates.items()},
    ) as node:
        (front,) = node.fronts.values()
        us = bytes.fromhex(node.node_id)
        sender, deaf, carol = [await OnionPeer.connect(node.node_id, front.port) for _ in range(3)]
        big = {1001: bytes(30_000)}

        async def is_full() -> bool:
            for _ in range(20):
                path = onion_message.path_through(secrets.token_bytes(32), [us, deaf.node_id])
                await sender.send(path, big)
            return (await outcomes(node)).get("dropped_slow", 0) > 50

        async with asyncio.timeout(60):
            while not await is_full():
                await asyncio.sleep(0.05)
        path = onion_message.path_through(secrets.token_bytes(32), [us, carol.node_id])
        await sender.send(path, {1001: b"hello"})
        heard = await carol.hear()
        assert isinstance(heard, onion_message.Delivered)
        assert heard.contents == {1001: b"hello"}
        for peer in (sender, deaf, carol):
            await peer.close()
