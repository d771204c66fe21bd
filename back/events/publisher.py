"""Brings committed events to the stream EVENTS: in order, each once, and deletes them after that.

A batch goes out as plain publishes, each of which names the number that the stream's last message
must have: what is lost on the way keeps all that follows out, and a second copy never gets in. The
last of a batch is answered. Where no answer comes, or at a start, the end of the stream is read
and compared with the rows that wait: those that are there were published before whatever went
wrong, and are deleted without another word.

With the broker away, rows wait in the database. Beyond a limit the oldest are dropped, and the log
says which: money is never held up for news of it.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from back.storage.outbox import StoredEvent
from shared.errors import BackendError, FabricUnavailable, LeaseLost, LightningError
from shared.fabric import subjects
from shared.fabric.client import NATS_ERRORS, FabricClient
from shared.fabric.events import STREAM, EventsRetention, configuration, message
from shared.fabric.interface import Received, Subscription
from shared.fabric.jetstream import (
    StreamError,
    StreamState,
    make_stream,
    stored_message,
    stream_state,
)
from shared.tasks import Tasks

__all__ = ["EventPublisher", "EventRows", "PublisherRules"]

REPLICAS = 3
TOO_FEW_BROKERS = {10005, 10023, 10074}
"""No suitable peers; insufficient resources; not a cluster."""
EXPECTED = "Nats-Expected-Last-Sequence"
MAX_BATCH_BYTES = 4 << 20
DROP_AT_ONCE = 1000
"""Rows dropped in one commit."""

log = structlog.get_logger()


class EventRows(Protocol):
    """The rows that wait, wherever they are."""

    async def pending(self, limit: int) -> list[StoredEvent]:
        """Return the oldest.

        Raises:
            StorageUnavailable: the database is away.
        """

    async def extent(self) -> tuple[int, int]:
        """Return the first and the last number that waits; (1, 0) if none does. Raises so too."""

    async def forget(self, numbers: Sequence[int]) -> None:
        """Delete those that the stream has.

        Raises:
            StorageUnavailable: nothing was deleted.
            LeaseLost: they are another's.
        """

    async def drop(self, up_to: int) -> None:
        """Delete the oldest, published or not. Raises as `forget`."""


@dataclass(frozen=True, slots=True)
class PublisherRules:
    """Limits of the publisher.

    Attributes:
        max_waiting: numbers that may wait; what is older is dropped.
        batch: events published with one answer.
        gather_s: after a batch that was not full, others may gather for so long.
        answer_s: an answer that has not come by then does not come.
        retry_s: waits so long after a failure.
        check_s: looks at the stream, and at how much waits, so often.
        stop_s: how long `EventPublisher.stop` goes on publishing.
    """

    max_waiting: int = 1_000_000
    batch: int = 500
    gather_s: float = 0.5
    answer_s: float = 5.0
    retry_s: float = 1.0
    check_s: float = 10.0
    stop_s: float = 2.0


class EventPublisher:
    """The only writer of EVENTS.

    Args:
        fabric: the connection for bulk.
        rows: what waits.
        retention: limits of the stream.
        rules: limits of the publisher.

    Attributes:
        published: events since the start.
        dropped: events that nobody will see in the stream, since the start.
        waiting: how many waited at the last look.
        is_open: the stream is there, and its end is known.
    """

    def __init__(
        self,
        fabric: FabricClient,
        rows: EventRows,
        retention: EventsRetention,
        *,
        rules: PublisherRules = PublisherRules(),
    ) -> None:
        self.published = 0
        self.dropped = 0
        self.waiting = 0
        self.is_open = False
        self._fabric = fabric
        self._rows = rows
        self._retention = retention
        self._rules = rules
        self._seq = 0
        """Of the stream's last message."""
        self._is_muted = False
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        """Nothing waits, or it is not known what."""
        self._inbox = fabric.new_inbox()
        self._answers: Subscription | None = None
        self._count = 0
        self._expected: tuple[str, asyncio.Future[bytes]] | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._tasks = Tasks()
        fabric.on_lost(self._lost)
        fabric.on_back(self._wanted.set)

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; returns at once, also with no broker."""
        self._tasks.spawn(self._run(), "event publisher")
        self._tasks.spawn(self._look_after(), "events that wait")

    def wake(self) -> None:
        """There are new rows."""
        self._wanted.set()

    def mute(self) -> None:
        """Publish nothing more, for ever: the rows are another's."""
        self._is_muted = True

    async def stop(self) -> None:
        """Publish what waits, for a short while, and stop."""
        self._stopping.set()
        self._wanted.set()
        if self.is_open and not self._is_muted:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._rules.stop_s)
        # A cancellation alone may get lost: see the follower of GRAPH.
        self._is_muted = True
        self._wanted.set()
        await self._tasks.stop()
        if self._answers is not None:
            await self._answers.close()

    def _lost(self) -> None:
        self._give_up("connection lost")
        if self._expected is not None and not self._expected[1].done():
            self._expected[1].set_exception(FabricUnavailable("connection lost"))

    def _give_up(self, why: str) -> None:
        if self.is_open:
            log.info("events_not_published", why=why)
        self.is_open = False
        self._idle.set()

    # --- publishing -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._is_muted:
            try:
                await self._wanted.wait()
                self._idle.clear()
                if self._fabric.connection is None:
                    self._wanted.clear()  # set again when there is one
                    continue
                if not self.is_open:
                    await self._open()
                is_more = await self._publish_some()
            except LeaseLost:
                return
            except (LightningError, *NATS_ERRORS) as error:
                self._give_up(str(error) or repr(error))
                self._wanted.set()
                await asyncio.sleep(self._rules.retry_s)
            else:
                if not is_more:
                    self._idle.set()
                    await self._gather()

    async def _gather(self) -> None:
        """Let others come, but for a stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._rules.gather_s)

    async def _publish_some(self) -> bool:
        """Publish the next batch; say whether there may be more."""
        self._wanted.clear()
        rows = await self._rows.pending(self._rules.batch)
        batch = _fitting(rows)
        if not batch:
            return False
        await self._publish(batch)
        self.published += len(batch)
        await self._forget([number for number, _, _ in batch])
        if is_more := len(batch) < len(rows) or len(rows) == self._rules.batch:
            self._wanted.set()
        return is_more

    async def _publish(self, batch: "list[tuple[int, str, bytes]]") -> None:
        """Have the stream hold a batch behind its last message, all of it.

        Raises:
            FabricError: it may, or may not.
        """
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._expected = reply, answer
        last = len(batch) - 1
        for index, (_, subject, payload) in enumerate(batch):
            if self._is_muted:
                raise LeaseLost(())
            headers = {EXPECTED: str(self._seq + index)}
            asks = reply if index == last else ""
            if not self._fabric.publish(subject, payload, reply=asks, headers=headers):
                raise StreamError("cannot publish", 0)
        seq = _read_answer(await asyncio.wait_for(answer, self._rules.answer_s))
        if seq != self._seq + len(batch):
            raise StreamError(f"the stream is at {seq}, not at {self._seq + len(batch)}", 0)
        self._seq = seq

    def _on_answer(self, received: Received) -> None:
        if self._expected is None:
            return
        subject, answer = self._expected
        if subject == received.subject and not answer.done():
            answer.set_result(received.payload)

    async def _forget(self, numbers: list[int]) -> None:
        """Delete what the stream has, however long the database is away: it is not asked again."""
        while True:
            try:
                await self._rows.forget(numbers)
            except BackendError as error:
                log.warning("events_not_forgotten", why=str(error))
                await asyncio.sleep(self._rules.retry_s)
            else:
                return

    # --- the stream -------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Make sure that the stream is there, and forget the rows that are in it."""
        if self._answers is None:
            self._answers = await self._fabric.subscribe(f"{self._inbox}.*", self._on_answer)
        state = await stream_state(self._fabric, STREAM)
        state = await self._create() if state is None else await self._updated(state)
        rows = await self._rows.pending(self._rules.batch)
        if there := await self._in_stream(rows, state.last_seq):
            log.info("events_were_published", first=there[0], last=there[-1])
            await self._forget(there)
        self._seq = state.last_seq
        self.is_open = True

    async def _in_stream(self, rows: list[StoredEvent], last_seq: int) -> list[int]:
        """Return the numbers of rows that are at the end of the stream already.

        Only the last batch can be: the next is published when its rows are deleted.
        """
        waiting = {payload: number for number, _, payload in _fitting(rows)}
        there: list[int] = []
        while waiting and last_seq > 0:
            last = await stored_message(self._fabric, STREAM, last_seq)
            number = waiting.pop(last[1], None) if last is not None else None
            if number is None:
                if last is not None and not there:
                    _compare(last[1], rows[0].id)
                break
            there.append(number)
            last_seq -= 1
        return there[::-1]

    async def _create(self) -> StreamState:
        """Make the stream: three times in a cluster of brokers that can, else once."""
        try:
            state = await make_stream(self._fabric, configuration(self._retention, REPLICAS))
        except StreamError as error:
            if error.code not in TOO_FEW_BROKERS:
                raise
            state = await make_stream(self._fabric, configuration(self._retention, 1))
        log.info("events_created", replicas=state.config.get("num_replicas"))
        return state

    async def _updated(self, state: StreamState) -> StreamState:
        """Bring the configuration up to date, where the broker can."""
        replicas = int(state.config.get("num_replicas", 1))
        if state.clustered and replicas < REPLICAS:
            replicas = REPLICAS
        wanted = configuration(self._retention, replicas)
        if all(state.config.get(name) == value for name, value in wanted.items()):
            return state
        try:
            return await make_stream(self._fabric, wanted, update=True)
        except StreamError as error:
            log.info("events_configuration_kept", error=str(error))
            return state

    # --- what waits -------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Keep in mind how much waits, and drop what is too much."""
        while not self._is_muted:
            try:
                await self._bound()
            except LeaseLost:
                return
            except LightningError as error:
                log.debug("events_not_counted", why=str(error))
            await asyncio.sleep(self._rules.check_s)

    async def _bound(self) -> None:
        first, last = await self._rows.extent()
        self.waiting = last - first + 1
        while (too_many := self.waiting - self._rules.max_waiting) > 0:
            up_to = first + min(too_many, DROP_AT_ONCE) - 1
            await self._rows.drop(up_to)
            log.error("events_dropped", first=first, last=up_to)
            self.dropped += up_to - first + 1
            first = up_to + 1
            self.waiting = last - first + 1


def _fitting(rows: list[StoredEvent]) -> "list[tuple[int, str, bytes]]":
    """Return number, subject and payload of the first rows that fit into a batch."""
    batch: list[tuple[int, str, bytes]] = []
    size = 0
    for row in rows:
        payload = message(row.id, row.topic, row.payload)
        size += len(payload)
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append((row.id, subjects.event(row.topic), payload))
    return batch


def _compare(last: bytes, first_waiting: int) -> None:
    """Say so where numbers of the stream come again: the database is older than it was."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if (number := int(json.loads(last)["number"])) >= first_waiting:
            log.error("events_numbers_went_back", stream=number, database=first_waiting)


def _read_answer(payload: bytes) -> int:
    """Return the number of the stored message.

    Raises:
        StreamError: it was not stored.
    """
    try:
        answer = json.loads(payload)
        if (error := answer.get("error")) is not None:
            raise StreamError(str(error.get("description")), int(error.get("err_code", 0)))
        return int(answer["seq"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StreamError(f"not an answer of a broker: {payload[:100]!r}", 0) from None
