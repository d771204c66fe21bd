"""The back dies by kill -9, freezes or stops in the middle of payments: no money is lost."""

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from support.hostile import HostilePeer, bitcoind  # noqa: F401 - a fixture
from support.lightning_peer import PeerClosed
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.channel.events import OfferHtlc
from back.demo.cluster import Cluster, until
from back.demo.process import spawn
from shared import bolt11
from shared.children import free_port
from shared.errors import CommandError

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

DYING = Path(__file__).parents[1] / "support" / "dying_back.py"
SEED = 20240607
LOST = (PeerClosed, CommandError, OSError, TimeoutError, aiohttp.ClientError, AssertionError)
"""What a dying server looks like; nothing of it may look like a broken rule."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Cluster]:
    """One node for all tests of this file."""
    folder = tmp_path_factory.mktemp("kill-back")
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    async with squall_node(bitcoind, folder, settings=settings, fund_btc=1) as node:
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peer(node: Cluster, bitcoind: Regtest) -> AsyncIterator[HostilePeer]:  # noqa: F811
    """An honest peer with a channel, for all tests of this file."""
    peer = HostilePeer(node, bitcoind, "honest")
    await peer.connect()
    await peer.open_channel()
    yield peer
    await peer.close()


async def start_dying_back(node: Cluster, effects: int) -> None:
    """Start a back that dies before its n-th effect from now."""
    before, node.back = node.back, None
    assert before is None or not before.is_running
    node.back = await spawn(
        "a dying back",
        [sys.executable, str(DYING), str(effects)],
        node.back_environment(),
        node.logs / "back.log",
    )


async def has_started(node: Cluster) -> bool:
    """Whether the back answers; False as well if it died already."""
    assert node.back is not None
    if not node.back.is_running:
        return True
    return bool((await node.call("getinfo"))["nodeId"])


async def comes_back(peer: HostilePeer) -> None:
    """Reestablish, however often the back dies under it."""

    async def is_there() -> bool:
        try:
            await peer.reestablish()
        except LOST:
            return False
        return True

    await until("the channel again", is_there, 30)


async def kill(node: Cluster) -> None:
    """Kill the back, if it lives."""
    assert node.back is not None
    node.back.kill()
    await node.back.wait()


async def restart(node: Cluster) -> None:
    """Kill the back and start it as usual."""
    await kill(node)
    await node.start_back()


@dataclass
class Book:
    """Payments both ways, and what must have become of them."""

    peer: HostilePeer
    before_msat: int
    offers: list[OfferHtlc] = field(default_factory=list)
    bills: list[bolt11.Invoice] = field(default_factory=list)

    async def pay(self) -> None:
        """Start one payment each way; whoever dies meanwhile."""
        peer = self.peer
        self.offers.append(await peer.offer(1_000_000 + len(self.offers)))
        bill = peer.bill(400_000 + len(self.bills))
        self.bills.append(bolt11.decode(bill))
        await peer.say(*peer.do(self.offers[-1]))
        await peer.node.call("payinvoice", invoice=bill)

    async def is_balanced(self) -> None:
        """Every payment has one outcome on both sides, and the money is where they say."""
        peer = self.peer
        moved = 0
        for offer in self.offers:
            got = await peer.node.call("getreceivedinfo", paymentHash=offer.payment_hash.hex())
            moved -= (got["status"]["type"] == "received") * offer.amount_msat
        for bill in self.bills:
            tried = await peer.node.call("getsentinfo", paymentHash=bill.payment_hash.hex())
            if tried and await peer.outcome(bill.payment_hash) == "sent":
                moved += bill.amount_msat or 0
        assert peer.core.channel.local_msat == self.before_msat + moved
        assert await peer.balance_at_squall() == peer.core.channel.remote_msat


async def while_it_lives(node: Cluster, work: Coroutine[None, None, None]) -> None:
    """Work until it is done or the back is dead, whatever that looks like."""
    assert node.back is not None
    working = asyncio.create_task(work)
    dead = asyncio.create_task(node.back.process.wait())
    await asyncio.wait({working, dead}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, dead):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, *LOST):
        await working


async def test_a_back_that_dies_after_each_commit_before_its_effects_loses_nothing(
    node: Cluster, peer: HostilePeer
) -> None:
    """First it dies while it starts, then in the reestablish, then in the payments."""
    book = Book(peer, peer.core.channel.local_msat)

    async def work() -> None:
        await peer.reestablish()
        await book.pay()
        await peer.talk_until(lambda: len(peer.core.channel.htlcs) > 1)
        await peer.finish()

    deaths = 0
    await kill(node)
    for effects in range(0, 30, 2):
        await start_dying_back(node, effects)
        await until("a back, dead or alive", lambda: has_started(node))
        await while_it_lives(node, work())
        assert node.back is not None
        deaths += not node.back.is_running
        await kill(node)
    assert deaths >= 9
    await node.start_back()
    await comes_back(peer)
    await peer.finish()
    await book.is_balanced()
    await peer.works()


async def test_a_back_killed_at_random_times_loses_nothing(
    node: Cluster, peer: HostilePeer
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    book = Book(peer, peer.core.channel.local_msat)

    async def work() -> None:
        while True:
            await book.pay()
            await peer.talk(0.01)

    for _ in range(5):
        assert node.back is not None
        asyncio.get_running_loop().call_later(chance.uniform(0.02, 0.3), node.back.kill)
        await while_it_lives(node, work())
        await restart(node)
        await comes_back(peer)
        await peer.finish()
        await book.is_balanced()
    assert len(book.offers) > 5
    await peer.works()


async def test_a_frozen_back_goes_on_with_the_same_connections(
    node: Cluster, peer: HostilePeer
) -> None:
    wire = peer.wire
    assert node.back is not None
    child = node.back

    def strike() -> bool:
        child.signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(4.0, child.signal, signal.SIGCONT)
        return True

    peer.strike = strike
    assert not await peer.pay_both_ways_and_die({"said": 2}, peer.finish)
    await peer.works()
    assert peer.wire is wire


async def test_a_back_told_to_stop_keeps_what_is_pending_for_its_next_start(
    node: Cluster, peer: HostilePeer
) -> None:
    received = await peer.be_paid(700_000)
    assert node.back is not None
    node.back.signal(signal.SIGTERM)
    assert await node.back.wait() == 0
    # The front keeps the peer meanwhile; what it says now waits for nobody.
    await node.start_back()
    await comes_back(peer)
    await peer.say(*peer.do(peer.settlement(received)))
    await peer.quiet()
    assert await peer.outcome(received.htlc.payment_hash) == "sent"
    await peer.works()


async def test_a_standby_takes_over_from_a_killed_back(node: Cluster, peer: HostilePeer) -> None:
    received = await peer.be_paid(300_000)
    port, metrics_port = free_port(), free_port()
    environment = {
        **node.back_environment(),
        "SQUALL_BACK_NAME": "standby",
        "SQUALL_BACK_API_LISTEN": f"127.0.0.1:{port}",
        "SQUALL_BACK_METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
    }
    standby = await spawn(
        "standby", [sys.executable, "-m", "back"], environment, node.logs / "sb.log"
    )

    async def waits() -> bool:
        return "back_starting" in (node.logs / "sb.log").read_text()

    await until("the standby", waits)
    assert standby.is_running
    await kill(node)
    node.back, node.api_port, node.metrics_port = standby, port, metrics_port
    await until("the standby's API", lambda: has_started(node), 10)
    await comes_back(peer)
    await peer.say(*peer.do(peer.settlement(received)))
    await peer.quiet()
    assert await peer.outcome(received.htlc.payment_hash) == "sent"
    await peer.works()
