"""An intake in a test: its peers, a scripted back, time that only the test moves."""

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from support.network import Network, Shape, generate, recently

from front.gossip.intake.budget import IntakeRules
from front.gossip.intake.intake import Intake
from front.gossip.intake.verification import Verification
from front.gossip.intake.worker import HIGH_S, RIGHT, WRONG
from front.metrics import Metrics
from shared.chain import REGTEST
from shared.fabric import subjects
from shared.fabric.gossip import Outcome, Verdict, Verdicts, decode_submission
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.signed import verify, with_low_s
from shared.gossip.table import Table
from shared.gossip.view import channel_view, direction_of, message_type, node_view, update_key

__all__ = ["Link", "Scene", "SlowVerifier", "change_of", "network", "scene"]

FRONT = "front-1"


def network(channels: int = 6, nodes: int = 4, seed: int = 1) -> Network:
    return generate(Shape(channels=channels, nodes=nodes, seed=seed), recently(), first_block=3)


def change_of(raw: bytes) -> Change:
    """What GRAPH says of an announcement."""
    match message_type(raw):
        case 256:
            record = ChannelRecord(raw, 100_000, 0, bytes(32))
            return Change(Kind.CHANNEL, channel_view(raw).short_channel_id, record)
        case 257:
            return Change(Kind.NODE, node_view(raw).node_id, raw)
        case _:
            return Change(Kind.UPDATE, update_key(*direction_of(raw)), raw)


@dataclass(eq=False)
class Link:
    """A peer; it is gone after a disconnecting offence, as a real one is."""

    number: int
    has_channels: bool = False
    is_outbound: bool = False
    networks: tuple[bytes, ...] = ()
    queries: bool = True
    queries_ex: bool = True
    closing: bool = False
    unsent: int = 0
    warnings: list[str] = field(default_factory=list)
    on_closing: Callable[["Link"], None] = lambda link: None

    @property
    def node_id(self) -> bytes:
        return b"\2" + self.number.to_bytes(32, "big")

    def send(self, message: bytes) -> None:
        raise AssertionError("the intake sends nothing")

    def offend(self, text: str, *, bolt: str, disconnect: bool) -> None:
        assert bolt == "BOLT 7"
        assert not (disconnect and self.has_channels)
        self.warnings.append(text)
        if disconnect and not self.closing:
            self.closing = True
            self.on_closing(self)


class SlowVerifier:
    """Checks signatures when the test says so."""

    pids: ClassVar[list[int]] = []

    def __init__(self, workers: int, idle: Callable[[], None]) -> None:
        self.batches: list[tuple] = []
        self.checked = 0
        self._idle = idle

    @property
    def free(self) -> bool:
        return len(self.batches) < 2

    def check(self, items, done) -> None:
        self.batches.append((items, done))

    def work(self) -> bool:
        """Answer the oldest batch; False if there is none."""
        if not self.batches:
            return False
        items, done = self.batches.pop(0)
        self.checked += len(items)
        done(bytes(self._answer(raw, signer) for raw, signer in items))
        self._idle()
        return True

    async def stop(self) -> None:
        self.batches.clear()

    @staticmethod
    def _answer(raw: bytes, signer: bytes) -> int:
        if verify(raw, signer):
            return RIGHT
        return HIGH_S if verify(with_low_s(raw), signer) else WRONG


@dataclass
class Scene:
    """An intake with its table; the back answers what ``judge`` says."""

    intake: Intake
    metrics: Metrics
    broker: MemoryBroker
    bulk: MemoryFabric
    back: MemoryFabric
    verifier: list[SlowVerifier]
    table: Table = field(default_factory=Table)
    clock: list[float] = field(default_factory=lambda: [0.0])
    judge: Callable[[bytes], Outcome | None] = lambda raw: Outcome.ACCEPTED
    echoes: bool = True
    submitted: list[bytes] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)

    @property
    def now(self) -> float:
        return self.clock[0]

    def peer(self, number: int, *, has_channels: bool = False) -> Link:
        return Link(number, has_channels, on_closing=self.intake.left)

    def take(self, *raws: bytes) -> None:
        """GRAPH brings these."""
        for raw in raws:
            change = change_of(raw)
            if self.table.apply(change):
                self.intake.applied(change)

    def tick(self, seconds: float = 0.1) -> None:
        self.clock[0] += seconds
        self.intake.tick(self.now)

    def counted(self, result: str) -> int:
        """How many announcements came to an end that is called so."""
        self.intake.tick(self.now)
        name = "squall_front_announcements_total"
        kinds = ("channel_announcement", "node_announcement", "channel_update")
        found = (
            self.metrics.registry.get_sample_value(name, {"kind": kind, "result": result})
            for kind in kinds
        )
        return sum(int(value or 0) for value in found)

    def hear(self, received) -> None:
        """What the back does with a submission."""
        submission = decode_submission(received.payload)
        verdicts = []
        for number, raw in enumerate(submission.items, submission.first_id):
            self.submitted.append(raw)
            outcome = self.judge(raw)
            if outcome is None:
                continue
            verdicts.append(Verdict(id=number, outcome=outcome))
            if outcome is Outcome.ACCEPTED and self.echoes:
                self.take(raw)
        if verdicts:
            answer = Verdicts(verdicts=tuple(verdicts)).to_bytes()
            self.back.publish(subjects.verdict(submission.front), answer)

    def assert_empty(self) -> None:
        """Nothing is undecided, and nothing counted that is not there."""
        intake = self.intake
        budget = intake._budget
        assert not intake._pending, [item.type for item in intake._pending.values()]
        assert (budget.items, budget.size, budget.strays) == (0, 0, 0)
        assert not intake._awaited
        assert intake._submitting.in_flight == 0
        for account in intake._accounts.values():
            assert (account.items, account.size, account.held) == (0, 0, 0)


@asynccontextmanager
async def scene(*, slow: bool = False, back: bool = True, **rules):
    """Run an intake; with real worker processes, or with a `SlowVerifier`."""
    broker, metrics = MemoryBroker(), Metrics()
    bulk, back_bulk = MemoryFabric(broker, FRONT), MemoryFabric(broker, "back")
    await bulk.start()
    await back_bulk.start()
    slows: list[SlowVerifier] = []
    clock = [1_000.0]

    def make(workers, idle):
        if not slow:
            return Verification(workers, idle)
        slows.append(SlowVerifier(workers, idle))
        return slows[0]

    limits = IntakeRules(**{"workers": 1, "flush_s": 0.0, **rules})
    intake = Intake(
        bulk,
        FRONT,
        REGTEST.chain_hash,
        lambda: found.table,
        limits,
        metrics,
        verifier=make,
        clock=lambda: clock[0],
    )
    found = Scene(intake, metrics, broker, bulk, back_bulk, slows, clock=clock)
    intake.on_missing = found.missing.update
    await intake.start()
    if back:
        await back_bulk.subscribe("ln.gossip.>", found.hear)
    try:
        yield found
    finally:
        await intake.stop()
        await bulk.stop()
        await back_bulk.stop()
