"""Who may call: HTTP basic authentication, the password alone counts."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

OPEN_PATHS = frozenset({"/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
"""These tell nothing about the node but that it is there."""
WRONG_PASSWORD_PAUSE_S = 1.0
"""Slows down who guesses; nobody else waits."""


class Guard:
    """Lets requests and websockets with the right password through, and no other site's pages.

    A browser that knows the password sends it with forms of any page; so a request from a page of
    another origin is refused.
    """

    def __init__(
        self, app: "ASGIApp", *, password: str, pause_s: float = WRONG_PASSWORD_PAUSE_S
    ) -> None:
        self._app = app
        self._digest = _digest(password.encode())
        self._pause_s = pause_s

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Handle one ASGI scope."""
        kind = scope["type"]
        if kind == "lifespan" or (kind == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        if kind == "websocket":
            send = _as_http(send)
        headers = dict(scope["headers"])
        if _is_foreign(headers):
            await _refuse(send, 403, "requests from pages of another origin are refused")
            return
        given = _password(headers.get(b"authorization", b""))
        if given is None:
            await _refuse(send, 401, "the password is missing (HTTP basic authentication)")
        elif hmac.compare_digest(_digest(given), self._digest):
            await self._app(scope, receive, send)
        else:
            await asyncio.sleep(self._pause_s)
            await _refuse(send, 401, "the password is wrong")


def _digest(password: bytes) -> bytes:
    """Of equal length for all, so that comparing tells nothing about it."""
    return hashlib.sha256(password).digest()


def _password(header: bytes) -> bytes | None:
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _is_foreign(headers: dict[bytes, bytes]) -> bool:
    origin = headers.get(b"origin")
    if origin is None:
        return headers.get(b"sec-fetch-site") == b"cross-site"
    return urlsplit(origin.decode("latin-1")).netloc != headers.get(b"host", b"").decode("latin-1")


def _as_http(send: "Send") -> "Send":
    """Let a websocket be refused before it begins, as a request is: the server knows how."""

    async def send_refusal(message: "Message") -> None:
        kind = message["type"]
        if kind.startswith("http.response."):
            message = {**message, "type": f"websocket.{kind}"}
        await send(message)

    return send_refusal


async def _refuse(send: "Send", status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers: Iterable[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers = [*headers, (b"www-authenticate", b'Basic realm="squall"')]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
