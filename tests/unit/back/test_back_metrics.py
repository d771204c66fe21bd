"""What the back counts of gossip is what happened."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from support.graph import channel, node, update

from back.chain.events import BlockRef
from back.metrics import Metrics
from shared.gossip.table import Table


def gossip(*, height: int, tip: BlockRef | None) -> Any:
    table = Table()
    for change in (channel(1), channel(2), update(1), node(1)):
        table.apply(change)
    return SimpleNamespace(
        graph=SimpleNamespace(
            table=table,
            is_ready=True,
            pruned=5,
            judge=SimpleNamespace(
                counts=Counter({("channel_update", "accepted"): 7}),
                submissions=[1, 2, 3],
                channels=[1],
                refused=4,
            ),
            lookup=SimpleNamespace(fetched=11, pruned=6),
            spends=SimpleNamespace(height=height, tip=tip),
        ),
        writer=SimpleNamespace(waiting=8, repeated=9, refused=10),
    )


def shown(gossip: Any) -> str:
    metrics = Metrics()
    metrics.refresh_graph(gossip)
    return metrics.text().decode()


def test_the_table_verdicts_and_what_waits_are_shown() -> None:
    text = shown(gossip(height=120, tip=BlockRef(117, bytes(32))))
    for line in (
        'squall_graph_table{kind="channels"} 2.0',
        'squall_graph_table{kind="updates"} 1.0',
        'squall_graph_table{kind="nodes"} 1.0',
        'squall_graph_verdicts{kind="channel_update",outcome="accepted"} 7.0',
        "squall_graph_ready 1.0",
        "squall_graph_submissions_waiting 3.0",
        "squall_graph_submissions_dropped 4.0",
        "squall_graph_channels_waiting 1.0",
        "squall_graph_blocks_fetched 11.0",
        "squall_graph_channels_unverifiable 6.0",
        "squall_graph_blocks_behind 3.0",
        "squall_graph_channels_pruned 5.0",
        "squall_graph_values_waiting 8.0",
        "squall_graph_values_repeated 9.0",
        "squall_graph_values_refused 10.0",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("height", "tip", "behind"),
    [
        (0, BlockRef(117, bytes(32)), -1),
        (120, None, -1),
        (117, BlockRef(117, bytes(32)), 0),
        (116, BlockRef(117, bytes(32)), 0),
    ],
)
def test_a_chain_that_nobody_can_see_is_not_shown_as_a_table_that_is_up_to_date(
    height: int, tip: BlockRef | None, behind: int
) -> None:
    assert f"squall_graph_blocks_behind {behind}.0" in shown(gossip(height=height, tip=tip))
