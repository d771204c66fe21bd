"""bitcoind's JSON-RPC, asynchronously: one call or a batch, by cookie or password.

Amounts come back as :class:`~decimal.Decimal` (bitcoin), hashes as bitcoind prints them; the
callers in this package turn both into this project's units and byte order.
"""

import asyncio
import json
from base64 import b64encode
from binascii import unhexlify
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import aiohttp

from shared.errors import BitcoindUnavailable, RpcError

__all__ = [
    "Bitcoind",
    "Call",
    "ChainSettings",
    "Unauthorized",
    "hash_from_rpc",
    "hash_to_rpc",
    "sat_from_btc",
    "sat_to_btc",
]

Params: TypeAlias = Sequence[object] | Mapping[str, object]
Call: TypeAlias = tuple[str, Params]
"""A method and its parameters, by place or by name."""

SAT_PER_BTC = 100_000_000
CONNECTIONS = 4
"""As many as bitcoind has threads by default: more would fill its work queue."""
BATCH = 200
"""Calls sent in one request."""
HEX_RESULT = b'"result":"'
PART = 1 << 18
RPC_IN_WARMUP = -28
RPC_PARSE_ERROR = -32700


class Unauthorized(BitcoindUnavailable):
    """bitcoind refuses our cookie (it may have restarted) or our password."""


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """How to reach bitcoind.

    Attributes:
        rpc_url: as ``http://127.0.0.1:8332``, without user and wallet.
        cookie_file: bitcoind's ``.cookie``; instead of user and password.
        wallet: the wallet that funds channels; empty: none is used.
        zmq_block: address of ``zmqpubhashblock``; empty: poll.
        zmq_tx: address of ``zmqpubrawtx``; empty: poll.
        poll_interval_s: how often to ask for the tip, with ZMQ too.
        timeout_s: for one request; a catch-up's block may need some.
    """

    rpc_url: str
    cookie_file: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    wallet: str = "squall"
    zmq_block: str = ""
    zmq_tx: str = ""
    poll_interval_s: float = 5.0
    timeout_s: float = 30.0


def hash_from_rpc(text: str) -> bytes:
    """Turn a txid or block hash as RPC shows it into internal byte order."""
    return bytes.fromhex(text)[::-1]


def hash_to_rpc(value: bytes) -> str:
    """Turn a txid or block hash of ours into RPC's form."""
    return value[::-1].hex()


def sat_from_btc(amount: Decimal | int) -> int:
    """Turn bitcoind's amount (bitcoin) into satoshi."""
    return int((Decimal(amount) * SAT_PER_BTC).to_integral_exact())


def sat_to_btc(amount_sat: int) -> str:
    """Turn satoshi into an amount that bitcoind reads without rounding."""
    sign, rest = "-" if amount_sat < 0 else "", abs(amount_sat)
    return f"{sign}{rest // SAT_PER_BTC}.{rest % SAT_PER_BTC:08d}"


