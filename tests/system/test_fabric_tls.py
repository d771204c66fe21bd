"""Only TLS, only our certificates, and no way to be talked out of it."""

import asyncio
import contextlib
import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.broker import client, cluster, running, shared_cluster

from shared.errors import CommandError, FabricUnavailable
from shared.fabric import certificates
from shared.fabric.client import FabricClient
from shared.fabric.tls import Credentials


def fabric(url: str, credentials: Credentials, role: str = "front") -> FabricClient:
    return FabricClient([url], credentials, role=role, name="test")


async def refused(url: str, credentials: Credentials, reason: str, within_s: float = 1) -> None:
    """Assert that a connection does not come about, and why."""
    with pytest.raises(FabricUnavailable, match=reason):
        await fabric(url, credentials).start(timeout_s=within_s)


@pytest.fixture
def other_cluster(tmp_path: Path) -> Path:
    certificates.create(tmp_path / "other")
    return tmp_path / "other"


async def test_a_client_of_another_ca_is_refused_by_the_server(tmp_path, other_cluster) -> None:
    """It trusts our server, but its own certificate is of another CA."""
    theirs = certificates.credentials(other_cluster, "front")
    mixed = Credentials(cluster() / "ca.pem", theirs.cert, theirs.key)
    async with running(tmp_path / "nats") as broker:
        await refused(broker.url, mixed, "(?i)eof|reset|alert|unknown|empty response")


async def test_a_server_of_another_ca_is_refused_by_the_client(tmp_path, other_cluster) -> None:
    async with running(tmp_path / "nats") as broker:
        credentials = certificates.credentials(other_cluster, "front")
        await refused(broker.url, credentials, "CERTIFICATE_VERIFY_FAILED")


async def test_an_expired_client_is_refused(tmp_path) -> None:
    certs = tmp_path / "certs"
    certificates.create(certs)
    async with running(tmp_path / "nats", certs) as broker:
        certificates.renew(certs, now=datetime.now(UTC) - timedelta(days=900))
        await refused(
            broker.url, certificates.credentials(certs, "front"), "(?i)eof|expired|empty response"
        )


async def test_an_expired_server_is_refused(tmp_path) -> None:
    certs = tmp_path / "certs"
    certificates.create(certs)
    front = tmp_path / "front"
    front.mkdir()
    for name in ("ca.pem", "front.pem", "front.key"):
        (front / name).write_bytes((certs / name).read_bytes())
    certificates.renew(certs, now=datetime.now(UTC) - timedelta(days=900))
    async with running(tmp_path / "nats", certs) as broker:
        await refused(broker.url, certificates.credentials(front, "front"), "expired")


async def test_a_server_of_another_name_is_refused(tmp_path) -> None:
    async with running(tmp_path, host="127.0.0.2") as broker:
        credentials = certificates.credentials(cluster(), "front")
        await refused(broker.url, credentials, "IP address mismatch")


