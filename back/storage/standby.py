"""Wait for the lease: when may a process that is not the owner become it?

At once where nobody owns the shards, the owner left politely, or its process is dead for certain;
otherwise after 8 polls, 0.5 s apart on our own monotonic clock, in which the owner neither beat nor
committed. On SQLite a frozen owner may hold the file's write lock for ever, so it is killed first;
where it cannot be seen (another machine or container), only the file lock tells that it is gone.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import structlog

from back.storage.database import Database
from back.storage.lease import (
    Claimant,
    Lease,
    LeaseHeld,
    LeaseRow,
    read_rows,
    refuse_foreign,
    take,
)
from shared.errors import StorageUnavailable

__all__ = ["POLL_S", "UNCHANGED_POLLS", "OwnerLock", "Verdict", "Vigil", "acquire"]

log = structlog.get_logger()

POLL_S = 0.5
UNCHANGED_POLLS = 8
KILL_S = 5.0
"""How long a killed process may take to go."""


class Verdict(Enum):
    """What a poll came to."""

    WAIT = auto()
    TAKE = auto()
    """Nobody is there."""
    OVERDUE = auto()
    """Somebody was there and has said nothing for too long."""


@dataclass(slots=True)
class Vigil:
    """Counts the polls in which an owner did nothing. Pure.

    Attributes:
        claimant: who waits.
        unchanged: polls in a row without a sign of life.
    """

    claimant: Claimant
    unchanged: int = 0
    _last: Mapping[int, LeaseRow] = field(default_factory=dict)

    def observe(self, rows: Mapping[int, LeaseRow], *, is_dead: bool) -> Verdict:
        """Judge one poll.

        Args:
            rows: the lease rows that exist.
            is_dead: whether every process named in them is known to be dead.
        """
        owned = {shard: row for shard, row in rows.items() if not row.is_free}
        if not owned or is_dead:
            return Verdict.TAKE
        self.unchanged = self.unchanged + 1 if owned == self._last else 0
        self._last = owned
        return Verdict.OVERDUE if self.unchanged >= UNCHANGED_POLLS else Verdict.WAIT

    def interrupted(self) -> None:
        """A poll failed: the owner could not have beaten either, so it gets its time again."""
        self.unchanged = 0


class OwnerLock:
    """A lock on a file beside SQLite's: held by the owner for life, freed by the kernel.

    Tells a dead owner from a frozen one where process numbers mean nothing, as between containers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._file: int | None = None

    def acquire(self) -> bool:
        """Try to lock; True if we hold it now."""
        if self._file is not None:
            return True
        file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Unlock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(slots=True)
class _Standby:
    """The impure half of :class:`Vigil`: one database, one claimant."""

    database: Database
    claimant: Claimant
    shards: Sequence[int]
    unix_s: Callable[[], float]
    lock: OwnerLock | None
    vigil: Vigil = field(init=False)
    is_blind: bool = False
    locked_polls: int = 0

    def __post_init__(self) -> None:
        self.vigil = Vigil(self.claimant)

    def poll(self) -> Lease | None:
        """Look once; the lease if it is ours now. Runs in a thread."""
        try:
            with self.database.snapshot() as connection:
                refuse_foreign(connection, self.claimant)
                rows = read_rows(connection, self.shards)
        except StorageUnavailable as error:
            log.warning("lease_poll_failed", error=str(error))
            self.vigil.interrupted()
            return None
        try:
            return self._judge(rows)
        except LeaseHeld:
            self.vigil.interrupted()
        except StorageUnavailable as error:
            log.warning("lease_not_taken_yet", error=str(error))
        return None

    def _judge(self, rows: Mapping[int, LeaseRow]) -> Lease | None:
        owners = [row for row in rows.values() if not row.is_free]
        verdict = self.vigil.observe(rows, is_dead=all(self._is_dead(row) for row in owners))
        if verdict is Verdict.WAIT:
            return None
        if verdict is Verdict.OVERDUE and self._may_be_frozen() and not self._kill(owners):
            return None
        if owners and not self.database.is_sqlite:
            self._end_sessions()
        if self.lock is not None and not self.lock.acquire() and not self._outwaited():
            return None
        unix_s = int(self.unix_s())
        return take(self.database, self.claimant, self.shards, unix_s, rows)

    def _may_be_frozen(self) -> bool:
        """Whether an overdue owner can stand in our way: on SQLite, if it has the file's lock.

        Where the lock is free the rows are of another file that this one was copied from. Its owner
        is well, and must not be killed.
        """
        if not self.database.is_sqlite:
            return False
        if self.lock is None or not self.lock.acquire():
            return True
        log.warning("lease_of_a_copy", why="nobody holds the lock of this database")
        return False

    def _outwaited(self) -> bool:
        """The owner is gone but its file lock is not: one that leaves, or a dead one's child.

        It gets the time of a silent owner. The lock is a help; the fence is what protects.
        """
        self.locked_polls += 1
        if self.locked_polls < UNCHANGED_POLLS:
            return False
        log.warning("file_lock_ignored", why="its holder is not the lease's owner")
        return True

    def _is_here(self, row: LeaseRow) -> bool:
        return bool(row.process.host) and row.process.host == self.claimant.process.host

    def _is_dead(self, row: LeaseRow) -> bool:
        if self._is_here(row):
            return not row.process.is_alive()
        return self.lock is not None and self.lock.acquire()

    def _end_sessions(self) -> None:
        if ended := self.database.end_frozen_sessions():
            log.warning("frozen_sessions_ended", count=ended)

    def _kill(self, owners: Sequence[LeaseRow]) -> bool:
        """Kill owners that are frozen on this machine; say whether all are gone."""
        for row in owners:
            process = row.process
            if not self._is_here(row):
                if not self.is_blind:
                    log.error("lease_owner_out_of_reach", owner=row.owner, epoch=row.epoch)
                self.is_blind = True
                return False
            if process == self.claimant.process:
                return False
            if process.is_alive():
                log.warning("frozen_owner_killed", owner=row.owner, pid=process.pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)
            deadline = time.monotonic() + KILL_S
            while process.is_alive():
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
        return True


async def acquire(
    database: Database,
    claimant: Claimant,
    shards: Sequence[int],
    *,
    unix_s: Callable[[], float] = time.time,
    lock: OwnerLock | None = None,
    poll_s: float = POLL_S,
) -> Lease:
    """Wait until the lease of ``shards`` is ours, as long as that takes.

    Args:
        database: where.
        claimant: who.
        shards: which.
        unix_s: the clock, for new epochs only.
        lock: SQLite's; kept by the caller for as long as it owns.
        poll_s: between two polls.

    Raises:
        DatabaseRefused: the database is not ours to use.
    """
    standby = _Standby(database, claimant, shards, unix_s, lock)
    is_waiting = False
    while True:
        held = await asyncio.to_thread(standby.poll)
        if held is not None:
            log.info("lease_taken", owner=held.owner, epoch=held.epoch)
            return held
        if not is_waiting:
            log.info("lease_awaited", owner=claimant.owner)
            is_waiting = True
        await asyncio.sleep(poll_s)
