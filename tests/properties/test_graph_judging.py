"""Several fronts submit in any order, one of them stolen, with a chain that fails now and then.

The table ends the same: the network, and nothing else. Whatever is submitted, nothing of the table
goes, and no channel is replaced; no front has more waiting than its budget; each announcement that
was taken has one verdict.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings, strategies as st
from support.network import Shape, generate
from support.waiting import until

from back.graph.acceptance import Absent, Funding, Funds, Situation
from back.graph.funding import Coin
from back.graph.judge import Judge, JudgeRules
from back.graph.spent import Outputs
from back.graph.submissions import Budget
from shared.chain import REGTEST, Outpoint
from shared.errors import BitcoindUnavailable
from shared.fabric import subjects
from shared.fabric.gossip import Outcome, Verdicts, encode_submission
from shared.fabric.interface import Received
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.fabric.requests import read
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table
from shared.gossip.view import ChannelView, UpdateView, view

NOW = 1_700_000_000
NETWORK = generate(Shape(channels=6, nodes=4, transactions=3), NOW)
TRUE = list(NETWORK.messages())
HEIGHT = max(NETWORK.channels) // (1 << 40) + 100
HONEST, STOLEN = ("one", "two", "three"), ("stolen", "made-up")
BUDGET = Budget(fronts=4, items=5, size=2_000)
ENDS = {Outcome.ACCEPTED, Outcome.KNOWN}


def changed(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def elsewhere(raw: bytes) -> bytes:
    """A channel at the place of another."""
    scids = [scid.to_bytes(8, "big") for scid in NETWORK.channels]
    own = next(scid for scid in scids if scid in raw)
    return raw.replace(own, next(scid for scid in scids if scid != own))


LIES = [
    *(changed(raw, 10) for raw in TRUE),
    *(changed(raw, len(raw) - 1) for raw in TRUE),
    *(elsewhere(raw) for raw in NETWORK.channels.values()),
    *(raw[:106] + b"\xff" + raw[107:] for raw in NETWORK.updates.values()),
    *(raw[:107] + changed(raw[107:], 0) for raw in NETWORK.updates.values()),
    *(raw[:100] for raw in TRUE[:3]),
    b"",
    b"\x01\x00",
    b"\x77" * 300,
]
"""Wrong signatures, places, times, nodes and lengths."""


class Chain:
    """Outputs of the network; bitcoind is away when ``moods`` say so."""

    def __init__(self, moods: Iterable[bool]) -> None:
        self._moods = iter(moods)

    async def locate(self, scids: Collection[int]) -> dict[int, Funds]:
        await self._answer()
        return {scid: self._at(scid) for scid in scids}

    async def unspent(self, outpoints: Sequence[Outpoint]) -> list[Coin | None]:
        await self._answer()
        return [Coin(6, 1) for _ in outpoints]

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if next(self._moods, False):
            raise BitcoindUnavailable("away")

    @staticmethod
    def _at(scid: int) -> Funds:
        output = NETWORK.output(scid)
        if output is None:
            return Absent.NO_OUTPUT
        return Funding(NETWORK.funding_txid(scid), output.amount_sat, output.script_pubkey)


@dataclass
class Keeper:
    """Keeps the table, and minds that it only grows."""

    table: Table = field(default_factory=Table)
    is_ready: bool = True

    def situation(self, is_awaited: Callable[[int], bool]) -> Situation:
        return Situation(REGTEST.chain_hash, NOW, HEIGHT, is_awaited)

    def apply(self, changes: Iterable[Change]) -> bool:
        is_news = False
        for change in changes:
            assert change.value is not None, "nothing goes"
            if change.kind is Kind.CHANNEL:
                assert self.table.channel(change.key) is None, "nothing is replaced"  # type: ignore[arg-type]
            is_news |= self.table.apply(change)
        return is_news

    async def drained(self) -> None:
        await asyncio.sleep(0)


@dataclass
class Scene:
    judge: Judge
    keeper: Keeper
    told: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    times: Counter[tuple[str, int]] = field(default_factory=Counter)
    sent: int = 0

    def submit(self, front: str, raws: Sequence[bytes]) -> list[tuple[str, int]]:
        """Submit together; returns what verdicts will name."""
        first = self.sent
        self.sent += len(raws)
        payload = encode_submission(front, first, raws)
        self.judge.receive(Received(subjects.gossip("channel_update"), payload))
        assert len(self.judge.submissions) <= BUDGET.items * BUDGET.fronts
        for account in self.judge.submissions._accounts.values():
            assert account.items <= BUDGET.items
            assert account.size <= BUDGET.size
        return [(front, first + i) for i in range(len(raws))]

    async def idle(self) -> None:
        """Wait until everything that was taken is decided, and told."""
        judge = self.judge
        await until(lambda: not len(judge.submissions) and not judge._verdicts)
        assert not len(judge.channels)
        await asyncio.sleep(0)


@asynccontextmanager
async def judging(moods: Iterable[bool]) -> Any:
    broker = MemoryBroker()
    fabric = MemoryFabric(broker)
    await fabric.start()
    keeper = Keeper()
    spends: Any = SimpleNamespace(height=HEIGHT, outputs=Outputs())
    chain: Any = Chain(moods)
    rules = JudgeRules(
        budget=BUDGET,
        batch=7,
        slice=3,
        verified_at_once=2,
        blocks=2,
        channels=3,
        verdicts=2,
        flush_s=0.0,
        answered_when_full=1,
        away_s=0.0,
    )
    with ThreadPoolExecutor(1) as executor:
        judge = Judge(fabric, keeper, chain, spends, executor, rules)
        scene = Scene(judge, keeper)

        def hear(received: Received) -> None:
            front = received.subject.rpartition(".")[2]
            for verdict in read(Verdicts, received.payload).verdicts:
                for number in verdict.ids:
                    scene.told[front, number] = verdict.outcome
                    scene.times[front, number] += 1

        await fabric.subscribe("ln.verdict.*", hear)
        judge.start()
        try:
            yield scene
        finally:
            await judge.stop()
            await fabric.stop()


@dataclass(frozen=True)
class Submit:
    """A front submits some announcements at once."""

    front: str
    raws: tuple[bytes, ...]


@dataclass(frozen=True)
class Pause:
    """The back gets on with it."""

    turns: int


def submissions(fronts: Sequence[str], raws: Sequence[bytes]) -> st.SearchStrategy[Submit]:
    some = st.lists(st.sampled_from(raws), min_size=1, max_size=4)
    return st.builds(Submit, st.sampled_from(fronts), some.map(tuple))


steps = st.lists(
    st.one_of(
        submissions(HONEST, TRUE),
        submissions(STOLEN, LIES + TRUE),
        submissions(STOLEN, LIES),
        st.builds(Pause, st.integers(1, 8)),
    ),
    max_size=40,
)


async def finish(scene: Scene) -> None:
    """Submit the network as an honest front does: again what comes later, or came too early."""
    left = list(TRUE)
    for _ in range(60):
        number = scene.submit("four", left[:1])[0]
        await scene.idle()
        if scene.told.get(number) in ENDS:
            left = left[1:]
        if not left:
            return
    raise AssertionError(f"{len(left)} announcements get no end")


async def play(plan: Sequence[Submit | Pause], moods: Sequence[bool]) -> None:
    async with judging(moods) as scene:
        claims: list[tuple[str, int]] = []
        for step in plan:
            if isinstance(step, Pause):
                for _ in range(step.turns):
                    await asyncio.sleep(0)
            else:
                claims += scene.submit(step.front, step.raws)
        await scene.idle()
        assert set(scene.times.values()) <= {1}, "one verdict each"
        unheard = [claim for claim in claims if claim not in scene.told]
        assert bool(unheard) == bool(scene.judge.refused), "none only if dropped unread"
        await finish(scene)
        assert_is_the_network(scene.keeper.table)
        assert set(scene.times.values()) == {1}


def assert_is_the_network(table: Table) -> None:
    expected = Table()
    for change in NETWORK.changes():
        expected.apply(change)
    assert sorted(table.changes(), key=repr) == sorted(expected.changes(), key=repr)


@settings(max_examples=40, deadline=None)
@given(steps, st.lists(st.booleans(), max_size=10))
def test_the_table_ends_the_same_whoever_submits_what_in_any_order(
    plan: list[Submit | Pause], moods: list[bool]
) -> None:
    asyncio.run(play(plan, moods))


def test_the_lies_are_lies() -> None:
    """Else the test above would show nothing."""
    kinds = Counter(type(view(raw)).__name__ for raw in LIES if len(raw) > 300 or raw in TRUE)
    assert kinds[ChannelView.__name__] >= 12
    assert not set(LIES) & set(TRUE)
    assert any(isinstance(view(raw), UpdateView) for raw in TRUE)
