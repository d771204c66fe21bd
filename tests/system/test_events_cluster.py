"""EVENTS in a cluster of three brokers: three copies, and one of them may die."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.events import MemoryRows, log_of, numbers, publishing
from support.graph import ask
from support.trio import Trio, running_trio
from support.waiting import until

from shared.fabric.client import NATS_ERRORS


@pytest.fixture
async def trio(tmp_path: Path, unused_tcp_port_factory) -> AsyncIterator[Trio]:
    with running_trio(tmp_path, unused_tcp_port_factory) as found:
        await found.ready()
        yield found


@pytest.mark.parametrize("victim", ["the stream's leader", "the broker of the back"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_broker_of_three_that_dies_or_freezes_costs_no_event_and_doubles_none(
    trio: Trio, victim: str, how: signal.Signals
) -> None:
    rows = MemoryRows()
    async with AsyncExitStack() as stack:
        back, events, admin = (
            trio.client(user, first) for user, first in (("back", 0), ("events", 1), ("admin", 1))
        )
        for fabric in (back, events, admin):
            await fabric.start(timeout_s=20)
            stack.push_async_callback(fabric.stop)
        publisher = await stack.enter_async_context(publishing(back, rows))

        def happen(count: int) -> None:
            for _ in range(count):
                rows.add()
            publisher.wake()

        happen(1_000)
        await until(lambda: not rows.rows, within_s=30)
        state = await ask(admin, "STREAM.INFO.EVENTS")
        assert state["config"]["num_replicas"] == 3
        name = state["cluster"]["leader"] if victim == "the stream's leader" else "nats-0"
        happen(700)
        trio.processes[int(name[-1])].send_signal(how)
        happen(700)
        await until(lambda: not rows.rows, within_s=60)

        async def complete() -> bool:
            if events.connection is None:
                return False
            try:
                return numbers(await log_of(events)) == list(range(1, 2_401))
            except NATS_ERRORS:  # the stream has no leader yet
                return False

        await until(complete, within_s=40)
