"""What leaves the routing table because nobody speaks of it any more (BOLT 7)."""

import pytest
from support.graph import channel, node, update

from back.graph.pruning import orphans, removal, stale
from shared.gossip.record import Change, Kind
from shared.gossip.rules import STALE_S
from shared.gossip.table import Table
from shared.gossip.view import channel_view

NOW = 1_700_000_000
OLD = NOW - STALE_S - 1
FRESH = NOW - STALE_S


def table(*changes: Change) -> Table:
    made = Table()
    for change in changes:
        made.apply(change)
    return made


def found(made: Table, seen: dict[int, int] | None = None, now: int = NOW) -> list[int]:
    return list(stale(made, [1], {} if seen is None else seen, now))


@pytest.mark.parametrize(
    ("zero", "one", "is_pruned"),
    [(FRESH, FRESH, False), (OLD, FRESH, True), (FRESH, OLD, True), (OLD, OLD, True)],
)
def test_the_older_of_both_updates_decides(zero: int, one: int, is_pruned: bool) -> None:
    made = table(channel(1), update(1, 0, zero), update(1, 1, one))
    assert found(made) == [1] * is_pruned


def test_a_channel_without_updates_has_two_weeks_from_when_it_was_first_seen() -> None:
    made, seen = table(channel(1)), dict[int, int]()
    assert found(made, seen) == []
    assert found(made, seen, NOW + STALE_S) == []
    assert found(made, seen, NOW + STALE_S + 1) == [1]


def test_a_silent_end_has_two_weeks_however_fresh_the_other() -> None:
    seen: dict[int, int] = {}
    assert found(table(channel(1), update(1, 0, NOW)), seen) == []
    later = NOW + STALE_S + 1
    assert found(table(channel(1), update(1, 0, later)), seen, later) == [1]


def test_an_old_update_decides_though_the_other_end_never_spoke() -> None:
    assert found(table(channel(1), update(1, 0, OLD))) == [1]


def test_an_end_that_speaks_at_last_saves_the_channel_and_is_not_remembered() -> None:
    seen = {1: OLD}
    assert found(table(channel(1), update(1, 0, NOW), update(1, 1, NOW)), seen) == []
    assert seen == {}


def test_a_spent_channel_goes_by_its_own_rule() -> None:
    made = table(channel(1, spent_height=5), update(1, 0, OLD), update(1, 1, OLD))
    assert found(made) == []


def test_a_channel_that_went_meanwhile_is_no_trouble() -> None:
    seen = {1: NOW}
    assert found(table(), seen) == []
    assert seen == {}


def test_updates_are_taken_out_before_their_channel() -> None:
    made = table(channel(1), update(1, 1, NOW))
    changes = removal(made, 1)
    assert changes == [Change(Kind.UPDATE, 3, None), Change(Kind.CHANNEL, 1, None)]
    assert removal(table(), 1) == []


def test_a_node_goes_with_its_last_channel() -> None:
    first = channel(1)
    made = table(first, channel(2), node(1))
    name = channel_view(made.channel(1).announcement).node_id_1  # type: ignore[union-attr]
    assert made.node(name) is not None
    made.apply(first._replace(value=None))
    assert orphans(made, [name]) == []
    made.apply(channel(2)._replace(value=None))
    assert orphans(made, [name]) == [Change(Kind.NODE, name, None)]
    assert orphans(made, [b"\x03" + bytes(32)]) == [], "it is not announced"
