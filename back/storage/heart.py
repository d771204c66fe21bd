"""The owner's sign of life: ``beat`` goes up every half second, from a thread of its own."""

import threading
from collections.abc import Callable

import structlog
from sqlalchemy import and_, bindparam, select

from back.storage.database import Database
from back.storage.driver import Driver
from back.storage.lease import Lease
from back.storage.tables import lease
from shared.errors import LightningError, StorageUnavailable

__all__ = ["BEAT_S", "Heart"]

log = structlog.get_logger()

BEAT_S = 0.5

_MINE = and_(
    lease.c.shard == bindparam("shard", type_=lease.c.shard.type),
    lease.c.epoch == bindparam("epoch", type_=lease.c.epoch.type),
)
_BEAT = lease.update().where(_MINE).values(beat=lease.c.beat + 1)
_READ = select(lease.c.shard).where(_MINE)


class Heart(threading.Thread):
    """Beats until stopped or until a shard is lost.

    Its commits wait for no disk: a beat that is lost with the machine is no loss.
    """

    def __init__(
        self,
        database: Database,
        held: Lease,
        on_lost: Callable[[tuple[int, ...]], None],
        *,
        beat_s: float = BEAT_S,
    ) -> None:
        """Prepare.

        Args:
            database: where.
            held: what is kept alive.
            on_lost: called in this thread with the shards whose epoch another raised, once each.
            beat_s: between two beats.
        """
        super().__init__(name="lease-heart", daemon=True)
        self._database = database
        self._held = held
        self._on_lost = on_lost
        self._beat_s = beat_s
        self._ours = set(held.shards)
        self._stopping = threading.Event()
        self._driver: Driver | None = None

    def run(self) -> None:
        """Beat; an absent database is only logged: being late is no death."""
        while self._ours and not self._stopping.is_set():
            try:
                self._beat()
            except LightningError as error:
                log.warning("beat_failed", error=str(error))
                self._drop()
            self._stopping.wait(self._beat_s)
        self._drop()

    def stop(self) -> None:
        """Beat no more, and wait for the last one."""
        self._stopping.set()
        self.join()

    def _beat(self) -> None:
        driver = self._driver or self._connect()
        # In shard order, as the committer locks them: two writers in one order never wait for each
        # other in a circle.
        rows = [{"shard": shard, "epoch": self._held.epoch} for shard in sorted(self._ours)]
        try:
            driver.begin()
            (count,) = driver.run([(str(_BEAT.compile(dialect=driver.dialect)), rows)])
            lost = set() if count == len(rows) else self._find_lost(driver)
            driver.commit()
        except Exception as error:
            raise StorageUnavailable(str(error).strip()) from error
        if lost:
            self._ours -= lost
            log.error("lease_lost", shards=sorted(lost), epoch=self._held.epoch)
            self._on_lost(tuple(sorted(lost)))

    def _find_lost(self, driver: Driver) -> set[int]:
        sql = str(_READ.compile(dialect=driver.dialect))
        epoch = self._held.epoch
        return {s for s in self._ours if not driver.select(sql, {"shard": s, "epoch": epoch})}

    def _connect(self) -> Driver:
        driver = self._database.connect()
        driver.relax()
        self._driver = driver
        return driver

    def _drop(self) -> None:
        if self._driver is not None:
            driver, self._driver = self._driver, None
            try:
                driver.close()
            except Exception as error:  # noqa: BLE001 - it is being thrown away
                log.debug("connection_closed_badly", error=str(error))
