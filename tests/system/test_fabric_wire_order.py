"""nats-py's PING overtakes what waits to be written; our barrier and drain must not let it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator

import pytest
from support.broker import cluster

from shared.fabric import certificates
from shared.fabric.client import FabricClient

INFO = {"server_id": "x", "version": "2.15.1", "max_payload": 1 << 18, "tls_required": True}


class Scribe:
    """A server that answers pings and writes down the order of what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        while line := await reader.readline():
            verb, *rest = line.split()
            self.heard.append(verb.decode())
            if verb == b"PUB":
                await reader.readexactly(int(rest[-1]) + 2)
            if verb == b"PING":
                writer.write(b"PONG\r\n")
        writer.close()


@pytest.fixture
async def scribe() -> AsyncIterator[tuple[Scribe, FabricClient]]:
    certs = cluster()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.pem", certs / "server.key")
    scribe = Scribe()
    server = await asyncio.start_server(scribe.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    credentials = certificates.credentials(certs, "back")
    fabric = FabricClient([f"tls://127.0.0.1:{port}"], credentials, role="back", name="x")
    await fabric.start(timeout_s=5)
    scribe.heard.clear()
    yield scribe, fabric
    await fabric.stop()
    server.close()
    await server.wait_closed()


async def test_a_barrier_comes_after_what_was_published(scribe) -> None:
    server, fabric = scribe
    for _ in range(3):
        fabric.publish("ln.hello.7", b"x")
    await fabric.barrier()
    assert server.heard[:4] == ["PUB", "PUB", "PUB", "PING"]


async def test_subscribe_returns_after_the_server_knows_of_it(scribe) -> None:
    server, fabric = scribe
    await fabric.subscribe("ln.alive.*", lambda _received: None)
    assert server.heard[:2] == ["SUB", "PING"]


async def test_a_drain_waits_until_the_server_knows_of_it(scribe) -> None:
    server, fabric = scribe
    subscription = await fabric.subscribe("ln.alive.*", lambda _received: None)
    server.heard.clear()
    await subscription.drain()
    assert server.heard[:2] == ["UNSUB", "PING"]


async def test_many_publishes_of_one_turn_of_the_loop_are_one_write(scribe) -> None:
    server, fabric = scribe
    for n in range(500):
        assert fabric.publish("ln.hello.7", b"%d" % n)
    await fabric.barrier()
    assert server.heard[:501] == ["PUB"] * 500 + ["PING"]


async def test_a_broker_that_does_not_read_makes_publish_say_no(scribe) -> None:
    _, fabric = scribe
    payload = bytes(200_000)
    answers = [fabric.publish("ln.hello.7", payload) for _ in range(100)]
    assert answers[0] is True
    assert answers[-1] is False
    assert fabric.unsent == answers.count(False)


async def test_a_message_too_large_for_the_broker_is_refused_not_fatal(scribe) -> None:
    _, fabric = scribe
    assert fabric.publish("ln.hello.7", bytes((1 << 18) + 1)) is False
    assert fabric.publish("ln.hello.7", b"x") is True
    await fabric.barrier()
