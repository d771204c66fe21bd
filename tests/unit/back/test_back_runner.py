"""The shell around one channel: nothing is said before it is durable, and nobody waits for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.channels import Keys, offered, opened, wired
from support.waiting import until

from back import runner as runners
from back.channel import machine
from back.channel.effects import Effect, OfferRefused, PhaseChanged, Publish, Request, Send
from back.channel.events import (
    BlockConnected,
    Connected,
    Disconnected,
    ForceClose,
    Received,
    UpdateFeerate,
)
from back.channel.model import Channel, Link, Phase
from back.runner import ChannelRunner
from shared.errors import CommandError, LeaseLost, StorageUnavailable, WriteRefused
from shared.fabric.envelope import Reason
from shared.wire import Message, Stfu, UpdateFee


@dataclass
class Session:
    """A connection that remembers."""

    sent: list[Message] = field(default_factory=list)
    resets: list[str] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def reset(self, _reason: Reason, detail: str) -> None:
        self.resets.append(detail)

    def close(self, *_: object) -> None:
        """Nothing to close."""


@dataclass
class World:
    """What a runner lives in.

    Attributes:
        gate: commits wait for it.
        refuse: says of the events' rows why a commit fails.
        spoil: raises where an effect cannot be done.
        commits: what became durable.
    """

    keys: Keys
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    refuse: Callable[[list[Any]], Exception | None] = lambda _rows: None
    spoil: Callable[[Effect], Exception | None] = lambda _effect: None
    answer_with: Exception | None = None
    commits: list[list[Any]] = field(default_factory=list)
    tries: int = 0
    done: list[Effect] = field(default_factory=list)
    reloads: int = 0
    ended: list[ChannelRunner] = field(default_factory=list)

    def answer(self, _channel: Channel, request: Request) -> machine.Answer:
        if self.answer_with is not None:
            raise self.answer_with
        return self.keys.answer(request)

    def writes(self, before: Channel | None, step: machine.Step) -> list[Any]:
        same = before is not None and replace(before, height=0) == replace(step.channel, height=0)
        return [] if same else [step.channel.phase]

    async def commit(self, _channel: Channel, writes: list[Any]) -> None:
        self.tries += 1
        await self.gate.wait()
        if error := self.refuse(writes):
            raise error
        self.commits.append(writes)

    def reloaded(self, _channel: Channel) -> None:
        self.reloads += 1

    def perform(self, runner: ChannelRunner, effect: Effect) -> None:
        if error := self.spoil(effect):
            raise error
        self.done.append(effect)
        if isinstance(effect, Send):
            runner.send(effect.message)


@asynccontextmanager
async def running(channel: Channel | None = None) -> AsyncIterator[tuple[ChannelRunner, World]]:
    """A runner of an open channel's opener, connected, whose commits go through."""
    world = World(Keys("opener"))
    world.gate.set()
    runner = ChannelRunner(world, channel or opened()[0], on_stop=world.ended.append)  # type: ignore[arg-type]
    runner.session = Session()  # type: ignore[assignment]
    task = asyncio.create_task(runner.run())
    try:
        yield runner, world
    finally:
        runner.stop()
        world.gate.set()
        await asyncio.wait_for(task, 5)


def sends(world: World) -> list[str]:
    return [effect.message.NAME for effect in world.done if isinstance(effect, Send)]


# --- persist before you speak --------------------------------------------------------------------


async def test_nothing_is_done_before_the_commit() -> None:
    async with running() as (runner, world):
        world.gate.clear()
        runner.post(offered("p1", 5_000_000))
        await until(lambda: world.tries, "the commit is under way")
        assert runner.committing_since is not None
        assert not world.done
        assert not runner.channel.htlcs
        world.gate.set()
        await until(lambda: sends(world), "the batch is out")
        assert sends(world) == ["update_add_htlc", "commitment_signed"]
        assert runner.channel.htlcs
        assert runner.committing_since is None


