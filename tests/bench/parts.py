"""The parts of the bench; each returns figures under their final names."""

import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import coincurve

from shared.fabric import certificates, server, subjects
from shared.fabric.client import FabricClient
from shared.fabric.envelope import Connected, Direction, decode, decode_body
from shared.fabric.interface import Received
from shared.fabric.session import BackSession, Deliver, FrontSession, Publish
from shared.wire import Init, PeerStorage, to_json
from tests.bench.setting import ROOT, cpu_s, load, metric, nodes, open_channels, rss_kb

Figures = dict[str, float]

CHANNELS, WORKERS = 10, 100
PAYMENT_SECONDS = 20
IDLE_PEERS = 2_000
MESSAGE_BYTES = 300


def raw_ecdh() -> Figures:
    """One core's ECDH through coincurve."""
    key, point = coincurve.PrivateKey(b"\x11" * 32), coincurve.PrivateKey().public_key.format()
    count = 20_000
    began = time.perf_counter()
    for _ in range(count):
        key.ecdh(point)
    return {"ecdh_per_s": count / (time.perf_counter() - began)}


def raw_commits() -> Figures:
    """Durable commits of one small row, one after another: the disk's own pace."""
    with tempfile.TemporaryDirectory(prefix="squall-bench-") as folder:
        database = sqlite3.connect(Path(folder) / "raw.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
        count = 2_000
        began = time.perf_counter()
        for number in range(count):
            database.execute("INSERT INTO t VALUES (?, ?)", (number, bytes(100)))
        seconds = time.perf_counter() - began
        database.close()
    return {"commits_per_s": count / seconds}


async def raw_nats() -> Figures:
    """A request and its answer over mTLS, both ends in this process, without sessions."""
    with tempfile.TemporaryDirectory(prefix="squall-bench-") as folder:
        certs = Path(folder) / "certs"
        certificates.create(certs)
        broker = await server.start(certs, Path(folder) / "nats")
        back = FabricClient(
            [broker.url], certificates.credentials(certs, "back"), role="back", name="back"
        )
        front = FabricClient(
            [broker.url], certificates.credentials(certs, "front"), role="front", name="front"
        )
        await back.start(timeout_s=10)
        await front.start(timeout_s=10)

        async def answer(received: object) -> None:
            back.respond(received, bytes(MESSAGE_BYTES))  # type: ignore[arg-type]

        await back.subscribe("ln.session.0.open", answer, group="back.1")
        times = []
        for _ in range(2_000):
            began = time.perf_counter()
            await front.request("ln.session.0.open", bytes(MESSAGE_BYTES), timeout_s=5)
            times.append((time.perf_counter() - began) * 1000)
        await front.stop()
        await back.stop()
        await broker.stop()
    times.sort()
    return {"nats_rtt_p50_ms": times[len(times) // 2]}


async def sessions() -> Figures:
    """A message and its answer through both session layers and the broker over mTLS.

    Front → NATS → back → NATS → front: subjects, envelope, JSON, numbering, acks; no commit, no
    BOLT 8. Both ends are in this process, one message is under way at a time.
    """
    with tempfile.TemporaryDirectory(prefix="squall-bench-") as folder:
        certs = Path(folder) / "certs"
        certificates.create(certs)
        broker = await server.start(certs, Path(folder) / "nats")
        fabrics = [
            FabricClient([broker.url], certificates.credentials(certs, role), role=role, name=role)
            for role in ("front", "back")
        ]
        for fabric in fabrics:
            await fabric.start(timeout_s=10)
        times = await _session_trips(*fabrics)
        for fabric in fabrics:
            await fabric.stop()
        await broker.stop()
    times.sort()
    return {
        "fabric_rtt_p50_ms": times[len(times) // 2],
        "fabric_rtt_p99_ms": times[int(len(times) * 0.99)],
    }


async def _session_trips(front_fabric: FabricClient, back_fabric: FabricClient) -> list[float]:
    peer = coincurve.PrivateKey().public_key.format()
    now = asyncio.get_running_loop().time
    front = FrontSession(bytes(16), "bench", peer)
    back = BackSession(bytes(16), "bench", peer, 1, has_channels=True)
    message = PeerStorage(blob=bytes(MESSAGE_BYTES - 4))
    body, size = to_json(message), MESSAGE_BYTES
    arrived = asyncio.Event()

    def do(fabric: FabricClient, effects: Sequence[object]) -> list[Deliver]:
        for effect in effects:
            if isinstance(effect, Publish):
                fabric.publish(effect.subject, effect.payload)
        return [effect for effect in effects if isinstance(effect, Deliver)]

    def at_back(received: Received) -> None:
        parsed = subjects.parse_inbound(received.subject)
        effects = back.receive(parsed.name, parsed.channel, decode(received.payload), now())
        for delivered in do(back_fabric, effects):
            if isinstance(decode_body(delivered.name, delivered.body), Connected):
                continue
            do(back_fabric, back.send(message.NAME, None, body, size, now()))

    def at_front(received: Received) -> None:
        parsed = subjects.parse_outbound(received.subject)
        effects = front.receive(parsed.name, parsed.channel, decode(received.payload), now())
        for delivered in do(front_fabric, effects):
            decode_body(delivered.name, delivered.body)
            do(front_fabric, front.written(delivered.seq, now()))
            arrived.set()

    shard = subjects.shard(peer)
    await back_fabric.subscribe(subjects.shard_inbound(shard), at_back, group="back.1")
    await front_fabric.subscribe(subjects.front_outbound("bench"), at_front)
    do(front_fabric, front.opened(1, has_channels=True, now=now()))
    init = Init(globalfeatures=b"", features=b"")
    connected = Connected(
        front="bench",
        direction=Direction.INBOUND,
        address="127.0.0.1:1",
        our_init=init,
        their_init=init,
    )
    do(front_fabric, front.send("connected", None, connected.to_bytes(), 0, now()))
    times = []
    for _ in range(3_000):
        arrived.clear()
        began = time.perf_counter()
        do(front_fabric, front.send(message.NAME, None, body, size, now()))
        await asyncio.wait_for(arrived.wait(), 5)
        times.append((time.perf_counter() - began) * 1000)
        do(front_fabric, front.poll(now()))
        do(back_fabric, back.poll(now()))
    return times


async def peers() -> Figures:
    """Handshakes, round trips and idle peers of one front with a real back behind it."""
    figures: Figures = {}
    async with nodes("alice") as (_, (alice,)):
        front = next(iter(alice.fronts.values()))
        target = {"node_id": alice.node_id, "port": front.port}
        trips = await load("round_trips", **target, count=3_000, size=MESSAGE_BYTES)
        figures["answer_after_commit_p50_ms"] = trips["p50_ms"]
        figures["answer_after_commit_p99_ms"] = trips["p99_ms"]
        figures["front_kb_per_idle_peer"] = await _idle(front.child.pid, target)
        before = cpu_s(front.child.pid)
        shaken = await load("handshakes", **target, seconds=10, workers=32)
        figures["handshakes_per_s"] = shaken["handshakes_per_s"]
        used = cpu_s(front.child.pid) - before
        figures["handshakes_per_front_cpu_s"] = shaken["handshakes_per_s"] * 10 / used
    return figures


async def _idle(pid: int, target: dict[str, object]) -> float:
    before = rss_kb(pid)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.load",
        "idle",
        json.dumps({**target, "count": IDLE_PEERS}),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(2)
    grown = rss_kb(pid) - before
    await process.communicate(b"")
    await asyncio.sleep(1)
    return grown / IDLE_PEERS


async def payments() -> Figures:
    """Direct payments, durable, invoice creation and HTTP included."""
    async with nodes("alice", "bob") as (chain, (alice, bob)):
        await open_channels(chain, alice, bob, CHANNELS, 2_000_000)
        sent = failed = 0
        end = time.perf_counter() + PAYMENT_SECONDS
        chance = random.Random(1)  # noqa: S311 - amounts

        async def work() -> None:
            nonlocal sent, failed
            while time.perf_counter() < end:
                invoice = await bob.call(
                    "createinvoice", amountMsat=chance.randint(1_000, 100_000), description="bench"
                )
                paid = await alice.call(
                    "payinvoice", invoice=invoice["serialized"], blocking="true"
                )
                if paid["type"] == "payment-sent":
                    sent += 1
                else:
                    failed += 1

        commits = await metric(alice.metrics_port, "squall_commit_seconds_count")
        items = await metric(alice.metrics_port, "squall_commit_items_sum")
        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(WORKERS)))
        seconds = time.perf_counter() - began
        commits = await metric(alice.metrics_port, "squall_commit_seconds_count") - commits
        items = await metric(alice.metrics_port, "squall_commit_items_sum") - items
    return {
        "direct_payments_per_s": sent / seconds,
        "direct_payments_failed": failed,
        "messages_per_commit": items / commits,
    }


def machine() -> str:
    """Say in a few words what this ran on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, Python {sys.version.split()[0]}"
