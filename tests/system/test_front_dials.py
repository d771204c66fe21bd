"""``ln.connect``: the back orders, a front dials, and the outcome reaches the owner."""

import asyncio
import secrets

import pytest
from support.front_cluster import Cluster, cluster
from support.lightning_peer import TIMEOUT_S, LightningPeer, listening, node_id_of, silence

from shared.fabric.envelope import Direction, Reason, Unreachable
from shared.fabric.requests import ConnectReply, ConnectRequest
from shared.wire import UpdateFee

FEE = UpdateFee(channel_id=bytes(range(32)), feerate_per_kw=253)


async def order(c: Cluster, node_id: bytes, *addresses: str) -> tuple[bytes, ConnectReply]:
    dial_id = secrets.token_bytes(16)
    request = ConnectRequest(dial_id=dial_id, node_id=node_id, addresses=addresses)
    return dial_id, await c.back.connect(request)


async def outcome(c: Cluster, dial_id: bytes) -> str:
    """Why the dial came to nothing."""
    async with asyncio.timeout(TIMEOUT_S):
        said: Unreachable = await c.back.unreachable.get()
    assert said.dial_id == dial_id
    return said.detail


async def taken(arrived: "asyncio.Queue[LightningPeer]") -> LightningPeer:
    async with asyncio.timeout(TIMEOUT_S):
        return await arrived.get()


async def test_dials_the_peer_and_opens_a_session_with_the_orders_id():
    private = secrets.token_bytes(32)
    async with cluster() as c, listening(private) as (port, arrived):
        dial_id, reply = await order(c, node_id_of(private), f"127.0.0.1:{port}")
        assert (reply.accepted, reply.front) == (True, "f1")
        peer = await taken(arrived)
        assert peer.remote == c.node_id
        await peer.init()
        session = await c.back.next_session()
        assert session.request.dial_id == dial_id
        assert session.request.act_one is None
        assert session.connected is not None
        assert session.connected.direction is Direction.OUTBOUND
        assert session.connected.address == f"127.0.0.1:{port}"
        assert session.connected.dial_id == dial_id
        await peer.send(FEE)
        assert await session.next() == FEE
        session.send(FEE)
        assert await peer.expect(UpdateFee) == FEE


async def test_dials_with_a_local_key_too():
    ours, theirs = secrets.token_bytes(32), secrets.token_bytes(32)
    settings = {"private": ours, "key_provider": "env", "node_key": ours.hex()}
    async with cluster(**settings) as c, listening(theirs) as (port, arrived):
        c.back.answers_keys = False
        await order(c, node_id_of(theirs), f"127.0.0.1:{port}")
        peer = await taken(arrived)
        await peer.init()
        await c.back.next_session()


async def test_tries_every_address_until_one_answers():
    private = secrets.token_bytes(32)
    async with cluster() as c, listening(private) as (port, arrived):
        await order(c, node_id_of(private), "127.0.0.1:1", "no address", f"127.0.0.1:{port}")
        peer = await taken(arrived)
        await peer.init()
        assert (await c.back.next_session()).request.address == f"127.0.0.1:{port}"


async def test_says_why_every_address_failed():
    async with cluster() as c:
        dial_id, reply = await order(c, node_id_of(b"\x55" * 32), "127.0.0.1:1", "[::1]:1", "x y")
        assert reply.accepted
        detail = await outcome(c, dial_id)
        assert all(address in detail for address in ("127.0.0.1:1: ", "[::1]:1: ", "x y: "))
        assert c.counted("dials_total", result="failed") == 1


async def test_another_node_at_the_address_is_not_the_peer():
    async with cluster() as c, listening(secrets.token_bytes(32)) as (port, _):
        dial_id, _ = await order(c, node_id_of(b"\x55" * 32), f"127.0.0.1:{port}")
        assert "closed during the handshake" in await outcome(c, dial_id)


async def test_a_host_that_accepts_and_says_nothing_times_out():
    async with silence() as port, cluster(handshake_timeout_s=0.2) as c:
        dial_id, _ = await order(c, node_id_of(b"\x55" * 32), f"127.0.0.1:{port}")
        assert "timed out" in await outcome(c, dial_id)
        assert c.counted("handshakes_total", result="failed", reason="timeout") == 1


