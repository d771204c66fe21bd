"""``make bench``: prints a table, and writes the figures to bench.json.

``python -m tests.bench payments`` runs one part: raw, sessions, peers, payments, forwards, paths
or gossip.
"""

import json
import logging
import sys

import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench import parts
from tests.bench.forwards import forwards
from tests.bench.gossip import gossip
from tests.bench.paths import paths
from tests.bench.setting import ROOT

RAW_LIMIT = {
    "handshakes_per_s": "ecdh_per_s",
    "fabric_rtt_p50_ms": "nats_rtt_p50_ms",
    "direct_payments_per_s": "commits_per_s",
    "forwarded_payments_per_s": "commits_per_s",
    "gossip_signatures_per_s_per_core": "raw_signatures_per_s_per_core",
    "pathfinding_p50_ms": "raw_edges_p50_ms",
}
"""Beside which raw figure of the same run each stands."""
GOALS = {
    "handshakes_per_s": "500",
    "fabric_rtt_p50_ms": "1",
    "direct_payments_per_s": "100, then 150",
    "front_kb_per_idle_peer": "40",
    "gossip_signatures_per_s_per_core": "70 % of raw",
    "pathfinding_p50_ms": "150",
    "table_load_s": "5",
    "table_mb": "150",
    "back_cpu_share_of_ingest": "0.3",
}


async def run(wanted: list[str]) -> dict[str, float]:
    """Run parts one after another."""
    figures: dict[str, float] = {}
    if not wanted or "raw" in wanted:
        figures |= parts.raw_ecdh() | parts.raw_commits() | await parts.raw_nats()
    if not wanted or "sessions" in wanted:
        figures |= await parts.sessions()
    if not wanted or "peers" in wanted:
        figures |= await parts.peers()
    if not wanted or "payments" in wanted:
        figures |= await parts.payments()
    if not wanted or "forwards" in wanted:
        figures |= await forwards()
    if not wanted or "paths" in wanted:
        figures |= await paths()
    if not wanted or "gossip" in wanted:
        figures |= await gossip()
    return {name: round(value, 3) for name, value in figures.items()}


def show(figures: dict[str, float]) -> Table:
    """Return the table: figure, goal, raw limit, ratio."""
    table = Table("figure", "measured", "goal", "raw limit", "ratio", title=parts.machine())
    for name, value in figures.items():
        raw = RAW_LIMIT.get(name, "")
        limit = figures.get(raw)
        table.add_row(
            name,
            f"{value:,.2f}",
            GOALS.get(name, ""),
            f"{raw} {limit:,.2f}" if limit else "",
            f"{value / limit:.3f}" if limit else "",
        )
    return table


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    found = uvloop.run(run(sys.argv[1:]))
    screen = Console()
    # Names are not cut where nobody's window says how wide it is.
    (screen if screen.is_terminal else Console(width=140)).print(show(found))
    if not sys.argv[1:]:
        (ROOT / "bench.json").write_text(json.dumps(found, indent=2) + "\n")
