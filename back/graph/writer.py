"""Writes the stream GRAPH: the current value of every subject, again until it is surely there.

Values go out in batches of plain publishes, only the last of which asks the broker for an answer:
that costs a tenth of an answer each. The answer has the number of the message in the stream. If
numbers went on by exactly the size of the batch since the answer before, all of it is there. If not
(a message was lost between brokers, or another publisher's came in between) the current values of
all its subjects are published again, each with an answer of its own. So they are when no answer
comes, when the connection breaks, and when the broker says no.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import structlog

from shared.errors import LightningError
from shared.fabric.client import NATS_ERRORS, FabricClient
from shared.fabric.gossip import GraphTip
from shared.fabric.graph import STREAM, TOMBSTONE_S, configuration, is_same
from shared.fabric.interface import Received, Subscription
from shared.fabric.jetstream import StreamError, StreamState, make_stream, stream_state
from shared.fabric.subjects import GRAPH_TIP
from shared.gossip.record import GONE, Change, change_payload, change_subject
from shared.tasks import Tasks

__all__ = ["GraphWriter", "WriterRules"]

REPLICAS = 3
UPDATE_EVERY_S = 60.0
PAUSE_S = 0.05
TICK_S = 0.5
TOMBSTONE = {"Nats-TTL": f"{TOMBSTONE_S}s"}
STREAM_FULL = 10077
TOO_LARGE = 10054
TOO_FEW_BROKERS = {10005, 10023, 10074}
"""No suitable peers; insufficient resources; not a cluster."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WriterRules:
    """Limits of the writer.

    Attributes:
        batch: values published with one answer.
        few: if no more wait, each gets its own.
        batches: answers that may be due at once.
        in_flight: values that may be under way; a broker drops what comes when 10,000 wait.
        waiting: values that wait before `GraphWriter.drained` waits too.
        answer_s: an answer that has not come by then does not come.
        check_s: looks at the stream so often.
        retry_s: waits so long after a failure.
        gather_s: a value waits so long for others: what comes in bursts costs its readers less.
        stop_s: how long `GraphWriter.stop` goes on writing.
    """

    batch: int = 500
    few: int = 16
    batches: int = 64
    in_flight: int = 4000
    waiting: int = 20_000
    answer_s: float = 5.0
    check_s: float = 10.0
    retry_s: float = 1.0
    gather_s: float = 0.02
    stop_s: float = 2.0


@dataclass(slots=True)
class _Batch:
    """Values under way.

    Attributes:
        values: by subject.
        sent: when, monotonic.
    """

    values: dict[str, bytes]
    sent: float = field(default_factory=time.monotonic)


