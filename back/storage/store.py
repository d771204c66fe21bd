"""What the rest of the back holds of the database: the lease, the committer, and reads.

Opening waits for the lease, as long as another back lives. Everything read before that is void.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from back.channel.model import Channel, Htlc
from back.channel.policy import ChannelPolicy
from back.storage import channels
from back.storage.committer import CommitReport, Committer
from back.storage.database import READERS, Database, open_database
from back.storage.heart import Heart
from back.storage.lease import Claimant, Lease, leave, this_process
from back.storage.standby import POLL_S, OwnerLock, acquire
from back.storage.statements import Write
from back.storage.tables import NODE_SHARD
from shared.errors import StorageUnavailable
from shared.fabric.subjects import SHARDS

__all__ = ["ALL_SHARDS", "NODE_SHARD", "Store"]

log = structlog.get_logger()

ALL_SHARDS = (*range(SHARDS), NODE_SHARD)

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Store:
    """An owned database.

    Attributes:
        lease: what we hold; its epoch is the one of hello and of the queue group.
        committer: the only writer.
        policy: given to every channel that is loaded.
    """

    database: Database
    lease: Lease
    committer: Committer
    policy: ChannelPolicy
    _heart: Heart
    _lock: OwnerLock | None
    _readers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(READERS, thread_name_prefix="reader")
    )

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        owner: str,
        node_id: bytes,
        policy: ChannelPolicy,
        chain: str,
        shards: Sequence[int] = ALL_SHARDS,
        poll_s: float = POLL_S,
    ) -> "Store":
        """Open a database, wait for its lease and start committing.

        Args:
            url: as for :func:`open_database`.
            owner: name of this back, not empty.
            node_id: the node that this is.
            policy: what this node accepts of channels.
            chain: name of its network.
            shards: which to own.
            poll_s: between two looks at another owner's lease.

        Raises:
            DatabaseRefused: it belongs to another node or network, or to a newer program.
            StorageUnavailable: SQLite's file cannot be opened. (An absent server is waited for.)
        """
        database = open_database(url)
        lock = OwnerLock(database.path) if database.path is not None else None
        claimant = Claimant(owner, node_id, chain, this_process())
        try:
            held = await acquire(database, claimant, shards, lock=lock, poll_s=poll_s)
        except BaseException:
            database.close()
            if lock is not None:
                lock.release()
            raise
        committer = Committer(database, held)
        heart = Heart(database, held, committer.lose)
        store = cls(database, held, committer, policy, heart, lock)
        committer.start()
        heart.start()
        return store

    def on_lost(self, told: Callable[[tuple[int, ...]], None]) -> None:
        """Set who is told, in the loop, of shards that another took."""
        self.committer.tell_lost(told)

    def on_report(self, told: Callable[[CommitReport], None]) -> None:
        """Set who is told, in the committer's thread, of each transaction."""
        self.committer.on_report = told

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query on a read-only snapshot in a thread; no commit waits for it.

        Sees every commit whose future was done before.

        Raises:
            StorageUnavailable: the database is away.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, partial(self._query, query))

    def _query(self, query: Callable[[Connection], T]) -> T:
        with self.database.snapshot() as connection:
            return query(connection)

    async def load_channels(self) -> list[Channel]:
        """Return every channel of our shards that is not over, as stored and offline."""
        shards = self.lease.shards
        started = time.monotonic()
        loaded = await self.read(lambda c: channels.load_channels(c, shards, self.policy))
        log.info("channels_loaded", count=len(loaded), seconds=round(time.monotonic() - started, 3))
        return loaded

    def channel_writes(
        self, before: Channel | None, after: Channel, removed: Iterable[Htlc] = ()
    ) -> list[Write]:
        """Return the rows of a step; see :func:`channels.channel_writes`."""
        return channels.channel_writes(before, after, tuple(removed))

    async def close(self) -> None:
        """Commit what is queued, give the lease up politely, and close."""
        await self.committer.stop()
        await asyncio.to_thread(self._heart.stop)
        try:
            await asyncio.to_thread(leave, self.database, self.lease)
        except StorageUnavailable as error:
            log.warning("lease_not_left", error=str(error))
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._lock is not None:
            self._lock.release()
        self.database.close()
