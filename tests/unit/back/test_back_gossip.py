"""Who may write GRAPH: the owner, as a commit has shown a moment ago, and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.graph import node
from support.waiting import until

from back.chain.bitcoind import ChainSettings
from back.gossip import OWNED_S, Ownership
from back.graph.service import GraphService
from back.storage.store import NODE_SHARD
from shared.errors import LeaseLost, StorageUnavailable
from shared.fabric import subjects
from shared.fabric.gossip import encode_submission
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.gossip.record import Change

if TYPE_CHECKING:
    from shared.fabric.interface import Received


@dataclass
class World:
    """A database, a clock, and who hears that GRAPH is ours.

    Attributes:
        commits: when each was made.
        failures: what the next ones end with.
        slow_s: for how long a commit holds up.
        shown: how often it was told.
    """

    now: float = 100.0
    slow_s: float = 0.0
    commits: list[float] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    shown: int = 0

    async def submit(self, shard: int) -> None:
        assert shard == NODE_SHARD
        self.commits.append(self.now)
        await asyncio.sleep(0)
        self.now += self.slow_s
        if self.failures:
            raise self.failures.pop(0)

    def told(self) -> None:
        self.shown += 1


@asynccontextmanager
async def owning(world: World) -> AsyncIterator[tuple[Ownership, "asyncio.Task[None]"]]:
    committer: Any = world
    ownership = Ownership(committer, world.told, monotonic=lambda: world.now)
    task = asyncio.create_task(ownership.run())
    try:
        yield ownership, task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_nothing_is_written_before_a_commit_has_shown_that_it_may_be() -> None:
    world = World()
    async with owning(world) as (ownership, _):
        assert not ownership.is_shown()
        await until(lambda: world.shown)
        assert ownership.is_shown()
        assert len(world.commits) == 1


async def test_one_commit_is_enough_for_a_second_and_idleness_needs_none() -> None:
    world = World()
    async with owning(world) as (ownership, _):
        ownership.is_shown()
        await until(lambda: world.shown)
        world.now += OWNED_S * 0.99
        assert ownership.is_shown()
        world.now += 3_600
        await asyncio.sleep(0)
        assert len(world.commits) == 1
        assert not ownership.is_shown()
        await until(lambda: world.shown == 2)
        assert ownership.is_shown()


async def test_a_commit_counts_from_its_beginning() -> None:
    """What froze in the middle of it may have been overtaken."""
    world = World(slow_s=OWNED_S * 2)
    async with owning(world) as (ownership, _):
        ownership.is_shown()
        await until(lambda: world.shown)
        assert not ownership.is_shown()


async def test_without_a_database_nothing_is_written_and_it_is_tried_again() -> None:
    world = World(failures=[StorageUnavailable("away")])
    async with owning(world) as (ownership, _):
        ownership.is_shown()
        await until(lambda: len(world.commits) == 2)
        await until(lambda: world.shown)
        assert ownership.is_shown()


async def test_who_lost_the_lease_writes_nothing_any_more() -> None:
    world = World(failures=[LeaseLost((NODE_SHARD,))])
    async with owning(world) as (ownership, task):
        ownership.is_shown()
        await asyncio.wait({task})
        assert not ownership.is_shown()
        assert world.shown == 0


# --- a lost lease -----------------------------------------------------------------------------


class _Follower:
    """Brings nothing."""

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class _Writer(_Follower):
    """Notes what is written."""

    def __init__(self) -> None:
        self.written: list[Change] = []
        self.is_muted = False

    def put(self, change: Change) -> None:
        if not self.is_muted:
            self.written.append(change)

    def tip(self, height: int, block_hash: bytes) -> None:
        pass

    async def drained(self) -> None:
        pass

    def mute(self) -> None:
        self.is_muted = True

    def on_lost(self, callback: Callable[[], None]) -> None:
        pass


async def test_who_lost_the_lease_gives_no_verdict_and_hands_the_writer_nothing() -> None:
    broker = MemoryBroker()
    back, front = MemoryFabric(broker, "back"), MemoryFabric(broker, "front")
    for fabric in (back, front):
        await fabric.start()
    heard: list[Received] = []
    await front.subscribe(subjects.verdict("rome"), heard.append)
    writer = _Writer()
    chain = ChainSettings("http://127.0.0.1:1", user="nobody")
    service = GraphService(
        back, writer, chain, bytes(32), trusts_fronts=True, follow=lambda *_: _Follower()
    )
    await service.start()
    try:
        item = encode_submission("rome", 1, [bytes([1, 2]) + bytes(200)])
        front.publish(subjects.gossip("channel_update"), item)
        await until(lambda: len(heard) == 1)
        service.mute()
        front.publish(subjects.gossip("channel_update"), item)
        await until(lambda: sum(service.judge.counts.values()) == 2)
        service.announce_own([node(1)])
        service.loading()
        service.loaded()
        await service.judge.stop()
        await front.barrier()
        assert (len(heard), writer.written) == (1, [])
    finally:
        await service.stop()
        for fabric in (back, front):
            await fabric.stop()
