"""Background tasks of one owner: their failures are heard, and none outlives it."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from shared.errors import LeaseLost

__all__ = ["Tasks"]

log = structlog.get_logger()


class Tasks:
    """A set of running tasks.

    asyncio keeps no strong reference to a task and says nothing of one that failed until it is
    collected: so a task that nobody awaits belongs into one of these.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, None],
        name: str,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> asyncio.Task[None]:
        """Run a coroutine in the background.

        Args:
            coroutine: what to run.
            name: for the log, should it fail.
            on_failure: called with the exception that ended it, after it is logged.
        """
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(partial(self._ended, on_failure))
        return task

    def _ended(
        self, on_failure: Callable[[Exception], None] | None, task: asyncio.Task[None]
    ) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, LeaseLost):
            log.warning("task_given_up", task=task.get_name(), why=str(error))
        else:
            log.error("task_failed", task=task.get_name(), exc_info=error)
        if on_failure is not None and isinstance(error, Exception):
            on_failure(error)

    async def stop(self, patience_s: float = 0.0) -> None:
        """End all: those that have not ended by themselves in ``patience_s`` are cancelled."""
        if self._running and patience_s:
            await asyncio.wait(set(self._running), timeout=patience_s)
        left = set(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
