"""A publisher of events over real brokers, rows in memory or in a database, and its readers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from back.events.publisher import EventPublisher, EventRows, PublisherRules
from back.storage.outbox import StoredEvent
from shared.errors import StorageUnavailable
from shared.fabric.client import FabricClient
from shared.fabric.events import STREAM, EventsRetention

RETENTION = EventsRetention(3600.0, 16 << 20)
QUICK = PublisherRules(gather_s=0.005, answer_s=1.0, retry_s=0.05, check_s=0.05)


class MemoryRows:
    """Rows of an outbox, with a few ways to fail.

    Attributes:
        rows: what waits.
        last: the last number given.
        is_away: the database does not answer.
        before_forget: called before each deletion; may raise.
    """

    def __init__(self) -> None:
        self.rows: list[StoredEvent] = []
        self.last = 0
        self.is_away = False
        self.before_forget: Callable[[], None] = lambda: None

    def add(self, topic: str = "payment_received", payload: str | None = None) -> StoredEvent:
        """Have one more row wait."""
        self.last += 1
        text = json.dumps({"type": topic, "n": self.last}) if payload is None else payload
        self.rows.append(StoredEvent(self.last, topic, text, 1))
        return self.rows[-1]

    async def pending(self, limit: int) -> list[StoredEvent]:
        self._answer()
        return self.rows[:limit]

    async def extent(self) -> tuple[int, int]:
        self._answer()
        return (self.rows[0].id, self.rows[-1].id) if self.rows else (1, 0)

    async def forget(self, numbers: Sequence[int]) -> None:
        self._answer()
        self.before_forget()
        gone = set(numbers)
        assert gone <= {row.id for row in self.rows}, "deleted twice"
        self.rows = [row for row in self.rows if row.id not in gone]

    async def drop(self, up_to: int) -> None:
        self._answer()
        self.rows = [row for row in self.rows if row.id > up_to]

    def _answer(self) -> None:
        if self.is_away:
            raise StorageUnavailable("the test took it away")


@asynccontextmanager
async def publishing(
    fabric: FabricClient,
    rows: EventRows,
    rules: PublisherRules = QUICK,
    retention: EventsRetention = RETENTION,
) -> AsyncIterator[EventPublisher]:
    """Run a publisher for a while."""
    publisher = EventPublisher(fabric, rows, retention, rules=rules)
    publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


async def log_of(
    fabric: FabricClient, *, subject: str = "", durable: str | None = None, **config: Any
) -> list[Any]:
    """Read the whole stream, or what a durable consumer has not read, as a client of that role."""
    assert fabric.connection is not None
    stream = fabric.connection.jetstream(timeout=2)
    try:
        consumer = await stream.pull_subscribe(
            subject, durable=durable, stream=STREAM, config=ConsumerConfig(**config)
        )
    except NotFoundError:
        return []
    found: list[Any] = []
    while True:
        try:
            batch = await consumer.fetch(500, timeout=0.3)
        except TimeoutError:
            return found
        for message in batch:
            found.append(json.loads(message.data))
            await message.ack()
        await asyncio.sleep(0)


def numbers(log: list[Any]) -> list[int]:
    """The numbers of a log."""
    return [each["number"] for each in log]
