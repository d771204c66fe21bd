"""Peers that speak BOLT 7: one that knows a network and tells it, one that asks for everything.

::

    async with feeding(node_id, port, network) as feeder:
        await feeder.feed()
    async with observing(node_id, port) as observer:
        told = await observer.ask_for_everything()
    assert differences(network, told) == ""

They read raw messages: hundreds of thousands are not decoded into models.
"""

import asyncio
import bisect
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto

from support.gossip_table import Told
from support.lightning_peer import FEATURES, TIMEOUT_S, LightningPeer, PeerClosed
from support.network import Network

from shared.chain import REGTEST
from shared.crypto.noise import HEADER
from shared.features import Feature, FeatureSet
from shared.gossip.view import node_timestamp, update_timestamp
from shared.wire import (
    GossipTimestampFilter,
    Message,
    Ping,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    decode,
)
from shared.wire.query import (
    ChannelUpdateChecksums,
    decode_query_flags,
    decode_short_ids,
    decode_timestamps,
    encode_query_flags,
    encode_short_ids,
    encode_timestamps,
)

__all__ = [
    "ALL_TIME",
    "Feeder",
    "GossipPeer",
    "Manners",
    "Observer",
    "checksum",
    "feeding",
    "observing",
    "send_at_rate",
    "serving",
    "spoiled",
]

ALL_TIME = 0xFFFFFFFF
GOSSIP_FEATURES = FEATURES.union(
    FeatureSet.of(optional=[Feature.gossip_queries, Feature.gossip_queries_ex])
)
_ANNOUNCEMENTS = frozenset({256, 257, 258})
_PING = 18
_PONG = b"\0\x13"
_REPLY_CHANNELS = 2_000
"""Channels of one reply, with timestamps and checksums: 48 kB."""
_ASKED_CHANNELS = 1_000
_BATCH = 64
_EVERYTHING = 0b11111


def checksum(update: bytes | None) -> int:
    """CRC32C of an update without signature and timestamp (BOLT 7), bit by bit; 0 for none."""
    if update is None:
        return 0
    value = 0xFFFFFFFF
    for byte in update[66:106] + update[110:]:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]


