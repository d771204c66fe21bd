"""The one writer: a thread that commits what everybody is waiting for, in groups, behind a fence.

Whatever was submitted while the last commit ran goes into the next transaction. Its first statement
raises ``commit_no`` of every shard concerned where the epoch is still ours: if another took the
lease, nothing is written, and whoever waits is told that the shard is lost. Futures resolve in
the order of their submission, after the commit: persist before you speak.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from back.storage.database import Database
from back.storage.fence import FencedWriter
from back.storage.lease import Lease
from back.storage.statements import Group, Statement, Write, grouped
from shared.errors import (
    InvariantError,
    LeaseLost,
    LightningError,
    StorageUnavailable,
    WriteRefused,
)

__all__ = ["CommitReport", "Committer", "Write"]

log = structlog.get_logger()

SWITCH_S = 0.0001
"""How soon the interpreter lets the committer go on while the loop computes. A commit gives the
interpreter up at every row, and a loop whose turns are shorter than this interval takes it back
before the committer has woken: with Python's own 5 ms a busy loop stops commits for seconds."""
LEND_AFTER_S = 0.005
LEND_S = 0.002
LEND_BRIEFLY_S = 0.000_1
"""A loop that is never idle can keep the interpreter from the committer whatever the interval: it
gives it up for a microsecond per turn and has it back before the other has woken. So a loop whose
commit is under way for too long stands still for a moment, at most until only COMMIT is left."""
MAX_ITEMS = 2_000
"""Submissions in one transaction: bounds how long the first of them waits."""


@dataclass(frozen=True, slots=True)
class CommitReport:
    """One transaction, for metrics.

    Attributes:
        items: submissions in it.
        writes: row changes.
        seconds: from the first statement to the end of the commit.
        is_committed: whether it became durable.
    """

    items: int
    writes: int
    seconds: float
    is_committed: bool


@dataclass(slots=True, eq=False)
class _Item:
    shards: tuple[int, ...]
    writes: Sequence[Write]
    future: "asyncio.Future[None]"


_Outcome: TypeAlias = tuple[_Item, LightningError | None]
_Rows: TypeAlias = list[Mapping[str, object]]