async def test_a_commit_is_tried_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "RETRY_S", 0)
    failures = [StorageUnavailable("away")] * 5
    async with running() as (runner, world):
        world.refuse = lambda _rows: failures.pop() if failures else None
        with capture_logs() as logs:
            channel = await runner.request(ForceClose("the operator wants it"))
        assert channel.phase is Phase.CLOSING
        assert world.tries == 6
        assert len([e for e in world.done if isinstance(e, Publish)]) == 1
        # One line an outage and channel, not one a try.
        assert len([line for line in logs if line["event"] == "commit_retried"]) == 1


async def test_what_changes_no_row_and_says_nothing_needs_no_commit() -> None:
    async with running() as (runner, world):
        runner.post(BlockConnected(120))
        await until(lambda: runner.channel.height == 120, "the block is taken")
        assert world.tries == 0
        # Whoever waits for an answer gets a proof that the channel is still ours.
        with pytest.raises(CommandError):
            await runner.request(UpdateFeerate(1))
        assert world.tries == 1


async def test_all_that_waits_becomes_one_commit() -> None:
    async with running() as (runner, world):
        world.gate.clear()
        runner.post(offered("p0", 5_000_000))
        await until(lambda: world.tries, "the first is under way")
        for number in range(1, 6):
            runner.post(offered(f"p{number}", 5_000_000))
        world.gate.set()
        await until(lambda: len(runner.channel.queue) == 5, "the others wait for a revocation")
        assert world.tries == 2


async def test_replies_go_out_on_the_connection_that_asked() -> None:
    async with running() as (runner, world):
        old, new = runner.session, Session()
        world.gate.clear()
        runner.post(BlockConnected(121))
        bad = UpdateFee(channel_id=runner.channel.channel_id, feerate_per_kw=1)
        runner.post(Received(bad))
        runner.post(Disconnected())
        runner.connect(new, Connected(frozenset()))  # type: ignore[arg-type]
        world.gate.set()
        await until(lambda: new.sent, "the new connection hears")
        assert [m.NAME for m in new.sent] == ["channel_reestablish"]
        assert isinstance(old, Session)
        assert not old.sent


# --- ends ----------------------------------------------------------------------------------------


async def test_after_a_lost_lease_not_a_word_is_said() -> None:
    async with running() as (runner, world):
        world.refuse = lambda _rows: LeaseLost((1,))
        asked = runner.request(ForceClose("the operator wants it"))
        # Not "nothing was done": it may be the commit's answer that was lost.
        with pytest.raises(LeaseLost):
            await asked
        assert not world.done
        assert world.ended == [runner]
        assert runner.channel.phase is Phase.NORMAL


async def test_a_bug_of_ours_stops_one_channel_and_leaves_nobody_waiting() -> None:
    async with running() as (runner, world):
        world.answer_with = KeyError("a bug")
        with capture_logs() as logs:
            asked = [runner.request(ForceClose("a")), runner.request(ForceClose("b"))]
            for each in asked:
                with pytest.raises(CommandError, match="stopped"):
                    await each
        assert [line["event"] for line in logs if line["log_level"] == "error"] == [
            "channel_stopped"
        ]
        assert runner.is_stopped
        assert world.ended == [runner]


async def test_a_stopped_channel_collects_nothing() -> None:
    """It may stay for years: every block and every message of the peer would be kept."""
    async with running() as (runner, world):
        world.answer_with = KeyError("a bug")
        with pytest.raises(CommandError):
            await runner.request(ForceClose("a"))
        for height in range(100):
            runner.post(BlockConnected(height))
        with pytest.raises(CommandError, match="stopped"):
            await runner.request(ForceClose("b"))
        assert not runner._inbox


async def test_offers_that_wait_for_a_signature_are_refused_at_the_end() -> None:
    async with running() as (runner, world):
        runner.post(offered("p0", 5_000_000))
        await until(lambda: sends(world), "the first is out")
        runner.post(offered("p1", 5_000_000))
        await until(lambda: runner.channel.queue, "the second waits")
        runner.stop()
        await until(lambda: world.ended, "it ends")
        (refused,) = [e for e in world.done if isinstance(e, OfferRefused)]
        assert refused.origin == "p1"


