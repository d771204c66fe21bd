"""Outbound connections, on the back's order (``ln.connect``): dial, authenticate, hand over.

The order is answered at once; what came of it is a session with the order's id, or `unreachable`.
"""

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from python_socks import ProxyError, ProxyTimeoutError
from python_socks.async_.asyncio import Proxy

from front.listener import reason_of
from front.peer.introduction import Introduction
from front.peer.session import Peer
from front.transport.connection import Connection
from front.transport.stream import Stream
from shared.errors import BackendError, FabricError, InvariantError, PeerError
from shared.fabric import subjects
from shared.fabric.envelope import Direction
from shared.fabric.requests import ConnectReply, ConnectRequest, read
from shared.wire.address import Address, AddressKind

if TYPE_CHECKING:
    from front.bridge import Bridge
    from front.keys.provider import KeyProvider
    from shared.fabric.interface import Received, Subscription

__all__ = ["DialRules", "Dialer"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DialRules:
    """How this front dials.

    Attributes:
        connect_timeout_s: for the TCP connection to one address.
        handshake_timeout_s: for BOLT 8 on it.
        at_once: orders under way.
        socks_proxy: ``socks5://host:port`` for onion addresses.
        socks_for_all: every address is dialled through the proxy.
    """

    connect_timeout_s: float
    handshake_timeout_s: float
    at_once: int
    socks_proxy: str | None = None
    socks_for_all: bool = False


class Dialer:
    """Takes its share of the orders in the queue group of all fronts.

    Args:
        bridge: where peers go.
        key: does the node key's part of handshakes.
        rules: how to dial.
    """

    def __init__(self, bridge: "Bridge", key: "KeyProvider", rules: DialRules) -> None:
        self._bridge = bridge
        self._key = key
        self._rules = rules
        self._dials: dict[bytes, asyncio.Task[None]] = {}
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Join the queue group."""
        self._subscription = await self._bridge.fabric.subscribe(
            subjects.CONNECT, self._ordered, group=subjects.CONNECT_GROUP
        )

    async def stop(self) -> None:
        """Leave the queue group, and give up what is being dialled."""
        if self._subscription is not None:
            await self._subscription.drain()
        for task in tuple(self._dials.values()):
            task.cancel()
        await asyncio.gather(*self._dials.values(), return_exceptions=True)

    def _ordered(self, received: "Received") -> None:
        try:
            request = read(ConnectRequest, received.payload)
        except FabricError as error:
            self._bridge.not_understood(received.subject, error)
            return
        why = self._objection(request)
        reply = ConnectReply(
            dial_id=request.dial_id, front=self._bridge.name, accepted=not why, why=why
        )
        self._bridge.fabric.respond(received, reply.to_bytes())
        if not why and request.dial_id not in self._dials:
            task = asyncio.get_running_loop().create_task(self._dial(request))
            self._dials[request.dial_id] = task
            task.add_done_callback(lambda _: self._dials.pop(request.dial_id, None))

    def _objection(self, request: ConnectRequest) -> str:
        if self._bridge.node_id is None:
            return "this front does not know its node id yet"
        if request.node_id == self._bridge.node_id:
            return "that is our own node id"
        if len(self._dials) >= self._rules.at_once:
            return f"{len(self._dials)} connections are being made already"
        return ""

    async def _dial(self, request: ConnectRequest) -> None:
        """Try every address in turn; the first that authenticates wins."""
        failures: list[str] = []
        try:
            for text in request.addresses:
                failure = await self._attempt(request, text)
                if not failure:
                    self._bridge.metrics.dials.labels("ok").inc()
                    return
                failures.append(f"{text}: {failure}")
        except asyncio.CancelledError:
            self._bridge.unreachable(request.node_id, request.dial_id, "the front is being stopped")
            raise
        self._bridge.metrics.dials.labels("failed").inc()
        detail = "; ".join(failures)
        log.info("peer_unreachable", peer=request.node_id.hex(), why=detail)
        self._bridge.unreachable(request.node_id, request.dial_id, detail)

    async def _attempt(self, request: ConnectRequest, text: str) -> str:
        """Dial one address; return why it failed, or ``""``."""
        departure = Departure(self._bridge, request, text)
        try:
            address = Address.parse(text)
            async with asyncio.timeout(self._rules.connect_timeout_s):
                await self._connect(departure, request, address)
            async with asyncio.timeout(self._rules.handshake_timeout_s):
                await asyncio.shield(departure.outcome)
        except TimeoutError:
            departure.give_up("timeout")
            return "timed out"
        except (OSError, ValueError, ProxyError, ProxyTimeoutError) as error:
            return str(error) or type(error).__name__
        except (PeerError, BackendError) as error:
            return str(error)
        except asyncio.CancelledError:
            departure.give_up("draining")
            raise
        return ""

    async def _connect(
        self, departure: "Departure", request: ConnectRequest, address: Address
    ) -> None:
        if self._bridge.node_id is None:
            raise InvariantError("dialling before the node id is known")
        connection = Connection.initiator(
            self._bridge.node_id, secrets.token_bytes(32), request.node_id
        )

        def protocol() -> Stream:
            key = self._key.for_dial(request.dial_id)
            return Stream(connection, departure, key, self._bridge.metrics)

        loop = asyncio.get_running_loop()
        rules = self._rules
        if not (rules.socks_for_all or address.kind is AddressKind.TOR_V3):
            await loop.create_connection(protocol, address.host, address.port)
            return
        if rules.socks_proxy is None:
            raise ValueError("an onion address, and no socks_proxy is configured")
        # The name is resolved by the proxy, if at all: nobody learns whom we look for.
        proxy = Proxy.from_url(rules.socks_proxy, rdns=True)
        socket = await proxy.connect(address.host, address.port, timeout=rules.connect_timeout_s)
        await loop.create_connection(protocol, sock=socket)


class Departure:
    """An outbound connection until BOLT 8 is finished (a `StreamHandler`)."""

    def __init__(self, bridge: "Bridge", request: ConnectRequest, address: str) -> None:
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the peer has authenticated; else the error."""
        self._bridge = bridge
        self._request = request
        self._address = address
        self._made_at = bridge.now()
        self._stream: Stream | None = None

    def connected(self, stream: Stream) -> None:
        """The socket is there."""
        self._stream = stream
        self._made_at = self._bridge.now()

    def identified(self, stream: Stream) -> bool:
        """We know whom we dialled."""
        return not stream.closing

    def authenticated(self, stream: Stream) -> None:
        """It is the one that was asked for: it lives on as a `Peer`."""
        if self.outcome.done() or self._bridge.node_id is None:
            stream.abort()
            return
        self._bridge.metrics.handshakes.labels("ok", "").inc()
        introduction = Introduction(
            session=secrets.token_bytes(16),
            node_id=self._bridge.node_id,
            direction=Direction.OUTBOUND,
            address=self._address,
            made_at=self._made_at,
            dial_id=self._request.dial_id,
        )
        peer = Peer(self._bridge, stream, introduction, lambda: None)
        stream.handler = peer
        peer.start()
        self.outcome.set_result(None)

    def received(self, stream: Stream, message: bytes) -> None:
        """Never called before `authenticated`."""
        raise InvariantError("a message before the end of the handshake")

    def drained(self, stream: Stream) -> None:
        """Nothing waits for this."""

    def failed(self, stream: Stream, error: Exception) -> None:
        """The handshake failed."""
        self._bridge.metrics.handshakes.labels("failed", reason_of(error)).inc()
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def lost(self, stream: Stream) -> None:
        """The peer closed in the middle."""
        if not self.outcome.done():
            self._bridge.metrics.handshakes.labels("failed", "closed").inc()
            self.outcome.set_exception(ConnectionResetError("closed during the handshake"))

    def give_up(self, why: str) -> None:
        """Not in time, or this front is being stopped."""
        if self._stream is not None and not self.outcome.done():
            self._bridge.metrics.handshakes.labels("failed", why).inc()
            self.outcome.cancel()
            self._stream.abort()
