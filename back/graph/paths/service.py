"""The back's end of path-finding: feeds the worker process, asks it, and outlives it.

The event loop only copies: announcements go to the worker as they are, a few at a time.
"""

import asyncio
import contextlib
import pickle
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from back.graph.contents import everything
from back.graph.paths.worker import SIZE, pack
from shared.errors import BackendError, CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from back.payment.route import Lesson, Route, RouteRequest
    from shared.gossip.record import Change
    from shared.gossip.table import Table

__all__ = ["PathFinder", "PathRules"]

log = structlog.get_logger()

PROGRAM = "back.graph.paths.worker"


@dataclass(frozen=True, slots=True)
class PathRules:
    """Limits of path-finding.

    Attributes:
        waiting: requests that may wait for an answer.
        timeout_s: for an answer.
        restart_s: before a worker that died is started again.
        slice: changes in one frame.
        flush_s: changes wait so long for others.
        lessons: that a new worker is told again.
        deaths: of the worker, after which the request that it was at is refused.
    """

    waiting: int = 256
    timeout_s: float = 20.0
    restart_s: float = 0.5
    slice: int = 250
    flush_s: float = 0.05
    lessons: int = 20_000
    deaths: int = 2


@dataclass(slots=True, eq=False)
class _Asked:
    request: "RouteRequest"
    done: "asyncio.Future[tuple[Route, ...]]"
    deaths: int = 0


class PathFinder:
    """Finds routes in a process of its own.

    Args:
        table: gives the present routing table.
        rules: limits.
    """

    def __init__(self, table: "Callable[[], Table]", rules: PathRules | None = None) -> None:
        self._table = table
        self._rules = rules or PathRules()
        self._asked: dict[int, _Asked] = {}
        self._number = 0
        self._changes: list[Change] = []
        self._lessons: deque[Lesson] = deque(maxlen=self._rules.lessons)
        self._process: asyncio.subprocess.Process | None = None
        self._wake = asyncio.Event()
        self._is_stale = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the worker, while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._asked)

    async def start(self) -> None:
        """Start the worker, and keep it going."""
        self._task = asyncio.create_task(self._run(), name="path-finding")

    async def stop(self) -> None:
        """End the worker; what was asked gets no answer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for asked in self._asked.values():
            asked.done.cancel()
        self._asked.clear()

    # --- what it knows ----------------------------------------------------------------------------

    def changed(self, change: "Change") -> None:
        """The routing table took a change."""
        self._changes.append(change)
        self._wake.set()

    def reload(self) -> None:
        """The routing table is another one, or was read for the first time."""
        self._is_stale = True
        self._wake.set()

    def learned(self, lessons: "Iterable[Lesson]") -> None:
        """Remember what attempts taught, the oldest first."""
        new = list(lessons)
        self._lessons.extend(new)
        if new:
            self._write(pack("learn", new))

    # --- asking -----------------------------------------------------------------------------------

    async def find(self, request: "RouteRequest") -> "tuple[Route, ...]":
        """Return routes that together carry the amount within the limits.

        Raises:
            CommandError: there are none; says why.
            BackendError: the worker did not answer in time, or is asked too much.
        """
        if len(self._asked) >= self._rules.waiting:
            raise BackendError("too many routes are being looked for")
        self._number += 1
        number = self._number
        asked = _Asked(request, asyncio.get_running_loop().create_future())
        self._asked[number] = asked
        self._write(pack("find", number, request))
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                return await asked.done
        except TimeoutError:
            self._kill()
            raise BackendError("no route was found in time") from None
        finally:
            self._asked.pop(number, None)

    def _answered(self, number: int, routes: "tuple[Route, ...]", why: str) -> None:
        asked = self._asked.get(number)
        if asked is None or asked.done.done():
            return
        if why:
            asked.done.set_exception(CommandError(why))
        else:
            asked.done.set_result(routes)

    # --- the worker -------------------------------------------------------------------------------

    def _write(self, frame: bytes) -> None:
        """Write to the worker; one that is not there gets everything at its start."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(frame)

    def _kill(self) -> None:
        """End a worker that does not answer: another one may."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except (OSError, asyncio.IncompleteReadError) as error:
                log.warning("path_finder_died", why=repr(error))
            except Exception:
                log.exception("path_finder_failed")
            self._died()
            await asyncio.sleep(self._rules.restart_s)

    def _died(self) -> None:
        """It may have died of the oldest request."""
        for asked in list(self._asked.values())[:1]:
            asked.deaths += 1
            if asked.deaths >= self._rules.deaths and not asked.done.done():
                asked.done.set_exception(BackendError("the search for a route failed"))

    async def _serve(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            PROGRAM,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        feeding = asyncio.create_task(self._feed(process))
        try:
            while True:
                head = await self._read(process, SIZE.size)
                body = await self._read(process, SIZE.unpack(head)[0])
                self._answered(*pickle.loads(body))  # noqa: S301 - written by our own child
        finally:
            self._process = None
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @staticmethod
    async def _read(process: asyncio.subprocess.Process, size: int) -> bytes:
        if process.stdout is None:
            raise BrokenPipeError("no pipe to the worker")
        return await process.stdout.readexactly(size)

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        """Give the worker lessons, the table, the requests that wait; then what is new."""
        stdin = process.stdin
        if stdin is None:
            raise BrokenPipeError("no pipe to the worker")
        self._changes.clear()
        self._is_stale = False
        await self._feed_table(stdin)
        if self._lessons:
            stdin.write(pack("learn", list(self._lessons)))
        for number, asked in self._asked.items():
            stdin.write(pack("find", number, asked.request))
        self._process = process
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._rules.flush_s)
            self._wake.clear()
            if self._is_stale:
                self._is_stale = False
                await self._feed_table(stdin)
            while self._changes:
                changes = self._changes[: self._rules.slice]
                del self._changes[: self._rules.slice]
                stdin.write(pack("changes", changes))
                await stdin.drain()

    async def _feed_table(self, stdin: asyncio.StreamWriter) -> None:
        changes: list[Change] = []
        for change in everything(self._table()):
            if isinstance(change.key, bytes):
                continue
            changes.append(change)
            if len(changes) >= self._rules.slice:
                stdin.write(pack("changes", changes))
                changes = []
                await stdin.drain()
                await asyncio.sleep(0)
        stdin.write(pack("changes", changes))
        await stdin.drain()