async def test_a_node_id_that_is_no_point_is_unreachable():
    async with cluster() as c:
        dial_id, _ = await order(c, b"\x02" + b"\xff" * 32, "127.0.0.1:1")
        assert "not a point" in await outcome(c, dial_id)


async def test_a_dial_that_the_back_will_not_help_with_comes_to_nothing(monkeypatch):
    monkeypatch.setattr("front.keys.remote.TIMEOUT_S", 0.05)
    private = secrets.token_bytes(32)
    async with cluster() as c, listening(private) as (port, _):
        c.back.answers_keys = False
        dial_id, _ = await order(c, node_id_of(private), f"127.0.0.1:{port}")
        assert "no answer on ln.key.ecdh" in await outcome(c, dial_id)


async def test_refuses_to_dial_ourselves():
    async with cluster() as c:
        _, reply = await order(c, c.node_id, f"127.0.0.1:{c.port}")
        assert not reply.accepted
        assert reply.why == "that is our own node id"


async def test_refuses_more_dials_than_it_may_make_at_once():
    async with silence() as port, cluster(max_dials=1) as c:
        address = f"127.0.0.1:{port}"
        _, first = await order(c, node_id_of(b"\x55" * 32), address)
        _, second = await order(c, node_id_of(b"\x56" * 32), address)
        assert (first.accepted, second.accepted) == (True, False)
        assert "1 connections are being made" in second.why


async def test_an_order_that_comes_twice_is_one_dial():
    private = secrets.token_bytes(32)
    async with cluster() as c, listening(private) as (port, arrived):
        request = ConnectRequest(
            dial_id=bytes(16), node_id=node_id_of(private), addresses=(f"127.0.0.1:{port}",)
        )
        first, second = await asyncio.gather(c.back.connect(request), c.back.connect(request))
        assert first.accepted
        assert second.accepted
        peer = await taken(arrived)
        await peer.init()
        await c.back.next_session()
        assert arrived.empty()


async def test_an_onion_address_needs_a_proxy():
    onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:9735"
    async with cluster() as c:
        dial_id, _ = await order(c, node_id_of(b"\x55" * 32), onion)
        assert "no socks_proxy is configured" in await outcome(c, dial_id)


async def socks5(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: int) -> str:
    """Serve one SOCKS5 connection: whatever name is asked for leads to a port of the loopback."""
    greeting = await reader.readexactly(2)
    await reader.readexactly(greeting[1])
    writer.write(b"\x05\x00")
    assert await reader.readexactly(4) == b"\x05\x01\x00\x03", "the proxy resolves the name"
    name = await reader.readexactly((await reader.readexactly(1))[0])
    await reader.readexactly(2)
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", to)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(4096):
                sink.write(data)
        finally:
            sink.close()

    pumps = [pump(reader, there_writer), pump(there_reader, writer)]
    serving.update(asyncio.ensure_future(one) for one in pumps)
    return name.decode()


serving: set[asyncio.Future[None]] = set()


@pytest.mark.parametrize(
    ("host", "for_all"),
    [
        ("pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion", False),
        ("node.example", True),
    ],
)
async def test_dials_through_the_proxy_without_resolving_the_name(host, for_all):
    private = secrets.token_bytes(32)
    names: list[str] = []
    async with listening(private) as (port, arrived):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            names.append(await socks5(reader, writer, port))

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
            url = f"socks5://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            async with cluster(socks_proxy=url, socks_for_all=for_all) as c:
                await order(c, node_id_of(private), f"{host}:9735")
                peer = await taken(arrived)
                await peer.init()
                session = await c.back.next_session()
                assert names == [host]
                assert session.request.address == f"{host}:9735"
                await peer.close()
                assert (await session.end()).reason is Reason.PEER_CLOSED
    for future in serving:
        future.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    serving.clear()


async def test_a_draining_front_takes_no_orders_and_gives_up_those_it_has():
    async with silence() as port, cluster() as c:
        dial_id, reply = await order(c, node_id_of(b"\x55" * 32), f"127.0.0.1:{port}")
        assert reply.accepted
        await c.front.drain()
        assert "being stopped" in await outcome(c, dial_id)
        with pytest.raises(Exception, match="nobody listens"):
            await order(c, node_id_of(b"\x55" * 32), "127.0.0.1:1")
