"""The outbox of the database, as the publisher needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from back.storage import outbox
from back.storage.tables import NODE_SHARD

if TYPE_CHECKING:
    from back.storage.outbox import StoredEvent
    from back.storage.store import Store

__all__ = ["StoredRows"]


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of a store; deleted behind the fence of the node's own shard."""

    store: "Store"

    async def pending(self, limit: int) -> "list[StoredEvent]":
        """Return the oldest."""
        return await self.store.read(lambda c: outbox.pending_events(c, limit))

    async def extent(self) -> tuple[int, int]:
        """Return the first and the last number that waits."""
        return await self.store.read(outbox.pending_range)

    async def forget(self, numbers: Sequence[int]) -> None:
        """Delete some."""
        writes = [outbox.forget_event(number) for number in numbers]
        await self.store.committer.submit(NODE_SHARD, writes)

    async def drop(self, up_to: int) -> None:
        """Delete the oldest."""
        await self.store.committer.submit(NODE_SHARD, [outbox.forget_events(up_to)])
