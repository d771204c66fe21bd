"""The stream EVENTS over a real broker: every row once, in order, and only then deleted."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.broker import client, running
from support.events import QUICK, RETENTION, MemoryRows, log_of, numbers, publishing
from support.waiting import until

from shared.fabric.client import FabricClient
from shared.fabric.events import MAX_EVENT_BYTES, STREAM, EventsRetention
from shared.fabric.jetstream import make_stream, stream_state
from shared.fabric.server import EmbeddedServer


@dataclass
class Fabric:
    """A broker and its clients."""

    broker: EmbeddedServer
    back: FabricClient
    events: FabricClient
    admin: FabricClient


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "events") as events,
        client(broker, "admin") as admin,
    ):
        yield Fabric(broker, back, events, admin)


@pytest.fixture
def rows() -> MemoryRows:
    return MemoryRows()


async def test_every_row_is_published_once_in_order_and_deleted(
    fabric: Fabric, rows: MemoryRows
) -> None:
    for _ in range(1_200):
        rows.add()
    async with publishing(fabric.back, rows) as publisher:
        await until(lambda: not rows.rows)
        rows.add("channel_closed")
        publisher.wake()
        await until(lambda: not rows.rows)
        log = await log_of(fabric.events)
        assert numbers(log) == list(range(1, 1_202))
        assert log[0]["event"] == {"type": "payment_received", "n": 1}
        assert (publisher.published, publisher.dropped) == (1_201, 0)


async def test_rows_come_under_the_subject_of_their_type(fabric: Fabric, rows: MemoryRows) -> None:
    for topic in ("payment_sent", "channel_closed", "payment_sent"):
        rows.add(topic)
    async with publishing(fabric.back, rows):
        await until(lambda: not rows.rows)
        log = await log_of(fabric.events, subject="ln.event.payment_sent")
        assert numbers(log) == [1, 3]


async def test_nothing_comes_twice_when_the_process_dies_between_publish_and_delete(
    fabric: Fabric, rows: MemoryRows
) -> None:
    for _ in range(700):
        rows.add()
    died = asyncio.Event()

    def die() -> None:
        died.set()
        raise asyncio.CancelledError

    rows.before_forget = die
    async with publishing(fabric.back, rows):
        await asyncio.wait_for(died.wait(), 10)
    assert len(rows.rows) == 700
    rows.add()
    rows.before_forget = lambda: None
    async with publishing(fabric.back, rows) as second:
        await until(lambda: not rows.rows)
        assert second.published == 201
    assert numbers(await log_of(fabric.events)) == list(range(1, 702))


@pytest.mark.parametrize("pause_s", [0.0, 0.004, 0.01, 0.03])
async def test_nothing_is_lost_or_doubled_when_the_broker_dies(
    tmp_path: Path, rows: MemoryRows, pause_s: float
) -> None:
    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        publishing(back, rows) as publisher,
    ):
        await until(lambda: publisher.is_open)
        for _ in range(1_500):
            rows.add()
        publisher.wake()
        # Killed while a batch may be under way, or just before, or after.
        await asyncio.sleep(pause_s)
        await broker.kill()
        rows.add()
        publisher.wake()
        async with running(tmp_path, port=broker.port) as again:
            await until(lambda: not rows.rows, within_s=20)
            async with client(again, "events") as events:
                assert numbers(await log_of(events)) == list(range(1, rows.last + 1))


async def test_a_message_lost_on_the_way_keeps_what_follows_out_until_it_is_there(
    fabric: Fabric, rows: MemoryRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = fabric.back.publish
    lost = []

    def lossy(subject: str, payload: bytes, **options: object) -> bool:
        if b'"number":7,' in payload and not lost:
            lost.append(payload)
            return True
        return publish(subject, payload, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fabric.back, "publish", lossy)
    for _ in range(20):
        rows.add()
    async with publishing(fabric.back, rows):
        await until(lambda: not rows.rows)
    assert lost
    assert numbers(await log_of(fabric.events)) == list(range(1, 21))


async def test_two_publishers_of_the_same_rows_write_no_second_copy(
    fabric: Fabric, rows: MemoryRows
) -> None:
    """A back that was frozen goes on with what it had in mind while its successor publishes."""
    other = MemoryRows()
    for _ in range(300):
        rows.add()
        other.add()
    async with publishing(fabric.back, rows), publishing(fabric.back, other):
        await until(lambda: not rows.rows and not other.rows)
    assert numbers(await log_of(fabric.events)) == list(range(1, 301))


async def test_rows_wait_while_the_database_is_away_and_are_published_after(
    fabric: Fabric, rows: MemoryRows
) -> None:
    rows.is_away = True
    rows.add()
    async with publishing(fabric.back, rows):
        await asyncio.sleep(0.2)
        rows.is_away = False
        await until(lambda: not rows.rows)
    assert numbers(await log_of(fabric.events)) == [1]


async def test_a_database_that_leaves_between_publish_and_delete_makes_no_second_copy(
    fabric: Fabric, rows: MemoryRows
) -> None:
    rows.add()
    async with publishing(fabric.back, rows) as publisher:

        def leave() -> None:
            rows.is_away = True
            rows.before_forget = lambda: None
            rows._answer()

        rows.before_forget = leave
        await until(lambda: publisher.published == 1)
        rows.is_away = False
        await until(lambda: not rows.rows)
        rows.add()
        publisher.wake()
        await until(lambda: not rows.rows)
    assert numbers(await log_of(fabric.events)) == [1, 2]


async def test_beyond_the_limit_the_oldest_rows_are_dropped_and_the_log_says_which(
    tmp_path: Path, rows: MemoryRows
) -> None:
    async with running(tmp_path) as broker:
        port = broker.port
        back = client(broker, "back")
        async with back as fabric:
            await broker.kill()
            await until(lambda: not fabric.connected)
            for _ in range(30):
                rows.add()
            with capture_logs() as logs:
                async with publishing(fabric, rows, replace(QUICK, max_waiting=10)) as publisher:
                    await until(lambda: publisher.dropped == 20)
                    assert publisher.waiting == 10
                    assert [row.id for row in rows.rows] == list(range(21, 31))
                    async with running(tmp_path, port=port) as again:
                        await until(lambda: not rows.rows, within_s=20)
                        async with client(again, "events") as events:
                            assert numbers(await log_of(events)) == list(range(21, 31))
            (dropped,) = (each for each in logs if each["event"] == "events_dropped")
            assert (dropped["first"], dropped["last"]) == (1, 20)


async def test_an_event_too_large_for_the_broker_holds_up_none_behind_it(
    fabric: Fabric, rows: MemoryRows
) -> None:
    rows.add("onion_message_received", json.dumps({"x": "y" * MAX_EVENT_BYTES}))
    rows.add()
    async with publishing(fabric.back, rows):
        await until(lambda: not rows.rows)
    first, second = await log_of(fabric.events)
    assert first["event"] == {"type": "onion-message-received", "isTooLarge": True}
    assert second["number"] == 2


async def test_a_durable_reader_that_was_away_reads_on_where_it_stopped(
    fabric: Fabric, rows: MemoryRows
) -> None:
    async with publishing(fabric.back, rows) as publisher:
        for _ in range(5):
            rows.add()
        publisher.wake()
        await until(lambda: not rows.rows)
        assert numbers(await log_of(fabric.events, durable="books")) == [1, 2, 3, 4, 5]
        for _ in range(5):
            rows.add()
        publisher.wake()
        await until(lambda: not rows.rows)
        assert numbers(await log_of(fabric.events, durable="books")) == [6, 7, 8, 9, 10]
        assert await log_of(fabric.events, durable="books") == []


async def test_the_stream_keeps_the_newest_of_what_its_limits_allow(
    fabric: Fabric, rows: MemoryRows
) -> None:
    small = EventsRetention(3600.0, 20_000)
    async with publishing(fabric.back, rows, retention=small) as publisher:
        for _ in range(1_000):
            rows.add()
        publisher.wake()
        await until(lambda: not rows.rows)
    log = numbers(await log_of(fabric.events))
    assert log[-1] == 1_000
    assert log == list(range(log[0], 1_001))
    assert log[0] > 1


async def test_settings_that_changed_reach_a_stream_that_is_there(
    fabric: Fabric, rows: MemoryRows
) -> None:
    for retention in (RETENTION, EventsRetention(7200.0, 32 << 20)):
        async with publishing(fabric.back, rows, retention=retention) as publisher:
            await until(lambda: publisher.is_open)
            state = await stream_state(fabric.back, STREAM)
            assert state is not None
            assert state.config["max_age"] == retention.max_age_s * 1e9
            assert state.config["max_bytes"] == retention.max_bytes


async def test_a_stream_that_somebody_deleted_is_made_again(
    fabric: Fabric, rows: MemoryRows
) -> None:
    async with publishing(fabric.back, rows) as publisher:
        rows.add()
        publisher.wake()
        await until(lambda: not rows.rows)
        await fabric.admin.request(f"$JS.API.STREAM.DELETE.{STREAM}", b"", timeout_s=2)
        rows.add()
        publisher.wake()
        await until(lambda: not rows.rows)
    assert numbers(await log_of(fabric.events)) == [2]


async def test_numbers_that_come_again_are_published_and_the_log_says_so(
    fabric: Fabric, rows: MemoryRows
) -> None:
    """A database restored from a copy gives numbers again that the stream has."""
    for _ in range(3):
        rows.add()
    async with publishing(fabric.back, rows):
        await until(lambda: not rows.rows)
    rows.last = 1
    rows.add("channel_closed")
    with capture_logs() as logs:
        async with publishing(fabric.back, rows):
            await until(lambda: not rows.rows)
    assert numbers(await log_of(fabric.events)) == [1, 2, 3, 2]
    assert [each for each in logs if each["event"] == "events_numbers_went_back"]


async def test_a_publisher_whose_lease_is_lost_says_nothing_more(
    fabric: Fabric, rows: MemoryRows
) -> None:
    async with publishing(fabric.back, rows) as publisher:
        await until(lambda: publisher.is_open)
        publisher.mute()
        rows.add()
        publisher.wake()
        await asyncio.sleep(0.2)
        assert len(rows.rows) == 1
    assert await log_of(fabric.events) == []


async def test_what_waits_at_a_stop_is_published_first(fabric: Fabric, rows: MemoryRows) -> None:
    slow = replace(QUICK, gather_s=60.0)
    async with publishing(fabric.back, rows, slow) as publisher:
        await until(lambda: publisher.is_open)
        rows.add()
        publisher.wake()
    assert rows.rows == []
    assert numbers(await log_of(fabric.events)) == [1]


async def test_a_stream_made_by_another_with_fewer_rights_is_brought_up_to_date(
    fabric: Fabric, rows: MemoryRows
) -> None:
    await make_stream(fabric.back, {"name": STREAM, "subjects": ["ln.event.*"]})
    rows.add()
    async with publishing(fabric.back, rows):
        await until(lambda: not rows.rows)
        state = await stream_state(fabric.back, STREAM)
        assert state is not None
        assert state.config["max_bytes"] == RETENTION.max_bytes
