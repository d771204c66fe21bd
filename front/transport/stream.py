"""The asyncio shell around one connection: a socket's bytes in and out, nothing decided here.

A `Stream` is an `asyncio.Protocol`: no task, no buffer of its own while the peer is idle. Messages
sent during one tick of the loop leave in one write. A handler (first the one that accepted or
dialled, then the peer) hears what arrives.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from front.transport.connection import Authenticated, Connection, KeyRequest
from front.transport.proxy import read_header
from shared.errors import BackendError, HandshakeFailed, PeerError

if TYPE_CHECKING:
    from front.keys.provider import KeyProvider
    from front.metrics import Metrics

__all__ = ["MAX_UNSENT", "AuthenticatedHandler", "Stream", "StreamHandler"]

MAX_UNSENT = 1 << 20
"""Bytes a peer may leave unread of what is sent on this front's own account, like pongs."""
_HIGH_WATER = 64 << 10
_LINGER_S = 3.0
"""How long a closing connection may take to read our last words."""


class StreamHandler(Protocol):
    """Who a stream speaks to; all calls come from the loop, none may block."""

    def connected(self, stream: "Stream") -> None:
        """The socket is there; the first call."""

    def identified(self, stream: "Stream") -> bool:
        """The remote address is known (`Stream.remote`): say whether it may go on."""

    def authenticated(self, stream: "Stream") -> None:
        """BOLT 8 is finished; `Stream.node_id` is the peer. Change `Stream.handler` here."""

    def received(self, stream: "Stream", message: bytes) -> None:
        """One Lightning message."""

    def drained(self, stream: "Stream") -> None:
        """Everything sent so far is in a socket that takes it."""

    def failed(self, stream: "Stream", error: Exception) -> None:
        """BOLT 8 failed, or nobody could help with it; the stream is being closed."""

    def lost(self, stream: "Stream") -> None:
        """The TCP connection is gone; the last call."""


class AuthenticatedHandler:
    """What a `StreamHandler` that takes over after BOLT 8 need not hear: it has happened."""

    __slots__ = ()

    def connected(self, stream: "Stream") -> None:
        """Not called."""

    def identified(self, stream: "Stream") -> bool:
        """Not called."""
        return not stream.closing

    def authenticated(self, stream: "Stream") -> None:
        """Not called."""


def _never(_: str) -> bool:
    return False


