"""The real program over a real broker: starts, refuses, survives the broker, drains, dies."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from support.lightning_peer import TIMEOUT_S, LightningPeer, node_id_of
from support.scripted_back import ScriptedBack
from support.waiting import until

from shared.fabric import certificates, server
from shared.fabric.client import FabricClient
from shared.fabric.envelope import Reason
from shared.wire import UpdateFee

CHANNEL = bytes(range(32))


def fee(feerate_per_kw: int) -> UpdateFee:
    return UpdateFee(channel_id=CHANNEL, feerate_per_kw=feerate_per_kw)


@dataclass
class Front:
    """A running ``squall-front``."""

    name: str
    process: asyncio.subprocess.Process
    output: Path
    port: int = 0
    metrics_port: int = 0

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        async with asyncio.timeout(TIMEOUT_S):
            return await self.process.wait()

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return response.status, await response.text()


@dataclass
class Cluster:
    """Broker, scripted back, and as many fronts as a test starts."""

    root: Path
    nats: server.EmbeddedServer
    back: ScriptedBack
    fronts: list[Front] = field(default_factory=list)

    @property
    def certs(self) -> Path:
        return self.root / "certs"

    def environment(self, name: str, **settings: str) -> dict[str, str]:
        given = {
            "name": name,
            "nats_urls": self.nats.url,
            "tls_ca": str(self.certs / "ca.pem"),
            "tls_cert": str(self.certs / "front.pem"),
            "tls_key": str(self.certs / "front.key"),
            "listen": "127.0.0.1:0",
            "metrics_listen": "127.0.0.1:0",
            **settings,
        }
        ours = {f"SQUALL_FRONT_{key.upper()}": value for key, value in given.items() if value}
        others = {k: v for k, v in os.environ.items() if not k.startswith("SQUALL_")}
        return others | ours

    async def spawn(self, name: str, **settings: str) -> Front:
        output = self.root / f"{name}.log"
        with output.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "front",
                env=self.environment(name, **settings),
                stdout=log,
                stderr=log,
            )
        front = Front(name, process, output)
        self.fronts.append(front)
        return front

    async def start(self, name: str, **settings: str) -> Front:
        """Start a front and wait for its first heartbeat, which says where it listens."""
        front = await self.spawn(name, **settings)
        try:
            await until(lambda: any(alive.front == name for alive in self.back.alive))
        except AssertionError:
            raise AssertionError(front.output.read_text()) from None
        alive = next(a for a in reversed(self.back.alive) if a.front == name)
        front.port = int(alive.listen[0].rpartition(":")[2])
        front.metrics_port = _metrics_port(front.output.read_text())
        return front

    async def refused(self, name: str = "bad", **settings: str) -> str:
        """Start a front that must not run; returns what it says."""
        front = await self.spawn(name, **settings)
        async with asyncio.timeout(TIMEOUT_S):
            assert await front.process.wait() == 1
        return front.output.read_text()

    async def peer(self, front: Front, **how) -> LightningPeer:
        return await LightningPeer.connect(self.back.node_id, "127.0.0.1", front.port, **how)


def _metrics_port(log: str) -> int:
    line = next(line for line in log.splitlines() if "metrics_served" in line)
    return int(line.partition('"port":')[2].strip().partition(",")[0].rstrip("}"))


@pytest.fixture
async def c(tmp_path) -> AsyncIterator[Cluster]:
    certificates.create(tmp_path / "certs")
    nats = await server.start(tmp_path / "certs", tmp_path / "nats")
    fabric = FabricClient(
        [nats.url], certificates.credentials(tmp_path / "certs", "back"), role="back", name="back"
    )
    await fabric.start(timeout_s=TIMEOUT_S)
    back = ScriptedBack(fabric, secrets.token_bytes(32))
    await back.start()
    cluster = Cluster(tmp_path, nats, back)
    try:
        yield cluster
    finally:
        for front in cluster.fronts:
            if front.process.returncode is None:
                front.process.kill()
                await front.process.wait()
        await back.stop()
        await fabric.stop()
        await cluster.nats.stop()


@asynccontextmanager
async def connected(c: Cluster, front: Front, **how):
    async with await c.peer(front, **how) as peer:
        await peer.init()
        yield peer, await c.back.next_session()


# --- running ----------------------------------------------------------------------------------


async def test_carries_a_peer_keyless_and_shows_it(c):
    front = await c.start("f1")
    async with connected(c, front) as (peer, session):
        await peer.send(fee(253))
        assert await session.next() == fee(253)
        session.send(fee(254))
        assert await peer.expect(UpdateFee) == fee(254)
        assert await front.get("/health") == (200, "ok\n")
        status, metrics = await front.get("/metrics")
        assert status == 200
        assert "squall_front_peers 1.0" in metrics
        assert 'squall_front_handshakes_total{reason="",result="ok"} 1.0' in metrics


async def test_a_restarted_broker_drops_no_peer(c):
    front = await c.start("f1")
    async with connected(c, front) as (peer, session):
        await peer.send(fee(253))
        assert await session.next() == fee(253)
        port = c.nats.port
        await c.nats.kill()
        await peer.send(fee(300))
        session.send(fee(400))
        c.nats = await server.start(c.certs, c.root / "nats", port=port)
        assert await session.next() == fee(300)
        assert await peer.expect(UpdateFee) == fee(400)
        await peer.send(fee(301))
        assert await session.next() == fee(301)


async def test_a_killed_front_is_replaced_by_another(c):
    first, second = await c.start("f1"), await c.start("f2")
    private = secrets.token_bytes(32)
    async with connected(c, first, private=private) as (peer, _):
        await first.stop(signal.SIGKILL)
        assert await peer.expect_closed() == []
        async with connected(c, second, private=private) as (again, session):
            assert session.request.front == "f2"
            await again.send(fee(253))
            assert await session.next() == fee(253)


async def test_a_new_epoch_ends_used_sessions_and_the_peer_can_come_back_at_once(c):
    front = await c.start("f1")
    async with connected(c, front) as (peer, session):
        await peer.send(fee(253))
        await session.next()
        await c.back.stop()
        another = ScriptedBack(c.back.fabric, c.back.private, epoch=c.back.epoch + 1)
        await another.start()
        assert await peer.expect_closed() == []
        async with await c.peer(front) as again:
            await again.init()
            await again.send(fee(254))
            assert await (await another.next_session()).next() == fee(254)
        await another.stop()


async def test_starts_before_its_broker_and_waits_for_it(c):
    port = c.nats.port
    await c.nats.kill()
    front = await c.spawn("f1")
    await until(lambda: "fabric_unreachable" in front.output.read_text())
    metrics_port = _metrics_port(front.output.read_text())
    front.metrics_port = metrics_port
    assert await front.get("/health") == (503, "no connection to the broker\n")
    c.nats = await server.start(c.certs, c.root / "nats", port=port)
    await until(lambda: c.back.alive)
    assert await front.get("/health") == (200, "ok\n")
    assert await front.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_with_success(c, how):
    front = await c.start("f1")
    async with connected(c, front) as (peer, session):
        assert await front.stop(how) == 0
        assert await peer.expect_closed() == []
        assert (await session.end()).reason is Reason.DRAINING
        assert c.back.alive[-1].draining


async def test_a_signal_while_waiting_for_the_broker_exits_with_success(c):
    await c.nats.kill()
    front = await c.spawn("f1")
    await until(lambda: "fabric_unreachable" in front.output.read_text())
    assert await front.stop() == 0


async def test_a_front_with_a_certificate_of_its_own_may_only_be_itself(c):
    certificates.add_front(c.certs, "f7")
    c.nats.reload()
    own = {"tls_cert": str(c.certs / "front-f7.pem"), "tls_key": str(c.certs / "front-f7.key")}
    assert "the certificate is for front f7" in await c.refused("f8", **own)
    front = await c.start("f7", **own)
    async with connected(c, front) as (peer, session):
        session.send(fee(254))
        assert await peer.expect(UpdateFee) == fee(254)


@pytest.mark.parametrize("provider", ["env", "file"])
async def test_a_local_key_is_used_instead_of_the_backs(c, provider):
    c.back.answers_keys = False
    path = c.root / "node.key"
    path.write_text(c.back.private.hex() + "\n")
    path.chmod(0o600)
    key = {"node_key": c.back.private.hex()} if provider == "env" else {"node_key_file": str(path)}
    front = await c.start("f1", key_provider=provider, **key)
    async with connected(c, front) as (peer, session):
        await peer.send(fee(253))
        assert await session.next() == fee(253)
    assert c.back.private.hex() not in front.output.read_text()


# --- refusing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tls_cert": ""}, "SQUALL_FRONT_TLS_CERT"),
        ({"tls_cert": "/nowhere/front.pem"}, "/nowhere/front.pem"),
        ({"nats_urls": "nats://127.0.0.1:4222"}, "no plaintext"),
        ({"listne": "127.0.0.1:0"}, "unknown variable SQUALL_FRONT_LISTNE"),
        ({"key_provider": "env", "node_key": "zz"}, "no private key"),
        ({"key_provider": "file", "node_key_file": "/nowhere/key"}, "cannot read /nowhere/key"),
        (
            {
                "key_provider": "env",
                "node_key": "11" * 32,
                "node_id": node_id_of(b"\x22" * 32).hex(),
            },
            "is of node",
        ),
    ],
    ids=["no tls", "no file", "plaintext", "unknown", "bad key", "no key", "wrong key"],
)
async def test_refuses_to_start_and_says_why(c, settings, why):
    said = await c.refused(**settings)
    assert why in said
    assert "Traceback" not in said


async def test_refuses_a_certificate_of_another_role(c):
    wrong = {"tls_cert": str(c.certs / "tap.pem"), "tls_key": str(c.certs / "tap.key")}
    assert "is for the role tap, this process is a front" in await c.refused(**wrong)


async def test_refuses_a_key_file_that_others_may_read(c):
    path = c.root / "node.key"
    path.write_text(c.back.private.hex())
    path.chmod(0o644)
    said = await c.refused(key_provider="file", node_key_file=str(path))
    assert "may be read by others" in said


async def test_refuses_an_address_in_use(c):
    front = await c.start("f1")
    said = await c.refused("f2", listen=f"127.0.0.1:{front.port}")
    assert "address already in use" in said
