"""`/ws`: who may listen, what is told, and what becomes of who does not read."""

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from support.api import PASSWORD, Api, Wallet, served
from support.waiting import until

from back.api import server
from back.events import hub as hub_module
from back.events.hub import EventHub


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    settings = SimpleNamespace(api_password=SecretStr(PASSWORD))
    node = SimpleNamespace(settings=settings, events=SimpleNamespace(hub=EventHub(4)))
    async with served(node, Wallet()) as api:
        yield api


def authorized(password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth("", password)}


def hub_of(api: Api) -> EventHub:
    hub: EventHub = api.node.events.hub
    return hub


async def listen(api: Api, **headers: str) -> aiohttp.ClientWebSocketResponse:
    return await api.http.ws_connect(f"{api.url}/ws", headers={**authorized(), **headers})


async def test_listeners_hear_every_event_from_their_coming_on(api: Api) -> None:
    hub_of(api).tell(["before"])
    async with await listen(api) as first, await listen(api) as second:
        await until(lambda: len(hub_of(api)) == 2)
        hub_of(api).tell(['{"type":"payment-received"}', "two"])
        hub_of(api).tell(["three"])
        for each in (first, second):
            heard = [await each.receive_str(timeout=5) for _ in range(3)]
            assert heard == ['{"type":"payment-received"}', "two", "three"]
    await until(lambda: len(hub_of(api)) == 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (authorized("wrong password"), 401),
        ({**authorized(), "Origin": "https://evil.example"}, 403),
    ],
)
async def test_a_websocket_is_refused_as_a_call_is(
    api: Api, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await api.http.ws_connect(f"{api.url}/ws", headers=headers)
    assert refused.value.status == status
    assert len(hub_of(api)) == 0


async def test_a_page_of_the_same_origin_may_listen(api: Api) -> None:
    async with await listen(api, Origin=api.url):
        await until(lambda: len(hub_of(api)) == 1)


async def test_there_is_no_other_websocket(api: Api) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await api.http.ws_connect(f"{api.url}/getinfo", headers=authorized())
    assert refused.value.status in {403, 404}


async def test_one_listener_too_many_is_refused_until_another_goes(api: Api) -> None:
    listeners = [await listen(api) for _ in range(4)]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await listen(api)
    assert refused.value.status == 503
    await listeners.pop().close()
    await until(lambda: len(hub_of(api)) == 3)
    listeners.append(await listen(api))
    for each in listeners:
        await each.close()


async def test_what_a_client_says_is_ignored(api: Api) -> None:
    async with await listen(api) as listener:
        for _ in range(20):
            await listener.send_str("hello")
        await listener.send_bytes(b"\x00" * 100)
        hub_of(api).tell(["event"])
        assert await listener.receive_str(timeout=5) == "event"


async def test_a_client_that_sends_much_at_once_is_ended(api: Api) -> None:
    async with await listen(api) as listener:
        await listener.send_str("x" * (server.WS_MAX_BYTES + 1))
        message = await listener.receive(timeout=5)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == 1009
    await until(lambda: len(hub_of(api)) == 0)


async def test_the_server_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WS_PING_S", 0.1)
    settings = SimpleNamespace(api_password=SecretStr(PASSWORD))
    node = SimpleNamespace(settings=settings, events=SimpleNamespace(hub=EventHub()))
    async with served(node, Wallet()) as api:
        async with api.http.ws_connect(
            f"{api.url}/ws", headers=authorized(), autoping=False
        ) as listener:
            assert (await listener.receive(timeout=5)).type is aiohttp.WSMsgType.PING
            # Who does not answer is ended.
            ended = await listener.receive(timeout=5)
            assert ended.type is aiohttp.WSMsgType.CLOSE
        await until(lambda: len(hub_of(api)) == 0)


def shake_hands(api: Api) -> bytes:
    host = api.url.removeprefix("http://")
    return (
        f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        f"Sec-WebSocket-Version: 13\r\nAuthorization: {authorized()['Authorization']}\r\n\r\n"
    ).encode()


async def deaf(api: Api) -> socket.socket:
    """Return the socket of a websocket that reads nothing."""
    plain = socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])))
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.sendall(shake_hands(api))
    return plain


async def test_a_client_that_does_not_read_is_cut_off_and_the_others_hear_all(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MAX_WAITING", 200)
    hub = hub_of(api)
    with await deaf(api):
        await until(lambda: len(hub) == 1)
        async with await listen(api) as reader:
            await until(lambda: len(hub) == 2)
            event = "x" * 10_000
            count = 0
            while hub.cut == 0:
                hub.tell([event])
                count += 1
                assert await reader.receive_str(timeout=5) == event
                assert count < 20_000, "nobody was cut"
            assert len(hub) == 1
            hub.tell(["last"])
            assert await reader.receive_str(timeout=5) == "last"


async def test_many_events_of_one_commit_cut_nobody_who_reads(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MAX_WAITING", 10)
    async with await listen(api) as reader:
        await until(lambda: len(hub_of(api)) == 1)
        hub_of(api).tell([str(n) for n in range(500)])
        heard = [await reader.receive_str(timeout=5) for _ in range(500)]
        assert heard == [str(n) for n in range(500)]
        assert hub_of(api).cut == 0


async def test_the_back_stops_although_somebody_listens() -> None:
    settings = SimpleNamespace(api_password=SecretStr(PASSWORD))
    node: Any = SimpleNamespace(settings=settings, events=SimpleNamespace(hub=EventHub()))
    async with asyncio.timeout(15), served(node, Wallet()) as api:
        listener = await listen(api)
        reading = asyncio.ensure_future(listener.receive())
        await until(lambda: len(hub_of(api)) == 1)
        assert not reading.done()
    await until(lambda: len(hub_of(api)) == 0)
    reading.cancel()
