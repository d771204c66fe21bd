"""The routing table against plain dictionaries, under changes in any order."""

from hypothesis import given, settings, strategies as st
from support.gossip_links import node_id
from support.gossip_values import channel, gone, node, scid_at, update

from shared.gossip.checksum import checksum
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table
from shared.gossip.view import channel_view, node_timestamp, update_timestamp

SCIDS = [scid_at(block, transaction) for block in (1, 2) for transaction in (1, 2)]
NODES = range(1, 5)

scids, stamps = st.sampled_from(SCIDS), st.integers(1, 4)
values = st.one_of(
    st.builds(
        lambda scid, ends, spent: channel(scid, *ends, spent_height=spent),
        scids,
        st.sampled_from([(1, 2), (1, 3), (3, 4)]),
        st.sampled_from([0, 0, 9]),
    ),
    st.builds(
        lambda scid, direction, stamp, more: update(scid, direction, stamp, more=bytes(more)),
        scids,
        st.integers(0, 1),
        stamps,
        st.integers(0, 2),
    ),
    st.builds(node, st.sampled_from(NODES), stamps),
)
changes = st.lists(st.one_of(values, values, values.map(gone)), max_size=40)


class Model:
    """What a table is, without any thought of speed or memory."""

    def __init__(self) -> None:
        self.channels: dict = {}
        self.updates: dict = {}
        self.nodes: dict = {}
        self.early: dict = {}

    def apply(self, change: Change) -> bool:
        kind, key, value = change
        if kind is Kind.NODE:
            return newest(self.nodes, key, value, node_timestamp)
        if kind is Kind.UPDATE:
            if key >> 1 not in self.channels:
                newest(self.early, key, value, update_timestamp)
                return False
            return newest(self.updates, key, value, update_timestamp)
        old = self.channels.get(key)
        if value is None:
            self.channels.pop(key, None)
            for direction in (0, 1):
                self.updates.pop(key << 1 | direction, None)
            return old is not None
        self.channels[key] = value
        for direction in (0, 1):
            raw = self.early.pop(key << 1 | direction, None)
            if raw is not None:
                self.updates[key << 1 | direction] = raw
        return old != value

    def raws(self) -> list[bytes]:
        channels = [record.raw for record in self.channels.values()]
        return [*channels, *self.updates.values(), *self.nodes.values()]

    def ends(self) -> set[bytes]:
        views = [channel_view(record.raw) for record in self.channels.values()]
        return {end for view in views for end in (view.node_id_1, view.node_id_2)}


def newest(values: dict, key, value, timestamp) -> bool:
    old = values.get(key)
    if value is None:
        return values.pop(key, None) is not None
    if old is not None and timestamp(value) <= timestamp(old):
        return False
    values[key] = value
    return True


def compare(table: Table, model: Model) -> None:
    counts = (len(model.channels), len(model.updates), len(model.nodes))
    assert (table.channels, table.updates, table.nodes) == counts
    assert table.raw_bytes == sum(map(len, model.raws()))
    assert {node_id(n) for n in NODES if table.has_channels(node_id(n))} == model.ends()
    for scid in SCIDS:
        entry, record = table.channel(scid), model.channels.get(scid)
        assert (entry and entry.record) == record
        if entry is not None:
            both = [model.updates.get(scid << 1 | direction) for direction in (0, 1)]
            assert entry.updates == tuple(both)
            assert entry.timestamps == packed(both, update_timestamp)
            assert entry.checksums == packed(both, checksum)
    for number in NODES:
        assert table.node(node_id(number)) == model.nodes.get(node_id(number))


def packed(updates, value) -> bytes:
    return b"".join((0 if raw is None else value(raw)).to_bytes(4, "big") for raw in updates)


def compare_lists(table: Table, model: Model) -> None:
    assert table.short_channel_ids(0, 1 << 32) == sorted(model.channels)
    assert table.short_channel_ids(2, 3) == sorted(s for s in model.channels if s >> 40 == 2)
    assert table.ids_from(SCIDS[1], 2) == sorted(s for s in model.channels if s >= SCIDS[1])[:2]
    assert table.nodes_from(node_id(2), 2) == sorted(n for n in model.nodes if n >= node_id(2))[:2]


@settings(max_examples=200, deadline=None)
@given(changes, st.integers(0, 40))
def test_a_table_is_what_its_changes_say(made: list[Change], lists_from: int) -> None:
    table, model = Table(), Model()
    for number, change in enumerate(made):
        assert table.apply(change) == model.apply(change)
        compare(table, model)
        if number >= lists_from:
            compare_lists(table, model)
    compare_lists(table, model)


@settings(max_examples=100, deadline=None)
@given(changes)
def test_what_a_table_says_of_itself_makes_an_equal_one(made: list[Change]) -> None:
    table, copy, model = Table(), Table(), Model()
    for change in made:
        table.apply(change)
    for change in table.changes():
        assert copy.apply(change)
        model.apply(change)
    compare(copy, model)
    assert (copy.raw_bytes, copy.channels) == (table.raw_bytes, table.channels)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=12), st.randoms(use_true_random=False))
def test_values_that_only_arrive_make_the_same_table_in_any_order(made, random) -> None:
    # Of each subject one value per timestamp, and channels do not differ: as a stream has it.
    distinct = list(
        {
            (v.kind, v.key, stamp(v)): v
            for v in made
            if not isinstance(v.value, tuple) or v == channel(v.key)
        }.values()
    )
    shuffled = random.sample(distinct, len(distinct))
    one, other = Table(), Table()
    for first, second in zip(distinct, shuffled, strict=True):
        one.apply(first)
        other.apply(second)
    assert sorted(one.changes()) == sorted(other.changes())


def stamp(change: Change) -> int:
    if change.kind is Kind.CHANNEL:
        return 0
    assert isinstance(change.value, bytes)
    return (update_timestamp if change.kind is Kind.UPDATE else node_timestamp)(change.value)
