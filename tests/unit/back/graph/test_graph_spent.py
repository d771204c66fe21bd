"""Which outputs the table hangs on, which are spent, and what a reorg takes back."""

from dataclasses import dataclass, field

from back.chain.block import outpoint_bytes
from back.graph.spent import DELAY, Outputs, funding_outpoint, marked
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table

from support.graph import channel  # isort: skip

BLOCK = 100


def scid(number: int, block: int = BLOCK) -> int:
    return block << 40 | number


@dataclass
class Scene:
    """A table and its outputs, kept in step as the service does."""

    table: Table = field(default_factory=Table)
    outputs: Outputs = field(default_factory=Outputs)

    def apply(self, change: Change | None) -> None:
        assert change is not None
        assert isinstance(change.key, int)
        entry = self.table.channel(change.key)
        old = None if entry is None else entry.record
        assert self.table.apply(change)
        new = change.value if isinstance(change.value, ChannelRecord) else None
        self.outputs.replace(change.key, old, new)

    def add(self, key: int, spent_height: int = 0) -> None:
        self.apply(channel(key, spent_height=spent_height))

    def spend(self, key: int, height: int) -> None:
        found = self.outputs.spent_in([funding_outpoint(key, bytes(32))])
        assert found == [key]
        self.apply(marked(self.table, key, height))

    def spent_height(self, key: int) -> int:
        entry = self.table.channel(key)
        assert entry is not None
        return entry.spent_height


def test_a_spend_of_something_else_finds_nothing() -> None:
    scene = Scene()
    scene.add(scid(1))
    strange = [funding_outpoint(scid(1), b"\x01" * 32), funding_outpoint(scid(1) + 1, bytes(32))]
    assert scene.outputs.spent_in(strange) == []


def test_a_spent_channel_is_marked_once() -> None:
    scene = Scene()
    scene.add(scid(1))
    scene.spend(scid(1), 200)
    assert scene.spent_height(scid(1)) == 200
    assert marked(scene.table, scid(1), 200) is None


def test_a_block_corrects_the_height_of_a_spend_that_was_only_guessed() -> None:
    scene = Scene()
    scene.add(scid(1), spent_height=150)
    scene.spend(scid(1), 152)
    assert scene.outputs.undo(scene.table, 150) == []
    assert scene.outputs.undo(scene.table, 152) == [scid(1)]


def test_a_spent_channel_is_due_after_72_blocks() -> None:
    scene = Scene()
    scene.add(scid(1))
    scene.spend(scid(1), 200)
    assert scene.outputs.due(200 + DELAY - 1) == []
    assert scene.outputs.due(200 + DELAY) == [scid(1)]
    scene.apply(Change(Kind.CHANNEL, scid(1), None))
    assert scene.outputs.due(200 + DELAY) == []


def test_a_reorg_takes_back_the_spends_of_its_blocks_only() -> None:
    scene = Scene()
    for number, height in ((1, 200), (2, 201)):
        scene.add(scid(number))
        scene.spend(scid(number), height)
    assert scene.outputs.undo(scene.table, 201) == [scid(2)]
    assert scene.outputs.doubtful == {scid(2)}


def test_a_reorg_makes_what_was_funded_in_its_blocks_doubtful() -> None:
    scene = Scene()
    scene.add(scid(1, block=200))
    scene.add(scid(1, block=201))
    assert scene.outputs.undo(scene.table, 201) == []
    assert scene.outputs.doubtful == {scid(1, block=201)}


def test_a_channel_that_is_gone_is_no_longer_watched_nor_doubtful() -> None:
    scene = Scene()
    scene.add(scid(1))
    scene.outputs.doubtful.add(scid(1))
    scene.apply(Change(Kind.CHANNEL, scid(1), None))
    assert not scene.outputs.by_outpoint
    assert not scene.outputs.doubtful


def test_spends_after_a_height_can_be_doubted() -> None:
    scene = Scene()
    scene.add(scid(1), spent_height=200)
    scene.add(scid(2), spent_height=201)
    scene.outputs.doubt_after(200)
    assert scene.outputs.doubtful == {scid(2)}


# --- channels about to enter ----------------------------------------------------------------------


def test_a_candidate_that_a_block_spends_is_lost() -> None:
    scene = Scene()
    candidates = scene.outputs.begin({scid(1): bytes(32), scid(2): bytes(32)})
    assert scene.outputs.spent_in([funding_outpoint(scid(1), bytes(32))]) == [scid(1)]
    assert candidates.lost == {scid(1)}


def test_a_candidate_whose_block_is_reorganised_away_is_lost() -> None:
    scene = Scene()
    candidates = scene.outputs.begin({scid(1, 199): bytes(32), scid(1, 200): bytes(32)})
    scene.outputs.undo(scene.table, 200)
    assert candidates.lost == {scid(1, 200)}


def test_a_candidate_that_entered_stays_watched_and_another_does_not() -> None:
    scene = Scene()
    candidates = scene.outputs.begin({scid(1): bytes(32), scid(2): bytes(32)})
    scene.add(scid(1))
    scene.outputs.end(candidates, scene.table)
    kept = outpoint_bytes(funding_outpoint(scid(1), bytes(32)))
    assert scene.outputs.by_outpoint == {kept: scid(1)}


def test_a_candidate_that_entered_with_another_output_is_not_watched_by_the_old() -> None:
    scene = Scene()
    candidates = scene.outputs.begin({scid(1): b"\x07" * 32})
    scene.add(scid(1))
    scene.outputs.end(candidates, scene.table)
    assert list(scene.outputs.by_outpoint) == [outpoint_bytes(funding_outpoint(scid(1), bytes(32)))]


def test_a_candidate_that_is_in_the_table_already_stays_watched() -> None:
    scene = Scene()
    scene.add(scid(1))
    candidates = scene.outputs.begin({scid(1): bytes(32)})
    scene.outputs.end(candidates, scene.table)
    assert len(scene.outputs.by_outpoint) == 1
