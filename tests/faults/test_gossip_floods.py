"""Peers that send what is invalid, or ask without reading: the others do not notice."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.gossip_nodes import complete, gossip_node, shape, where
from support.gossip_peers import (
    GOSSIP_FEATURES,
    GossipPeer,
    feeding,
    observing,
    send_at_rate,
    spoiled,
)
from support.hostile import HostilePeer
from support.lightning_peer import PeerClosed
from support.network import Network, Shape, generate, recently
from support.network_on_chain import on_chain
from support.network_signing import seeded

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, Front
from shared.chain import REGTEST
from shared.gossip.view import update_timestamp
from shared.wire import (
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    Warning as WarningMessage,
    encode,
)
from shared.wire.query import encode_short_ids

pytestmark = pytest.mark.timeout(180)

PER_S = 1_000
FLOOD_S = 6
MORE_MEMORY_KB = 60_000


def rubbish(known: Network, other: Network) -> Iterator[bytes]:
    """Announcements with a wrong signature, none twice.

    Of channels and nodes that nobody knows, and newer updates of channels that everybody knows.
    """
    raws = [*other.messages(), *(later(raw) for raw in known.updates.values())]
    chance = seeded("rubbish")
    for number in itertools.count():
        yield spoiled(chance.choice(raws), number)


def later(update: bytes) -> bytes:
    """An update with a newer timestamp, which makes its signature wrong."""
    seconds = update_timestamp(update) + 60
    return update[:106] + seconds.to_bytes(4, "big") + update[110:]


@asynccontextmanager
async def pinging(node: Cluster, front: Front) -> AsyncIterator[list[float]]:
    """Let a peer ping all the while; yields how long its pongs took."""
    took: list[float] = []

    async def ping(peer: GossipPeer) -> None:
        while True:
            took.append(await peer.ping_s())
            await asyncio.sleep(0.3)

    async with observing(*where(node, front)) as observer:
        task = asyncio.create_task(ping(observer.peer))
        try:
            yield took
            if task.done():
                task.result()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def flood_until(end: float, node: Cluster, front: Front, rest: Iterator[bytes]) -> list[str]:
    """Send rubbish as a stranger, coming back when thrown out; returns the warnings heard."""
    warnings: list[str] = []
    while time.monotonic() < end:
        peer = await GossipPeer.connect(*_at(where(node, front)))
        with suppress(PeerClosed):
            await peer.init(GOSSIP_FEATURES)
            flooding = asyncio.create_task(_flood(peer, rest, end))
            with suppress(TimeoutError):
                while True:
                    await peer.receive_raw(end - time.monotonic() + 1)
        flooding.cancel()
        with suppress(PeerClosed, asyncio.CancelledError):
            await flooding
        warnings += [m.data.decode() for m in peer.seen if isinstance(m, WarningMessage)]
        await peer.close()
    return warnings


async def _flood(peer, rest: Iterator[bytes], end: float) -> None:
    while time.monotonic() < end:
        await send_at_rate(peer, itertools.islice(rest, PER_S // 4), PER_S)


async def told(partner: HostilePeer) -> list[str]:
    """Read what came during the flood; returns the warnings."""
    warnings = []
    with suppress(TimeoutError):
        while True:
            message = await partner.listen(1.0)
            if isinstance(message, WarningMessage):
                warnings.append(message.data.decode())
            else:
                await partner.say(*partner._honestly(message))
    return warnings


def _at(place: tuple[bytes, int]) -> tuple[bytes, str, int]:
    node_id, port = place
    return node_id, "127.0.0.1", port


async def test_a_thousand_invalid_announcements_a_second_harm_only_the_stranger_who_sends_them(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
):
    network = await on_chain(bitcoind, shape(300), recently())
    made_up = await asyncio.to_thread(
        generate, Shape(channels=300, nodes=100, seed=9), recently(), first_block=3
    )
    async with gossip_node(bitcoind, tmp_path, minimum_depth=1) as node:
        (front,) = node.fronts.values()
        partner = HostilePeer(node, bitcoind, "partner")
        wire = await partner.connect()
        await partner.open_channel()
        end = time.monotonic() + FLOOD_S
        async with feeding(*where(node, front), network) as honest, pinging(node, front) as pongs:
            rest = rubbish(network, made_up)
            warnings, _, _ = await asyncio.gather(
                flood_until(end, node, front, rest),
                _flood(wire, rest, end),
                honest.feed(per_s=300),
            )
            await complete(node, front, network)
            assert not honest.is_closed.is_set()
        assert len(pongs) > 1
        assert warnings
        # who has a channel is told, and stays: the connection is the one of before
        assert await told(partner)
        await partner.works()
        assert partner.wire is wire
        await partner.close()


async def test_who_asks_for_everything_and_never_reads_costs_little_and_delays_nobody(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
):
    network = await on_chain(bitcoind, shape(1_500), recently())
    async with gossip_node(bitcoind, tmp_path) as node:
        (front,) = node.fronts.values()
        async with feeding(*where(node, front), network) as feeder:
            await feeder.feed()
            await complete(node, front, network)
        before = memory_kb(front)
        peers = [await GossipPeer.connect(*_at(where(node, front))) for _ in range(3)]
        async with pinging(node, front) as pongs:
            for peer in peers:
                await peer.init(GOSSIP_FEATURES)
            end = time.monotonic() + FLOOD_S
            await asyncio.gather(*(ask_and_never_read(peer, network, end) for peer in peers))
            grown = memory_kb(front) - before
            # an honest peer is served at once meanwhile
            await complete(node, front, network, within_s=20)
        assert len(pongs) > 1
        assert grown < MORE_MEMORY_KB
        for peer in peers:
            await peer.close()


async def ask_and_never_read(peer: GossipPeer, network: Network, end: float) -> None:
    """Ask all questions again and again, also before they are answered, and leave all unread."""
    questions = (
        QueryChannelRange(
            chain_hash=REGTEST.chain_hash,
            first_blocknum=0,
            number_of_blocks=0xFFFFFFFF,
            query_option=3,
        ),
        QueryShortChannelIds(
            chain_hash=REGTEST.chain_hash, encoded_short_ids=encode_short_ids([*network.channels])
        ),
        GossipTimestampFilter(
            chain_hash=REGTEST.chain_hash, first_timestamp=0, timestamp_range=0xFFFFFFFF
        ),
    )
    raws = [encode(question) for question in questions]
    with suppress(OSError, TimeoutError):
        while time.monotonic() < end:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + FLOOD_S):
                await peer.send_bytes(*raws)
            await asyncio.sleep(0.02)


def memory_kb(front: Front) -> int:
    """Resident memory of a front's own process."""
    for line in Path(f"/proc/{front.child.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")
