"""Payments of LDK to LDK through us: both ways, in parts, and while our processes are killed."""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import Ldk, LdkError, ldk_node, needs_ldk
from support.squall import squall_msat, squall_node
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until as whatever_dies

pytestmark = [needs_ldk, pytest.mark.timeout(300)]

SAT = 1_000_000
CHANNELS = 2
"""Between us and each of the two."""
COUNT = 200
AT_ONCE = 20
FRONT_DIES_AFTER, BACK_DIES_AFTER = 60, 120
QUICK = {"SQUALL_FRONT_GOSSIP_FLUSH_S": "0.5"}
SEED = 20240611
PARTS_WAIT_TICKS = 4


@dataclass
class Between:
    """We between two LDK nodes, with announced channels of which half belongs to either side.

    Attributes:
        earned_from: our balance over all channels at the start.
        payments: (payer, payee, payment hash) of each payment that was begun.
    """

    bitcoind: Regtest
    node: Cluster
    west: Ldk
    east: Ldk
    earned_from: int = 0
    payments: list[tuple[Ldk, Ldk, str]] = field(default_factory=list)

    async def connect(self) -> None:
        """Open the channels, and wait until both know them all by gossip."""
        for ldk in (self.west, self.east):
            # We dial: so it is we who come back after a death.
            await self.node.call("connect", uri=ldk.address)
            await until(lambda ldk=ldk: ldk("peers"), "the connection at LDK")
            for _ in range(CHANNELS):
                await ldk("open", node_id=self.node.node_id, sats=SAT, push_msat=SAT * 500)
        await until(self._are_published, "four funding transactions")
        await self.bitcoind.mine(6)
        for ldk in (self.west, self.east):
            await ldk("sync")
            await ldk.usable_channels(CHANNELS)
        for ldk in (self.west, self.east):
            await until(lambda ldk=ldk: self._knows_the_way(ldk), "both see all channels", 60)
        self.earned_from = await self.balance_msat()

    async def _are_published(self) -> bool:
        return len(await self.bitcoind.mempool()) >= 2 * CHANNELS

    async def _knows_the_way(self, ldk: Ldk) -> bool:
        channels = (await ldk("graph"))["channels"]
        ways = [c for c in channels if c["one_to_two"] and c["two_to_one"]]
        return len(ways) == 2 * CHANNELS

    async def channels(self) -> dict[str, dict[str, Any]]:
        """Our channels by id."""
        return {c["channelId"]: c for c in await self.node.call("channels")}

    async def balance_msat(self) -> int:
        """Ours, over all channels."""
        return sum(int(_spec(c)["toLocal"]) for c in (await self.channels()).values())

    async def pay(self, payer: Ldk, payee: Ldk, amount_msat: int, **options: Any) -> dict[str, Any]:
        """Have one pay the other; return what the payer says."""
        invoice = await payee("invoice", msat=amount_msat)
        self.payments.append((payer, payee, invoice["payment_hash"]))
        return dict(await payer("pay", bolt11=invoice["bolt11"], **options))

    async def is_settled(self) -> Counter[str]:
        """Check that every payment ended alike at both ends, and every msat is accounted for.

        Returns:
            How many payments ended how, and what they paid us: ``sent``, ``failed``, ``fee_msat``.
        """
        tally: Counter[str] = Counter()
        for payer, payee, payment_hash in self.payments:
            paid = await _end(payer, payee, payment_hash)
            got = await _payment(payee, payment_hash, "in")
            assert (paid["status"] == "sent") == (got["status"] == "claimed"), (paid, got)
            tally[paid["status"]] += 1
            tally["fee_msat"] += paid["fee_msat"] if paid["status"] == "sent" else 0
        await until(self._balances_agree, "equal balances and nothing pending", 60)
        assert await self.balance_msat() == self.earned_from + tally["fee_msat"]
        books = await self.node.call("audit", to=int(time.time()) + 60)
        assert sum(map(_earned_msat, books["relayed"])) == tally["fee_msat"]
        return tally

    async def _balances_agree(self) -> bool:
        ours = await self.channels()
        theirs = [c for ldk in (self.west, self.east) for c in await ldk("channels")]
        return len(ours) == len(theirs) == 2 * CHANNELS and all(
            not _spec(ours[c["channel_id"]])["htlcs"]
            and c["pending_in_htlcs"] == c["pending_out_htlcs"] == 0
            and int(_spec(ours[c["channel_id"]])["toLocal"]) == squall_msat(c)
            for c in theirs
        )

    async def ready(self, ldk: Ldk) -> None:
        """Wait until all channels of one side may be used, by both ends."""

        async def is_ready() -> bool:
            states = [c["state"] for c in (await self.channels()).values()]
            return states == ["NORMAL"] * 2 * CHANNELS and all(
                c["is_usable"] for c in await ldk("channels")
            )

        # The back may die under the question.
        await whatever_dies("channels that may be used", is_ready, 60)


def _spec(channel: dict[str, Any]) -> dict[str, Any]:
    return dict(channel["data"]["commitments"]["active"][0]["localCommit"]["spec"])


def _earned_msat(relayed: dict[str, Any]) -> int:
    """Of one relayed HTLC in the books."""
    came, went = (sum(part["amount"] for part in relayed[k]) for k in ("incoming", "outgoing"))
    return int(came - went)


