"""All channels in the shell: what their effects do, and what is left when they end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs
from support.channels import POLICY, Keys, opened
from support.openings import accepted, funded, proposed
from support.waiting import until

from back.channel import machine
from back.channel.effects import Alarm, ChannelIdAssigned, Request
from back.channel.events import AbandonOpening, BlockConnected, ForceClose, FundingConfirmed
from back.channel.model import Channel, Htlc, HtlcState, Phase
from back.channels import COMMIT_PATIENCE_S, Channels
from back.peer import Peers
from back.runner import ChannelRunner
from shared.crypto.signature import public_key
from shared.errors import WriteRefused
from shared.fabric.envelope import Reason
from shared.features import FeatureSet
from shared.wire import Message


@dataclass
class Chain:
    """Remembers what was asked of it."""

    watched: list[Any] = field(default_factory=list)
    unwatched: list[Any] = field(default_factory=list)
    published: list[str] = field(default_factory=list)

    def watch_confirmed(self, *watch: Any) -> Any:
        self.watched.append(watch)
        return watch

    watch_spent = watch_confirmed

    def unwatch(self, watch: Any, _told: Any) -> None:
        self.unwatched.append(watch)

    def publish(self, _transaction: bytes, what: str) -> None:
        self.published.append(what)


@dataclass
class Rig:
    """Channels among fakes.

    Attributes:
        gate: commits wait for it.
        refusal: what commits fail with.
    """

    stored: list[Channel] = field(default_factory=list)
    chain: Chain = field(default_factory=Chain)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: Exception | None = None
    channels: Channels = field(init=False)

    def __post_init__(self) -> None:
        self.gate.set()
        keys = Keys("fundee")
        signer = SimpleNamespace(
            node_id=public_key(keys.node),
            answer=lambda _channel, request: keys.answer(request),
            reloaded=lambda _index: None,
        )
        steward = SimpleNamespace(remember=lambda _peer: None)
        peers = Peers(SimpleNamespace(), FeatureSet(), steward)  # type: ignore[arg-type]
        committer = SimpleNamespace(submit=self.submit)
        store = SimpleNamespace(
            load_channels=self.load,
            channel_writes=lambda before, after, _removed: [after] if before != after else [],
        )
        self.channels = Channels(signer, committer, store, self.chain, peers, POLICY)  # type: ignore[arg-type]

    async def load(self) -> list[Channel]:
        return self.stored

    async def submit(self, _shard: int, _writes: Any) -> None:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal

    async def restored(self, channel: Channel) -> ChannelRunner:
        """A channel that a start found in the database."""
        self.stored.append(channel)
        await self.channels.restore()
        return self.channels.runners[channel.channel_id]


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.gate.set()
        made.refusal = None
        await made.channels.stop()


async def test_a_watch_is_set_once_and_ends_with_its_channel() -> None:
    async with rig() as r:
        _, fundee, transaction = funded()
        runner = await r.restored(fundee.channel)
        assert len(r.chain.watched) == 2
        for effect in machine.resume(runner.channel):
            assert not isinstance(effect, Request)
            r.channels.perform(runner, effect)
        assert len(r.chain.watched) == 2
        await runner.request(FundingConfirmed(101, 1, transaction))
        assert not r.chain.unwatched
        runner.channel = replace(fundee.channel, height=0)
        runner.post(BlockConnected(100 + 2016 + 7))
        await until(lambda: not r.channels.runners, "the fundee forgets")
        assert len(r.chain.unwatched) == 2
        assert not r.channels._watches
        assert not r.channels.peers.known


async def test_all_channels_are_there_before_the_first_one_tells_of_its_htlcs() -> None:
    """A forward would find no way into a channel that is read a moment later."""
    async with rig() as r:
        htlc = Htlc(False, 0, 1_000_000, bytes(32), 500, HtlcState.RCVD_ADD_ACK_REVOCATION)
        channel = opened()[1].with_htlcs(htlc)
        for number in range(3):
            parameters = replace(channel.parameters, key_index=number)
            again = replace(channel, channel_id=bytes([number]) * 32, parameters=parameters)
            r.stored.append(again)
        seen: list[int] = []
        r.channels.payments = SimpleNamespace(  # type: ignore[assignment]
            perform=lambda *_: seen.append(len(r.channels.runners)), writes=lambda *_: []
        )
        await r.channels.restore()
        assert seen == [3, 3, 3]


async def test_an_alarm_is_loud_and_counted() -> None:
    async with rig() as r:
        runner = await r.restored(opened()[1])
        with capture_logs() as logs:
            r.channels.perform(runner, Alarm(b"c" * 32, "a revoked commitment"))
        assert r.channels.alarms == 1
        (line,) = [line for line in logs if line["event"] == "money_at_risk"]
        assert line["log_level"] == "critical"


async def test_a_channel_that_never_became_durable_leaves_nothing() -> None:
    async with rig() as r:
        r.refusal = WriteRefused("a constraint")
        end, _ = accepted(proposed()[1])
        step = machine.apply_batch(end.channel, [])
        with capture_logs():
            r.channels._adopt(end.channel, step)
            await until(lambda: not r.channels.runners, "it is gone")
        assert not r.channels.peers.known


async def test_a_stored_channel_that_stopped_stays_in_sight() -> None:
    async with rig() as r:
        runner = await r.restored(opened()[1])
        r.channels.signer.answer = None  # type: ignore[method-assign, assignment]
        with capture_logs():
            runner.post(ForceClose("the operator wants it"))
            await until(lambda: runner.is_stopped, "a bug stops it")
        assert list(r.channels.runners.values()) == [runner]


async def test_ids_change_hands_in_both_registries() -> None:
    async with rig() as r:
        end, _ = accepted(proposed()[1])
        runner = r.channels._adopt(end.channel, machine.apply_batch(end.channel, []))
        temporary, final = end.channel.channel_id, b"f" * 32
        runner.channel = replace(end.channel, channel_id=final)
        r.channels.perform(runner, ChannelIdAssigned(temporary, final))
        (peer,) = r.channels.peers.known.values()
        assert list(r.channels.runners) == list(peer.runners) == [final]


@dataclass
class Session:
    """A connection that remembers its end."""

    resets: list[tuple[Reason, str]] = field(default_factory=list)

    def send(self, _message: Message) -> None:
        """Lost: the connection is over."""

    def reset(self, reason: Reason, detail: str) -> None:
        self.resets.append((reason, detail))


async def test_connections_that_wait_too_long_for_the_database_end() -> None:
    """ARCHITECTURE § 8: nothing is said that is not stored, and after 30 s nobody waits."""
    async with rig() as r:
        runner = await r.restored(opened()[1])
        session = Session()
        runner.session = session  # type: ignore[assignment]
        await until(lambda: runner.committing_since is None, "the start is durable")
        r.gate.clear()
        runner.post(ForceClose("the operator wants it"))
        await until(lambda: runner.committing_since is not None, "a commit waits")
        since = runner.committing_since
        assert since is not None
        r.channels.end_sessions_that_wait(since + COMMIT_PATIENCE_S - 0.1)
        assert not session.resets
        r.channels.end_sessions_that_wait(since + COMMIT_PATIENCE_S)
        assert session.resets == [(Reason.CLOSED_BY_OWNER, "the database is away")]
        # What it decided is done when the database is back.
        r.gate.set()
        await until(lambda: r.chain.published, "the commitment goes out")


async def test_an_opening_that_the_operator_leaves_ends_at_once() -> None:
    async with rig() as r:
        end, _ = accepted(proposed()[1])
        runner = r.channels._adopt(end.channel, machine.apply_batch(end.channel, []))
        runner.post(AbandonOpening("too slow"))
        await until(lambda: not r.channels.runners, "it is forgotten")
        assert runner.channel.phase is Phase.CLOSED
