"""One writer's transactions, each behind the fence of ARCHITECTURE § Storage and ownership.

Synchronous and for one thread: the committer's.
"""

import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import bindparam, literal_column, select

from back.storage.database import Database
from back.storage.driver import Call, Driver, is_refusal, words_of
from back.storage.lease import Lease
from back.storage.statements import Group
from back.storage.tables import lease
from shared.errors import LeaseLost, StorageUnavailable, WriteRefused

__all__ = ["FencedWriter"]

log = structlog.get_logger()

RECONNECT_S = 0.1
"""Between two tries to reach a database of which a commit's outcome must be learnt."""

_SHARD = bindparam("s", type_=lease.c.shard.type)
_NUMBER = bindparam("n", type_=lease.c.commit_no.type)
_FENCE = (
    lease.update()
    .where(lease.c.shard == _SHARD)
    .where(lease.c.epoch == bindparam("e", type_=lease.c.epoch.type))
    .where(lease.c.commit_no == _NUMBER - literal_column("1"))
    .values(commit_no=_NUMBER)
)
_LOOK = select(lease.c.epoch, lease.c.commit_no).where(lease.c.shard == _SHARD).with_for_update()


class _OutcomeUnknown(Exception):
    """COMMIT was sent and its answer did not come."""


class FencedWriter:
    """Commits groups of writes for shards, as long as their epoch is ours.

    Attributes:
        numbers: each shard's last durable ``commit_no``.
    """

    def __init__(
        self,
        database: Database,
        held: Lease,
        *,
        may_go_on: Callable[[], bool] = lambda: True,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; the connection is made at the first commit.

        Args:
            database: where.
            held: the lease.
            may_go_on: asked before each further try to learn a commit's outcome.
            on_commit: called when the statements are done and only COMMIT is left.
        """
        self.numbers = dict(held.commit_numbers)
        self._database = database
        self._epoch = held.epoch
        self._may_go_on = may_go_on
        self._on_commit = on_commit
        self._driver: Driver | None = None
        self._fence_sql = ""
        self._look_sql = ""

    def commit(self, shards: Sequence[int], groups: Sequence[Group]) -> None:
        """Make groups durable, behind the fence of ``shards`` (sorted, without repetition).

        Raises:
            LeaseLost: with the shards that are not ours any more; nothing is to be said.
            WriteRefused: the database refuses a row, and the fence holds; nothing was written.
            StorageUnavailable: nothing was written.
        """
        try:
            self._write(shards, groups)
        except _OutcomeUnknown:
            self._learn_outcome(shards)
        except WriteRefused:
            # A row may also be refused because another owner has changed it.
            self._raise_if_lost(shards)
            raise
        for shard in shards:
            self.numbers[shard] += 1

    def close(self) -> None:
        """Close the connection."""
        if self._driver is not None:
            driver, self._driver = self._driver, None
            try:
                driver.close()
            except Exception as error:  # noqa: BLE001 - it is being thrown away
                log.debug("connection_closed_badly", error=str(error))

    def _write(self, shards: Sequence[int], groups: Sequence[Group]) -> None:
        driver = self._driver or self._connect()
        fence = [{"s": s, "e": self._epoch, "n": self.numbers[s] + 1} for s in shards]
        calls: list[Call] = [(self._fence_sql, fence)]
        try:
            calls += [(group.statement.sql(driver.dialect), group.rows) for group in groups]
            driver.begin()
            counts = driver.run(calls)
        except Exception as error:
            self._roll_back(driver)
            words = words_of(error)
            if is_refusal(error):
                raise WriteRefused(words) from None  # the cause may quote a row
            self.close()
            raise StorageUnavailable(words) from error
        if counts[0] != len(shards):
            self._roll_back(driver)
            self._raise_if_lost(shards)
            raise StorageUnavailable("the fence broke, and the lease is ours")
        if wrong := _unexpected(groups, counts[1:]):
            self._roll_back(driver)
            raise WriteRefused(wrong)
        self._on_commit()
        try:
            driver.commit()
        except Exception as error:
            log.warning("commit_outcome_unknown", error=str(error).strip())
            self.close()
            raise _OutcomeUnknown from error

    def _learn_outcome(self, shards: Sequence[int]) -> None:
        """Return if the last commit happened; it touched all of ``shards`` or none.

        Raises:
            LeaseLost: another has a shard; whether it happened does not matter any more.
            StorageUnavailable: it did not happen.
        """
        rows = self._look(shards)
        lost = tuple(s for s in shards if rows[s][0] != self._epoch)
        if lost:
            raise LeaseLost(lost)
        if all(rows[s][1] == self.numbers[s] + 1 for s in shards):
            return
        self._raise_if_lost(shards)
        raise StorageUnavailable("the connection was lost before the commit")

    def _raise_if_lost(self, shards: Sequence[int]) -> None:
        # A number that is not what we left there means a second writer or a restored database.
        rows = self._look(shards)
        lost = tuple(s for s in shards if rows[s] != (self._epoch, self.numbers[s]))
        if lost:
            raise LeaseLost(lost)

    def _look(self, shards: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return epoch and ``commit_no`` of each shard, however long the database is away.

        Waits for a transaction of ours that the server has not given up yet and that still holds
        the row. A row that is gone reads as (-1, -1).

        Raises:
            LeaseLost: nobody wants to wait any more; the outcome stays unknown.
        """
        while True:
            try:
                return self._look_once(shards)
            except StorageUnavailable as error:
                log.warning("lease_look_up_failed", error=str(error))
                self.close()
            if not self._may_go_on():
                raise LeaseLost(tuple(shards))
            time.sleep(RECONNECT_S)

    def _look_once(self, shards: Sequence[int]) -> dict[int, tuple[int, int]]:
        driver = self._driver or self._connect()
        found = dict.fromkeys(shards, (-1, -1))
        try:
            driver.begin()
            for shard in shards:
                for epoch, number in driver.select(self._look_sql, {"s": shard}):
                    found[shard] = (epoch, number)
            driver.rollback()
        except Exception as error:
            raise StorageUnavailable(str(error).strip()) from error
        return found

    def _connect(self) -> Driver:
        driver = self._database.connect()
        self._fence_sql = str(_FENCE.compile(dialect=driver.dialect))
        self._look_sql = str(_LOOK.compile(dialect=driver.dialect))
        self._driver = driver
        return driver

    def _roll_back(self, driver: Driver) -> None:
        try:
            driver.rollback()
        except Exception as error:  # noqa: BLE001 - a connection that cannot is thrown away
            log.warning("rollback_failed", error=str(error).strip())
            self.close()


def _unexpected(groups: Sequence[Group], counts: Sequence[int]) -> str:
    for (statement, rows), count in zip(groups, counts, strict=True):
        if statement.rows is not None and count != statement.rows * len(rows):
            expected = statement.rows * len(rows)
            return f"{statement.table.name}: {count} rows changed, {expected} expected"
    return ""
