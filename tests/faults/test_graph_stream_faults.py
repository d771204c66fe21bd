"""The stream GRAPH when brokers die, freeze and forget, and when the stream is another one."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.broker import client, cluster
from support.graph import Sink, ask, channel, following, node, table_of, update, writing
from support.waiting import until

from shared.fabric import server
from shared.fabric.client import FabricClient
from shared.fabric.graph import configuration
from shared.gossip.record import Change, change_payload, change_subject


class Broker:
    """A broker on one port that may die and come back, with or without what it stored."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._clients = AsyncExitStack()

    async def start(self) -> None:
        self.server = await server.start(cluster(), self.folder, port=self.port)

    async def client(self, user: str) -> FabricClient:
        return await self._clients.enter_async_context(client(self.server, user))

    async def restart(self, *, forget: bool = False) -> None:
        """Kill it as a crash would, and start it again."""
        await self.server.kill()
        if forget:
            (self.folder / "jetstream").rename(self.folder / f"lost-{self.server.process.pid}")
        await self.start()

    def send(self, number: signal.Signals) -> None:
        self.server.process.send_signal(number)

    async def stop(self) -> None:
        await self._clients.aclose()
        await self.server.stop()


@pytest.fixture
async def broker(tmp_path: Path, unused_tcp_port_factory) -> AsyncIterator[Broker]:
    found = Broker(tmp_path / "broker", unused_tcp_port_factory())
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