class Bitcoind:
    """A client of one bitcoind; opens connections as needed, ends them at :meth:`close`.

    A call is sent once: its caller knows whether it may be repeated. The only exception is a
    refused cookie: the file is read again, and what was not accepted is sent again.
    """

    def __init__(self, settings: ChainSettings) -> None:
        self.settings = settings
        self._http: aiohttp.ClientSession | None = None
        self._login = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections. The next call opens new ones."""
        if self._http is not None:
            http, self._http = self._http, None
            await http.close()

    async def call(self, method: str, *params: object, **named: object) -> Any:  # noqa: ANN401
        """Call ``method`` and return its result.

        Raises:
            BitcoindUnavailable: no answer, or it is still loading.
            RpcError: it refused.
        """
        return _result(method, await self._post("/", _request(0, method, named or params)))

    async def wallet_call(self, method: str, *params: object, **named: object) -> Any:  # noqa: ANN401
        """Call ``method`` of our wallet. Errors as :meth:`call`."""
        body = _request(0, method, named or params)
        return _result(method, await self._post(self._wallet_path, body))

    async def batch(self, calls: Iterable[Call]) -> list[Any]:
        """Make calls in as few requests as is wise; return their results in order.

        A call that bitcoind refuses has its :class:`RpcError` as result.

        Raises:
            BitcoindUnavailable: no answer to one of the requests, or it is still loading.
        """
        return await self._batch("/", list(calls))

    async def wallet_batch(self, calls: Iterable[Call]) -> list[Any]:
        """Like :meth:`batch`, for our wallet."""
        return await self._batch(self._wallet_path, list(calls))

    async def raw_block(self, block_hash: bytes) -> bytes:
        """Return a block's bytes. Its megabytes of hex are read in a thread, in parts.

        Args:
            block_hash: internal byte order.

        Raises:
            BitcoindUnavailable: no answer, or it is still loading.
            RpcError: it has no such block, or has pruned it.
        """
        body = _request(0, "getblock", (hash_to_rpc(block_hash), 0))
        status, text = await self._send("/", body)
        return await asyncio.to_thread(_block, status, text)

    @property
    def _wallet_path(self) -> str:
        return f"/wallet/{self.settings.wallet}"

    async def _batch(self, path: str, calls: list[Call]) -> list[Any]:
        results: list[Any] = []
        for start in range(0, len(calls), BATCH):
            part = calls[start : start + BATCH]
            body = [_request(i, method, params) for i, (method, params) in enumerate(part)]
            answers = await self._post(path, body)
            if not isinstance(answers, list):  # one error for all: warming up, or not JSON
                raise BitcoindUnavailable(f"bitcoind did not answer a batch: {answers!r:.200}")
            by_id = {answer.get("id"): answer for answer in answers if isinstance(answer, dict)}
            for i, (method, _) in enumerate(part):
                try:
                    results.append(_result(method, by_id.get(i)))
                except RpcError as error:
                    results.append(error)
        return results

    # --- HTTP ---------------------------------------------------------------------------

    async def _post(self, path: str, body: object) -> Any:  # noqa: ANN401
        return _parsed(*await self._send(path, body))

    async def _send(self, path: str, body: object) -> tuple[int, bytes]:
        """Return status and text of the answer."""
        data = json.dumps(body).encode()
        try:
            return await self._send_once(path, data)
        except Unauthorized:
            if self.settings.cookie_file is None or not self._reread_cookie():
                raise
        return await self._send_once(path, data)

    async def _send_once(self, path: str, data: bytes) -> tuple[int, bytes]:
        url = self.settings.rpc_url.rstrip("/") + path
        headers = {"authorization": self._authorization()}
        try:
            async with self._session().post(url, data=data, headers=headers) as response:
                text = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise BitcoindUnavailable(f"bitcoind at {self.settings.rpc_url}: {why}") from error
        if response.status in {401, 403}:
            raise Unauthorized(f"bitcoind at {self.settings.rpc_url} refuses our login")
        return response.status, text

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                # bitcoind itself ends connections that are idle for 30 s: be first
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=10),
                timeout=aiohttp.ClientTimeout(total=self.settings.timeout_s, sock_connect=5),
                headers={"content-type": "application/json"},
            )
        return self._http

    def _authorization(self) -> str:
        if not self._login:
            login = f"{self.settings.user}:{self.settings.password}"
            if self.settings.cookie_file is not None:
                login = _read_cookie(self.settings.cookie_file)
            self._login = "Basic " + b64encode(login.encode()).decode()
        return self._login

    def _reread_cookie(self) -> bool:
        before, self._login = self._login, ""
        return self._authorization() != before


def _read_cookie(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise BitcoindUnavailable(f"no cookie of bitcoind: {error}") from error


def _request(number: int, method: str, params: Params) -> dict[str, object]:
    values = dict(params) if isinstance(params, Mapping) else list(params)
    return {"id": number, "method": method, "params": values}


def _parsed(status: int, text: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError:
        # 503: its work queue is full; others: not bitcoind at all
        words = text[:200].decode(errors="replace").strip()
        raise BitcoindUnavailable(f"bitcoind answers HTTP {status}: {words}") from None


def _block(status: int, text: bytes) -> bytes:
    start = text.find(HEX_RESULT)
    if start < 0:
        return bytes.fromhex(_result("getblock", _parsed(status, text)))
    start += len(HEX_RESULT)
    end = text.find(b'"', start)
    try:
        # The interpreter's lock is held for the length of each call: so in parts.
        return b"".join(unhexlify(text[at : min(at + PART, end)]) for at in range(start, end, PART))
    except ValueError:
        raise BitcoindUnavailable("bitcoind's answer to getblock is no block") from None


def _result(method: str, answer: Any) -> Any:  # noqa: ANN401
    if not isinstance(answer, dict):
        raise BitcoindUnavailable(f"bitcoind's answer to {method} is no JSON-RPC")
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    code, reason = int(error.get("code", 0)), str(error.get("message", ""))
    if code == RPC_IN_WARMUP:
        raise BitcoindUnavailable(f"bitcoind is not ready: {reason}")
    raise RpcError(method, code, reason)
