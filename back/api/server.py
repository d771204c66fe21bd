"""Serves the API over HTTP, in the event loop of the back."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from back.api.app import create_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from back.api.interface import ApiNode

__all__ = ["ApiServer", "serve"]

BACKLOG = 2048
WS_MAX_BYTES = 4096
"""What a client sends is not read: it has nothing to say."""
WS_PING_S = 20.0
UNREAD_MS = 60_000
STOP_S = 3
"""For answers under way, at a stop."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket here, so that the caller hears of an address that cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. A client that reads nothing would keep its own for ever.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        words = f"cannot listen on {host}:{port}: {error.strerror}"
        raise OSError(error.errno, words) from None
    return listening


def _server(app: "ASGIApp") -> _Server:
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=WS_MAX_BYTES,
        ws_max_queue=1,
        ws_ping_interval=WS_PING_S,
        ws_ping_timeout=WS_PING_S,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_S,
        backlog=BACKLOG,
    )
    return _Server(config)


async def serve(app: "ASGIApp", host: str, port: int) -> None:
    """Serve until cancelled.

    Raises:
        OSError: the address cannot be had.
    """
    listening = _listen(host, port)
    server = _server(app)
    running = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(running)
    finally:
        server.should_exit = True
        await running
        listening.close()


@dataclass(slots=True)
class ApiServer:
    """A running API.

    Attributes:
        port: that it listens on.
    """

    port: int
    _server: _Server
    _listening: socket.socket
    _running: "asyncio.Task[None]"

    @classmethod
    async def start(
        cls, node: "ApiNode", host: str, port: int, *, app: "ASGIApp | None" = None
    ) -> "ApiServer":
        """Listen and serve.

        Args:
            node: what the calls act on.
            host: to listen on.
            port: 0: any.
            app: instead of the one that :func:`create_app` makes of the node.

        Raises:
            OSError: the address cannot be had.
        """
        listening = _listen(host, port)
        server = _server(app or create_app(node))
        running = asyncio.create_task(server.serve(sockets=[listening]), name="api")
        while not server.started:
            if running.done():
                listening.close()
                running.result()
                raise OSError("the API's server ended at its start")
            await asyncio.sleep(0.005)
        return cls(listening.getsockname()[1], server, listening, running)

    async def stop(self) -> None:
        """Take nothing more, give calls under way a moment, and stop."""
        self._server.should_exit = True
        await self._running
        self._listening.close()
