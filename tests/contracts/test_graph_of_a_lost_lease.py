"""A back that was frozen writes nothing into GRAPH when it goes on after another took over."""

import asyncio
from pathlib import Path

from support.broker import client, running
from support.databases import (  # noqa: F401 - fixtures
    claimant,
    committing,
    database,
    database_url,
    take_over,
)
from support.graph import QUICK_WRITER, channel, following, table_of, writing
from support.waiting import until

from back.gossip import OWNED_S, Ownership
from back.graph.writer import GraphWriter
from back.storage.database import Database
from back.storage.store import NODE_SHARD


async def test_a_frozen_owner_that_goes_on_writes_nothing_that_it_had_in_mind(
    database: Database,  # noqa: F811
    tmp_path: Path,
) -> None:
    now = 1_000.0

    def go_on() -> None:
        writer.go_on()

    async with (
        running(tmp_path) as broker,
        client(broker, "back") as old,
        client(broker, "back") as new,
        client(broker, "front") as front,
        committing(database, take_over(database, shards=(NODE_SHARD,))) as committer,
    ):
        ownership = Ownership(committer, go_on, monotonic=lambda: now)
        writer = GraphWriter(old, rules=QUICK_WRITER, may_write=ownership.is_shown)
        owning = asyncio.create_task(ownership.run())
        writer.start()
        try:
            writer.put(channel(1))
            await writer.flushed()
            # Frozen for a while, and another takes the shards meanwhile. Nobody has told us yet.
            take_over(database, shards=(NODE_SHARD,))
            now += OWNED_S
            writer.put(channel(2))
            await asyncio.wait({owning})
            assert writer.waiting == 1
            async with writing(new) as successor:
                successor.put(channel(3))
                await successor.flushed()
            async with following(front) as (follower, sink):
                await until(follower.ready.is_set)
                assert sink.table == table_of([channel(1), channel(3)])
        finally:
            writer.mute()
            owning.cancel()
            await writer.stop()
