"""Fronts and the broker die by kill -9 in the middle of payments: nothing is lost, all goes on."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.hostile import HostilePeer, bitcoind  # noqa: F401 - a fixture
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, Front

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Cluster]:
    """One node with two fronts for all tests of this file."""
    folder = tmp_path_factory.mktemp("kill-front")
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    async with squall_node(bitcoind, folder, fronts=2, settings=settings, fund_btc=1) as node:
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def peer(node: Cluster, bitcoind: Regtest) -> AsyncIterator[HostilePeer]:  # noqa: F811
    """An honest peer with a channel."""
    peer = HostilePeer(node, bitcoind, "honest")
    await peer.connect()
    await peer.open_channel()
    yield peer
    await peer.close()


class Reaper:
    """Kills the front that carries the peer; the other one takes over, the dead one comes back."""

    def __init__(self, node: Cluster, peer: HostilePeer) -> None:
        self.node = node
        self.peer = peer
        self.reviving: asyncio.Task[Front] | None = None

    @property
    def carrier(self) -> str:
        """Name of the front that the peer connects to."""
        return next(iter(self.node.fronts))

    def strike(self) -> None:
        """Kill it."""
        name = self.carrier
        front = self.node.fronts.pop(name)
        front.child.kill()
        self.reviving = asyncio.create_task(self.revive(front))

    async def revive(self, front: Front) -> Front:
        """Start it again at the same address."""
        await front.child.wait()
        return await self.node.start_front(front.name, front.port)

    async def recover(self) -> None:
        """The peer sees its connection end and comes back through the other front."""
        assert self.peer.wire is not None
        await self.peer.wire.expect_closed(5)
        await self.peer.reestablish()

    async def settle(self) -> None:
        """Wait for the front that was killed last."""
        if self.reviving is not None:
            await self.reviving
            self.reviving = None


@pytest.mark.parametrize("what", ["said", "heard"])
async def test_a_front_killed_between_any_two_messages_loses_nothing(
    node: Cluster, peer: HostilePeer, what: str
) -> None:
    reaper = Reaper(node, peer)
    peer.strike = reaper.strike
    kills = 0
    while await peer.pay_both_ways_and_die({what: kills}, reaper.recover):
        kills += 1
        await reaper.settle()
    assert kills >= 6
    await peer.works()


async def test_both_fronts_killed_at_once_lose_nothing(node: Cluster, peer: HostilePeer) -> None:
    fronts = list(node.fronts.values())

    def strike() -> None:
        for front in fronts:
            front.child.kill()

    async def recover() -> None:
        for front in fronts:
            await front.child.wait()
            node.fronts.pop(front.name)
            await node.start_front(front.name, front.port)
        await peer.reestablish()

    peer.strike = strike
    assert await peer.pay_both_ways_and_die({"said": 3}, recover)
    await peer.works()


async def test_a_front_told_to_stop_in_the_middle_of_payments_loses_nothing(
    node: Cluster, peer: HostilePeer
) -> None:
    name = next(iter(node.fronts))
    front = node.fronts[name]

    async def recover() -> None:
        assert await front.child.wait() == 0
        node.fronts.pop(name)
        await peer.reestablish()

    peer.strike = lambda: front.child.signal(signal.SIGTERM)
    assert await peer.pay_both_ways_and_die({"heard": 2}, recover)
    await peer.works()
    await node.start_front(name, front.port)


@pytest.mark.parametrize("allowed", range(0, 9, 2))
async def test_a_broker_killed_in_the_middle_of_payments_drops_no_peer(
    node: Cluster, peer: HostilePeer, allowed: int
) -> None:
    """The same connection, no reestablish: sessions resume by number."""
    wire = peer.wire
    restarting: list[asyncio.Task[None]] = []

    def strike() -> bool:
        restarting.append(asyncio.create_task(node.restart_nats()))
        return True

    peer.strike = strike
    assert not await peer.pay_both_ways_and_die({"said": allowed}, peer.finish)
    (restarted,) = restarting
    await restarted
    await peer.works()
    assert peer.wire is wire


@pytest.mark.parametrize("for_s", [1.5, 4.0])
async def test_a_frozen_broker_drops_no_peer(
    node: Cluster, peer: HostilePeer, for_s: float
) -> None:
    """Shorter than its clients' patience, and longer: they try to connect to it in vain."""
    wire = peer.wire
    assert node.nats is not None
    broker = node.nats.process

    def strike() -> bool:
        broker.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(for_s, broker.send_signal, signal.SIGCONT)
        return True

    peer.strike = strike
    assert not await peer.pay_both_ways_and_die({"said": 2}, peer.finish)
    await peer.works()
    assert peer.wire is wire
