"""Whatever peers, workers, the back and time do, the intake's accounts are right and bounded."""

import asyncio
from collections import Counter

from hypothesis import given, settings, strategies as st
from support.gossip_intake import Scene, network, scene

from front.gossip.intake.budget import IntakeRules
from front.gossip.intake.submitting import SubmitRules
from shared.fabric.gossip import Outcome
from shared.gossip.table import Table
from shared.gossip.view import channel_view

NETWORK = network(channels=4, nodes=3)
RIGHT = list(NETWORK.messages())
WRONG = [raw[:-1] + bytes([raw[-1] ^ 1]) for raw in RIGHT]
RAWS = [*RIGHT, *WRONG, *(raw + b"\0" for raw in RIGHT)]
LIMITS = {
    "peer_items": 8,
    "items": 14,
    "size": 4_000,
    "peer_held": 2,
    "held": 3,
    "batch": 4,
    "invalid_until_muted": 2,
    "mute_s": 20.0,
    "disputed_channels": 1,
    "disputed_updates": 2,
    "refused_burst": 3.0,
    "replaced_burst": 1,
    "memory": 8,
    "submit": SubmitRules(in_flight=3, postponed=2),
}
PEERS = 3

steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["receive"]), st.integers(0, PEERS - 1), st.sampled_from(RAWS)),
        st.tuples(st.sampled_from(["offer", "echo"]), st.just(0), st.sampled_from(RIGHT)),
        st.tuples(st.sampled_from(["left"]), st.integers(0, PEERS - 1), st.just(b"")),
        st.tuples(
            st.sampled_from(["check", "check", "replace", "cut", "mend"]),
            st.just(0),
            st.just(b""),
        ),
        st.tuples(st.sampled_from(["tick"]), st.integers(0, 40), st.just(b"")),
    ),
    min_size=10,
    max_size=80,
)
outcomes = st.lists(st.sampled_from([*Outcome, None]), min_size=1, max_size=20)


async def turn() -> None:
    """Let everything that is due happen: nothing here waits for time."""
    for _ in range(8):
        await asyncio.sleep(0)


class Play:
    """What happens to an intake."""

    def __init__(self, it: Scene, outcomes: list) -> None:
        self.it = it
        self.peers = [it.peer(number, has_channels=not number) for number in range(PEERS)]
        self.outcomes = outcomes
        self.asked = 0
        it.judge = self.judge

    def judge(self, raw: bytes) -> Outcome | None:
        self.asked += 1
        return self.outcomes[self.asked % len(self.outcomes)]

    async def do(self, what: str, number: int, raw: bytes) -> None:
        await turn()
        getattr(self, what)(number, raw)
        await turn()

    def receive(self, number: int, raw: bytes) -> None:
        if not self.peers[number].closing:
            self.it.intake.receive(self.peers[number], raw)

    def left(self, number: int, raw: bytes) -> None:
        self.it.intake.left(self.peers[number])
        self.peers[number] = self.it.peer(number, has_channels=not number)

    def offer(self, number: int, raw: bytes) -> None:
        self.it.intake.offer(raw)

    def echo(self, number: int, raw: bytes) -> None:
        self.it.take(raw)

    def check(self, number: int, raw: bytes) -> None:
        self.it.verifier[0].work()

    def replace(self, number: int, raw: bytes) -> None:
        self.it.table = Table()
        self.it.intake.replaced()

    def cut(self, number: int, raw: bytes) -> None:
        self.it.broker.cut()

    def mend(self, number: int, raw: bytes) -> None:
        self.it.broker.mend()

    def tick(self, number: int, raw: bytes) -> None:
        self.it.tick(number)


def consistent(it: Scene) -> None:
    intake, rules = it.intake, IntakeRules(**LIMITS)
    pending = intake._pending.values()
    owned = Counter(id(item.owner) for item in pending)
    held = Counter(id(item.owner) for item in pending if item.is_stray)
    budget = intake._budget
    assert budget.items == len(pending) <= rules.items
    assert budget.size == sum(len(item.raw) for item in pending) <= rules.size + 500
    assert budget.strays == sum(item.is_stray for item in pending) <= rules.held
    for account in intake._accounts.values():
        assert account.items == owned[id(account)]
        assert account.held == held[id(account)] <= rules.peer_held
        assert account.size == sum(len(item.raw) for item in pending if item.owner is account)
    awaited = Counter()
    for item in pending:
        assert not item.is_done
        assert item.owner is None or item.owner in item.senders
        if item.type == 256:
            channel = channel_view(item.raw)
            awaited.update((channel.short_channel_id, *channel[2:4]))
    assert intake._awaited == awaited
    held_items = [item for items in intake._holds._by_key.values() for item in items]
    assert len(intake._holds) == len(held_items)
    assert all(item.id == number for number, item in intake._submitting._in_flight.items())
    assert intake._submitting.in_flight <= 3 * rules.submit.in_flight


async def play(events: list, outcomes: list) -> None:
    async with scene(slow=True, **LIMITS) as it:
        acts = Play(it, outcomes)
        for event in events:
            await acts.do(*event)
            consistent(it)
        # In the end everybody does what he should, and nothing is left.
        it.broker.mend()
        acts.outcomes = [Outcome.KNOWN]
        for _ in range(40):
            while it.verifier[0].work():
                await turn()
            it.tick(130)
            await turn()
        it.assert_empty()


@settings(max_examples=250, deadline=None)
@given(steps, outcomes)
def test_no_sequence_of_events_leaves_anything_behind_or_exceeds_a_limit(events, outcomes):
    asyncio.run(play(events, outcomes))
