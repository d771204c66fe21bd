"""Inbound connections: accept, limit, authenticate, then hand over to a `Peer`."""

import asyncio
import secrets
from typing import TYPE_CHECKING, cast

import structlog

from front.admission import Admission, Network, Refusal, Ticket, contains
from front.peer.introduction import Introduction
from front.peer.session import Peer
from front.transport.connection import Connection
from front.transport.stream import Stream
from shared.errors import InvariantError, PeerError
from shared.fabric.envelope import Direction
from shared.settings import host_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from front.bridge import Bridge
    from front.keys.provider import KeyProvider

__all__ = ["Listener", "reason_of"]

_BACKLOG = 1024

log = structlog.get_logger()


def reason_of(error: Exception) -> str:
    """Name why a handshake failed, for the metrics: the rule that was broken."""
    return error.bolt if isinstance(error, PeerError) else "key_unavailable"


class Listener:
    """Accepts peers.

    Args:
        bridge: where peers go.
        key: does the node key's part of handshakes.
        admission: the limits.
        handshake_timeout_s: for the PROXY header and BOLT 8.
        proxies: sources that send a PROXY header.
    """

    def __init__(
        self,
        bridge: "Bridge",
        key: "KeyProvider",
        admission: Admission,
        handshake_timeout_s: float,
        proxies: tuple[Network, ...] = (),
    ) -> None:
        self.bridge = bridge
        self.admission = admission
        self.handshake_timeout_s = handshake_timeout_s
        self._key = key
        self._proxies = proxies
        self._servers: list[asyncio.Server] = []
        self._arrivals: set[Arrival] = set()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every listening socket."""
        names = [socket.getsockname() for server in self._servers for socket in server.sockets]
        return tuple((name[0], name[1]) for name in names)

    async def start(self, addresses: "Sequence[str]") -> None:
        """Listen on every ``host:port``.

        Raises:
            OSError: an address cannot be had.
        """
        loop = asyncio.get_running_loop()
        for address in addresses:
            host, port = host_port(address)
            server = await loop.create_server(self._accept, host, port, backlog=_BACKLOG)
            self._servers.append(server)
        log.info("listening", addresses=[f"{host}:{port}" for host, port in self.addresses])

    def stop(self) -> None:
        """Accept nothing more, and drop who has not finished its handshake."""
        for server in self._servers:
            server.close()
        for arrival in tuple(self._arrivals):
            arrival.give_up()

    def arrived(self, arrival: "Arrival") -> None:
        """A handshake has begun."""
        self._arrivals.add(arrival)
        self.bridge.metrics.connections.set(self.admission.connections)

    def settled(self, arrival: "Arrival") -> None:
        """It has ended, well or not."""
        self._arrivals.discard(arrival)

    def left(self, ticket: Ticket) -> None:
        """A TCP connection is gone."""
        self.admission.leave(ticket)
        self.bridge.metrics.connections.set(self.admission.connections)

    def _accept(self) -> asyncio.Protocol:
        admitted = self.admission.enter()
        if isinstance(admitted, Refusal):
            self.bridge.metrics.refused.labels(admitted.value).inc()
            return _TurnedAway()
        if self.bridge.node_id is None:
            raise InvariantError("listening before the node id is known")
        connection = Connection.responder(self.bridge.node_id, secrets.token_bytes(32))
        arrival = Arrival(self, admitted, self.bridge.node_id)
        return Stream(connection, arrival, self._key, self.bridge.metrics, proxied=self._is_proxy)

    def _is_proxy(self, host: str) -> bool:
        return contains(self._proxies, host)


class _TurnedAway(asyncio.Protocol):
    """A connection over a limit: closed before a byte is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close."""
        # uvloop's transports have this interface without being subclasses.
        cast("asyncio.Transport", transport).abort()


class Arrival:
    """An inbound connection until BOLT 8 is finished (a `StreamHandler`)."""

    def __init__(self, listener: Listener, ticket: Ticket, node_id: bytes) -> None:
        self._listener = listener
        self._ticket = ticket
        self._node_id = node_id
        self._metrics = listener.bridge.metrics
        self._made_at = listener.bridge.now()
        self._stream: Stream | None = None
        self._outcome = ""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(listener.handshake_timeout_s, self._too_slow)
        listener.arrived(self)

    def connected(self, stream: Stream) -> None:
        """The socket is there."""
        self._stream = stream

    def identified(self, stream: Stream) -> bool:
        """The address is known: may it come in."""
        now = self._listener.bridge.now()
        refusal = self._listener.admission.identify(self._ticket, stream.remote[0], now)
        if refusal is not None:
            self._outcome = refusal.value
            self._metrics.refused.labels(refusal.value).inc()
            log.debug("connection_refused", address=stream.remote[0], why=refusal.value)
        return refusal is None

    def authenticated(self, stream: Stream) -> None:
        """The peer has a name: it lives on as a `Peer`."""
        self._settle("ok")
        self._listener.admission.authenticated(self._ticket)
        introduction = Introduction(
            session=secrets.token_bytes(16),
            node_id=self._node_id,
            direction=Direction.INBOUND,
            address=_shown(stream.remote),
            made_at=self._made_at,
            act_one=stream.connection.act_one,
        )
        peer = Peer(self._listener.bridge, stream, introduction, self._left)
        stream.handler = peer
        peer.start()

    def received(self, stream: Stream, message: bytes) -> None:
        """Never called before `authenticated`."""
        raise InvariantError("a message before the end of the handshake")

    def drained(self, stream: Stream) -> None:
        """Nothing waits for this."""

    def failed(self, stream: Stream, error: Exception) -> None:
        """The handshake failed."""
        self._settle(reason_of(error))
        log.debug("handshake_failed", address=stream.remote[0], why=str(error))

    def lost(self, stream: Stream) -> None:
        """The peer left in the middle."""
        self._settle("closed")
        self._left()

    def give_up(self) -> None:
        """This front is being stopped."""
        self._settle("draining")
        if self._stream is not None:
            self._stream.abort()

    def _too_slow(self) -> None:
        self._settle("timeout")
        if self._stream is not None:
            log.debug("handshake_too_slow", address=self._stream.remote[0])
            self._stream.abort()

    def _settle(self, outcome: str) -> None:
        """Count the outcome, once."""
        self._timer.cancel()
        self._listener.settled(self)
        if not self._outcome:
            self._outcome = outcome
            result = "ok" if outcome == "ok" else "failed"
            self._metrics.handshakes.labels(result, "" if outcome == "ok" else outcome).inc()

    def _left(self) -> None:
        self._listener.left(self._ticket)


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
