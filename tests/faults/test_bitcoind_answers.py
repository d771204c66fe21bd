"""Whatever comes instead of an answer is a clear error of the right kind, and nothing hangs."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from back.chain.bitcoind import (
    Bitcoind,
    ChainSettings,
    Unauthorized,
    sat_from_btc,
    sat_to_btc,
)
from shared.errors import BitcoindUnavailable, RpcError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Served = Callable[..., Awaitable[Bitcoind]]


@pytest.fixture
async def serve() -> AsyncIterator[Served]:
    """Serve a handler as if it were bitcoind, and give its client."""
    ends: list[Callable[[], Awaitable[None]]] = []

    async def start(handler: Handler, **settings: object) -> Bitcoind:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/{path:.*}", handler)
        server = TestServer(application)
        await server.start_server()
        client = Bitcoind(
            ChainSettings(str(server.make_url("")), user="u", password="p", **settings)
        )
        ends.extend((client.close, server.close))
        return client

    yield start
    for end in ends:
        await end()


def _answering(text: str, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return handler


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "Work queue depth exceeded"),
        (200, "<html>not bitcoind</html>"),
        (404, ""),
        (200, "[1, 2]"),
        (200, "null"),
        (
            500,
            '{"result": null, "error": {"code": -28, "message": "Loading block index…"}, "id": 0}',
        ),
    ],
)
async def test_no_answer_is_unavailable(serve: Served, status: int, text: str) -> None:
    client = await serve(_answering(text, status))
    with pytest.raises(BitcoindUnavailable):
        await client.call("getblockcount")
    with pytest.raises(BitcoindUnavailable):
        await client.batch([("getblockcount", ())])


async def test_a_refusal_carries_code_and_words(serve: Served) -> None:
    text = '{"result": null, "error": {"code": -5, "message": "Block not found"}, "id": 0}'
    client = await serve(_answering(text, 500))
    with pytest.raises(RpcError, match=r"refuses getblock: Block not found \(-5\)") as caught:
        await client.call("getblock", "00")
    assert (caught.value.code, caught.value.method) == (-5, "getblock")


async def test_a_batch_is_matched_by_id_and_holds_its_refusals(serve: Served) -> None:
    async def handler(request: web.Request) -> web.Response:
        answers = []
        for call in await request.json():
            [n] = call["params"]
            error = {"code": -8, "message": "odd"} if n % 2 else None
            answers.append({"result": None if error else n * 10, "error": error, "id": call["id"]})
        return web.json_response(answers[::-1])

    client = await serve(handler)
    results = await client.batch([("double", (n,)) for n in range(450)])
    assert results[::2] == [n * 10 for n in range(0, 450, 2)]
    assert all(isinstance(one, RpcError) for one in results[1::2])
    assert await client.batch([]) == []


async def test_a_slow_bitcoind_is_given_up(serve: Served) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    client = await serve(handler, timeout_s=0.1)
    with pytest.raises(BitcoindUnavailable):
        await client.call("getblockcount")


async def test_a_closed_connection_is_unavailable_and_the_call_is_not_repeated(
    serve: Served,
) -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    client = await serve(handler)
    with pytest.raises(BitcoindUnavailable):
        await client.call("sendtoaddress", "x", 1)
    assert calls == 1


async def test_nobody_listening_is_unavailable() -> None:
    async with Bitcoind(ChainSettings("http://127.0.0.1:9", timeout_s=2)) as client:
        with pytest.raises(BitcoindUnavailable):
            await client.call("getblockcount")


async def test_a_refused_cookie_is_read_again_once(serve: Served, tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    logins: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        logins.append(request.headers["authorization"])
        if logins[-1] != "Basic X19jb29raWVfXzp0d28=":  # __cookie__:two
            cookie.write_text("__cookie__:two")
            return web.Response(status=401)
        return web.json_response({"result": 7, "error": None, "id": 0})

    client = await serve(handler, cookie_file=cookie)
    with pytest.raises(BitcoindUnavailable, match="no cookie"):
        await client.call("getblockcount")
    cookie.write_text("__cookie__:one")
    assert await client.call("getblockcount") == 7
    assert await client.call("getblockcount") == 7
    assert len(logins) == 3


async def test_a_wrong_password_is_not_tried_again(serve: Served) -> None:
    calls = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=401)

    client = await serve(handler)
    with pytest.raises(Unauthorized):
        await client.call("getblockcount")
    assert calls == 1


async def test_amounts_are_exact(serve: Served) -> None:
    body = json.dumps({"result": "X", "error": None, "id": 0}).replace('"X"', "0.1234567800000001")
    client = await serve(_answering(body))
    amount = await client.call("getbalance")
    assert amount == Decimal("0.1234567800000001")
    assert sat_from_btc(Decimal("20999999.97690000")) == 2_099_999_997_690_000
    assert sat_to_btc(2_099_999_997_690_001) == "20999999.97690001"
    assert sat_to_btc(1) == "0.00000001"
    assert sat_to_btc(-150_000_000) == "-1.50000000"


def test_the_password_is_not_in_the_settings_repr() -> None:
    assert "hunter2" not in repr(ChainSettings("http://x", password="hunter2"))
