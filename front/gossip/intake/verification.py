"""Worker processes that check signatures, so that the event loop never does."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from front.gossip.intake.worker import UNCHECKED, Item, pack

__all__ = ["Verification", "Verifier"]

AT_ONCE = 2
"""Batches that a worker has: it checks one while the answer to the other is on its way."""
RESTART_S = 0.5
DEATHS = 3
"""So many workers may die of one batch; then it goes unchecked."""
PROGRAM = "front.gossip.intake.worker"

log = structlog.get_logger()


class Verifier(Protocol):
    """What checks signatures, elsewhere than in the event loop."""

    @property
    def pids(self) -> list[int]:
        """Of its processes."""

    @property
    def free(self) -> bool:
        """Whether a batch would not have to wait long."""

    def check(self, items: list[Item], done: Callable[[bytes], None]) -> None:
        """Have a batch checked; ``done`` is called from the loop with one answer for each item."""

    async def stop(self) -> None:
        """End; batches under way get no answer."""


@dataclass(slots=True, eq=False)
class _Batch:
    items: list[Item]
    done: Callable[[bytes], None]
    deaths: int = 0


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
        self._under_way = 0

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return [w.process.pid for w in self._workers if w.process is not None]

    @property
    def free(self) -> bool:
        """Whether a batch would not have to wait long."""
        return self._under_way < AT_ONCE * len(self._workers)

    async def stop(self) -> None:
        """End the processes; batches under way get no answer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self, items: list[Item], done: Callable[[bytes], None]) -> None:
        """Have a batch checked; ``done`` is called from the loop with one answer for each item."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._run(w), name="verifier") for w in self._workers
            ]
        worker = min(self._workers, key=_load)
        batch = _Batch(items, done)
        worker.batches.append(batch)
        self._under_way += 1
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
            except Exception:  # a bug of ours, but signatures must be checked
                log.exception("gossip_worker_failed")
            await asyncio.sleep(RESTART_S)

    def _died(self, worker: _Worker) -> None:
        """It may have died of the batch it was at."""
        if worker.batches:
            batch = worker.batches[0]
            batch.deaths += 1
            if batch.deaths >= DEATHS:
                log.error("gossip_not_checked", announcements=len(batch.items))
                self._answered(worker, bytes([UNCHECKED]) * len(batch.items))

    def _answered(self, worker: _Worker, answers: bytes) -> None:
        batch = worker.batches.popleft()
        self._under_way -= 1
        try:
            batch.done(answers)
            self._idle()
        except Exception:  # the next batch is not to blame
            log.exception("gossip_answers_failed")

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
                if not worker.batches:
                    raise BrokenPipeError("an answer that nobody asked for")
                rest = await answers.readexactly(len(worker.batches[0].items) - 1)
                self._answered(worker, first + rest)
        except asyncio.IncompleteReadError:
            self._died(worker)
            raise
        finally:
            worker.process = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _load(worker: _Worker) -> tuple[bool, bool, int]:
    """Who gets the next batch: who has room for it, and runs, and has least."""
    batches = len(worker.batches)
    return batches >= AT_ONCE, worker.process is None, batches
