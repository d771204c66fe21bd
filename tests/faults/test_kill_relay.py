"""The back of a relaying node dies in the middle of forwards: none is forgotten, none goes twice.

The peers on both sides are scripted, so that each HTLC is seen at both ends: by its hash at most
one comes out, each has one outcome, and what the node earned is what its forwards paid.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support import postgres
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.relay_ends import End, Sent, relay_ends
from support.squall import squall_node
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until as whatever_dies
from back.demo.process import spawn

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

DYING = Path(__file__).parents[1] / "support" / "dying_back.py"
SEED = 20240618
LARGE_MSAT, SMALL_MSAT = 4_000_000, 100_000
"""One has an output in the commitments, the other has none."""


@dataclass
class Scene:
    """A relaying node between two peers that pay each other through it.

    Attributes:
        sent: (payer, payee, HTLC) of every forward that was asked for.
        earned_msat: balance of the node before the first of them.
    """

    node: Cluster
    bitcoind: Regtest
    ends: list[End]
    sent: list[tuple[End, End, Sent]] = field(default_factory=list)
    earned_msat: int = 0

    async def pay(self, count: int = 1) -> None:
        """Ask for forwards in both directions: large and small, to be paid and to be failed."""
        height = await self.bitcoind.height()
        for number in range(len(self.sent), len(self.sent) + count):
            payer, payee = self.ends[:: 1 if number % 2 else -1]
            amount = (SMALL_MSAT if number % 3 == 0 else LARGE_MSAT) + number
            sent = payer.send(payee, amount, height=height, is_known=number % 4 != 0)
            self.sent.append((payer, payee, sent))

    async def balance_msat(self) -> int:
        """Of the node, over both channels; nothing may be pending."""
        return sum([await end.balance_at_squall() for end in self.ends])

    async def is_settled(self) -> Counter[str]:
        """Check that every HTLC ended once and alike at both ends, and the fees add up."""
        for end in self.ends:
            await end.is_online(60)
            await end.all_ended()
            assert not end.complaints, end.complaints
            came = Counter(htlc.payment_hash for htlc in end.received)
            assert not came or max(came.values()) == 1, "an HTLC was forwarded twice"
        tally: Counter[str] = Counter()
        moved = dict.fromkeys(map(id, self.ends), 0)
        for payer, payee, sent in self.sent:
            is_paid = payer.outcomes[sent.origin].paid
            came = [h for h in payee.received if h.payment_hash == sent.payment_hash]
            assert not is_paid or (came and sent.payment_hash in payee.preimages)
            assert is_paid or not came or sent.payment_hash not in payee.preimages, "unpaid claim"
            tally["paid" if is_paid else "failed"] += 1
            if is_paid:
                tally["fee_msat"] += sent.fee_msat
                moved[id(payer)] -= sent.amount_msat + sent.fee_msat
                moved[id(payee)] += sent.amount_msat
        assert sum(moved.values()) == -tally["fee_msat"]
        assert await self.balance_msat() == self.earned_msat + tally["fee_msat"]
        for end in self.ends:
            assert await end.balance_at_squall() == end.core.channel.remote_msat
        return tally

    async def kill(self) -> None:
        """Kill -9 the back, if it lives."""
        assert self.node.back is not None
        self.node.back.kill()
        await self.node.back.wait()

    async def restart(self) -> None:
        """Kill it, and start it as usual."""
        await self.kill()
        await self.node.start_back()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    request: pytest.FixtureRequest,
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Scene]:
    """One node with two peers for all tests of this file, on each kind of database."""
    folder = tmp_path_factory.mktemp("kill-relay")
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1", "SQUALL_BACK_LOG_LEVEL": "INFO"}
    if request.param == "postgresql":
        settings["SQUALL_BACK_DATABASE_URL"] = postgres.shared_server().new_database()
    async with (
        squall_node(bitcoind, folder, settings=settings) as node,
        relay_ends(node, bitcoind, ("west", "east"), funding_satoshis=5_000_000,
                   push_msat=2_500_000_000) as ends,
    ):  # fmt: skip
        scene = Scene(node, bitcoind, ends)
        scene.earned_msat = await scene.balance_msat()
        yield scene


SQLITE = pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
EACH = pytest.mark.parametrize("scene", ["sqlite", "postgresql"], indirect=True)


async def start_dying_back(node: Cluster, effects: int) -> None:
    """Start a back that dies before its n-th effect from now."""
    node.back = await spawn(
        "a dying back",
        [sys.executable, str(DYING), str(effects)],
        node.back_environment(),
        node.logs / "back.log",
    )


@SQLITE
async def test_a_back_that_dies_after_each_commit_before_its_effects_forwards_all_once(
    scene: Scene,
) -> None:
    """It dies while it starts, in the reestablish, and at each step of the forwards."""
    node = scene.node
    await scene.kill()
    for effects in range(3, 59, 7):
        await start_dying_back(node, effects)
        assert node.back is not None
        dead = asyncio.create_task(node.back.wait(15))
        while not dead.done():
            if sum(len(end.pending) for end in scene.ends) < 8:
                await scene.pay(2)
            await asyncio.wait({dead}, timeout=0.1)
        await dead
    await node.start_back()
    tally = await scene.is_settled()
    assert tally["paid"]


@EACH
async def test_a_back_killed_at_random_times_forwards_all_once(scene: Scene) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret
    for _ in range(4):
        for end in scene.ends:
            await end.is_online(60)
        await scene.pay(20)
        await asyncio.sleep(chance.uniform(0.01, 0.35))
        await scene.restart()
    tally = await scene.is_settled()
    assert tally["paid"] > 25
    before = tally["paid"]
    await scene.pay(20)
    assert (await scene.is_settled())["paid"] == before + 15


@EACH
async def test_what_is_held_downstream_while_the_back_dies_is_settled_after(scene: Scene) -> None:
    """The payee decides while there is no back, and the payer is away when it is told."""
    payer, payee = scene.ends
    held: list[Any] = []
    payee.decide = held.append
    for end in scene.ends:
        await end.is_online(60)
    height = await scene.bitcoind.height()
    for number in range(4):
        sent = payer.send(payee, LARGE_MSAT + number, height=height, is_known=number != 0)
        scene.sent.append((payer, payee, sent))
    await until(lambda: len(held) == 4, "the HTLCs at the payee")
    await scene.kill()
    payee.decide = payee.claim_or_fail
    await payer.stay_away()
    for htlc in held:
        payee.post(payee.claim_or_fail(htlc))
    await scene.node.start_back()
    await payee.is_online(60)
    await until(lambda: payee.core.is_quiet, "the payee has its money", 30)
    assert len(payer.pending) == 4
    await scene.restart()
    payer.is_paused = False
    await scene.is_settled()


@SQLITE
async def test_a_standing_load_survives_the_death_of_front_and_back(scene: Scene) -> None:
    """The payers never wait for each other; parts die under them."""
    node = scene.node
    await scene.pay(10)

    async def load() -> None:
        while True:
            pending = sum(len(end.pending) for end in scene.ends)
            await scene.pay(max(0, 20 - pending))
            await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    await asyncio.sleep(0.4)
    name, front = next(iter(node.fronts.items()))
    front.child.kill()
    await front.child.wait()
    await node.start_front(name, front.port)
    for end in scene.ends:
        await end.is_online(60)
    await asyncio.sleep(0.4)
    await scene.restart()
    for end in scene.ends:
        await end.is_online(60)
    await asyncio.sleep(0.4)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)

    async def audited() -> bool:
        return bool(await node.call("getinfo"))

    await whatever_dies("the back", audited)
    await scene.is_settled()