class GraphWriter:
    """The only writer of GRAPH.

    Args:
        fabric: the connection for bulk.
        rules: limits.
        may_write: asked before each batch; after a no, `go_on` is called when it may.

    Attributes:
        refused: values that the broker did not take: the stream is full, or the value too large.
        repeated: values that were published again because nobody knew whether they had arrived.
        is_open: the stream is there, and values are being written.
    """

    def __init__(
        self,
        fabric: FabricClient,
        *,
        rules: WriterRules = WriterRules(),
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_write = may_write
        self._is_muted = False
        self.refused = 0
        self.repeated = 0
        self.is_open = False
        self._fabric = fabric
        self._rules = rules
        self._waiting: dict[str, bytes] = {}
        self._doubtful: dict[str, bytes] = {}
        self._batches: dict[int, _Batch] = {}
        self._home: dict[str, int] = {}
        """The last batch that a subject is in."""
        self._count = 0
        self._answered = 0
        self._seq = 0
        """What the batch `_answered` was answered with; 0 if it was not."""
        self._stored_seq = 0
        """The highest number of an answer."""
        self._known_seq = 0
        """The last number when the stream was last looked at."""
        self._messages = 0
        self._created = ""
        self._next_update = 0.0
        self._lost_callbacks: list[Callable[[], None]] = []
        self._inbox = fabric.new_inbox()
        self._room = asyncio.Event()
        self._empty = asyncio.Event()
        self._look = asyncio.Event()
        self._pumping: asyncio.Handle | None = None
        self._stopping = False
        self._tasks = Tasks()
        self._room.set()
        self._empty.set()
        fabric.on_back(self._look.set)
        fabric.on_lost(self._on_disconnected)

    # --- for the owner of the table ---------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Values that are not surely in the stream yet."""
        return len(self._waiting) + len(self._doubtful) + self.under_way

    @property
    def under_way(self) -> int:
        """Values of these that were published, and of which the broker has said nothing yet."""
        return len(self._home)

    def start(self) -> None:
        """Begin: make the stream, write; returns at once, also with no broker."""
        self._tasks.spawn(self._run(), "graph writer")

    async def stop(self) -> None:
        """Write what waits, for a short while, and stop."""
        if self.is_open:
            try:
                await asyncio.wait_for(self.flushed(), self._rules.stop_s)
            except TimeoutError:
                log.info("graph_not_all_written", values=self.waiting)
        # A cancellation alone may get lost: see the follower.
        self._stopping = True
        self._look.set()
        await self._tasks.stop()

    def put(self, change: Change) -> None:
        """Have this value written; it replaces one of the same subject that still waits.

        Never waits and never fails; await `drained` now and then when there is much to put.
        """
        self._put(change_subject(change), change_payload(change))

    def tip(self, height: int, block_hash: bytes) -> None:
        """Write up to which block funding spends are worked in (`ln.graph.tip`).

        Args:
            height: of the block.
            block_hash: internal byte order.
        """
        # It goes after what it speaks of: a crash in between must not leave it alone.
        self._waiting.pop(GRAPH_TIP, None)
        self._put(GRAPH_TIP, GraphTip(height=height, hash=block_hash).to_bytes())

    async def drained(self) -> None:
        """Return as soon as more may be put."""
        await self._room.wait()

    async def flushed(self) -> None:
        """Return when everything that was put is in the stream."""
        await self._empty.wait()

    def go_on(self) -> None:
        """It may be written again."""
        self._pump_soon()

    def mute(self) -> None:
        """Write nothing more, for ever, and forget what waits: GRAPH is another's."""
        self._is_muted = True
        for values in (self._waiting, self._doubtful, self._batches, self._home):
            values.clear()
        self._room.set()
        self._empty.set()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this when the stream was gone, or lost what it had: put the whole table again.

        The stream is there again, and may be empty, when this is called.
        """
        self._lost_callbacks.append(callback)

    # --- publishing -------------------------------------------------------------------------------

    def _put(self, subject: str, payload: bytes) -> None:
        if self._is_muted:
            return
        self._doubtful.pop(subject, None)
        self._waiting[subject] = payload
        self._empty.clear()
        if len(self._waiting) >= self._rules.waiting:
            self._room.clear()
        self._pump_soon(self._rules.gather_s)

    def _pump_soon(self, delay_s: float = 0.0) -> None:
        if self._pumping is None and self.is_open:
            self._pumping = asyncio.get_running_loop().call_later(delay_s, self._pump)

    def _pump(self) -> None:
        """Publish one batch; more in the next turn of the event loop."""
        self._pumping = None
        while self._may_send():
            if self._doubtful:
                self._send(self._doubtful, 1)
            elif len(self._waiting) > self._rules.few and self._seq_is_known:
                self._send(self._waiting, self._rules.batch)
                break
            else:
                self._send(self._waiting, 1)
        if len(self._waiting) <= self._rules.waiting // 2:
            self._room.set()
        if self._may_send():
            self._pump_soon()

    def _may_send(self) -> bool:
        return (
            self.is_open
            and bool(self._doubtful or self._waiting)
            and len(self._batches) < self._rules.batches
            and len(self._home) < self._rules.in_flight
            and self._may_write()
        )

    @property
    def _seq_is_known(self) -> bool:
        """Whether the batch before the next one was answered with its number, or may yet be."""
        return self._seq > 0 or bool(self._batches)

    def _send(self, values: dict[str, bytes], size: int) -> None:
        """Publish the first of these values; the last of them asks for an answer."""
        batch = dict(islice(values.items(), size))
        number = self._count = self._count + 1
        self._batches[number] = _Batch(batch)
        publish, home, last = self._fabric.publish, self._home, len(batch)
        for index, (subject, payload) in enumerate(batch.items(), 1):
            del values[subject]
            home[subject] = number
            headers = TOMBSTONE if payload.startswith(GONE) else None
            reply = f"{self._inbox}.{number}" if index == last else ""
            if not publish(subject, payload, reply=reply, headers=headers):
                # The connection is stuck or gone. The rest of the batch waits with the others.
                for unsent in islice(batch, index, None):
                    del values[unsent]
                    home[unsent] = number
                self._give_up("cannot publish")
                return

    # --- answers ----------------------------------------------------------------------------------

    def _on_answer(self, received: Received) -> None:
        number = received.subject.rpartition(".")[2]
        batch = self._batches.pop(int(number), None) if number.isdecimal() else None
        if batch is None:
            return
        seq, error = _read_answer(received.payload)
        if seq:
            self._stored(int(number), batch, seq)
        else:
            self._failed(int(number), batch, error)
        if not self.waiting:
            self._empty.set()
        self._pump_soon()

    def _stored(self, number: int, batch: _Batch, seq: int) -> None:
        for older in [one for one in self._batches if one < number]:
            # Answers come in order: that of this one was lost.
            self._doubt(older, self._batches.pop(older))
        size = len(batch.values)
        sure = size == 1 or (self._answered == number - 1 and seq == self._seq + size)
        if seq <= self._stored_seq:
            self._doubt(number, batch)
            self._give_up("the stream's numbers went back")
            return
        self._answered, self._seq, self._stored_seq = number, seq, seq
        if sure:
            self._forget(number, batch)
        else:
            self._doubt(number, batch)

    def _failed(self, number: int, batch: _Batch, error: int) -> None:
        self._seq = 0
        if len(batch.values) == 1 and error in {STREAM_FULL, TOO_LARGE}:
            self._forget(number, batch)
            self.refused += 1
            if self.refused.bit_count() == 1:
                log.warning("graph_value_refused", subject=next(iter(batch.values)), code=error)
            return
        self._doubt(number, batch)
        if error not in {STREAM_FULL, TOO_LARGE}:
            self._give_up(f"the broker stored nothing ({error})")

    def _forget(self, number: int, batch: _Batch) -> None:
        home = self._home
        for subject in batch.values:
            if home.get(subject) == number:
                del home[subject]

    def _doubt(self, number: int, batch: _Batch) -> None:
        """Have the current values of a batch published again, each with its own answer."""
        for subject, payload in batch.values.items():
            if self._home.get(subject) == number:
                del self._home[subject]
                if subject not in self._waiting:
                    self._doubtful[subject] = payload
                    self.repeated += 1

    def _give_up(self, why: str) -> None:
        """Doubt everything under way, and look at the stream before anything else is published."""
        if self.is_open:
            log.info("graph_not_written", why=why, values=self.waiting)
        self.is_open = False
        self._seq = 0
        for number, batch in self._batches.items():
            self._doubt(number, batch)
        self._batches.clear()
        self._look.set()

    # --- the stream -------------------------------------------------------------------------------

    async def _run(self) -> None:
        answers: Subscription | None = None
        try:
            while not self._stopping:
                self._look.clear()
                pause = self._rules.check_s
                try:
                    answers = answers or await self._fabric.subscribe(
                        f"{self._inbox}.*", self._on_answer
                    )
                    await self._open()
                except (LightningError, *NATS_ERRORS) as error:
                    self._give_up(str(error) or repr(error))
                    self._look.clear()
                    pause = self._rules.retry_s
                await self._wait(pause)
        finally:
            self._stopped()
            if answers is not None:
                await answers.close()

    async def _wait(self, pause_s: float) -> None:
        """Wait until somebody wants the stream looked at, at most so long."""
        # What goes wrong at once goes wrong twenty times a second at most.
        await asyncio.sleep(PAUSE_S)
        until = time.monotonic() + pause_s
        while not (self._look.is_set() or self._stopping):
            if (left := until - time.monotonic()) <= 0:
                return
            try:
                await asyncio.wait_for(self._look.wait(), min(left, TICK_S))
            except TimeoutError:
                self._expire()

    def _expire(self) -> None:
        oldest = next(iter(self._batches.values()), None)
        if oldest is not None and time.monotonic() - oldest.sent > self._rules.answer_s:
            self._give_up("no answer")

    async def _open(self) -> None:
        """Make sure that the stream is there, is the one we know, and is as it should be."""
        if self._fabric.connection is None:
            return
        known = max(self._known_seq, self._stored_seq)
        state = await stream_state(self._fabric, STREAM)
        is_new = state is None
        state = await self._create() if state is None else await self._updated(state)
        lost = bool(self._created) and (
            is_new
            or self._is_emptied(state, known)
            or not await is_same(self._fabric, state, self._created, known)
        )
        self._created = state.created
        self._known_seq, self._messages = state.last_seq, state.messages
        if lost:
            log.error("graph_lost", created=state.created, seq=state.last_seq, known=known)
            self._give_up("another stream")
            self._look.clear()
            self._stored_seq = 0
        if not self.is_open and self._fabric.connection is not None:
            self.is_open = True
            self._seq = 0
            self._pump_soon()
        if lost:
            self._tell()

    def _is_emptied(self, state: StreamState, known: int) -> bool:
        """Whether what was there at the last look was purged: it never goes all at once."""
        return state.first_seq > known and state.messages < self._messages

    async def _create(self) -> StreamState:
        """Make the stream: three times in a cluster of brokers that can, else once."""
        try:
            state = await make_stream(self._fabric, configuration(REPLICAS))
        except StreamError as error:
            if error.code not in TOO_FEW_BROKERS:
                raise
            state = await make_stream(self._fabric, configuration(1))
        log.info("graph_created", replicas=state.config.get("num_replicas"))
        return state

    async def _updated(self, state: StreamState) -> StreamState:
        """Bring the configuration up to date, where the broker can."""
        replicas = int(state.config.get("num_replicas", 1))
        if state.clustered and replicas < REPLICAS:
            replicas = REPLICAS
        wanted = configuration(replicas)
        if time.monotonic() < self._next_update or all(
            state.config.get(name) == value for name, value in wanted.items()
        ):
            return state
        self._next_update = time.monotonic() + UPDATE_EVERY_S
        try:
            return await make_stream(self._fabric, wanted, update=True)
        except StreamError as error:
            log.info("graph_configuration_kept", error=str(error))
            return state

    def _stopped(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
        self.is_open = False

    def _on_disconnected(self) -> None:
        self._give_up("connection lost")

    def _tell(self) -> None:
        for callback in self._lost_callbacks:
            try:
                callback()
            except Exception:  # the writer goes on
                log.exception("graph_lost_not_handled", callback=repr(callback))


def _read_answer(payload: bytes) -> tuple[int, int]:
    """Return the number in the stream, or 0 and the broker's error code (0: nobody is there)."""
    try:
        answer = json.loads(payload)
        if (error := answer.get("error")) is not None:
            return 0, int(error.get("err_code", 0))
        return int(answer["seq"]), 0
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0, 0