async def test_a_members_certificate_does_not_make_a_server(tmp_path) -> None:
    """A stolen front cannot stand in for the broker: its certificate is for clients only."""
    certs = cluster()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "front.pem", certs / "front.key")
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    credentials = certificates.credentials(certs, "back")
    client = FabricClient([f"tls://127.0.0.1:{port}"], credentials, role="back", name="x")
    with pytest.raises(FabricUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await client.start(timeout_s=0.5)
    server.close()
    await server.wait_closed()


async def test_a_shared_certificate_of_another_cluster_is_refused(tmp_path) -> None:
    certificates.create_shared(tmp_path / "other")
    async with running(tmp_path / "nats", shared_cluster()) as broker:
        credentials = certificates.credentials(tmp_path / "other", "shared")
        await refused(broker.url, credentials, "CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize("mode", ["roles", "shared"])
async def test_a_client_without_a_certificate_is_refused(tmp_path, mode: str) -> None:
    certs = cluster() if mode == "roles" else shared_cluster()
    async with running(tmp_path, certs) as broker:
        context = ssl.create_default_context(
            cafile=certs / ("ca.pem" if mode == "roles" else "shared.pem")
        )
        context.check_hostname = mode == "roles"
        assert await spoken(broker.port, context) == b""


@pytest.mark.parametrize("mode", ["roles", "shared"])
async def test_the_server_says_nothing_in_plaintext(tmp_path, mode: str) -> None:
    async with running(tmp_path, cluster() if mode == "roles" else shared_cluster()) as broker:
        assert await spoken(broker.port, None) == b""


async def test_tls_below_1_3_is_refused(tmp_path) -> None:
    async with running(tmp_path) as broker:
        credentials = certificates.credentials(cluster(), "front")
        context = ssl.create_default_context(cafile=credentials.ca)
        context.load_cert_chain(credentials.cert, credentials.key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await spoken(broker.port, context) == b""
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        assert (await spoken(broker.port, context)).startswith(b"INFO")


async def spoken(port: int, context: ssl.SSLContext | None) -> bytes:
    """Return what the server says to a client that sends a NATS CONNECT and PING."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (OSError, ssl.SSLError):
        return b""
    try:
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        return await asyncio.wait_for(reader.read(100), 5)
    except (OSError, ssl.SSLError):
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def test_a_server_that_offers_plaintext_hears_nothing_of_us() -> None:
    """nats-py would go on in clear here; our client never says a word that is not TLS."""
    heard = bytearray()

    async def lure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "max_payload": 1000, "tls_required": False}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        with contextlib.suppress(OSError, TimeoutError):
            while data := await asyncio.wait_for(reader.read(1000), 1):
                heard.extend(data)
                if b"PING" in data:
                    writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(lure, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials = certificates.credentials(cluster(), "front")
    try:
        await refused(f"tls://127.0.0.1:{port}", credentials, "Reset|Timeout|SSL", within_s=4)
    finally:
        server.close()
        await server.wait_closed()
    assert heard[:1] == b"\x16", "a TLS handshake record"
    assert b"CONNECT" not in heard


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "127.0.0.1:4222", "ws://x", ""])
def test_only_tls_urls_are_taken(url: str) -> None:
    with pytest.raises(CommandError, match="no plaintext"):
        fabric(url, certificates.credentials(cluster(), "front"))


def test_a_process_without_servers_is_refused() -> None:
    with pytest.raises(CommandError, match="no NATS server"):
        FabricClient([], certificates.credentials(cluster(), "front"), role="front", name="x")


@pytest.mark.parametrize("missing", ["ca", "cert", "key"])
async def test_a_missing_file_stops_the_process_at_once(missing: str, tmp_path: Path) -> None:
    good = certificates.credentials(cluster(), "front")
    files = {name: getattr(good, name) for name in ("ca", "cert", "key")}
    files[missing] = tmp_path / "missing.pem"
    with pytest.raises(CommandError, match=r"missing\.pem"):
        await fabric("tls://127.0.0.1:1", Credentials(**files)).start(timeout_s=1)


async def test_a_key_of_another_certificate_stops_the_process_at_once() -> None:
    good = certificates.credentials(cluster(), "front")
    wrong = Credentials(good.ca, good.cert, cluster() / "back.key")
    with pytest.raises(CommandError, match="cannot use the certificates"):
        await fabric("tls://127.0.0.1:1", wrong).start(timeout_s=1)


async def test_an_unreachable_server_is_named(tmp_path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"tls://127.0.0.1:{unused.getsockname()[1]}"
        await refused(url, certificates.credentials(cluster(), "front"), url)


async def test_renewed_certificates_are_used_by_the_next_connection(tmp_path) -> None:
    certs = tmp_path / "certs"
    certificates.create(certs)
    async with running(tmp_path / "nats", certs) as broker, client(broker, "back", certs=certs):
        certificates.renew(certs)
        broker.reload()
        async with client(broker, "front", certs=certs) as front:
            await front.barrier()