def network(size: int) -> list[Change]:
    return [
        *(channel(n) for n in range(size)),
        *(update(n, direction) for n in range(size) for direction in (0, 1)),
        *(node(n) for n in range(size // 3)),
    ]


async def test_a_broker_killed_while_writing_has_every_value_in_the_end(broker: Broker) -> None:
    back, front = await broker.client("back"), await broker.client("front")
    values = network(4_000)
    async with writing(back) as writer, following(front) as (follower, sink):
        for start in range(0, len(values), 1_000):
            dies = start in {2_000, 6_000}
            if dies:
                await writer.flushed()
                broker.send(signal.SIGSTOP)
            for change in values[start : start + 1_000]:
                writer.put(change)
            if dies:
                # Nobody will ever know what became of these.
                await until(lambda: writer.under_way)
                await broker.restart()
            else:
                await until(lambda left=writer.waiting: writer.waiting < left)
        await asyncio.wait_for(writer.flushed(), 20)
        assert writer.repeated > 0
        await until(lambda: sink.table == table_of(values))
        assert sink.loads == 1, "it is the same stream"
        assert follower.ready.is_set()


async def test_a_broker_killed_while_a_follower_loads_costs_it_nothing(broker: Broker) -> None:
    back, front = await broker.client("back"), await broker.client("front")
    values = network(6_000)
    async with writing(back) as writer:
        for change in values:
            writer.put(change)
        await writer.flushed()
    half = asyncio.Event()

    class Halfway(Sink):
        def put(self, change: Change) -> None:
            super().put(change)
            if self.put_count == len(values) // 2:
                half.set()

    async with following(front, Halfway()) as (follower, sink):
        await asyncio.wait_for(half.wait(), 10)
        assert not follower.ready.is_set()
        await broker.restart()
        await until(follower.ready.is_set)
        assert sink.table == table_of(values)
        assert sink.loads == 1
        assert sink.put_count == len(values), "it went on where it was"


async def test_a_broker_that_forgot_everything_is_written_again(broker: Broker) -> None:
    back, front = await broker.client("back"), await broker.client("front")
    values, lost = network(300), []
    async with writing(back) as writer, following(front) as (_, sink):

        def again() -> None:
            lost.append(writer.is_open)
            for change in values:
                writer.put(change)

        writer.on_lost(again)
        again()
        await writer.flushed()
        await until(lambda: sink.table == table_of(values))
        await broker.restart(forget=True)
        await until(lambda: sink.loads == 2)
        await until(lambda: sink.table == table_of(values))
        assert lost == [True, True], "once each"


async def test_a_stream_deleted_under_a_writer_and_followers_is_made_again(broker: Broker) -> None:
    back, front, admin = [await broker.client(user) for user in ("back", "front", "admin")]
    values = network(300)
    async with (
        writing(back) as writer,
        following(front) as (one, first),
        following(back) as (two, second),
    ):
        writer.on_lost(lambda: [writer.put(change) for change in values] and None)
        for change in values:
            writer.put(change)
        for sink in (first, second):
            await until(lambda sink=sink: sink.table == table_of(values))
        await ask(admin, "STREAM.DELETE.GRAPH")
        for sink in (first, second):
            await until(lambda sink=sink: sink.loads == 2 and sink.table == table_of(values))
        assert one.loads == two.loads == 2


async def test_a_stream_deleted_while_values_are_put_loses_none(broker: Broker) -> None:
    """The owner puts its whole table again, and goes on putting what changes."""
    back, front, admin = [await broker.client(user) for user in ("back", "front", "admin")]
    table: dict[object, Change] = {}
    async with writing(back) as writer, following(front) as (_, sink):
        writer.on_lost(lambda: [writer.put(change) for change in table.values()] and None)
        for round_ in range(60):
            for number in range(50):
                change = update(number + round_, 0, round_ + 1)
                table[change.key] = change
                writer.put(change)
            if round_ == 30:
                await ask(admin, "STREAM.DELETE.GRAPH")
            await asyncio.sleep(0.005)
        await asyncio.wait_for(writer.flushed(), 20)
        await until(lambda: sink.table == table_of(table.values()))
        assert sink.loads == 2


async def test_another_stream_with_higher_numbers_is_not_taken_for_the_old_one(
    broker: Broker,
) -> None:
    """nats-py's own ordered consumer would stay deaf here, without an error."""
    back, front, admin = [await broker.client(user) for user in ("back", "front", "admin")]
    async with writing(back) as writer:
        for change in network(50):
            writer.put(change)
        await writer.flushed()
    async with following(front) as (follower, sink):
        await until(follower.ready.is_set)
        await ask(admin, "STREAM.DELETE.GRAPH")
        await ask(admin, "STREAM.CREATE.GRAPH", **configuration(1))
        values = network(400)
        for change in values:
            back.publish(change_subject(change), change_payload(change))
        await back.barrier()
        await until(lambda: sink.table == table_of(values))
        assert sink.loads == 2


async def test_a_purged_stream_is_written_again(broker: Broker) -> None:
    back, admin, front = [await broker.client(user) for user in ("back", "admin", "front")]
    values = network(300)
    async with writing(back) as writer:
        writer.on_lost(lambda: [writer.put(change) for change in values] and None)
        for change in values:
            writer.put(change)
        await writer.flushed()
        await asyncio.sleep(0.5)  # one look at it
        await ask(admin, "STREAM.PURGE.GRAPH")
        async with following(front) as (_, sink):
            await until(lambda: sink.table == table_of(values))


async def test_a_stream_that_lost_its_last_values_is_loaded_anew(broker: Broker) -> None:
    """A broker syncs to disk now and then: after a power cut it may have older numbers."""
    back, front = await broker.client("back"), await broker.client("front")
    older, newer = [channel(n) for n in range(100)], [channel(n) for n in range(100, 200)]
    lost: list[int] = []
    async with writing(back) as writer, following(front) as (_, sink):
        writer.on_lost(lambda: lost.append(1))
        for change in older:
            writer.put(change)
        await until(lambda: sink.table == table_of(older))
        await broker.server.stop()
        kept = broker.folder / "kept"
        (broker.folder / "jetstream").rename(kept)
        shutil.copytree(kept, broker.folder / "jetstream")
        await broker.start()
        await until(lambda: writer.is_open)
        for change in newer:
            writer.put(change)
        await until(lambda: sink.table == table_of(older + newer))
        assert (sink.loads, lost) == (1, [])

        await broker.server.stop()
        (broker.folder / "jetstream").rename(broker.folder / "newer")
        kept.rename(broker.folder / "jetstream")
        await broker.start()
        await until(lambda: sink.loads == 2 and sink.table == table_of(older))
        # Writer and follower notice it each for itself.
        await until(lambda: lost)
        assert lost == [1]


async def test_numbers_given_to_other_values_meanwhile_are_noticed(broker: Broker) -> None:
    """The follower was away while the stream lost values and went on beyond what it knew."""
    back, front = await broker.client("back"), await broker.client("front")
    older, newer = [channel(n) for n in range(100)], [channel(n) for n in range(100, 120)]
    other = [channel(n) for n in range(200, 300)]
    sink = Sink()
    async with writing(back) as writer:
        for change in older:
            writer.put(change)
        await writer.flushed()
    await broker.server.stop()
    kept = broker.folder / "kept"
    shutil.copytree(broker.folder / "jetstream", kept)
    await broker.start()
    async with following(front, sink) as (follower, _):
        async with writing(back) as writer:
            for change in newer:
                writer.put(change)
            await until(lambda: sink.table == table_of(older + newer))
        # The front's connection stays away until all of it has happened.
        await front.stop()
        await broker.server.stop()
        (broker.folder / "jetstream").rename(broker.folder / "newer")
        kept.rename(broker.folder / "jetstream")
        await broker.start()
        await until(lambda: back.connected)
        async with writing(back) as writer:
            for change in other:
                writer.put(change)
            await writer.flushed()
        await front.start()
        await until(lambda: sink.loads == 2 and sink.table == table_of(older + other))
        assert follower.loads == 2


async def test_a_frozen_broker_is_no_loss(broker: Broker) -> None:
    back, front = await broker.client("back"), await broker.client("front")
    values = network(500)
    async with writing(back) as writer, following(front) as (_, sink):
        for change in values[:700]:
            writer.put(change)
        await until(lambda: len(sink.table) == 700)
        broker.send(signal.SIGSTOP)
        for change in values[700:]:
            writer.put(change)
        await until(lambda: not (back.connected or front.connected))
        broker.send(signal.SIGCONT)
        await until(lambda: sink.table == table_of(values))
        await asyncio.wait_for(writer.flushed(), 10)
        assert sink.loads == 1


async def test_a_follower_frozen_for_longer_than_the_broker_keeps_its_reader_goes_on(
    broker: Broker,
) -> None:
    back, front = await broker.client("back"), await broker.client("front")
    async with writing(back) as writer, following(front) as (follower, sink):
        writer.put(channel(1))
        await until(lambda: sink.table)
        consumer = follower._consumer
        assert consumer is not None
        await ask(await broker.client("admin"), f"CONSUMER.DELETE.GRAPH.{consumer._name}")
        writer.put(channel(2))
        await until(lambda: len(sink.table) == 2)
        assert consumer.ended.is_set()
        assert sink.loads == 1


async def test_a_writer_started_before_its_broker_writes_when_that_comes(
    tmp_path, unused_tcp_port
) -> None:
    broker = Broker(tmp_path / "broker", unused_tcp_port)
    await broker.start()
    back, front = await broker.client("back"), await broker.client("front")
    await broker.server.kill()
    await until(lambda: not (back.connected or front.connected))
    async with writing(back) as writer, following(front) as (_, sink):
        for change in network(10):
            writer.put(change)
        await broker.start()
        await until(lambda: sink.table == table_of(network(10)))
    await broker.stop()