class GossipPeer(LightningPeer):
    """A peer that reads announcements as bytes."""

    async def receive_raw(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the next message as it came, pings answered.

        Raises:
            PeerClosed: there is none and there will be none.
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                raw = await self._read_raw()
                kind = int.from_bytes(raw[:2], "big")
                if kind in _ANNOUNCEMENTS:
                    return raw
                if kind != _PING:
                    message = decode(raw)
                    if message is not None:
                        self.seen.append(message)
                    return raw
                size = int.from_bytes(raw[2:4], "big")
                if self.auto_pong and size < 65532:
                    # without drain: who reads must not wait for the other side to read
                    pong = _PONG + size.to_bytes(2, "big") + bytes(size)
                    self._writer.write(self.seal(pong))

    async def ping_s(self, timeout_s: float = TIMEOUT_S) -> float:
        """Return how long a pong takes; what comes before it is dropped."""
        began = time.perf_counter()
        await self.send(Ping(num_pong_bytes=1, ignored=b""))
        while (await self.receive_raw(timeout_s))[:2] != _PONG:
            pass
        return time.perf_counter() - began

    async def _read_raw(self) -> bytes:
        try:
            header = await self._reader.readexactly(HEADER)
            sealed = await self._reader.readexactly(self._session.open_size(header))
        except (OSError, asyncio.IncompleteReadError):
            raise PeerClosed(self.seen) from None
        return self._session.open_message(sealed)


# --- telling ------------------------------------------------------------------------------------


class Manners(Enum):
    """How a feeder answers queries."""

    HONEST = auto()
    SILENT = auto()
    """Never answers; pings still."""
    LYING = auto()
    """Claims channels that do not exist, and says nothing of those it is asked for."""


class Feeder:
    """A node that knows a network, on one connection; use `feeding`.

    Attributes:
        peer: the connection.
        network: what it knows.
        manners: how it answers.
        asked: queries and filters that came, in order.
        told: what the other side told us of the network.
        answered: announcements sent because of a query.
        filter: the last one that came.
        is_closed: the other side ended the connection.
    """

    def __init__(self, peer: GossipPeer, network: Network, manners: Manners) -> None:
        self.peer = peer
        self.network = network
        self.manners = manners
        self.asked: list[Message] = []
        self.told = Told()
        self.answered = 0
        self.filter: GossipTimestampFilter | None = None
        self.is_closed = asyncio.Event()
        self._scids = sorted(network.channels)
        self._questions: asyncio.Queue[Message | None] = asyncio.Queue()

    async def run(self) -> None:
        """Read and answer until the connection ends."""
        answering = asyncio.create_task(self._answer_all())
        try:
            while True:
                raw = await self.peer.receive_raw(timeout_s=3600)
                if int.from_bytes(raw[:2], "big") in _ANNOUNCEMENTS:
                    self.told.add(raw)
                else:
                    self._questions.put_nowait(decode(raw))
        except PeerClosed:
            self.is_closed.set()
        finally:
            answering.cancel()

    async def _answer_all(self) -> None:
        with suppress(OSError):
            while True:
                await self._answer(await self._questions.get())

    async def feed(
        self, messages: Iterable[bytes] | None = None, *, per_s: float | None = None
    ) -> int:
        """Send announcements, by default all, as fast as they are read or at a rate.

        Returns:
            How many.

        Raises:
            PeerClosed: the other side ended the connection.
        """
        chosen = self.network.messages() if messages is None else messages
        return await send_at_rate(self.peer, chosen, per_s)

    async def _answer(self, message: Message | None) -> None:
        match message:
            case QueryChannelRange():
                self.asked.append(message)
                if self.manners is not Manners.SILENT:
                    await self.peer.send(*self._range(message))
            case QueryShortChannelIds():
                self.asked.append(message)
                if self.manners is not Manners.SILENT:
                    await self._channels(message)
            case GossipTimestampFilter():
                self.asked.append(message)
                self.filter = message
            case _:
                pass

    def matching(self, wanted: GossipTimestampFilter) -> Iterator[bytes]:
        """All announcements of the time of a filter, channels with their updates."""
        end = wanted.first_timestamp + wanted.timestamp_range
        times = range(wanted.first_timestamp, end)
        for scid, raw in self.network.channels.items():
            updates = [
                u for u in self.network.of_channel(scid, 0b110) if update_timestamp(u) in times
            ]
            if updates:
                yield raw
                yield from updates
        for raw in self.network.nodes.values():
            if node_timestamp(raw) in times:
                yield raw

    def _range(self, query: QueryChannelRange) -> list[ReplyChannelRange]:
        end_block = query.first_blocknum + query.number_of_blocks
        scids = self._scids
        if self.manners is Manners.LYING:
            scids = [scid + 0x1000 for scid in scids]
        first = bisect.bisect_left(scids, query.first_blocknum << 40)
        end = bisect.bisect_left(scids, end_block << 40)
        parts = list(_batches(scids[first:end], _REPLY_CHANNELS)) or [()]
        replies = []
        begins = query.first_blocknum
        for number, part in enumerate(parts, 1):
            is_last = number == len(parts)
            ends = end_block if is_last else (part[-1] >> 40) + 1
            replies.append(self._reply(query, begins, ends, part, is_last=is_last))
            begins = ends - 1
        return replies

    def _reply(
        self,
        query: QueryChannelRange,
        begins: int,
        ends: int,
        scids: Sequence[int],
        *,
        is_last: bool,
    ) -> ReplyChannelRange:
        option = query.query_option or 0
        pairs = [[self.network.updates.get(scid << 1 | end) for end in (0, 1)] for scid in scids]
        timestamps = [tuple(update_timestamp(u) if u else 0 for u in pair) for pair in pairs]
        sums = [
            ChannelUpdateChecksums(
                checksum_node_id_1=checksum(one), checksum_node_id_2=checksum(other)
            )
            for one, other in (pairs if option & 2 else ())
        ]
        return ReplyChannelRange(
            chain_hash=query.chain_hash,
            first_blocknum=begins,
            number_of_blocks=ends - begins,
            sync_complete=int(is_last),
            encoded_short_ids=encode_short_ids(scids),
            timestamps_tlv=encode_timestamps(timestamps) if option & 1 else None,
            checksums_tlv=sums if option & 2 else None,
        )

    async def _channels(self, query: QueryShortChannelIds) -> None:
        scids = decode_short_ids(query.encoded_short_ids)
        flags = (
            [_EVERYTHING] * len(scids)
            if query.query_flags is None
            else decode_query_flags(query.query_flags)
        )
        assert len(flags) == len(scids)
        if self.manners is Manners.HONEST:
            sent = set()
            for scid, flag in zip(scids, flags, strict=True):
                if scid in self.network.channels:
                    new = [raw for raw in self.network.of_channel(scid, flag) if raw not in sent]
                    sent.update(new)
                    self.answered += len(new)
                    await self.peer.send_bytes(*new)
        end = ReplyShortChannelIdsEnd(chain_hash=query.chain_hash, full_information=1)
        await self.peer.send(end)


async def send_at_rate(
    peer: LightningPeer, messages: Iterable[bytes], per_s: float | None = None
) -> int:
    """Send as fast as they are read, or at a rate; returns how many.

    Raises:
        PeerClosed: the other side ended the connection.
    """
    sent = 0
    began = time.monotonic()
    for batch in _batches(messages):
        try:
            await peer.send_bytes(*batch)
        except OSError:
            raise PeerClosed(peer.seen) from None
        sent += len(batch)
        if per_s is not None:
            await asyncio.sleep(began + sent / per_s - time.monotonic())
    return sent


def spoiled(raw: bytes, number: int) -> bytes:
    """Return an announcement with one wrong signature; another one for each number.

    The last of its signatures is wrong, so that all of them have to be checked.
    """
    signatures = 4 if raw[:2] == b"\1\0" else 1
    end = 2 + 64 * signatures
    return (
        raw[: end - 8]
        + (int.from_bytes(raw[end - 8 : end], "big") ^ number + 1).to_bytes(8, "big")
        + raw[end:]
    )


@asynccontextmanager
async def feeding(
    node_id: bytes,
    port: int,
    network: Network,
    *,
    manners: Manners = Manners.HONEST,
    private: bytes | None = None,
) -> AsyncIterator[Feeder]:
    """Connect a feeder and let it answer meanwhile."""
    async with await GossipPeer.connect(node_id, "127.0.0.1", port, private=private) as peer:
        await peer.init(GOSSIP_FEATURES)
        feeder = Feeder(peer, network, manners)
        task = asyncio.create_task(feeder.run())
        try:
            yield feeder
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def serving(
    private: bytes, network: Network, *, manners: Manners = Manners.HONEST
) -> AsyncIterator[tuple[int, "asyncio.Queue[Feeder]"]]:
    """Listen as a node that knows a network; yields the port and a queue of who connected."""
    arrived: asyncio.Queue[Feeder] = asyncio.Queue()
    open_writers: set[asyncio.StreamWriter] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            peer = await GossipPeer.accept(private, reader, writer)
            await peer.init(GOSSIP_FEATURES)
            feeder = Feeder(peer, network, manners)
            arrived.put_nowait(feeder)
            await feeder.run()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], arrived
    finally:
        server.close()
        for writer in open_writers:
            writer.close()


