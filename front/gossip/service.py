"""Gossip of one front as one piece: joins the parts, and its peers with them.

Announcements go to the `Intake`, queries to each peer's `Queries`, replies to `Sync`. What the
stream GRAPH says goes into the table, and from there to the `Relay`. Nothing is decided here.
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from front.gossip.answers.outbox import Outbox, OutboxRules
from front.gossip.answers.queries import Queries, is_dump
from front.gossip.answers.turns import Turns
from front.gossip.intake.budget import IntakeRules
from front.gossip.intake.intake import Intake
from front.gossip.relay.relay import Relay, RelayRules
from front.gossip.sync.sync import Sync, SyncRules
from shared.errors import Action, PeerError
from shared.gossip.checksum import checksum
from shared.gossip.record import Change, ChannelRecord
from shared.gossip.table import Table
from shared.gossip.view import (
    CHANNEL_UPDATE,
    direction_of,
    message_type,
    node_timestamp,
    update_timestamp,
)
from shared.tasks import Tasks
from shared.wire import (
    Message,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    encode,
)

if TYPE_CHECKING:
    from front.gossip.link import Link
    from front.metrics import Metrics
    from shared.fabric.interface import Fabric

__all__ = ["Gossip", "GossipRules"]

TICK_S = 0.1
BUSY = 1_000
"""Announcements in work from which on nothing is asked for."""
BUSY_PATIENCE_S = 30.0
OFFERS_PER_TICK = 500
"""How much of a table whose stream is gone is offered at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class GossipRules:
    """Limits and intervals of all parts."""

    intake: IntakeRules = field(default_factory=IntakeRules)
    outbox: OutboxRules = field(default_factory=OutboxRules)
    sync: SyncRules = field(default_factory=SyncRules)
    relay: RelayRules = field(default_factory=RelayRules)


@dataclass(slots=True, eq=False)
class _Reader:
    """What one peer asked for and has not got yet."""

    queries: Queries
    outbox: Outbox
    is_flowing: bool = False


@dataclass(slots=True)
class _Parts:
    """What can work only once it is known who we are."""

    chain_hash: bytes
    intake: Intake
    sync: Sync
    relay: Relay


