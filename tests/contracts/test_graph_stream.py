"""The stream GRAPH over a real broker: what is written is what every follower holds."""

import asyncio
import random
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from support.broker import client, running
from support.graph import (
    QUICK,
    QUICK_WRITER,
    Sink,
    ask,
    channel,
    following,
    gone,
    node,
    table_of,
    update,
    writing,
)
from support.waiting import until

from back.graph.writer import GraphWriter
from shared.fabric.client import FabricClient
from shared.fabric.consumer import ConsumerRules, StreamConsumer
from shared.fabric.gossip import GraphTip
from shared.fabric.graph import MAX_VALUE_BYTES, STREAM, TOMBSTONE_S, GraphFollower, configuration
from shared.fabric.requests import read
from shared.gossip.record import Change, Kind, change_payload, change_subject


@dataclass
class Fabric:
    """A broker's clients."""

    back: FabricClient
    front: FabricClient
    admin: FabricClient


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    async with (
        running(tmp_path) as broker,
        client(broker, "back") as back,
        client(broker, "front") as front,
        client(broker, "admin") as admin,
    ):
        yield Fabric(back, front, admin)


def network(size: int) -> list[Change]:
    return [
        *(channel(n) for n in range(size)),
        *(update(n, direction) for n in range(size) for direction in (0, 1)),
        *(node(n) for n in range(size // 3)),
    ]


async def test_what_was_written_is_what_a_new_follower_holds(fabric: Fabric) -> None:
    values = network(1_000)
    async with writing(fabric.back) as writer:
        for change in values:
            writer.put(change)
        await writer.flushed()
        assert (writer.waiting, writer.repeated) == (0, 0)
        async with following(fabric.front) as (follower, sink):
            await until(follower.ready.is_set)
            assert sink.table == table_of(values)
            assert (sink.put_count, sink.loads) == (len(values), 1)
            assert (follower.lag, follower.refused) == (0, 0)
            assert follower.following


async def test_the_snapshot_and_the_changes_that_come_meanwhile_are_the_written_table(
    fabric: Fabric,
) -> None:
    """Values change, go and come while followers load at different times."""
    values, rng = network(2_000), random.Random(7)  # noqa: S311  # a test's choice
    written: dict[object, Change] = {}
    sinks: list[Sink] = []
    async with writing(fabric.back) as writer:

        def put(change: Change) -> None:
            writer.put(change)
            written[change.kind, change.key] = change

        for change in values:
            put(change)
        followers: list[GraphFollower] = []
        for time_ in range(2, 40):
            for change in rng.sample(values, 200):
                if change.kind is Kind.UPDATE:
                    put(update(change.key >> 1, change.key & 1, time_))
                elif change.kind is Kind.CHANNEL:
                    put(gone(change) if rng.random() < 0.3 else change)
            if time_ % 10 == 0:
                sinks.append(Sink())
                followers.append(GraphFollower(fabric.front, sinks[-1], rules=QUICK))
                followers[-1].start()
            await asyncio.sleep(0)
        await writer.flushed()
        expected = table_of(written.values())
        for follower, sink in zip(followers, sinks, strict=True):
            await until(lambda sink=sink: sink.table == expected, "the follower has everything")
            assert sink.loads == 1
            await follower.stop()


async def test_an_empty_stream_is_loaded_at_once(fabric: Fabric) -> None:
    async with writing(fabric.back), following(fabric.front) as (follower, sink):
        await until(follower.ready.is_set)
        assert (sink.table, sink.loads) == ({}, 1)


async def test_a_follower_without_a_stream_waits_for_it(fabric: Fabric) -> None:
    async with following(fabric.front) as (follower, sink):
        await asyncio.sleep(0.3)
        assert sink.loads == 0
        assert not follower.ready.is_set()
        async with writing(fabric.back) as writer:
            await until(follower.ready.is_set)
            writer.put(channel(1))
            await until(lambda: sink.table == table_of([channel(1)]))


async def test_who_we_are_and_the_tip_are_kept_for_those_who_come_later(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer:
        fabric.back.publish("ln.graph.self", b'{"who":"we"}')
        writer.tip(800_000, bytes(range(32)))
        await writer.flushed()
    async with following(fabric.front) as (follower, sink):
        await until(follower.ready.is_set)
        assert sink.selves == [b'{"who":"we"}']
        (tip,) = sink.tips
        assert read(GraphTip, tip) == GraphTip(height=800_000, hash=bytes(range(32)))
        assert sink.table == {}


async def test_a_value_put_again_before_it_is_written_is_written_once(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer, following(fabric.front) as (follower, sink):
        await until(follower.ready.is_set)
        for timestamp in range(1_000):
            writer.put(update(1, 0, timestamp))
        await writer.flushed()
        await until(lambda: sink.table == table_of([update(1, 0, 999)]))
        assert sink.put_count == 1


async def test_another_publisher_between_the_batches_costs_repetitions_and_no_value(
    fabric: Fabric,
) -> None:
    """The heartbeat of the back is in the same stream, on another connection."""
    values = network(3_000)
    async with writing(fabric.back) as writer, following(fabric.front) as (_, sink):
        for start in range(0, len(values), 500):
            for change in values[start : start + 500]:
                writer.put(change)
            for _ in range(20):
                fabric.back.publish("ln.graph.self", b"{}")
                await asyncio.sleep(0)
        await writer.flushed()
        assert writer.repeated > 0
        await until(lambda: sink.table == table_of(values))


async def test_what_is_gone_stays_marked_for_a_day(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer, following(fabric.front) as (_, sink):
        writer.put(channel(1))
        await until(lambda: sink.table)
        writer.put(gone(channel(1)))
        await until(lambda: not sink.table)
        subject = change_subject(channel(1))
        stored = await ask(fabric.admin, "STREAM.MSG.GET.GRAPH", last_by_subj=subject)
        headers = b64decode(stored["message"]["hdrs"])
        assert f"Nats-TTL: {TOMBSTONE_S}s".encode() in headers


async def test_garbage_is_counted_and_does_not_stop_a_follower(fabric: Fabric) -> None:
    refused: list[tuple[Kind, int | bytes]] = []
    async with (
        writing(fabric.back) as writer,
        following(fabric.front, on_refused=lambda *key: refused.append(key)) as (follower, sink),
    ):
        await until(follower.ready.is_set)
        bad = [
            ("ln.graph.channel.7", b""),
            ("ln.graph.channel.9", change_payload(channel(8))),
            ("ln.graph.update.x.y", b"{}"),
            ("ln.graph.node.zz", b"\x01gone"),
            ("ln.graph.node.02", bytes(60_000)),
        ]
        for subject, payload in bad:
            fabric.back.publish(subject, payload)
        await fabric.back.barrier()
        writer.put(channel(7))
        await until(lambda: sink.table == table_of([channel(7)]))
        assert refused == [(Kind.CHANNEL, 7), (Kind.CHANNEL, 9)], "the others have no key"
        assert follower.refused == len(bad)
        assert sink.loads == 1


async def test_a_sink_that_fails_at_one_value_gets_the_next(fabric: Fabric) -> None:
    class Picky(Sink):
        def put(self, change: Change) -> None:
            if change.key == 1:
                raise ValueError("a bug")
            super().put(change)

    sink = Picky()
    async with writing(fabric.back) as writer, following(fabric.front, sink) as (follower, _):
        for number in range(3):
            writer.put(channel(number))
        await until(lambda: sink.table == table_of([channel(0), channel(2)]))
        assert follower.following


async def test_a_missing_delivery_is_noticed_and_read_again(fabric: Fabric) -> None:
    """As when a client's queue overflows, or a route between brokers loses messages."""
    async with writing(fabric.back) as writer, following(fabric.front) as (follower, sink):
        for number in range(100):
            writer.put(channel(number))
        await until(lambda: len(sink.table) == 100)
        consumer = follower._consumer
        assert consumer is not None
        take, dropped = consumer._take, []

        def lossy(message, numbers) -> None:
            if dropped or message.subject != "ln.graph.channel.120":
                take(message, numbers)
            else:
                dropped.append(message)

        consumer._take = lossy
        for number in range(100, 150):
            writer.put(channel(number))
        await until(lambda: len(sink.table) == 150)
        assert dropped
        assert "delivery" in consumer.why
        assert sink.loads == 1, "the same stream: no new table"


async def test_the_last_message_lost_is_noticed_by_the_heartbeat(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer, following(fabric.front) as (follower, sink):
        await until(follower.ready.is_set)
        consumer = follower._consumer
        assert consumer is not None
        consumer._take = lambda *_: None
        writer.put(channel(1))
        await until(lambda: sink.table == table_of([channel(1)]))
        assert consumer.why == "delivery 1 did not come"


async def test_a_queue_that_overflows_is_noticed_and_read_again(fabric: Fabric) -> None:
    """nats-py drops what does not fit in its queue and tells nobody but its error callback."""
    values = network(1_000)
    async with writing(fabric.back) as writer, following(fabric.front) as (follower, sink):
        await until(follower.ready.is_set)
        consumer = follower._consumer
        assert consumer is not None
        assert consumer._subscription is not None
        consumer._subscription._pending_bytes_limit = 2_000
        for change in values:
            writer.put(change)
        await until(lambda: sink.table == table_of(values))
        assert "delivery" in consumer.why
        assert sink.loads == 1


async def test_a_slow_follower_is_never_sent_more_than_it_asked_for(fabric: Fabric) -> None:
    """It blocks its event loop for longer than the broker would wait; nothing is lost."""
    values = network(3_000)
    rules = replace(QUICK, consumer=replace(QUICK.consumer, batch=50))
    most = 0

    class Slow(Sink):
        def put(self, change: Change) -> None:
            nonlocal most
            super().put(change)
            consumer = follower._consumer
            assert consumer is not None
            assert consumer._subscription is not None
            most = max(most, consumer._subscription.pending_msgs)
            if self.put_count % 1_000 == 0:
                time.sleep(0.3)

    async with writing(fabric.back) as writer:
        for change in values:
            writer.put(change)
        await writer.flushed()
        async with following(fabric.front, Slow(), rules) as (follower, sink):
            await until(follower.ready.is_set)
            assert sink.table == table_of(values)
            assert most <= 100
            assert sink.loads == 1


async def test_a_reader_asks_again_when_its_request_runs_out(fabric: Fabric) -> None:
    rules = replace(
        QUICK, check_s=60, consumer=ConsumerRules(heartbeat_s=0.4, expires_s=1.0, silence_s=30)
    )
    async with (
        writing(fabric.back) as writer,
        following(fabric.front, rules=rules) as (follower, sink),
    ):
        await until(follower.ready.is_set)
        consumer = follower._consumer
        assert consumer is not None
        asked: list[float] = []
        ask_again = consumer._ask

        def counted() -> None:
            asked.append(time.monotonic())
            ask_again()

        consumer._ask = counted
        await until(lambda: len(asked) >= 4, within_s=10)
        writer.put(channel(1))
        await until(lambda: sink.table)
        assert not consumer.ended.is_set()


async def test_what_others_send_to_a_readers_inbox_is_not_delivered(fabric: Fabric) -> None:
    delivered: list[object] = []
    async with writing(fabric.back):
        connection = fabric.back.connection
        assert connection is not None
        consumer = StreamConsumer(
            fabric.back, connection, STREAM, lambda *all_: delivered.append(all_), ConsumerRules()
        )
        await consumer.open(1)
        for reply in ("", "$JS.ACK.GRAPH.other.1.1.1.1.0", f"{consumer._prefix}x", "ln.in.>"):
            await consumer._on_message(Msg(connection, "ln.graph.channel.1", reply, b"x"))
        assert (delivered, consumer.garbage) == ([], 4)
        await consumer.close()


async def test_a_full_stream_refuses_new_values_and_keeps_the_old_ones(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer, following(fabric.front) as (_, sink):
        small = configuration(1) | {"max_msgs": 100}
        await ask(fabric.admin, "STREAM.UPDATE.GRAPH", **small)
        writer._next_update = float("inf")
        for number in range(300):
            writer.put(channel(number))
        await writer.flushed()
        assert writer.refused == 200
        writer.put(channel(5, spent_height=9))
        await writer.flushed()
        assert writer.refused == 200
        await until(lambda: len(sink.table) == 100)
        await until(lambda: sink.table[Kind.CHANNEL, 5].spent_height == 9)


async def test_a_value_that_is_too_large_is_refused_alone(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer, following(fabric.front) as (_, sink):
        large = node(1)
        assert isinstance(large.value, bytes)
        writer.put(large._replace(value=large.value + bytes(MAX_VALUE_BYTES)))
        writer.put(channel(1))
        await writer.flushed()
        assert writer.refused == 1
        await until(lambda: sink.table == table_of([channel(1)]))


async def test_an_older_configuration_is_brought_up_to_date(fabric: Fabric) -> None:
    old = configuration(1) | {"max_msgs": 1_000, "allow_msg_ttl": False, "discard": "old"}
    await ask(fabric.admin, "STREAM.CREATE.GRAPH", **old)
    async with writing(fabric.back):
        found = (await ask(fabric.admin, "STREAM.INFO.GRAPH"))["config"]
        assert {key: found[key] for key in configuration(1)} == configuration(1)


async def test_back_pressure_holds_who_puts_without_waiting(fabric: Fabric) -> None:
    rules = replace(QUICK_WRITER, waiting=1_000, batch=100)
    async with writing(fabric.back, rules) as writer, following(fabric.front) as (_, sink):
        values, most = network(5_000), 0
        for change in values:
            await writer.drained()
            writer.put(change)
            most = max(most, writer.waiting)
        await writer.flushed()
        assert most <= 1_000 + rules.in_flight
        await until(lambda: sink.table == table_of(values))


async def test_a_writer_that_stops_has_written_what_was_put(fabric: Fabric) -> None:
    values = network(500)
    async with writing(fabric.back) as writer:
        for change in values:
            writer.put(change)
    async with following(fabric.front) as (follower, sink):
        await until(follower.ready.is_set)
        assert sink.table == table_of(values)


# --- ownership --------------------------------------------------------------------------------


async def test_a_muted_writer_writes_nothing_more_whatever_waits_or_comes(fabric: Fabric) -> None:
    async with writing(fabric.back) as writer, following(fabric.front) as (follower, sink):
        writer.put(channel(1))
        await writer.flushed()
        writer.put(channel(2))
        writer.mute()
        writer.put(channel(3))
        writer.tip(7, bytes(32))
        await writer.flushed()
        await writer.drained()
        async with writing(fabric.back) as successor:
            successor.put(channel(4))
            await successor.flushed()
        await until(lambda: len(sink.table) == 2)
        assert follower.ready.is_set()
        assert sink.table == table_of([channel(1), channel(4)])
        assert writer.waiting == 0


async def test_a_writer_that_may_not_write_waits_until_it_is_told_to_go_on(fabric: Fabric) -> None:
    may = [False]
    writer = GraphWriter(fabric.back, rules=QUICK_WRITER, may_write=lambda: may[0])
    writer.start()
    try:
        await until(lambda: writer.is_open)
        values = network(100)
        for change in values:
            writer.put(change)
        await fabric.back.barrier()
        assert (await ask(fabric.admin, f"STREAM.INFO.{STREAM}"))["state"]["messages"] == 0
        may[0] = True
        writer.go_on()
        await writer.flushed()
        assert (await ask(fabric.admin, f"STREAM.INFO.{STREAM}"))["state"]["messages"] == len(
            values
        )
    finally:
        await writer.stop()
