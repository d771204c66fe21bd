"""`/ws`: events as they become durable, one text message each, as Eclair tells them."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from back.api.interface import ApiNode
    from back.events.hub import Listener

__all__ = ["websocket_of"]

CUT_OFF = 1013
"""Close code of who reads too slowly: come again."""
CLOSE_S = 1.0


def websocket_of(node: "ApiNode") -> "Callable[[WebSocket], Awaitable[None]]":
    """Return the endpoint for a node's events."""

    async def endpoint(websocket: WebSocket) -> None:
        hub = node.events.hub
        listener = hub.join()
        if listener is None:
            await websocket.send_denial_response(Response("too many listeners", 503))
            return
        try:
            await websocket.accept()
            await _serve(websocket, listener)
        finally:
            hub.leave(listener)

    return endpoint


async def _serve(websocket: WebSocket, listener: "Listener") -> None:
    """Send until the client goes, or does not read."""
    leaving = asyncio.ensure_future(_gone(websocket))
    sending = asyncio.ensure_future(_send(websocket, listener))
    cut = asyncio.ensure_future(listener.cut.wait())
    try:
        await asyncio.wait({leaving, sending, cut}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (leaving, sending, cut):
            task.cancel()
        await asyncio.gather(leaving, sending, cut, return_exceptions=True)
    if websocket.client_state is WebSocketState.CONNECTED:
        # Who reads nothing does not read this either.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await websocket.close(CUT_OFF, "events are not read")


async def _gone(websocket: WebSocket) -> None:
    """Return when the client is gone; what it says is dropped."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _send(websocket: WebSocket, listener: "Listener") -> None:
    while True:
        for event in await listener.take():
            await websocket.send_text(event)