class Gossip:
    """The gossip of one front: a sink of GRAPH, and every peer's counterpart.

    Args:
        fabric: the bulk connection.
        name: this front's.
        rules: limits and intervals.
        metrics: of the front.

    Attributes:
        table: the routing table.
        on_node_self: called with what the stream says of who we are.
    """

    def __init__(self, fabric: "Fabric", name: str, rules: GossipRules, metrics: "Metrics") -> None:
        self.table = Table(is_complete=False)
        self.on_node_self: Callable[[bytes], None] = lambda payload: None
        self._fabric = fabric
        self._name = name
        self._rules = rules
        self._metrics = metrics
        self._fresh: Table | None = None
        """Being filled from another stream than `table` was."""
        self._offers: Iterator[bytes] = iter(())
        self._offered = b""
        self._readers: dict[Link, _Reader] = {}
        self._busy: dict[Link, _Reader] = {}
        """Those who wait for something, or have used some of their budget."""
        self._ticked = 0.0
        self._busy_since = 0.0
        self._bytes_in = 0
        self._parts: _Parts | None = None
        self._tasks = Tasks()
        self._turns = Turns()

    @property
    def is_loading(self) -> bool:
        """Whether a new table is being filled."""
        return self._fresh is not None

    @property
    def pids(self) -> list[int]:
        """Of the worker processes."""
        return [] if self._parts is None else self._parts.intake.pids

    # --- life -------------------------------------------------------------------------------------

    async def begin(self, node_id: bytes, chain_hash: bytes) -> None:
        """Start: who we are is known now."""
        rules = self._rules
        parts = _Parts(
            chain_hash,
            Intake(
                self._fabric,
                self._name,
                chain_hash,
                lambda: self.table,
                rules.intake,
                self._metrics,
            ),
            Sync(
                chain_hash,
                lambda: self.table,
                rules.sync,
                random.Random(),  # noqa: S311 - which peers to ask is no secret
                checksum,
            ),
            Relay(node_id, chain_hash, lambda: self.table, rules.relay),
        )
        parts.intake.on_missing = parts.sync.missing
        self._parts = parts
        for link in self._readers:
            self._introduce(parts, link)
        await parts.intake.start()
        self._tasks.spawn(self._run(parts), "gossip")

    async def stop(self) -> None:
        """Stop; what was not answered stays so."""
        await self._tasks.stop()
        self._turns.stop()
        if self._parts is not None:
            await self._parts.intake.stop()

    async def _run(self, parts: _Parts) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._tick(parts, asyncio.get_running_loop().time())
            except Exception:
                # A bug of ours; but BOLT 2 goes on without gossip.
                log.exception("gossip_failed")

    def _tick(self, parts: _Parts, now: float) -> None:
        parts.intake.tick(now)
        for link, messages in parts.relay.due(now):
            if (reader := self._readers.get(link)) is not None:
                self._busy[link] = reader
                reader.outbox.tell(messages)
                self._flow(link, reader)
        parts.sync.is_held = parts.intake.is_crowded or self._is_busy(parts.intake, now)
        for ask in parts.sync.due(now, int(time.time())):
            ask.link.send(encode(ask.message))
        self._offer(parts.intake)
        self._go_on_writing(now)
        self._measure(parts)

    def _is_busy(self, intake: Intake, now: float) -> bool:
        """Whether so much is in work that peers would be asked for what they have sent already.

        Not for long: whoever keeps us busy must not keep us from asking others.
        """
        if intake.in_work < BUSY:
            self._busy_since = now
            return False
        return now - self._busy_since < BUSY_PATIENCE_S

    def _go_on_writing(self, now: float) -> None:
        elapsed_s, self._ticked = now - self._ticked, now
        for link, reader in tuple(self._busy.items()):
            reader.outbox.check(now, elapsed_s)
            if reader.outbox.waits:
                self._flow(link, reader)
            if reader.outbox.is_idle:
                self._busy.pop(link, None)

    def _measure(self, parts: _Parts) -> None:
        metrics, table = self._metrics, self.table
        metrics.gossip_in.inc(self._bytes_in)
        self._bytes_in = 0
        metrics.pending.set(parts.intake.pending)
        metrics.channels.set(table.channels)
        metrics.updates.set(table.updates)
        metrics.nodes.set(table.nodes)
        metrics.table_bytes.set(table.raw_bytes)

    # --- peers ------------------------------------------------------------------------------------

    def joined(self, link: "Link") -> None:
        """Both inits are exchanged."""
        self._readers[link] = _Reader(Queries(), Outbox(link, self._rules.outbox))
        if self._parts is not None:
            self._introduce(self._parts, link)

    def left(self, link: "Link") -> None:
        """The connection ends."""
        self._busy.pop(link, None)
        if self._readers.pop(link, None) is None or self._parts is None:
            return
        self._parts.intake.left(link)
        self._parts.sync.left(link, asyncio.get_running_loop().time())
        self._parts.relay.left(link)

    def announcement(self, link: "Link", raw: bytes) -> bool:
        """Take an announcement; False for an update of a channel that the table does not have.

        Raises:
            MalformedMessage: it is too short for its fields.
        """
        self._bytes_in += len(raw)
        if self._parts is not None:
            self._parts.intake.receive(link, raw)
            self._parts.sync.announced(link, asyncio.get_running_loop().time())
        if not link.has_channels or message_type(raw) != CHANNEL_UPDATE:
            return True
        return self.table.channel(direction_of(raw)[0]) is not None

    def message(self, link: "Link", message: Message) -> None:
        """Take a query, a filter, or a reply to ours.

        Raises:
            PeerError: it breaks a rule; its action says how bad that is.
        """
        reader, parts = self._readers.get(link), self._parts
        if reader is None or parts is None:
            return
        now = asyncio.get_running_loop().time()
        try:
            if isinstance(message, ReplyChannelRange | ReplyShortChannelIdsEnd):
                parts.sync.received(link, message, now)
                return
            self._metrics.queries.labels(message.NAME).inc()
            self._busy[link] = reader
            reader.outbox.asked(replaces=is_dump(message))
            answers = reader.queries.receive(lambda: self.table, parts.chain_hash, message)
            if answers is None:
                return
            if is_dump(message):
                parts.relay.filtered(link, reader.queries.filter)
                reader.outbox.dump(answers)
            else:
                reader.outbox.answer(answers)
            self._flow(link, reader)
        except PeerError as error:
            link.offend(str(error), bolt=error.bolt, disconnect=error.action is not Action.WARN)

    def drained(self, link: "Link") -> None:
        """The peer takes more."""
        reader = self._readers.get(link)
        if reader is not None and reader.outbox.waits:
            self._flow(link, reader)

    def _introduce(self, parts: _Parts, link: "Link") -> None:
        now = asyncio.get_running_loop().time()
        if self._rules.sync.peers:
            parts.sync.joined(link, now)
        parts.relay.joined(link, now)

    def _flow(self, link: "Link", reader: _Reader) -> None:
        """Write slice after slice, each in another turn of the loop."""
        if not reader.is_flowing and not link.closing:
            reader.is_flowing = True
            self._turns.add(partial(self._flow_on, link, reader))

    def _flow_on(self, link: "Link", reader: _Reader) -> bool:
        """Write a slice; True if the next one can follow at once."""
        try:
            reader.is_flowing = not link.closing and reader.outbox.flow()
        except Exception:
            # A bug of ours; the connection carries channels, too.
            log.exception("gossip_not_sent", peer=link.node_id.hex())
            reader.outbox.clear()
            reader.is_flowing = False
        return reader.is_flowing

    # --- GRAPH (GraphSink) ------------------------------------------------------------------------

    def loading(self) -> None:
        """Another stream: what follows fills a new table."""
        self._fresh = Table()

    def put(self, change: Change) -> None:
        """One value of the stream."""
        if self._fresh is not None:
            self._fresh.apply(change)
        elif self.table.apply(change) and self._parts is not None:
            self._parts.intake.applied(change)
            self._parts.relay.changed(change, self._parts.intake.senders(change))

    def loaded(self) -> None:
        """The new table is complete: use it, and offer what only the old one has."""
        if self._fresh is None:
            return
        old, self.table, self._fresh = self.table, self._fresh, None
        self._offers = _only_in(old, self.table)
        log.info("table_loaded", channels=self.table.channels, nodes=self.table.nodes)
        # What was loaded lives for weeks: no collection is to look through it again.
        gc.freeze()
        if self._parts is not None:
            self._parts.intake.replaced()
            self._parts.sync.restart()

    def node_self(self, payload: bytes) -> None:
        """Who we are."""
        self.on_node_self(payload)

    def tip(self, payload: bytes) -> None:
        """Up to which block the table is worked through: nothing to a front."""

    def _offer(self, intake: Intake) -> None:
        for _ in range(OFFERS_PER_TICK):
            raw = self._offered or next(self._offers, b"")
            if not raw:
                return
            if not intake.offer(raw):
                self._offered = raw
                return
            self._offered = b""


def _only_in(old: Table, new: Table) -> Iterator[bytes]:
    """Announcements of a table that another lacks or has older, channels first."""
    for _, key, value in old.changes():
        if isinstance(value, ChannelRecord):
            if isinstance(key, int) and not value.spent_height and new.channel(key) is None:
                yield value.raw
        elif value is None:
            continue
        elif isinstance(key, bytes):
            if node_timestamp(value) > new.node_timestamp(key):
                yield value
        elif update_timestamp(value) > new.update_timestamp(key >> 1, key & 1):
            yield value
