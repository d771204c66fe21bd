"""The stream GRAPH, which holds the routing table, and how a process follows it.

One value per subject (`shared.gossip.record`), the last one. A follower gets every value that is
there, then every change, through one reader (`shared.fabric.consumer`) that starts at the first
number it does not have.

A follower trusts the stream only as long as it is the same one: it compares when the stream was
made and its last number, at each connect and every ten seconds; and where it goes on it reads some
of what it has again, because a broker that lost its last writes (it syncs to disk now and then)
gives their numbers to others, which then bear a later time than anything the follower knew.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog
from nats.aio.client import Client

from shared.errors import FabricError, LightningError
from shared.fabric.client import NATS_ERRORS, FabricClient
from shared.fabric.consumer import ConsumerRules, StreamConsumer
from shared.fabric.jetstream import StreamState, stream_state
from shared.fabric.subjects import GRAPH_SELF, GRAPH_TIP
from shared.gossip.record import Change, Kind, parse_change, parse_subject
from shared.tasks import Tasks

__all__ = [
    "STREAM",
    "TOMBSTONE_S",
    "FollowRules",
    "GraphFollower",
    "GraphSink",
    "configuration",
    "is_same",
]

STREAM = "GRAPH"
TOMBSTONE_S = 86_400
"""How long the mark stays that something is gone."""
MAX_VALUES = 400_000
"""More than twice the mainnet of today (50,000 channels, 100,000 updates, 17,000 nodes)."""
MAX_BYTES = 256 << 20
"""Those are 60 MB in the stream's files."""
MAX_VALUE_BYTES = 66_000
"""The largest message of Lightning and a header."""
MAX_CONSUMERS = 1000
"""One for each front and back, and those of the last ten seconds' connections."""
LEADER_S = 1.0
OVERLAP = 4096
"""Numbers read again where a follower goes on."""

log = structlog.get_logger()


def configuration(replicas: int) -> dict[str, Any]:
    """Return how the stream is made.

    A full stream refuses new values (the writer hears it), and drops none that is there.

    Args:
        replicas: 3 in a cluster of brokers, else 1.
    """
    return {
        "name": STREAM,
        "description": "Squall's routing table: the last value of each subject",
        "subjects": [
            "ln.graph.channel.*",
            "ln.graph.update.*.*",
            "ln.graph.node.*",
            GRAPH_TIP,
            GRAPH_SELF,
        ],
        "retention": "limits",
        "storage": "file",
        "max_msgs_per_subject": 1,
        "max_msgs": MAX_VALUES,
        "max_bytes": MAX_BYTES,
        "max_msg_size": MAX_VALUE_BYTES,
        "max_age": 0,
        "discard": "new",
        "max_consumers": MAX_CONSUMERS,
        "num_replicas": replicas,
        # No message has an id: nothing to look for duplicates by.
        "duplicate_window": 1_000_000_000,
        "allow_msg_ttl": True,
        "allow_direct": False,
    }


async def is_same(fabric: FabricClient, state: StreamState, created: str, seq: int) -> bool:
    """Whether a stream is the one that was made then and had come to this number.

    Raises:
        FabricError: a broker that may only be late did not answer again.
    """
    if state.created != created:
        return False
    if state.last_seq >= seq:
        return True
    # A broker that has just become the stream's leader may not have worked everything in yet.
    await asyncio.sleep(LEADER_S)
    again = await stream_state(fabric, STREAM)
    return again is not None and again.created == created and again.last_seq >= seq


class GraphSink(Protocol):
    """Who takes what the stream holds. Nothing here may wait; an exception is logged."""

    def loading(self) -> None:
        """The first stream, or another one than before: what follows fills a new table."""

    def put(self, change: Change) -> None:
        """One value, old or new; also values that came before."""

    def loaded(self) -> None:
        """The snapshot is complete: nothing that was there at `loading` is missing."""

    def node_self(self, payload: bytes) -> None:
        """Who we are (`ln.graph.self`)."""

    def tip(self, payload: bytes) -> None:
        """Up to which block the table is worked through (`ln.graph.tip`)."""


@dataclass(frozen=True, slots=True)
class FollowRules:
    """How a follower looks after its stream.

    Attributes:
        check_s: compares the stream so often.
        absent_s: looks again so often where there is none.
        retry_s: waits so long after an attempt that failed.
        consumer: limits of the reader.
    """

    check_s: float = 10.0
    absent_s: float = 1.0
    retry_s: float = 0.5
    consumer: ConsumerRules = field(default_factory=ConsumerRules)


