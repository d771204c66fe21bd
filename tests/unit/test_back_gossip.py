"""Who may write GRAPH: the owner, as a commit has shown a moment ago, and nobody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from support.waiting import until

from back.gossip import OWNED_S, Ownership
from back.storage.store import NODE_SHARD
from shared.errors import LeaseLost, StorageUnavailable


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