async def test_commands_that_come_with_the_stop_are_refused() -> None:
    async with running() as (runner, world):
        world.gate.clear()
        runner.post(offered("p0", 5_000_000))
        await until(lambda: world.tries, "a commit is under way")
        late = runner.request(ForceClose("too late"))
        runner.stop()
        world.gate.set()
        with pytest.raises(CommandError, match="stopped"):
            await late
        # What was under way is finished.
        assert sends(world) == ["update_add_htlc", "commitment_signed"]


# --- steps that are undone -----------------------------------------------------------------------


def refuse_rows_with(phase: Phase) -> Callable[[list[Any]], Exception | None]:
    return lambda rows: WriteRefused("a constraint") if phase in rows else None


async def test_a_refused_step_never_was() -> None:
    async with running() as (runner, world):
        world.refuse = refuse_rows_with(Phase.CLOSING)
        before = runner.channel
        with pytest.raises(CommandError, match="nothing was done"):
            await runner.request(ForceClose("the operator wants it"))
        assert runner.channel == before
        assert not world.done
        assert world.reloads == 1
        assert isinstance(runner.session, Session)
        assert runner.session.resets == ["the channel's state was loaded again"]
        assert not runner.is_stopped


async def test_only_the_offender_of_a_refused_step_is_dropped() -> None:
    """What the chain tells comes once; what the peer says comes again after the reset."""
    async with running() as (runner, world):
        world.refuse = refuse_rows_with(Phase.CLOSING)
        stfu = Stfu(channel_id=runner.channel.channel_id, initiator=1)
        runner.post(BlockConnected(123))
        runner.post(Received(stfu))
        closing = runner.request(ForceClose("the operator wants it"))
        fee = runner.request(UpdateFeerate(2_000))
        with pytest.raises(CommandError, match="nothing was done"):
            await closing
        await fee
        assert runner.channel.height == 123
        assert runner.channel.fees[-1].feerate_per_kw == 2_000
        assert runner.channel.phase is Phase.NORMAL
        assert sends(world) == ["update_fee", "commitment_signed"]


# --- effects that fail ---------------------------------------------------------------------------


async def test_an_effect_that_fails_stops_no_other_and_ends_the_connection() -> None:
    async with running() as (runner, world):
        world.spoil = lambda e: TypeError("a bug") if isinstance(e, PhaseChanged) else None
        with capture_logs() as logs:
            await runner.request(ForceClose("the operator wants it"))
        assert [type(e) for e in world.done] == [Send, Publish]
        assert isinstance(runner.session, Session)
        assert runner.session.resets == ["an internal error"]
        assert "effect_failed" in [line["event"] for line in logs]
        assert not runner.is_stopped


async def test_a_whole_payment_goes_through_the_shell() -> None:
    opener, fundee = wired(opened())
    async with running(opener.channel) as (runner, world):
        runner.post(offered("p1", 5_000_000))
        await until(lambda: len(sends(world)) == 2, "the batch is out")
        assert isinstance(runner.session, Session)
        fundee.do(*map(Received, runner.session.sent))
        runner.session.sent.clear()
        for message in fundee.sent:
            runner.post(Received(message))
        await until(lambda: runner.channel.local_commitment.number == 1, "both have signed")
        assert runner.channel.remote_commitment.number == 1


async def test_who_listens_hears_of_a_channel_that_goes_and_of_nothing_else() -> None:
    async with running() as (runner, world):
        moved: list[Link] = []
        runner.on_link = lambda moving: moved.append(moving.channel.link)
        runner.post(BlockConnected(200))
        await runner.request(UpdateFeerate(2_000))
        assert moved == []
        world.gate.clear()
        runner.post(Disconnected())
        await until(lambda: world.tries > len(world.commits))
        assert moved == [], "nobody hears of what is not durable"
        world.gate.set()
        await until(lambda: moved)
        assert moved == [Link.OFFLINE]
