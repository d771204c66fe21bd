"""The owner's sign of life: ``beat`` goes up every half second, from a thread of its own."""

import threading
from collections.abc import Callable

import structlog
from sqlalchemy import bindparam, literal_column, select, text

from back.storage.database import Database
from back.storage.driver import Driver
from back.storage.lease import Lease
from back.storage.tables import lease
from shared.errors import StorageUnavailable

__all__ = ["BEAT_S", "Heart"]

log = structlog.get_logger()

BEAT_S = 0.5

_EPOCH = lease.c.epoch == bindparam("epoch", type_=lease.c.epoch.type)


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
        shards = text(", ".join(str(shard) for shard in held.shards))
        self._mine = select(lease.c.shard).where(_EPOCH, lease.c.shard.in_(shards))
        # One statement, so that no other thread of ours can hold it up in the middle; rows are
        # locked in shard order as the committer locks them, so that neither waits in a circle.
        locked = self._mine.order_by(lease.c.shard).with_for_update()
        beat = lease.c.beat + literal_column("1")
        self._beats = lease.update().where(lease.c.shard.in_(locked)).values(beat=beat)
        self._stopping = threading.Event()
        self._driver: Driver | None = None

    def run(self) -> None:
        """Beat; an absent database is only logged: being late is no death."""
        while self._ours and not self._stopping.is_set():
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - a heart that stops would cost the lease
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
        values = {"epoch": self._held.epoch}
        try:
            driver.begin()
            (count,) = driver.run([(str(self._beats.compile(dialect=driver.dialect)), [values])])
            rows = []
            if count != len(self._ours):
                rows = driver.select(str(self._mine.compile(dialect=driver.dialect)), values)
            driver.commit()
        except Exception as error:
            raise StorageUnavailable(str(error).strip()) from error
        if count != len(self._ours):
            self._lose(self._ours - {row[0] for row in rows})

    def _lose(self, lost: set[int]) -> None:
        self._ours -= lost
        log.error("lease_lost", shards=sorted(lost), epoch=self._held.epoch)
        self._on_lost(tuple(sorted(lost)))

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
