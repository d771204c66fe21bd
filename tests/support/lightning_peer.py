"""A scripted Lightning node: BOLT 8 and `init` on one TCP connection, the rest by hand.

::

    async with await LightningPeer.connect(node_id, "127.0.0.1", port) as peer:
        await peer.init()
        await peer.send(open_channel)
        accepted = await peer.expect(AcceptChannel)

Pings are answered on the way (``auto_pong``). Every wait has a deadline and says what came instead.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeVar

import coincurve

from shared.chain import REGTEST
from shared.crypto.noise import (
    ACT_ONE,
    ACT_THREE,
    ACT_TWO,
    HEADER,
    AwaitActOne,
    Session,
    answer_initiator,
    answer_responder,
    initiate,
)
from shared.features import Feature, FeatureSet
from shared.wire import Init, Message, Ping, Pong, Warning as WarningMessage, decode, encode

__all__ = [
    "FEATURES",
    "TIMEOUT_S",
    "LightningPeer",
    "PeerClosed",
    "listening",
    "node_id_of",
    "silence",
]

TIMEOUT_S = 10.0
"""Longest wait for anything."""

FEATURES = FeatureSet.of(
    optional=[
        Feature.option_data_loss_protect,
        Feature.var_onion_optin,
        Feature.option_static_remotekey,
        Feature.payment_secret,
        Feature.option_anchors,
        Feature.option_channel_type,
    ]
)
"""What a peer says it can do unless a test says otherwise."""

Expected = TypeVar("Expected", bound=Message)


class PeerClosed(AssertionError):
    """The other side closed the connection; carries what it said before."""

    def __init__(self, last_words: list[Message]) -> None:
        said = [m.data.decode() for m in last_words if isinstance(m, WarningMessage)]
        super().__init__(f"closed after {[m.NAME for m in last_words]}, warnings {said}")
        self.last_words = last_words


def node_id_of(private: bytes) -> bytes:
    """Return the node id of a private key."""
    return coincurve.PrivateKey(private).public_key.format()


class LightningPeer:
    """One authenticated connection; made by `connect` or by `listening`.

    Attributes:
        node_id: ours.
        remote: node id of the other side.
        their_init: once received.
        seen: every message of the other side, pings included.
    """

    def __init__(
        self,
        private: bytes,
        session: Session,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.private = private
        self.node_id = node_id_of(private)
        self.remote = session.remote
        self.their_init: Init | None = None
        self.seen: list[Message] = []
        self.auto_pong = True
        self._session = session
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(
        cls,
        node_id: bytes,
        host: str,
        port: int,
        *,
        private: bytes | None = None,
        before: bytes = b"",
    ) -> Self:
        """Connect and authenticate.

        Args:
            node_id: who must be there.
            host: its address.
            port: its port.
            private: our node key, by default a new one.
            before: bytes to send first, such as a PROXY header.
        """
        private = private or secrets.token_bytes(32)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(before)
        state, act = initiate(node_id_of(private), secrets.token_bytes(32), node_id)
        writer.write(act)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                waiting = state.receive(await reader.readexactly(ACT_TWO))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            raise PeerClosed([]) from None
        session, act = waiting.answer(answer_initiator(private, waiting.request))
        writer.write(act)
        return cls(private, session, reader, writer)

    @classmethod
    async def accept(
        cls, private: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Self:
        """Authenticate who connected to us."""
        start = AwaitActOne(node_id_of(private), secrets.token_bytes(32))
        waiting = start.receive(await reader.readexactly(ACT_ONE))
        state, act = waiting.answer(answer_responder(private, waiting.request))
        writer.write(act)
        session = state.receive(await reader.readexactly(ACT_THREE))
        return cls(private, session, reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- saying -----------------------------------------------------------------------------------

    async def init(
        self,
        features: FeatureSet = FEATURES,
        networks: tuple[bytes, ...] | None = (REGTEST.chain_hash,),
    ) -> Init:
        """Exchange `init`; returns theirs."""
        ours = Init(
            globalfeatures=b"",
            features=features.to_bytes(),
            networks=None if networks is None else list(networks),
        )
        await self.send(ours)
        return await self.expect(Init)

    async def send(self, *messages: Message) -> None:
        """Send messages, in one write."""
        await self.send_bytes(*(encode(message) for message in messages))

    async def send_bytes(self, *messages: bytes) -> None:
        """Send messages that are bytes already: valid frames, whatever is in them."""
        await self.write(b"".join(self._session.seal(message) for message in messages))

    async def write(self, data: bytes) -> None:
        """Write bytes as they are, outside of any frame."""
        self._writer.write(data)
        await self._writer.drain()

    def seal(self, message: bytes) -> bytes:
        """Return the frame of a message, for `write`; every frame must be written, in order."""
        return self._session.seal(message)

    async def close(self) -> None:
        """Close the TCP connection."""
        await _closed(self._writer)

    def abort(self) -> None:
        """Reset the TCP connection, as a crash would."""
        self._writer.transport.abort()

    # --- hearing ----------------------------------------------------------------------------------

    async def receive(self, timeout_s: float = TIMEOUT_S) -> Message:
        """Return the next message, pings answered and left out.

        Raises:
            PeerClosed: there is none and there will be none.
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                message = await self._read()
                self.seen.append(message)
                if isinstance(message, Init):
                    self.their_init = message
                if not (isinstance(message, Ping) and self.auto_pong):
                    return message
                if message.num_pong_bytes < 65532:
                    await self.send(Pong(ignored=bytes(message.num_pong_bytes)))

    async def expect(
        self,
        kind: type[Expected],
        *,
        skip: tuple[type[Message], ...] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> Expected:
        """Return the next message, which must be of this kind; those in ``skip`` may precede it."""
        try:
            while isinstance(message := await self.receive(timeout_s), skip):
                pass
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} within {timeout_s} s") from None
        assert isinstance(message, kind), f"expected {kind.__name__}, got {message!r}"
        return message

    async def expect_nothing(self, within_s: float = 0.2) -> None:
        """Check that no message comes for a while."""
        try:
            message = await self.receive(within_s)
        except TimeoutError:
            return
        raise AssertionError(f"expected nothing, got {message!r}")

    async def expect_closed(self, timeout_s: float = TIMEOUT_S) -> list[Message]:
        """Return what still comes before the other side closes the connection."""
        words: list[Message] = []
        try:
            while True:
                words.append(await self.receive(timeout_s))
        except PeerClosed:
            return words
        except TimeoutError:
            raise AssertionError(f"not closed within {timeout_s} s; got {words!r}") from None

    async def expect_warning_then_closed(self, timeout_s: float = TIMEOUT_S) -> str:
        """Return the text of the one `warning` that comes before the end."""
        words = await self.expect_closed(timeout_s)
        warnings = [m.data.decode() for m in words if isinstance(m, WarningMessage)]
        assert len(warnings) == 1, f"expected one warning, got {words!r}"
        return warnings[0]

    async def _read(self) -> Message:
        try:
            header = await self._reader.readexactly(HEADER)
            sealed = await self._reader.readexactly(self._session.open_size(header))
        except (OSError, asyncio.IncompleteReadError):
            raise PeerClosed(self.seen) from None
        message = decode(self._session.open_message(sealed))
        assert message is not None, "an unknown odd message from Squall"
        return message


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        async with asyncio.timeout(TIMEOUT_S):
            await writer.wait_closed()


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """Accept TCP connections and never say a word; yields the port."""
    open_writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(
        lambda _, writer: open_writers.append(writer), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_writers:
            await _closed(writer)


@asynccontextmanager
async def listening(
    private: bytes, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[int, "asyncio.Queue[LightningPeer]"]]:
    """Accept connections as a node; yields the port and a queue of those that authenticated."""
    arrived: asyncio.Queue[LightningPeer] = asyncio.Queue()
    open_writers: set[asyncio.StreamWriter] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            arrived.put_nowait(await LightningPeer.accept(private, reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(accept, host, port)
    try:
        yield server.sockets[0].getsockname()[1], arrived
    finally:
        server.close()
        for writer in open_writers:
            await _closed(writer)
