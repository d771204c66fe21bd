"""Worker processes that check signatures, so that the event loop never does."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from front.gossip.worker import Item, pack

__all__ = ["Verification"]

AT_ONCE = 2
"""Batches that a worker has: it checks one while the answer to the other is on its way."""
RESTART_S = 0.5
PROGRAM = "front.gossip.worker"

log = structlog.get_logger()


@dataclass(slots=True)
class _Batch:
    items: list[Item]
    done: Callable[[list[bool]], None]


@dataclass(slots=True, eq=False)
class _Worker:
    """One process, and what it has not answered yet."""

    process: asyncio.subprocess.Process | None = None
    batches: deque[_Batch] = field(default_factory=deque)


class Verification:
    """A pool of workers, started when there is something to check for the first time.

    Args:
        workers: processes; 0 for one per CPU, at most 4.
        idle: called whenever a batch more can be taken (`free`).
    """

    def __init__(self, workers: int, idle: Callable[[], None]) -> None:
        count = workers or min(4, os.cpu_count() or 1)
        self._workers = [_Worker() for _ in range(count)]
        self._idle = idle
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return [w.process.pid for w in self._workers if w.process is not None]

    @property
    def free(self) -> bool:
        """Whether a batch would not have to wait long."""
        return any(len(w.batches) < AT_ONCE for w in self._workers)

    async def stop(self) -> None:
        """End the processes; batches under way get no answer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self, items: list[Item], done: Callable[[list[bool]], None]) -> None:
        """Have a batch checked; ``done`` is called from the loop with one answer for each item."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._run(w), name="verifier") for w in self._workers
            ]
        running = [w for w in self._workers if w.process is not None] or self._workers
        worker = min(running, key=lambda w: len(w.batches))
        batch = _Batch(items, done)
        worker.batches.append(batch)
        self._write(worker, batch)

    @staticmethod
    def _write(worker: _Worker, batch: _Batch) -> None:
        if worker.process is not None and worker.process.stdin is not None:
            worker.process.stdin.write(pack(batch.items))

    async def _run(self, worker: _Worker) -> None:
        """Keep one process; what a dead one has not answered, the next one gets."""
        while True:
            try:
                await self._serve(worker)
            except (OSError, asyncio.IncompleteReadError) as error:
                log.warning("gossip_worker_died", why=repr(error))
            await asyncio.sleep(RESTART_S)

    async def _serve(self, worker: _Worker) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            PROGRAM,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            if (answers := process.stdout) is None:
                raise BrokenPipeError("no pipe to a worker")
            worker.process = process
            for batch in worker.batches:
                self._write(worker, batch)
            self._idle()
            while True:
                first = await answers.readexactly(1)
                batch = worker.batches[0]
                rest = await answers.readexactly(len(batch.items) - 1)
                worker.batches.popleft()
                batch.done([bool(answer) for answer in first + rest])
                self._idle()
        finally:
            worker.process = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