class Stream(asyncio.Protocol):
    """One TCP connection.

    Args:
        connection: its BOLT 8 state.
        handler: who hears of it first.
        key: who does the node key's part of the handshake.
        metrics: counts bytes.
        proxied: whether a connection from this host starts with a PROXY v2 header.
    """

    __slots__ = (
        "_closing",
        "_flushing",
        "_header",
        "_key",
        "_metrics",
        "_outgoing",
        "_proxied",
        "_reading",
        "_task",
        "_transport",
        "_writable",
        "connection",
        "handler",
        "remote",
    )

    def __init__(
        self,
        connection: Connection,
        handler: StreamHandler,
        key: "KeyProvider",
        metrics: "Metrics",
        *,
        proxied: Callable[[str], bool] = _never,
    ) -> None:
        self.connection = connection
        self.handler = handler
        self.remote: tuple[str, int] = ("", 0)
        """Host and port of the peer; behind a proxy, what the proxy says."""
        self._key = key
        self._metrics = metrics
        self._header: bytearray | None = None
        self._proxied = proxied
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._outgoing: list[bytes] = []
        self._flushing = False
        self._reading = True
        self._writable = True
        self._closing = False

    @property
    def node_id(self) -> bytes:
        """The peer's 33 bytes; only after `StreamHandler.authenticated`."""
        return self.connection.node_id

    @property
    def closing(self) -> bool:
        """`close` was called or the connection is gone."""
        return self._closing

    @property
    def unsent(self) -> int:
        """Bytes that the peer's side has not taken yet."""
        waiting = sum(map(len, self._outgoing))
        return waiting + (self._transport.get_write_buffer_size() if self._transport else 0)

    # --- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        # uvloop's transports have this interface without being subclasses.
        self._transport = tcp = cast("asyncio.Transport", transport)
        tcp.set_write_buffer_limits(high=_HIGH_WATER)
        name = tcp.get_extra_info("peername") or ("", 0)
        self.remote = str(name[0]), int(name[1])
        self.handler.connected(self)
        if self._proxied(self.remote[0]):
            self._header = bytearray()
        else:
            self._identified()

    def data_received(self, data: bytes) -> None:
        """The socket read something."""
        if self._closing:
            return
        self._metrics.bytes_in.inc(len(data))
        try:
            self.connection.feed(self._past_header(data))
        except HandshakeFailed as error:
            self._fail(error)
            return
        self._pump()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._writable = False

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self._writable = True
        if not self._outgoing:
            self.handler.drained(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._closing = True
        self._transport = None
        self._outgoing.clear()
        if self._task is not None:
            self._task.cancel()
        self.handler.lost(self)

    # --- for the handler --------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Encrypt and send one message; dropped once the stream is closing."""
        if not self._closing:
            self._write(self.connection.seal(message))

    def pause_reading(self) -> None:
        """Deliver nothing more, not even what was read already, until `resume_reading`."""
        self._reading = False
        if self._transport is not None and not self._closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if self._reading:
            return
        self._reading = True
        self._pump()
        if self._reading and self._transport is not None and not self._closing:
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what waits, then close; abort if the peer does not take it in time.

        What the peer still says is read and dropped until it closes too: a socket that is closed
        with something unread resets the connection, and our last words with it.
        """
        if self._closing:
            return
        self._flush()
        self._closing = True
        if self._transport is not None:
            try:
                self._transport.write_eof()
                self._transport.resume_reading()
            except (OSError, RuntimeError):
                self._transport.close()
            asyncio.get_running_loop().call_later(_LINGER_S, self.abort)

    def abort(self) -> None:
        """Close at once; what waits is lost."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # --- inside -----------------------------------------------------------------------------------

    def _past_header(self, data: bytes) -> bytes:
        """Take the PROXY header off the front of what the socket reads."""
        if self._header is None:
            return data
        self._header += data
        header = read_header(bytes(self._header))
        if header is None:
            return b""
        rest = bytes(self._header[header.size :])
        self._header = None
        self.remote = header.source or self.remote
        self._identified()
        return rest

    def _identified(self) -> None:
        if self.handler.identified(self):
            self._write(self.connection.take_outgoing())
        else:
            self.abort()

    def _pump(self) -> None:
        """Deliver every complete message, as long as the handler wants them."""
        try:
            while self._reading and not self._closing:
                event = self.connection.next_event()
                if event is None:
                    break
                if isinstance(event, bytes):
                    self.handler.received(self, event)
                elif isinstance(event, Authenticated):
                    self._write(self.connection.take_outgoing())
                    self.handler.authenticated(self)
                else:
                    self._task = asyncio.get_running_loop().create_task(self._ask(event))
        except HandshakeFailed as error:
            self._fail(error)

    async def _ask(self, request: KeyRequest) -> None:
        """Have the node key's part done; read nothing more meanwhile."""
        if self._transport is not None:
            self._transport.pause_reading()
        try:
            self.connection.answer(await self._key.answer(request))
        except (PeerError, BackendError) as error:
            self._fail(error)
            return
        finally:
            self._task = None
        if self._transport is not None and not self._closing:
            self._transport.resume_reading()
            self._write(self.connection.take_outgoing())
            self._pump()

    def _fail(self, error: Exception) -> None:
        # BOLT 8: "terminate the connection without any further messages".
        self.handler.failed(self, error)
        self.abort()

    def _write(self, data: bytes) -> None:
        if not data or self._closing:
            return
        self._outgoing.append(data)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is None or self._closing or not self._outgoing:
            return
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        self._metrics.bytes_out.inc(len(data))
        self._transport.write(data)
        if self._writable:
            self.handler.drained(self)
