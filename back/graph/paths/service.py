"""The back's end of path-finding: feeds the worker process, asks it, and outlives it.

The event loop only copies: announcements go to the worker as they are, a few at a time.
"""

import asyncio
import contextlib
import pickle
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from back.graph.contents import everything
from back.graph.paths.experience import is_faded
from back.graph.paths.worker import SIZE, pack
from shared.errors import BackendError, CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
        at_once: of these, that the worker has: it is at one, and the next one lies ready.
        timeout_s: for an answer.
        search_s: that one search may take before the worker is taken for stuck, and ended.
        stall_s: that it may leave unread what it is told.
        deaths: of the worker, after which the request that it was at is refused.
        restart_s: before a worker that died is started again.
        slice: changes or lessons in one frame, and in one turn of the event loop.
        flush_s: changes wait so long for others.
        changes: that may wait; more, and the worker is told the whole table anew.
        lessons: that a new worker is told again.
        unread_bytes: that the worker may leave in its pipe.
    """

    waiting: int = 256
    at_once: int = 2
    timeout_s: float = 20.0
    search_s: float = 8.0
    stall_s: float = 15.0
    deaths: int = 2
    restart_s: float = 0.5
    slice: int = 250
    flush_s: float = 0.05
    changes: int = 20_000
    lessons: int = 20_000
    unread_bytes: int = 16 << 20


@dataclass(slots=True, eq=False)
class _Asked:
    request: "RouteRequest"
    done: "asyncio.Future[tuple[Route, ...]]"
    deaths: int = 0

    def refuse(self, error: Exception) -> None:
        """Give the asker an error, if it still waits."""
        if not self.done.done():
            self.done.set_exception(error)


class PathFinder:
    """Finds routes in a process of its own.

    Args:
        table: gives the present routing table.
        rules: limits.
        clock: unix seconds.

    Attributes:
        found: requests that were answered with routes.
        not_found: requests for which there are none.
        failed: requests that got no answer: too late, too many, or the worker died of them.
        deaths: of workers.
    """

    def __init__(
        self,
        table: "Callable[[], Table]",
        rules: PathRules | None = None,
        clock: "Callable[[], float]" = time.time,
    ) -> None:
        self.found = self.not_found = self.failed = self.deaths = 0
        self._table = table
        self._rules = rules or PathRules()
        self._clock = clock
        self._number = 0
        self._queue: deque[_Asked] = deque()
        """Not given to a worker, or given to one that died."""
        self._sent: dict[int, _Asked] = {}
        """What the worker has, the oldest first: the one that it is at."""
        self._watch: asyncio.TimerHandle | None = None
        self._changes: deque[Change] = deque()
        self._lessons: deque[Lesson] = deque(maxlen=self._rules.lessons)
        self._lessons_ever = 0
        self._process: asyncio.subprocess.Process | None = None
        """Set once it has the table."""
        self._wake = asyncio.Event()
        self._is_stale = False
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the worker, once it has the table."""
        return self._process.pid if self._process is not None else None

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._queue) + len(self._sent)

    async def start(self) -> None:
        """Start the worker, and keep it going."""
        self._task = asyncio.create_task(self._run(), name="path-finding")

    async def stop(self) -> None:
        """End the worker; whoever waits is refused."""
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for asked in (*self._sent.values(), *self._queue):
            asked.refuse(BackendError("path-finding has ended"))
        self._sent.clear()
        self._queue.clear()

    # --- what it knows ----------------------------------------------------------------------------

    def changed(self, change: "Change") -> None:
        """The routing table took a change."""
        if isinstance(change.key, bytes):
            return  # what nodes say of themselves leads nowhere
        self._changes.append(change)
        if len(self._changes) > self._rules.changes:
            self.reload()
        self._wake.set()

    def reload(self) -> None:
        """The routing table is another one, or was read for the first time."""
        self._is_stale = True
        self._changes.clear()
        self._wake.set()

    def learned(self, lessons: "Iterable[Lesson]") -> None:
        """Remember what attempts taught, the oldest first."""
        new = list(lessons)
        self._lessons.extend(new)
        self._lessons_ever += len(new)
        if new:
            self._write("learn", new)

    # --- asking -----------------------------------------------------------------------------------

    async def find(self, request: "RouteRequest") -> "tuple[Route, ...]":
        """Return routes that together carry the amount within the limits.

        Raises:
            CommandError: there are none; says why.
            BackendError: the worker did not answer in time, or is asked too much.
        """
        if self._is_stopped or self.waiting >= self._rules.waiting:
            self.failed += 1
            what = (
                "path-finding has ended" if self._is_stopped else "too many routes are looked for"
            )
            raise BackendError(what)
        asked = _Asked(request, asyncio.get_running_loop().create_future())
        self._queue.append(asked)
        self._pump()
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                routes = await asked.done
        except TimeoutError:
            self.failed += 1
            raise BackendError("no route was found in time") from None
        except BackendError:
            self.failed += 1
            raise
        except CommandError:
            self.not_found += 1
            raise
        finally:
            asked.done.cancel()
            with contextlib.suppress(ValueError):
                self._queue.remove(asked)
        self.found += 1
        return routes

    def _pump(self) -> None:
        """Give the worker something to do, if it has not enough."""
        while self._process is not None and self._queue and len(self._sent) < self._rules.at_once:
            asked = self._queue.popleft()
            self._number += 1
            self._sent[self._number] = asked
            self._write("find", self._number, asked.request)
        self._watch_it()

    def _answered(self, number: int, routes: "tuple[Route, ...]", why: str) -> None:
        asked = self._sent.pop(number, None)
        if asked is not None and not asked.done.done():
            if why:
                asked.refuse(CommandError(why))
            else:
                asked.done.set_result(routes)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._pump()

    def _watch_it(self) -> None:
        if self._watch is None and self._sent:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(self._rules.search_s, self._kill)

    # --- the worker -------------------------------------------------------------------------------

    def _write(self, *frame: object) -> None:
        """Tell the worker at once; one that is not there is told everything at its start."""
        stdin = None if self._process is None else self._process.stdin
        if stdin is None:
            return
        stdin.write(pack(*frame))
        if stdin.transport.get_write_buffer_size() > self._rules.unread_bytes:
            self._kill()

    def _kill(self) -> None:
        """End a worker that is stuck: another one may do better."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except (OSError, asyncio.IncompleteReadError) as error:
                log.warning("path_finder_died", why=repr(error))
            except Exception:  # a bug of ours, but payments need routes
                log.exception("path_finder_failed")
            self._died()
            await asyncio.sleep(self._rules.restart_s)

    def _died(self) -> None:
        """It may have died of the request that it was at; the others are asked again."""
        self.deaths += 1
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        asked = list(self._sent.values())
        self._sent.clear()
        if asked:
            asked[0].deaths += 1
            if asked[0].deaths >= self._rules.deaths:
                asked.pop(0).refuse(BackendError("the search for a route failed"))
        self._queue.extendleft(one for one in reversed(asked) if not one.done.done())

    async def _serve(self) -> None:
        """Start a worker, and live with it until one of its pipes breaks."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            PROGRAM,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        ends = [asyncio.create_task(end(process)) for end in (self._feed, self._hear)]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._process = None
            for task in ends:
                task.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.gather(*ends, return_exceptions=True)
            await process.wait()

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        """Take the worker's answers."""
        if (answers := process.stdout) is None:
            raise BrokenPipeError("no pipe from the worker")
        while True:
            head = await answers.readexactly(SIZE.size)
            body = await answers.readexactly(SIZE.unpack(head)[0])
            self._answered(*pickle.loads(body))  # noqa: S301 - written by our own child

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        """Tell the worker the table and the lessons, ask what waits; then what is new."""
        stdin = process.stdin
        if stdin is None:
            raise BrokenPipeError("no pipe to the worker")
        await self._feed_table(stdin)
        now, before = self._clock(), self._lessons_ever
        lessons = [lesson for lesson in self._lessons if not is_faded(lesson, now)]
        for first in range(0, len(lessons), self._rules.slice):
            await self._put(stdin, "learn", lessons[first : first + self._rules.slice])
        news = min(len(self._lessons), self._lessons_ever - before)
        stdin.write(pack("learn", list(self._lessons)[len(self._lessons) - news :]))
        self._process = process
        self._pump()
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._rules.flush_s)
            self._wake.clear()
            if self._is_stale:
                await self._feed_table(stdin)
            while self._changes and not self._is_stale:
                size = min(self._rules.slice, len(self._changes))
                await self._put(stdin, "changes", [self._changes.popleft() for _ in range(size)])

    async def _feed_table(self, stdin: asyncio.StreamWriter) -> None:
        """Tell the table as it is; until that is done, the worker goes on with what it has.

        What changes meanwhile may be in what is told already: taking a change twice is harmless.
        """
        self._is_stale = False
        self._changes.clear()
        changes: list[Change] = []
        for change in everything(self._table()):
            if isinstance(change.key, bytes):
                break  # nodes come last
            changes.append(change)
            if len(changes) >= self._rules.slice:
                await self._put(stdin, "table", changes)
                changes = []
        await self._put(stdin, "table", changes)
        await self._put(stdin, "swap")

    async def _put(self, stdin: asyncio.StreamWriter, *frame: "str | Sequence[object]") -> None:
        """Write, and let others have their turn."""
        stdin.write(pack(*frame))
        try:
            async with asyncio.timeout(self._rules.stall_s):
                await stdin.drain()
        except TimeoutError:
            raise BrokenPipeError("the worker reads nothing") from None
        await asyncio.sleep(0)
