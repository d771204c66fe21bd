"""GRAPH in a cluster of three brokers: three copies, and one of them may die."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.graph import ask, channel, following, node, table_of, update, writing
from support.trio import Trio, running_trio
from support.waiting import until

from shared.errors import LightningError
from shared.fabric.graph import configuration
from shared.gossip.record import Change


@pytest.fixture
async def trio(tmp_path: Path, unused_tcp_port_factory) -> AsyncIterator[Trio]:
    with running_trio(tmp_path, unused_tcp_port_factory) as found:
        await found.ready()
        yield found


def network(size: int, timestamp: int = 1) -> list[Change]:
    return [
        *(channel(n) for n in range(size)),
        *(update(n, direction, timestamp) for n in range(size) for direction in (0, 1)),
        *(node(n, timestamp) for n in range(size // 3)),
    ]


@pytest.mark.parametrize("victim", ["the stream's leader", "the broker of both clients"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_broker_of_three_that_dies_or_freezes_costs_no_value(
    trio: Trio, victim: str, how: signal.Signals
) -> None:
    async with AsyncExitStack() as stack:
        back, front, admin = (
            trio.client(user, first) for user, first in (("back", 0), ("front", 0), ("admin", 1))
        )
        for fabric in (back, front, admin):
            await fabric.start(timeout_s=20)
            stack.push_async_callback(fabric.stop)
        writer = await stack.enter_async_context(writing(back))
        _, sink = await stack.enter_async_context(following(front))
        values = network(1_000)
        for change in values:
            writer.put(change)
        await until(lambda: sink.table == table_of(values), within_s=30)
        state = await ask(admin, "STREAM.INFO.GRAPH")
        assert state["config"]["num_replicas"] == 3

        name = state["cluster"]["leader"] if victim == "the stream's leader" else "nats-0"
        later = network(1_000, timestamp=2)
        for change in later[: len(later) // 2]:
            writer.put(change)
        trio.processes[int(name[-1])].send_signal(how)
        for change in later[len(later) // 2 :]:
            writer.put(change)
        await asyncio.wait_for(writer.flushed(), 40)
        await until(lambda: sink.table == table_of(later), within_s=40)
        assert sink.loads == 1, "it is the same stream"


async def test_a_stream_with_too_few_copies_gets_them_when_the_brokers_are_there(
    trio: Trio,
) -> None:
    """Made while it could not have three: as soon as it can, it has."""
    back, admin = trio.client("back", 0), trio.client("admin", 0)
    await asyncio.gather(back.start(timeout_s=20), admin.start(timeout_s=20))

    async def made() -> bool:
        try:
            await ask(admin, "STREAM.CREATE.GRAPH", **configuration(1))
        except (LightningError, AssertionError):
            return False
        return True

    await until(made, within_s=30)
    async with writing(back):

        async def copied() -> bool:
            state = await ask(admin, "STREAM.INFO.GRAPH")
            return len(state["cluster"].get("replicas", [])) == 2

        await until(copied, within_s=20)
    await asyncio.gather(back.stop(), admin.stop())
