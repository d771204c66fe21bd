"""Background tasks: heard when they fail, gone when their owner stops."""

import asyncio

import pytest
from structlog.testing import capture_logs

from shared.errors import LeaseLost
from shared.tasks import Tasks


async def fail(error: Exception) -> None:
    raise error


async def test_a_task_that_fails_is_heard() -> None:
    tasks, told = Tasks(), []
    error = KeyError("a bug")
    with capture_logs() as logs:
        task = tasks.spawn(fail(error), "counting", told.append)
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert told == [error]
    assert [(line["event"], line["task"]) for line in logs] == [("task_failed", "counting")]
    assert not len(tasks)


async def test_a_lost_lease_is_no_failure() -> None:
    tasks = Tasks()
    with capture_logs() as logs:
        await asyncio.wait({tasks.spawn(fail(LeaseLost((1,))), "storing")})
        await asyncio.sleep(0)
    assert [(line["event"], line["log_level"]) for line in logs] == [("task_given_up", "warning")]


async def test_nothing_outlives_the_owner() -> None:
    tasks, ended = Tasks(), []

    async def sleep(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            ended.append("by itself")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    tasks.spawn(sleep(0.01), "short")
    tasks.spawn(sleep(60), "long")
    await tasks.stop(patience_s=0.2)
    assert ended == ["by itself", "cancelled"]
    assert not len(tasks)


@pytest.mark.parametrize("patience_s", [0.0, 1.0])
async def test_stopping_nothing_takes_no_time(patience_s: float) -> None:
    async with asyncio.timeout(0.5):
        await Tasks().stop(patience_s)
