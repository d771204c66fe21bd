"""Through which nodes an onion message reaches another, by the routing table."""

import itertools
from collections.abc import Generator
from typing import TypeVar

import pytest
from support.network import Shape, generate
from support.onion_peer import Keys

from back.onion_messages.topology import MAX_NODES, Topology, survey
from shared.features import Feature, FeatureSet
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table
from shared.gossip.view import channel_view
from shared.wire import NodeAnnouncement, encode

T = TypeVar("T")
A, B, C, D, E = (Keys(bytes(31) + bytes([number])).node_id for number in range(1, 6))
RELAYS = FeatureSet.of(optional=[Feature.option_onion_messages])


def done(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def linked(*pairs: tuple[bytes, bytes], but: tuple[bytes, ...] = ()) -> Topology:
    """Channels; all nodes relay but those."""
    topology = Topology()
    for one, other in pairs:
        if other not in but:
            topology.add(one, other)
        if one not in but:
            topology.add(other, one)
    return topology


def test_the_shortest_way_is_taken_and_begins_with_a_peer() -> None:
    topology = linked((A, B), (B, C), (C, D), (B, D), (D, E))
    assert done(topology.search(E, {A})) == (A, B, D)
    assert done(topology.search(E, {A, D})) == (D,)
    assert done(topology.search(B, {A})) == (A,)


def test_who_does_not_relay_is_gone_round() -> None:
    topology = linked((A, B), (B, E), (A, C), (C, D), (D, E), but=(B,))
    assert done(topology.search(E, {A})) == (A, C, D)


def test_the_recipient_need_not_relay() -> None:
    assert done(linked((A, E), but=(E,)).search(E, {A})) == (A,)


def test_who_was_tried_is_avoided() -> None:
    topology = linked((A, C), (B, D), (D, C))
    assert done(topology.search(C, {A, B})) == (A,)
    assert done(topology.search(C, {A, B}, {A})) == (B, D)
    assert done(topology.search(C, {A, B}, {A, D})) is None


def test_a_way_that_is_too_long_is_none() -> None:
    line = [Keys(number.to_bytes(32, "big")).node_id for number in range(1, MAX_NODES + 3)]
    topology = linked(*itertools.pairwise(line))
    assert done(topology.search(line[-1], {line[1]})) == tuple(line[1:-1])
    assert len(line[1:-1]) == MAX_NODES
    assert done(topology.search(line[-1], {line[0]})) is None


def test_nobody_there_is_no_way() -> None:
    assert done(Topology().search(E, {A})) is None


@pytest.fixture(scope="module")
def table() -> Table:
    """A hundred nodes of which every second relays."""
    network = generate(Shape(channels=300, nodes=100), newest=1_700_000_000)
    table = Table()
    for change in network.changes():
        table.apply(change)
    for node_id in list(network.nodes)[::2]:
        announced = NodeAnnouncement(
            signature=bytes(64),
            features=RELAYS.to_bytes(),
            timestamp=1_800_000_000,
            node_id=node_id,
            rgb_color=bytes(3),
            alias=bytes(32),
            addresses=b"",
        )
        table.apply(Change(Kind.NODE, node_id, encode(announced)))
    return table


def test_what_is_found_in_a_table_goes_over_its_channels_and_relaying_nodes(table: Table) -> None:
    topology = done(survey(table))
    pairs = set()
    for scid in table.short_channel_ids(0, 1 << 24):
        entry = table.channel(scid)
        assert entry is not None
        view = channel_view(entry.announcement)
        pairs |= {(view.node_id_1, view.node_id_2), (view.node_id_2, view.node_id_1)}
    ids = list(table.nodes_from(b"", 100))
    relaying = {node for node in ids if (raw := table.node(node)) and RELAYS.to_bytes() in raw}
    found = 0
    first = max(sorted(relaying), key=lambda node: sum(one == node for one, _ in pairs))
    for target in ids:
        way = done(topology.search(target, {first}))
        if target == first or way is None:
            continue
        found += 1
        assert way[0] == first
        assert set(way) <= relaying
        assert set(zip(way, [*way[1:], target], strict=True)) <= pairs
    assert found > 50


def test_looking_through_a_table_holds_nobody_up(table: Table) -> None:
    steps = sum(1 for _ in survey(table))
    assert steps >= 2