class Committer:
    """Commits for the holder of a lease. Submit from the event loop that started it.

    Attributes:
        on_report: called in the committer's thread after each transaction.
        on_lost: called in the loop with shards that another took, once each.
    """

    def __init__(
        self,
        database: Database,
        held: Lease,
        *,
        on_report: Callable[[CommitReport], None] | None = None,
        on_lost: Callable[[tuple[int, ...]], None] | None = None,
    ) -> None:
        """Prepare; :meth:`start` begins.

        Args:
            database: where.
            held: the lease that every commit is fenced by.
            on_report: see the class.
            on_lost: see the class.
        """
        self.on_report = on_report
        self.on_lost = on_lost
        self._told: dict[Statement, Callable[[_Rows], None]] = {}
        self._ours = set(held.shards)
        self._lost: tuple[int, ...] = ()
        self._queue: list[_Item] = []
        self._condition = threading.Condition()
        self._is_stopping = False
        self._is_busy = False
        self._lending: asyncio.TimerHandle | None = None
        self._needs_nothing = threading.Event()
        self._writer = FencedWriter(
            database,
            held,
            may_go_on=lambda: not self._is_stopping,
            on_commit=self._needs_nothing.set,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    # --- the loop's side ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; futures belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self._thread.start()

    def submit(
        self, shards: int | Iterable[int], writes: Sequence[Write] = ()
    ) -> "asyncio.Future[None]":
        """Make writes durable, all or none; without any, prove that the shards are still ours.

        Args:
            shards: whose state it is; each must be in the lease.
            writes: row changes, kept in order.

        Returns:
            A future that is done after the commit, or holds LeaseLost (say nothing more for the
            shard), WriteRefused (these rows cannot be; read again) or StorageUnavailable (nothing
            was written; submit again).
        """
        if self._loop is None:
            raise RuntimeError("the committer was not started")
        wanted = (shards,) if isinstance(shards, int) else tuple(sorted(set(shards)))
        item = _Item(wanted, writes, self._loop.create_future())
        with self._condition:
            lost = self._lost_of(wanted)
            if lost:
                item.future.set_exception(LeaseLost(lost))
            elif self._is_stopping:
                item.future.set_exception(StorageUnavailable("the committer is stopped"))
            else:
                self._queue.append(item)
                self._condition.notify()
                if self._lending is None:
                    self._lending = self._loop.call_later(LEND_AFTER_S, self._lend)
        return item.future

    def _lend(self) -> None:
        """Let the committer compute, if it still has to; see :data:`LEND_AFTER_S`."""
        self._lending = None
        if self._loop is not None and (self._is_busy or self._queue):
            if self._needs_nothing.is_set():
                time.sleep(LEND_BRIEFLY_S)  # in COMMIT, or back from it and waiting to say so
            else:
                self._needs_nothing.wait(LEND_S)
            self._lending = self._loop.call_later(LEND_AFTER_S, self._lend)

    def commit_no(self, shard: int) -> int:
        """Return the shard's last durable commit number, for hello."""
        return self._writer.numbers.get(shard, 0)

    def lose(self, shards: Iterable[int]) -> None:
        """Take note that another owns shards, as somebody else found out. Any thread."""
        with self._condition:
            lost = tuple(sorted(set(shards) & self._ours))
            self._ours -= set(lost)
            self._lost += lost
        if lost:
            log.error("shards_lost", shards=lost)
            if self.on_lost is not None:
                self._call_soon(self.on_lost, lost)

    def tell_lost(self, told: Callable[[tuple[int, ...]], None]) -> None:
        """Set :attr:`on_lost`, and tell at once of what was lost before."""
        with self._condition:
            self.on_lost = told
            lost = self._lost
        if lost:
            told(lost)

    def tell_rows(self, statement: Statement, told: Callable[[_Rows], None]) -> None:
        """Have this called in the loop with the rows of a statement, after each commit with any.

        They come in the order in which the database got them.
        """
        self._told[statement] = told

    async def stop(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    # --- the thread's side ----------------------------------------------------------------------

    def _run(self) -> None:
        while items := self._next_items():
            try:
                outcomes = self._commit(items)
            except Exception as error:
                log.exception("committer_broke")
                broken = InvariantError(f"the committer broke: {error}")
                outcomes = [(item, broken) for item in items]
                self._writer.close()
            self._call_soon(_resolve, outcomes)
        self._writer.close()

    def _next_items(self) -> list[_Item]:
        """Wait for work; nothing means stop."""
        with self._condition:
            self._is_busy = False
            while not self._queue and not self._is_stopping:
                self._condition.wait()
            self._is_busy = True
            self._needs_nothing.clear()
            items, self._queue = self._queue[:MAX_ITEMS], self._queue[MAX_ITEMS:]
            return items

    def _commit(self, items: list[_Item]) -> list[_Outcome]:
        """Commit items together; where that fails, find out whose fault it is."""
        outcomes: list[_Outcome] = []
        while True:
            lost = [(item, self._lost_of(item.shards)) for item in items]
            outcomes += [(item, LeaseLost(shards)) for item, shards in lost if shards]
            items = [item for item, shards in lost if not shards]
            if not items:
                return outcomes
            try:
                self._transact(items)
            except LeaseLost as error:
                self.lose(error.shards)
            except StorageUnavailable as error:
                return outcomes + [(item, error) for item in items]
            except WriteRefused as error:
                return outcomes + self._commit_singly(items, error)
            else:
                return outcomes + [(item, None) for item in items]

    def _commit_singly(self, items: list[_Item], error: WriteRefused) -> list[_Outcome]:
        if len(items) > 1:
            return [outcome for item in items for outcome in self._commit([item])]
        log.error("write_refused", shards=items[0].shards, error=str(error))
        return [(items[0], error)]

    def _transact(self, items: list[_Item]) -> None:
        started = time.perf_counter()
        shards = sorted({shard for item in items for shard in item.shards})
        groups = grouped(item.writes for item in items)
        is_committed = False
        try:
            self._writer.commit(shards, groups)
            is_committed = True
        finally:
            if self.on_report is not None:
                seconds = time.perf_counter() - started
                count = sum(len(group.rows) for group in groups)
                self.on_report(CommitReport(len(items), count, seconds, is_committed))
        if self._told:
            self._tell(groups)

    def _tell(self, groups: Sequence[Group]) -> None:
        for statement, told in self._told.items():
            rows = [row for group in groups if group.statement is statement for row in group.rows]
            if rows:
                self._call_soon(told, rows)

    def _lost_of(self, shards: Iterable[int]) -> tuple[int, ...]:
        return tuple(shard for shard in shards if shard not in self._ours)

    def _call_soon(self, function: Callable[..., None], argument: object) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:
            log.debug("loop_closed", why="nobody waits for this commit any more")


def _resolve(outcomes: list[_Outcome]) -> None:
    for item, error in outcomes:
        if item.future.done():
            continue
        if error is None:
            item.future.set_result(None)
        else:
            item.future.set_exception(error)
