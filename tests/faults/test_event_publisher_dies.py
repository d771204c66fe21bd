"""The back is killed at any moment of publishing: the stream has every committed event, once."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path

import pytest
from support.broker import client, cluster, running
from support.databases import storing
from support.events import QUICK, RETENTION, log_of, numbers
from support.waiting import until

from back.events.publisher import EventPublisher
from back.events.rows import StoredRows
from back.storage import outbox

DYING = Path(__file__).parents[1] / "support" / "dying_publisher.py"
MOMENTS = [("publish", 7), ("publish", 40), ("delete", 1), ("delete", 4), ("deleted", 3)]


@pytest.mark.parametrize(("moment", "count"), MOMENTS)
async def test_every_committed_event_is_in_the_stream_once_and_in_order(
    database_url: str, tmp_path: Path, moment: str, count: int
) -> None:
    async with running(tmp_path) as broker:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            str(DYING),
            database_url,
            broker.url,
            str(cluster()),
            moment,
            str(count),
            stdout=DEVNULL,
        )
        try:
            assert await asyncio.wait_for(child.wait(), 60) == -9
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        async with (
            client(broker, "back") as back,
            client(broker, "events") as events,
            storing(database_url, poll_s=0.1) as store,
        ):
            left = await store.read(outbox.pending_events)
            before = numbers(await log_of(events))
            publisher = EventPublisher(back, StoredRows(store), RETENTION, rules=QUICK)
            publisher.start()

            async def is_empty() -> bool:
                return not await store.read(outbox.pending_events)

            await until(is_empty, within_s=20)
            await publisher.stop()
            log = await log_of(events)
            assert numbers(log) == sorted(set(numbers(log)))
            assert {row.id for row in left} <= set(numbers(log))
            assert numbers(log)[: len(before)] == before
            if moment == "delete":
                assert {row.id for row in left} & set(before), "it died too late"
            # Three events a commit, none left out.
            told = [each["event"]["n"] for each in log]
            assert told == [n for n in range(len(told) // 3) for _ in range(3)]