# --- asking -------------------------------------------------------------------------------------


class Observer:
    """A peer that wants to know the whole table; use `observing`.

    Attributes:
        peer: the connection.
        told: everything it was told.
        range_s: how long the last `query_channel_range` took, to the last reply.
    """

    def __init__(self, peer: GossipPeer) -> None:
        self.peer = peer
        self.told = Told()
        self.range_s = 0.0

    async def ask_range(
        self,
        first_blocknum: int = 0,
        number_of_blocks: int = 0xFFFFFFFF,
        *,
        with_all: bool = True,
        timeout_s: float = 60.0,
    ) -> dict[int, tuple[int, int, int, int] | None]:
        """Return the channels of a range of blocks, with timestamps and checksums if wanted.

        Raises:
            AssertionError: the replies are not what BOLT 7 asks for.
        """
        began = time.perf_counter()
        query = QueryChannelRange(
            chain_hash=REGTEST.chain_hash,
            first_blocknum=first_blocknum,
            number_of_blocks=number_of_blocks,
            query_option=3 if with_all else None,
        )
        await self.peer.send(query)
        found: dict[int, tuple[int, int, int, int] | None] = {}
        last = None
        while last is None or not last.sync_complete:
            reply = await self._expect(ReplyChannelRange, timeout_s)
            assert reply.chain_hash == REGTEST.chain_hash
            if last is None:
                assert reply.first_blocknum <= first_blocknum
                assert reply.first_blocknum + reply.number_of_blocks > first_blocknum
            else:
                assert reply.first_blocknum >= last.first_blocknum
            scids = decode_short_ids(reply.encoded_short_ids)
            assert scids == sorted(set(scids)), "not ascending"
            assert not found.keys() & set(scids), "a channel twice"
            found.update(zip(scids, _extra(reply, len(scids)), strict=True))
            last = reply
        end = last.first_blocknum + last.number_of_blocks
        assert end >= min(first_blocknum + number_of_blocks, 0xFFFFFFFF)
        self.range_s = time.perf_counter() - began
        return found

    async def ask_channels(
        self, scids: Sequence[int], flags: int | None = None, *, timeout_s: float = 60.0
    ) -> None:
        """Ask for channels and take what comes, up to the end that the other side says."""
        query = QueryShortChannelIds(
            chain_hash=REGTEST.chain_hash,
            encoded_short_ids=encode_short_ids(scids),
            query_flags=None if flags is None else encode_query_flags([flags] * len(scids)),
        )
        await self.peer.send(query)
        end = await self._expect(ReplyShortChannelIdsEnd, timeout_s)
        assert end.chain_hash == REGTEST.chain_hash

    async def ask_for_everything(self, *, timeout_s: float = 60.0) -> Told:
        """Learn the whole table by queries."""
        async with asyncio.timeout(timeout_s):
            scids = sorted(await self.ask_range(timeout_s=timeout_s))
            for batch in _batches(scids, _ASKED_CHANNELS):
                await self.ask_channels(batch, timeout_s=timeout_s)
        return self.told

    async def filter(self, first_timestamp: int = 0, timestamp_range: int = ALL_TIME) -> None:
        """Say which gossip is wanted from now on; by default all."""
        wanted = GossipTimestampFilter(
            chain_hash=REGTEST.chain_hash,
            first_timestamp=first_timestamp,
            timestamp_range=timestamp_range,
        )
        await self.peer.send(wanted)

    async def listen_for(self, network: Network, *, timeout_s: float = 60.0) -> Told:
        """Take what comes until it is as much as the network, or for that long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.told.holds(network):
                    await self._take(timeout_s)
        return self.told

    async def listen(self, for_s: float) -> Told:
        """Take what comes for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                while True:
                    await self._take(for_s)
        return self.told

    async def _take(self, timeout_s: float) -> Message | None:
        raw = await self.peer.receive_raw(timeout_s)
        if int.from_bytes(raw[:2], "big") in _ANNOUNCEMENTS:
            self.told.add(raw)
            return None
        message = decode(raw)
        await self._know_nothing(message)
        return message

    async def _know_nothing(self, question: Message | None) -> None:
        """Answer a query as a node does that has no table."""
        match question:
            case QueryChannelRange():
                reply = ReplyChannelRange(
                    chain_hash=question.chain_hash,
                    first_blocknum=question.first_blocknum,
                    number_of_blocks=question.number_of_blocks,
                    sync_complete=1,
                    encoded_short_ids=encode_short_ids([]),
                )
                await self.peer.send(reply)
            case QueryShortChannelIds():
                chain_hash = question.chain_hash
                end = ReplyShortChannelIdsEnd(chain_hash=chain_hash, full_information=0)
                await self.peer.send(end)
            case _:
                pass

    async def _expect(self, kind, timeout_s: float):
        """Return the next message of a kind; announcements and queries may come before it."""
        while True:
            message = await self._take(timeout_s)
            if isinstance(message, kind):
                return message
            allowed = (QueryChannelRange, QueryShortChannelIds, GossipTimestampFilter)
            assert message is None or isinstance(message, allowed), f"{message!r}"


def _extra(reply: ReplyChannelRange, count: int) -> list[tuple[int, int, int, int] | None]:
    if reply.timestamps_tlv is None or reply.checksums_tlv is None:
        return [None] * count
    timestamps = decode_timestamps(reply.timestamps_tlv)
    sums = reply.checksums_tlv
    assert len(timestamps) == len(sums) == count
    return [
        (*times, each.checksum_node_id_1, each.checksum_node_id_2)
        for times, each in zip(timestamps, sums, strict=True)
    ]


@asynccontextmanager
async def observing(
    node_id: bytes, port: int, *, private: bytes | None = None
) -> AsyncIterator[Observer]:
    """Connect an observer."""
    async with await GossipPeer.connect(node_id, "127.0.0.1", port, private=private) as peer:
        await peer.init(GOSSIP_FEATURES)
        yield Observer(peer)


def _batches(items: Iterable, size: int = _BATCH) -> Iterator[tuple]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch
