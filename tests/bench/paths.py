"""Path-finding on a network of the size of the real one, through the worker process."""

import asyncio
import random
import time
from heapq import heappop, heappush
from pathlib import Path

from back.graph.paths.network import Network
from back.graph.paths.service import PathFinder
from back.payment.route import RouteRequest
from shared.errors import CommandError
from shared.gossip.table import Table
from tests.support.network import Shape, generate, recently

CHANNELS, NODES = 54_000, 17_000
SEARCHES = 300
PARTS = 8


async def paths() -> dict[str, float]:
    """Routes between random nodes for random amounts, one part and several, the pipe included."""
    network = generate(Shape(CHANNELS, NODES), recently())
    table = Table()
    for change in network.changes():
        table.apply(change)
    finder = PathFinder(lambda: table)
    began = before = time.perf_counter()
    longest_s = 0.0
    await finder.start()
    while finder.pid is None:
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest_s, before = max(longest_s, now - before), now
    figures = {
        "pathfinding_feed_s": before - began,
        "pathfinding_feed_longest_turn_ms": longest_s * 1000,
    }
    names = sorted(table.nodes_from(b"", NODES))
    figures |= await _times(finder, names, "pathfinding", 1)
    figures |= await _times(finder, names, "pathfinding_in_parts", PARTS)
    figures["path_finder_mb"] = _rss_mb(finder.pid)
    await finder.stop()
    return figures | _raw(network)


async def _times(
    finder: PathFinder, names: list[bytes], what: str, max_parts: int
) -> dict[str, float]:
    chance = random.Random(7)  # noqa: S311 - the same searches each time
    times, found = [], 0
    for seed in range(SEARCHES):
        source, payee = chance.sample(names, 2)
        amount_msat = int(10 ** chance.uniform(4, 9))
        request = RouteRequest(
            source=source,
            payee=payee,
            amount_msat=amount_msat,
            max_fee_msat=max(21_000, amount_msat * 3 // 100),
            max_parts=max_parts,
            min_part_msat=10_000_000,
            unix_s=time.time(),
            seed=seed,
        )
        began = time.perf_counter()
        try:
            await finder.find(request)
            found += 1
        except CommandError:
            pass  # there is no way for some amounts: that takes its time too
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return {
        f"{what}_p50_ms": times[len(times) // 2],
        f"{what}_p99_ms": times[int(len(times) * 0.99)],
        f"{what}_found_share": found / SEARCHES,
    }


def _raw(network: object) -> dict[str, float]:
    """A bare Dijkstra over the same edges by one number each, from everywhere to one node."""
    graph = Network()
    for change in network.changes():  # type: ignore[attr-defined]
        graph.apply(change)
    edges = [[(e[1], e[3] + 1) for e in each.values()] for each in graph.incoming]
    times = []
    for start in range(0, len(edges), len(edges) // 10):
        began = time.perf_counter()
        best = {start: 0}
        heap = [(0, start)]
        while heap:
            cost, node = heappop(heap)
            if cost > best[node]:
                continue
            for previous, weight in edges[node]:
                if (total := cost + weight) < best.get(previous, 1 << 60):
                    best[previous] = total
                    heappush(heap, (total, previous))
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return {"raw_edges_p50_ms": times[len(times) // 2]}


def _rss_mb(pid: int | None) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
