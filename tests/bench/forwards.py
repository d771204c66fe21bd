"""The part ``forwards``: HTLCs through one node between scripted peers, every step durable.

The peers are light (one process with this bench, no storage), so that most of the machine is the
node's: its back, its front and its broker.
"""

import asyncio
import os
import random
import sys
import time
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.relay_ends import End, Outcome, Sent

from back.chain import regtest
from back.demo.cluster import Cluster
from tests.bench.setting import cpu_s, metric, nodes

Figures = dict[str, float]

PAIRS, AT_ONCE = 4, 25
"""Pairs of peers that pay each other, and forwards of each pair that are under way at a time."""
SECONDS = float(os.environ.get("FORWARD_SECONDS", "20"))
WARM_UP_S = 3.0
FUNDING_SAT = 10_000_000
SMALL_MSAT = 1_000, 100_000
"""As the bench of direct payments has them: too small for outputs of their own."""
LARGE_MSAT = 3_000_000, 10_000_000
"""Each is an output of four commitments, with a signature of its own."""


class Load:
    """Keeps so many forwards under way between two peers, now in this direction, now in that.

    Attributes:
        paid, failed: forwards that ended so.
        seconds: how long each paid one took.
    """

    def __init__(
        self, ends: tuple[End, End], height: int, amounts: tuple[int, int], chance: random.Random
    ) -> None:
        self.ends, self.height, self.amounts = ends, height, amounts
        self.chance = chance
        self.paid = self.failed = 0
        self.seconds: list[float] = []
        self.is_over = False
        self._began: dict[str, float] = {}
        for end in ends:
            end.on_outcome = self._ended

    def begin(self) -> None:
        """Offer the first ones."""
        for _ in range(AT_ONCE):
            self._next()

    def _next(self) -> None:
        payer, payee = self.ends[:: self.chance.choice((1, -1))]
        sent = payer.send(payee, self.chance.randint(*self.amounts), height=self.height)
        self._began[sent.origin] = time.perf_counter()

    def _ended(self, sent: Sent, outcome: Outcome) -> None:
        began = self._began.pop(sent.origin)
        if outcome.paid:
            self.paid += 1
            self.seconds.append(time.perf_counter() - began)
        else:
            self.failed += 1
        if outcome.refused:
            raise RuntimeError(f"the load has run dry: {outcome.refused}")
        for end in self.ends:
            end.received.clear()
            end.forget(sent)
        if not self.is_over:
            self._next()


async def forwards() -> Figures:
    """Measure with HTLCs that have no output of their own, and with such that have."""
    figures: Figures = {}
    depth = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    async with nodes("middle", **depth) as (bitcoind, (middle,)), AsyncExitStack() as stack:
        pairs = [await _pair(stack, bitcoind, middle, number) for number in range(PAIRS)]
        told = await measured(middle, pairs, await bitcoind.height(), SMALL_MSAT)
        figures |= {f"forward{name}": value for name, value in told.items()}
        told = await measured(middle, pairs, await bitcoind.height(), LARGE_MSAT)
        figures["forwarded_large_payments_per_s"] = told["ed_payments_per_s"]
        figures["forward_large_back_cpu_ms"] = told["_back_cpu_ms"]
    return figures


async def measured(
    middle: Cluster, pairs: list[tuple[End, End]], height: int, amounts: tuple[int, int]
) -> Figures:
    """Forward for a while; return what it cost."""
    chance = random.Random(1)  # noqa: S311 - amounts
    loads = [Load(pair, height, amounts, chance) for pair in pairs]
    assert middle.back is not None
    back, front = middle.back.pid, next(iter(middle.fronts.values())).child.pid
    for load in loads:
        load.begin()
    await asyncio.sleep(WARM_UP_S)
    before = [cpu_s(pid) for pid in (back, front, os.getpid())]
    commits, items = [await metric(middle.metrics_port, name) for name in COMMITS]
    paid, failed = _sum(loads)
    for load in loads:
        load.seconds.clear()
    began = time.perf_counter()
    await asyncio.sleep(SECONDS)
    took = time.perf_counter() - began
    used = [cpu_s(pid) - at for pid, at in zip((back, front, os.getpid()), before, strict=True)]
    commits, items = [
        await metric(middle.metrics_port, name) - at
        for name, at in zip(COMMITS, (commits, items), strict=True)
    ]
    now_paid, now_failed = _sum(loads)
    count = now_paid - paid
    seconds = sorted(second for load in loads for second in load.seconds)
    for load in loads:
        load.is_over = True
    ends = list(chain.from_iterable(pairs))
    for end in ends:
        end.check()
    for end in ends:
        await end.all_ended()
        assert await end.balance_at_squall() == end.core.channel.remote_msat
    return {
        "ed_payments_per_s": count / took,
        "ed_payments_failed": now_failed - failed,
        "_p50_ms": seconds[len(seconds) // 2] * 1000,
        "_back_cpu_ms": used[0] / count * 1000,
        "_front_cpu_ms": used[1] / count * 1000,
        "_load_cpu_ms": used[2] / count * 1000,
        "_commits": commits / count,
        "_messages_per_commit": items / commits,
    }


COMMITS = "squall_commit_seconds_count", "squall_commit_items_sum"


def _sum(loads: list[Load]) -> tuple[int, int]:
    return sum(load.paid for load in loads), sum(load.failed for load in loads)


async def _pair(
    stack: AsyncExitStack, bitcoind: regtest.Regtest, middle: Cluster, number: int
) -> tuple[End, End]:
    """Connect two peers, each with a channel to the node."""
    ends = []
    for name in ("west", "east"):
        end = End(middle, bitcoind, f"{name}-{number}")
        await end.connect()
        # Half of each channel is the node's.
        await end.open_channel(funding_satoshis=FUNDING_SAT, push_msat=FUNDING_SAT * 500)
        end.core.effects.clear()
        end.heard.clear()
        end.begin()
        stack.push_async_callback(end.halt)
        ends.append(end)
    return ends[0], ends[1]