async def _payment(ldk: Ldk, payment_hash: str, direction: str) -> dict[str, Any]:
    (found,) = [
        p
        for p in await ldk("payments")
        if p["payment_hash"] == payment_hash and p["direction"] == direction
    ]
    return dict(found)


async def _end(payer: Ldk, payee: Ldk, payment_hash: str) -> dict[str, Any]:
    """Wait for the end of a payment.

    An LDK that got only some parts waits for the others for three ticks, of a minute each.
    """

    async def ended() -> dict[str, Any]:
        paid = await _payment(payer, payment_hash, "out")
        return paid if paid["status"] in {"sent", "failed"} else {}

    for _ in range(PARTS_WAIT_TICKS):
        with contextlib.suppress(AssertionError):
            return dict(await until(ended, "the end of a payment", 5))
        await payee("tick")
    return dict(await until(ended, f"the end of {payment_hash}", 60))


@pytest.fixture
async def between(bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[Between]:  # noqa: F811
    """The three nodes."""
    async with AsyncExitStack() as stack:
        west = await stack.enter_async_context(
            ldk_node(bitcoind, tmp_path / "west", anchors=True, alias="west")
        )
        east = await stack.enter_async_context(
            ldk_node(bitcoind, tmp_path / "east", anchors=True, alias="east")
        )
        node = await stack.enter_async_context(
            squall_node(bitcoind, tmp_path, fronts=2, front_settings=QUICK)
        )
        scene = Between(bitcoind, node, west, east)
        await scene.connect()
        yield scene


async def test_ldk_pays_ldk_through_us_both_ways_whole_and_in_parts(between: Between) -> None:
    west, east = between.west, between.east
    for payer, payee in ((west, east), (east, west)):
        for amount_msat in (1_000, 2_500_000, 60_000_000):
            paid = await between.pay(payer, payee, amount_msat)
            assert paid["status"] == "sent", paid
    # More than either channel of the payer can carry.
    for payer, payee, amount_sat in ((west, east, 700_000), (east, west, 1_100_000)):
        assert all(c["outbound_msat"] < amount_sat * 1000 for c in await payer("channels"))
        paid = await between.pay(payer, payee, amount_sat * 1000)
        assert paid["status"] == "sent", paid
        got = await _payment(payee, paid["payment_hash"], "in")
        assert got["htlcs"] > 1
    tally = await between.is_settled()
    assert tally["sent"] == 8
    assert tally["fee_msat"] > 8 * 1_000


async def test_a_payee_that_refuses_and_one_that_is_away_are_told_apart(between: Between) -> None:
    west, east = between.west, between.east
    refused = await east("invoice", msat=2_000_000, mode="fail")
    between.payments.append((west, east, refused["payment_hash"]))
    paid = await west("pay", bolt11=refused["bolt11"])
    assert (paid["status"], paid["reason"]) == ("failed", "RecipientRejected")
    assert paid["path_failures"][0]["permanent"]
    missed = await east("invoice", msat=2_000_000)
    between.payments.append((west, east, missed["payment_hash"]))
    await east("disconnect", node_id=between.node.node_id)
    east.kill()

    async def is_gone() -> bool:
        states = Counter(c["state"] for c in (await between.channels()).values())
        return states == {"NORMAL": CHANNELS, "OFFLINE": CHANNELS}

    await until(is_gone, "we know that east is away")
    paid = await west("pay", bolt11=missed["bolt11"], attempts=1)
    assert paid["status"] == "failed"
    assert {f["permanent"] for f in paid["path_failures"]} == {False}
    assert between.earned_from == await between.balance_msat()


@pytest.mark.timeout(300)
async def test_many_payments_survive_a_killed_front_and_a_killed_back(between: Between) -> None:
    """200 payments, 20 at a time; both ends agree on each, and our fees add up to the msat."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    numbers = itertools.count()
    ended = itertools.count(1)
    kills: dict[int, Any] = {FRONT_DIES_AFTER: kill_front, BACK_DIES_AFTER: kill_back}
    killing: list[asyncio.Task[None]] = []

    async def work() -> None:
        while (number := next(numbers)) < COUNT:
            payer, payee = (between.west, between.east)[:: 1 if number % 2 else -1]
            # Some need several channels.
            amount_msat = 510_000_000 if number % 25 == 0 else chance.randint(1_000, 4_000_000)
            await between.ready(payer)
            try:
                await between.pay(payer, payee, amount_msat, wait_ms=30_000)
            except LdkError as error:  # not begun: no invoice, or no route at all
                pytest.fail(f"LDK: {error}")
            if kill := kills.pop(next(ended), None):
                killing.append(asyncio.create_task(kill(between.node)))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    await asyncio.gather(*killing)
    assert len(killing) == 2
    for ldk in (between.west, between.east):
        await between.ready(ldk)
    tally = await between.is_settled()
    assert tally["sent"] + tally["failed"] == COUNT
    assert tally["sent"] >= COUNT / 2, tally


async def kill_front(node: Cluster) -> None:
    """Kill -9 a front that carries a peer; another is started at the same port."""
    carrier = (await node.call("peers"))[0]["front"]
    front = node.fronts.pop(carrier)
    front.child.kill()
    await front.child.wait()
    await node.start_front(carrier, front.port)


async def kill_back(node: Cluster) -> None:
    """Kill -9 the back, and start it again."""
    assert node.back is not None
    node.back.kill()
    await node.back.wait()
    await node.start_back()