class GraphFollower:
    """Follows GRAPH over any number of connections, brokers and streams.

    Args:
        fabric: the connection for bulk.
        sink: gets everything.
        rules: times and limits.
        on_refused: called with kind and key where something stands that is no value of the table.
            (Whoever may ask the broker anything can have the answer sent to such a subject; the
            value that was there is then gone from the stream, and its owner writes it again.)

    Attributes:
        looked: set when it is known for the first time whether there is a stream.
        ready: set when the first complete snapshot was handed over, for good.
        lag: values that wait at the broker, as far as known.
        loads: how often a table was loaded from the start.
        refused: messages that were no value of the table.
    """

    def __init__(
        self,
        fabric: FabricClient,
        sink: GraphSink,
        *,
        rules: FollowRules = FollowRules(),
        on_refused: Callable[[Kind, int | bytes], None] | None = None,
    ) -> None:
        self.looked = asyncio.Event()
        self.ready = asyncio.Event()
        self.lag = 0
        self.loads = 0
        self.refused = 0
        self._fabric = fabric
        self._sink = sink
        self._rules = rules
        self._on_refused = on_refused
        self._changed = asyncio.Event()
        self._stopping = False
        self._tasks = Tasks()
        self._consumer: StreamConsumer | None = None
        self._created = ""
        self._seq = 0
        self._newest_ns = 0
        self._target = 0
        self._loading = False
        self._seen: datetime | None = None
        fabric.on_back(self._changed.set)
        fabric.on_lost(self._on_lost)

    @property
    def following(self) -> bool:
        """Whether changes come right now."""
        return self._consumer is not None and not self._consumer.ended.is_set()

    def start(self) -> None:
        """Begin; returns at once, also with no broker."""
        self._tasks.spawn(self._run(), "graph follower")

    async def stop(self) -> None:
        """Stop; the sink hears nothing any more."""
        # A cancellation alone may get lost: Python 3.11's wait_for drops one that comes with the
        # result, here and within nats-py.
        self._stopping = True
        if self._consumer is not None:
            self._consumer.end("stopped")
        self._changed.set()
        await self._tasks.stop()

    # --- over connections -------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping:
            self._changed.clear()
            pause: float | None = None
            if (connection := self._fabric.connection) is not None:
                try:
                    pause = await self._follow(connection)
                except (LightningError, *NATS_ERRORS) as error:
                    log.info("graph_not_followed", error=str(error) or repr(error))
                    pause = self._rules.retry_s
            await self._wait(pause)

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait for another connection, at most so long."""
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return

    async def _follow(self, connection: Client) -> float:
        """Read until something is wrong; return how long to wait before the next attempt."""
        state = await stream_state(self._fabric, STREAM)
        if state is None:
            self.looked.set()
            return self._rules.absent_s
        if self._away_too_long(state) or not await is_same(
            self._fabric, state, self._created, self._seq
        ):
            self._begin(state)
        self.looked.set()
        self._seen = state.time
        consumer = StreamConsumer(
            self._fabric, connection, STREAM, self._on_value, self._rules.consumer
        )
        self._consumer = consumer
        try:
            waiting = await consumer.open(self._seq + 1 - min(OVERLAP, self._seq))
            if waiting == 0:
                self._finish()
            await self._watch(consumer)
        finally:
            await consumer.close()
            self.refused += consumer.garbage
        log.info("graph_reading_again", why=consumer.why, seq=self._seq)
        return self._rules.retry_s

    async def _watch(self, consumer: StreamConsumer) -> None:
        """Wait until the reader ends, or the stream is not the one that it reads."""
        check = time.monotonic() + self._rules.check_s
        while not (consumer.ended.is_set() or self._stopping):
            try:
                await asyncio.wait_for(consumer.ended.wait(), min(1.0, self._rules.check_s))
            except TimeoutError:
                if consumer.silent:
                    consumer.end("silence")
                elif time.monotonic() >= check:
                    check = time.monotonic() + self._rules.check_s
                    await self._check(consumer)

    async def _check(self, consumer: StreamConsumer) -> None:
        known = self._seq
        state = await stream_state(self._fabric, STREAM)
        if state is None:
            consumer.end("no stream")
        elif state.created != self._created or state.last_seq < known:
            consumer.end("another stream")
        else:
            self._seen = state.time

    def _away_too_long(self, state: StreamState) -> bool:
        """Whether marks of what is gone may have expired meanwhile; by the broker's clock."""
        return self._seen is not None and state.time - self._seen > timedelta(
            seconds=TOMBSTONE_S / 2
        )

    def _on_lost(self) -> None:
        if self._consumer is not None:
            self._consumer.end("connection lost")
        self._changed.set()

    # --- values -----------------------------------------------------------------------------------

    def _begin(self, state: StreamState) -> None:
        log.info("graph_loading", values=state.messages, created=state.created)
        self._created = state.created
        self._seq = self._newest_ns = 0
        self._target = state.last_seq
        self._loading = True
        self.loads += 1
        self._call(self._sink.loading)

    def _finish(self) -> None:
        if self._loading:
            self._loading = False
            log.info("graph_loaded", seq=self._seq)
            self._call(self._sink.loaded)
            self.ready.set()

    def _on_value(
        self, subject: str, payload: bytes, seq: int, stored_ns: int, waiting: int
    ) -> None:
        self.lag = waiting
        if seq > self._seq:
            self._seq = seq
            self._newest_ns = max(self._newest_ns, stored_ns)
            self._put(subject, payload)
        elif stored_ns > self._newest_ns:
            # A number that we knew, and another message.
            self._created = ""
            if self._consumer is not None:
                self._consumer.end("the stream lost what it had")
            return
        if self._loading and (waiting == 0 or seq >= self._target):
            self._finish()

    def _put(self, subject: str, payload: bytes) -> None:
        if subject == GRAPH_SELF:
            self._call(self._sink.node_self, payload)
        elif subject == GRAPH_TIP:
            self._call(self._sink.tip, payload)
        else:
            try:
                change = parse_change(subject, payload)
            except FabricError:
                self._refuse(subject)
                return
            self._call(self._sink.put, change)

    def _refuse(self, subject: str) -> None:
        self.refused += 1
        if self._on_refused is not None:
            with contextlib.suppress(FabricError):
                self._call(self._on_refused, *parse_subject(subject))

    def _call(self, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(*arguments)
        except Exception:  # the next value is not to blame
            log.exception("graph_value_not_taken", method=method.__name__)
