"""Verdicts where things are not as they should be: full, not loaded, broken, taken over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from support.network import Shape, generate
from support.waiting import until

from back.graph.acceptance import Situation
from back.graph.judge import Judge, JudgeRules
from back.graph.submissions import Budget
from shared.chain import REGTEST
from shared.fabric.gossip import Outcome, Verdicts, encode_submission
from shared.fabric.interface import Received
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.requests import read
from shared.gossip.record import Change
from shared.gossip.table import Table

NOW = 1_700_000_000
NETWORK = generate(Shape(channels=4, nodes=3), NOW)
UPDATES = list(NETWORK.updates.values())
RULES = JudgeRules(budget=Budget(items=4), flush_s=0.0, answered_when_full=2, away_s=0.0)


@dataclass
class Keeper:
    """Has the channels of the network."""

    table: Table = field(default_factory=Table)
    is_ready: bool = True

    def situation(self, is_awaited: Callable[[int], bool]) -> Situation:
        return Situation(REGTEST.chain_hash, NOW, 0, is_awaited)

    def apply(self, changes: Iterable[Change]) -> bool:
        return sum(map(self.table.apply, changes)) > 0

    async def drained(self) -> None:
        await asyncio.sleep(0)


class Scene:
    """A judge whose chain is away; ``told`` by number."""

    def __init__(self, fabric: MemoryFabric, executor: ThreadPoolExecutor) -> None:
        self.keeper = Keeper()
        for change in NETWORK.changes():
            if change.key in NETWORK.channels:
                self.keeper.table.apply(change)
        nobody: Any = SimpleNamespace(height=0)
        self.judge = Judge(fabric, self.keeper, nobody, nobody, executor, RULES)
        self.told: dict[int, Outcome] = {}
        self.executor = executor

    def hear(self, received: Received) -> None:
        for verdict in read(Verdicts, received.payload).verdicts:
            for number in verdict.ids:
                assert number not in self.told, "one verdict each"
                self.told[number] = verdict.outcome

    def submit(self, number: int, *raws: bytes, front: str = "a") -> None:
        payload = encode_submission(front, number, raws)
        self.judge.receive(Received("ln.gossip.channel_update", payload))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    fabric = MemoryFabric(MemoryBroker())
    await fabric.start()
    with ThreadPoolExecutor(1) as executor:
        made = Scene(fabric, executor)
        await fabric.subscribe("ln.verdict.a", made.hear)
        made.judge.start()
        yield made
        await made.judge.stop()
    await fabric.stop()


async def test_what_comes_before_the_table_is_loaded_comes_later(scene: Scene) -> None:
    scene.keeper.is_ready = False
    scene.submit(1, UPDATES[0])
    await until(lambda: scene.told)
    assert scene.told == {1: Outcome.LATER}
    scene.keeper.is_ready = True
    scene.submit(2, UPDATES[0])
    await until(lambda: len(scene.told) == 2)
    assert scene.told[2] is Outcome.ACCEPTED


async def test_who_is_over_the_budget_is_told_so_a_few_times_and_then_not_read(
    scene: Scene,
) -> None:
    scene.submit(0, *UPDATES[:4])
    for number in range(10, 20):
        scene.submit(number, UPDATES[5])
    assert scene.judge.refused == 8
    scene.submit(30, UPDATES[6], front="b")
    await until(lambda: len(scene.told) == 6)
    assert [scene.told[number] for number in (10, 11)] == [Outcome.LATER] * 2
    await until(lambda: not len(scene.judge.submissions))
    assert scene.keeper.table.updates == 5, "the other front is not full"
    scene.submit(40, UPDATES[5])
    await until(lambda: 40 in scene.told)
    assert scene.told[40] is Outcome.ACCEPTED


async def test_signatures_that_cannot_be_checked_use_up_no_budget(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        monkeypatch.undo()
        raise KeyError("a bug")

    monkeypatch.setattr("back.graph.judge.verify", fails)
    scene.submit(0, *UPDATES[:4])
    await until(lambda: len(scene.told) == 4)
    assert set(scene.told.values()) == {Outcome.REFUSED}
    scene.submit(10, *UPDATES[:4])
    await until(lambda: len(scene.told) == 8)
    assert scene.keeper.table.updates == 4


async def test_a_bug_at_one_announcement_does_not_touch_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scene.keeper.table.update_timestamp

    def fails(scid: int, direction: int) -> int:
        if (scid << 1 | direction) == next(iter(NETWORK.updates)):
            raise KeyError("a bug")
        return real(scid, direction)

    monkeypatch.setattr(scene.keeper.table, "update_timestamp", fails)
    scene.submit(0, *UPDATES[:3])
    await until(lambda: len(scene.told) == 3)
    assert scene.told[0] is Outcome.REFUSED
    assert {scene.told[1], scene.told[2]} == {Outcome.ACCEPTED}
    assert len(scene.judge.submissions) == 0


async def test_while_the_chain_is_away_channels_come_later(scene: Scene) -> None:
    scene.keeper.table = Table()
    scene.submit(0, *NETWORK.channels.values())
    await until(lambda: len(scene.told) == 4)
    assert set(scene.told.values()) == {Outcome.LATER}


async def test_a_back_that_was_taken_over_gives_no_verdict(scene: Scene) -> None:
    scene.judge.mute()
    scene.submit(0, UPDATES[0])
    await until(lambda: scene.keeper.table.updates == 1)
    await until(lambda: not len(scene.judge.submissions))
    await scene.judge.stop()
    assert scene.told == {}
