"""The routing table: what it takes, and what it knows of it."""

import pytest
from support.gossip_links import node_id
from support.gossip_values import channel, gone, node, scid_at, table, update

from shared.gossip import table as module
from shared.gossip.checksum import checksum
from shared.gossip.record import Change
from shared.gossip.table import Table
from shared.gossip.view import update_timestamp

SCID = scid_at(100)


def as_bytes(change: Change) -> bytes:
    assert isinstance(change.value, bytes)
    return change.value


def test_a_table_starts_empty() -> None:
    empty = Table()
    assert (empty.channels, empty.updates, empty.nodes, empty.raw_bytes) == (0, 0, 0, 0)
    assert empty.channel(SCID) is None
    assert empty.update(SCID, 0) is None
    assert empty.update_timestamp(SCID, 0) == 0
    assert empty.node_timestamp(node_id(1)) == 0
    assert list(empty.changes()) == []


def test_the_same_value_changes_nothing_the_second_time() -> None:
    full = table(channel(SCID))
    for value in (update(SCID, 0), update(SCID, 1), node(1)):
        assert full.apply(value)
        assert not full.apply(value)
    assert not full.apply(channel(SCID))


@pytest.mark.parametrize("make", [lambda t: update(SCID, 1, t), lambda t: node(1, t)])
def test_only_what_is_newer_replaces(make) -> None:
    full = table(channel(SCID), make(10))
    assert not full.apply(make(9))
    assert not full.apply(make(10))
    assert full.apply(make(11))


def test_one_direction_leaves_the_other_alone() -> None:
    first, second = update(SCID, 0, 10, fee=5), update(SCID, 1, 20, fee=6)
    full = table(channel(SCID), first, second)
    entry = full.channel(SCID)
    assert entry is not None
    assert entry.updates == (first.value, second.value)
    assert entry.timestamps == (10).to_bytes(4, "big") + (20).to_bytes(4, "big")
    assert full.apply(gone(first))
    assert entry.updates == (None, second.value)
    assert entry.timestamps == bytes(4) + (20).to_bytes(4, "big")
    assert entry.checksums == bytes(4) + checksum(as_bytes(second)).to_bytes(4, "big")


def test_a_channel_that_is_spent_keeps_its_updates_and_its_nodes() -> None:
    full = table(channel(SCID), update(SCID, 0), update(SCID, 1))
    assert full.apply(channel(SCID, spent_height=500))
    entry = full.channel(SCID)
    assert entry is not None
    assert entry.spent_height == 500
    assert None not in entry.updates
    assert bytes(8) not in {entry.timestamps, entry.checksums}
    assert full.has_channels(node_id(1))
    assert full.updates == 2


def test_a_channel_that_goes_takes_its_updates_along() -> None:
    full = table(channel(SCID), update(SCID, 0), update(SCID, 1))
    assert full.apply(gone(channel(SCID)))
    assert (full.channels, full.updates, full.raw_bytes) == (0, 0, 0)
    assert not full.has_channels(node_id(1))
    assert not full.apply(gone(channel(SCID)))


def test_a_node_has_channels_until_its_last_one_goes() -> None:
    other = scid_at(101)
    full = table(channel(SCID, 1, 2), channel(other, 1, 3))
    full.apply(gone(channel(SCID)))
    assert full.has_channels(node_id(1))
    assert not full.has_channels(node_id(2))
    full.apply(gone(channel(other)))
    assert not full.has_channels(node_id(1))


def test_a_channel_announced_by_other_nodes_is_theirs() -> None:
    full = table(channel(SCID, 1, 2))
    assert full.apply(channel(SCID, 3, 4))
    assert [full.has_channels(node_id(number)) for number in (1, 2, 3, 4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("stamps", [(10, 11), (11, 10)])
def test_the_newest_of_the_updates_before_a_channel_is_taken_with_it(stamps) -> None:
    early = table(*(update(SCID, 0, stamp) for stamp in stamps))
    assert early.updates == early.raw_bytes == 0
    assert early.apply(channel(SCID))
    assert early.update_timestamp(SCID, 0) == 11
    assert early.updates == 1


def test_an_early_update_that_goes_again_is_forgotten() -> None:
    full = table(update(SCID, 0), gone(update(SCID, 0)), channel(SCID))
    assert full.updates == 0


def test_updates_without_channel_are_bounded_and_the_oldest_go(monkeypatch) -> None:
    monkeypatch.setattr(module, "_EARLY", 3)
    scids = [scid_at(block) for block in range(5)]
    full = table(*(update(scid, 0) for scid in scids), *map(channel, scids))
    assert [full.update(scid, 0) is not None for scid in scids] == [False, False, True, True, True]


def test_channels_of_blocks_are_listed_from_the_first_to_before_the_end() -> None:
    scids = [scid_at(block, transaction) for block in (7, 8, 9) for transaction in (0, 1)]
    full = table(*map(channel, reversed(scids)))
    assert full.short_channel_ids(7, 9) == scids[:4]
    assert full.short_channel_ids(8, 8) == []
    assert full.short_channel_ids(0, 1 << 32) == scids
    assert full.ids_from(scids[1], 2) == scids[1:3]
    assert full.ids_from(scids[5] + 1, 2) == []


def test_lists_follow_what_comes_and_goes_after_they_were_first_asked_for() -> None:
    full = table(channel(scid_at(5)), node(5))
    assert full.ids_from(0, 9) == [scid_at(5)]
    assert full.nodes_from(b"", 9) == [node_id(5)]
    for value in (channel(scid_at(3)), channel(scid_at(9)), node(3), node(9), node(3, 1 << 31)):
        full.apply(value)
    assert full.ids_from(0, 9) == [scid_at(3), scid_at(5), scid_at(9)]
    assert full.nodes_from(node_id(4), 9) == [node_id(5), node_id(9)]
    full.apply(gone(channel(scid_at(5))))
    full.apply(gone(node(9)))
    assert full.ids_from(0, 9) == [scid_at(3), scid_at(9)]
    assert full.nodes_from(b"", 9) == [node_id(3), node_id(5)]


def test_everything_is_said_with_channels_first_and_makes_the_same_table() -> None:
    full = table(node(1), channel(SCID), update(SCID, 1), channel(scid_at(99)), update(SCID, 0))
    told = list(full.changes())
    assert [change.kind for change in told] == ["channel"] * 2 + ["update"] * 2 + ["node"]
    copy = table(*told)
    assert list(copy.changes()) == told
    assert copy.raw_bytes == full.raw_bytes
    assert update_timestamp(copy.update(SCID, 0) or b"") == full.update_timestamp(SCID, 0)
