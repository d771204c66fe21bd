"""Events of a running back: from commits to the stream and to websockets."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from back.events.books import Books
from back.events.hub import EventHub
from back.events.publisher import EventPublisher, PublisherRules
from back.events.rows import StoredRows
from back.storage import outbox

if TYPE_CHECKING:
    from back.settings import BackSettings
    from back.storage.store import Store
    from shared.fabric.client import FabricClient

__all__ = ["Events"]


class Events:
    """Told of every event that a commit made durable.

    Args:
        settings: limits of the stream, and of what waits for it.
        store: whose commits.
        bulk: the connection for bulk; who made it starts and stops it.

    Attributes:
        books: of payments.
        hub: websockets.
        publisher: of the stream.
    """

    def __init__(self, settings: "BackSettings", store: "Store", bulk: "FabricClient") -> None:
        self.books = Books(store)
        self.hub = EventHub()
        self.publisher = EventPublisher(
            bulk,
            StoredRows(store),
            settings.events_retention,
            rules=PublisherRules(max_waiting=settings.events_max_waiting),
        )
        store.committer.tell_rows(outbox.ADD, self._committed)

    def _committed(self, rows: list[Mapping[str, object]]) -> None:
        self.hub.tell(str(row["payload"]) for row in rows)
        self.publisher.wake()

    def start(self) -> None:
        """Begin."""
        self.publisher.start()

    def mute(self) -> None:
        """Another back has taken over."""
        self.publisher.mute()

    async def stop(self) -> None:
        """Publish what waits, for a short while, and stop."""
        await self.publisher.stop()
