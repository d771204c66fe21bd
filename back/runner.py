"""One channel's life: decide, commit, act.

The runner is the thin shell around :mod:`back.channel`. It takes all that waits in its inbox,
applies it in one step, has the signer fill the step's requests, hands the new value and every fact
of the step to the committer in one commit, and only then lets the effects out, in order.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from back.channel import machine
from back.channel.effects import Effect, OfferRefused, Request
from back.channel.events import Connected, OfferHtlc, Received
from shared.errors import (
    BackendError,
    CommandError,
    InvariantError,
    LeaseLost,
    LightningError,
    WriteRefused,
)
from shared.fabric.envelope import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from back.channel.events import Event
    from back.channel.model import Channel
    from back.storage.committer import Write
    from back.switchboard import PeerSession
    from shared.wire import Message

__all__ = ["ChannelRunner", "World"]

log = structlog.get_logger()

RETRY_S = 0.2
"""Between two tries of a commit while the database is away."""


class World(Protocol):
    """What a runner needs of its node: the only way out of a channel."""

    def answer(self, channel: "Channel", request: Request) -> machine.Answer:
        """Let the signer answer one request of a step."""

    def writes(self, before: "Channel | None", step: machine.Step) -> "list[Write]":
        """Rows of the new value and of the step's facts."""

    async def commit(self, channel: "Channel", writes: "list[Write]") -> None:
        """Make the writes durable, fenced by the lease of the channel's shard."""

    def reloaded(self, channel: "Channel") -> None:
        """A step of the channel was undone: whatever else remembers it must forget it."""

    def perform(self, runner: "ChannelRunner", effect: Effect) -> None:
        """Do one effect of a durable step; never blocks."""


@dataclass(slots=True)
class _Item:
    event: "Event"
    writes: "Sequence[Write]" = ()
    done: "asyncio.Future[Channel] | None" = None
    session: "PeerSession | None" = None

    def refuse(self, error: LightningError) -> None:
        """Tell whoever waits: a CommandError means that nothing came of it."""
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True)
class ChannelRunner:
    """Owns one channel value and the only task that may replace it.

    Attributes:
        channel: the last durable value.
        is_stored: it has rows.
        session: the connection that this channel speaks on: a reply never strays into a newer one.
        committing_since: monotonic seconds; when the commit that is under way began.
        is_stopped: nothing more will be done; what is posted is dropped.
        on_stop: called once, at the end.
        on_link: called when the channel has come online, or gone.
    """

    world: World
    channel: "Channel"
    is_stored: bool = True
    session: "PeerSession | None" = None
    on_stop: "Callable[[ChannelRunner], None] | None" = None
    on_link: "Callable[[ChannelRunner], None] | None" = None
    is_stopped: bool = False
    committing_since: float | None = None
    _is_unsure: bool = False
    """The last commit ended without a word on whether it happened."""
    _inbox: list[_Item] = field(default_factory=list)
    _taken: list[_Item] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, event: "Event", writes: "Sequence[Write]" = ()) -> None:
        """Queue an event; ``writes`` go into the commit of the step that takes it."""
        self._put(_Item(event, writes))

    def connect(self, session: "PeerSession", event: "Event") -> None:
        """Queue the start of a new connection; what comes after it speaks on ``session``."""
        self._put(_Item(event, session=session))

    def request(self, event: "Event", writes: "Sequence[Write]" = ()) -> "asyncio.Future[Channel]":
        """Queue a command.

        Returns:
            A future with the durable channel after it, or CommandError: nothing was done, or
            LeaseLost: another back owns the channel, and may know better what was done.
        """
        done: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._put(_Item(event, writes, done))
        return done

    def _put(self, item: _Item) -> None:
        # A channel that a bug of ours stopped stays for years: it must not collect every block.
        if self.is_stopped:
            item.refuse(CommandError("the channel is stopped"))
            return
        self._inbox.append(item)
        self._wake.set()

    async def run(self, first: "machine.Step | None" = None) -> None:
        """Run until the channel is forgotten or breaks an invariant of ours.

        Args:
            first: a step that made the channel (opening) and is not durable yet.
        """
        try:
            if first is not None:
                await self._finish(None, first, ())
            while not self.is_stopped:
                await self._wake.wait()
                self._wake.clear()
                self._taken, self._inbox = self._inbox, []
                for batch in _by_connection(self._taken):
                    await self._advance(batch)
                self._taken = []
        except LeaseLost as error:
            log.warning("channel_given_up", channel=self.channel.channel_id.hex())
            for item in self._taken:
                item.refuse(error)
        except Exception:
            # A bug of ours: this channel stops as it stands in the database, the others go on.
            log.exception("channel_stopped", channel=self.channel.channel_id.hex())
        finally:
            self._end()

    async def _advance(self, items: list[_Item]) -> None:
        before = self.channel
        if items[0].session is not None:
            self.session = items[0].session
        try:
            events = [
                machine.prepare(before, item.event, lambda ask: self.world.answer(before, ask))
                for item in items
            ]
            step = machine.apply_batch(before, events)
        except LightningError as error:
            raise InvariantError(f"a batch was refused as a whole: {error}") from error
        writes = [write for item in items for write in item.writes]
        try:
            is_awaited = any(item.done is not None for item in items)
            await self._finish(before, step, writes, is_awaited=is_awaited)
        except WriteRefused as error:
            await self._undo(items, error)
            return
        refusals = dict(step.refusals)
        for index, item in enumerate(items):
            if refusal := refusals.get(index):
                item.refuse(refusal)
            elif item.done is not None and not item.done.done():
                item.done.set_result(self.channel)

    async def _undo(self, items: list[_Item], error: WriteRefused) -> None:
        """The step never was: the channel stands as stored, and the peer reestablishes.

        What the peer said comes again with its next connection. What the chain or our own side said
        does not: it is tried once more, each on its own, so that only the offender is dropped.
        """
        log.error("step_undone", channel=self.channel.channel_id.hex(), error=str(error))
        self.world.reloaded(self.channel)
        if self.session is not None:
            self.session.reset(Reason.INVALID, "the channel's state was loaded again")
        if len(items) == 1:
            event = type(items[0].event).__name__
            log.error("event_dropped", channel=self.channel.channel_id.hex(), dropped=event)
            items[0].refuse(CommandError(f"nothing was done: {error}"))
            return
        for item in items:
            if not isinstance(item.event, Received | Connected):
                await self._advance([item])

    async def _finish(
        self,
        before: "Channel | None",
        step: machine.Step,
        writes: "Sequence[Write]",
        *,
        is_awaited: bool = True,
    ) -> None:
        """Make a step durable, then do its effects.

        A step of which nothing is stored and nobody hears needs no commit: a block, an estimate.
        """
        filled = machine.fill(step, lambda request: self.world.answer(step.channel, request))
        rows = [*self.world.writes(before, filled), *writes]
        if rows or filled.effects or is_awaited:
            await self._commit(filled.channel, rows)
        self.channel = filled.channel
        self.is_stored = True
        for effect in filled.effects:
            self._perform(effect)
        is_moved = before is None or before.link is not self.channel.link
        if is_moved and self.on_link is not None:
            self.on_link(self)

    async def _commit(self, channel: "Channel", rows: "list[Write]") -> None:
        """Commit, however long the database is away: nothing is said before."""
        self.committing_since = time.monotonic()
        is_first = True
        try:
            while True:
                try:
                    await self.world.commit(channel, rows)
                except BackendError as error:
                    if is_first:
                        name = channel.channel_id.hex()
                        log.warning("commit_retried", channel=name, error=str(error))
                    is_first = False
                    await asyncio.sleep(RETRY_S)
                except WriteRefused:
                    raise
                except BaseException:  # the lease was lost, a bug, the end of this process
                    self._is_unsure = True
                    raise
                else:
                    return
        finally:
            self.committing_since = None

    def _perform(self, effect: Effect) -> None:
        try:
            self.world.perform(self, effect)
        except Exception:
            # A bug of ours. The state is durable and other effects may be about money: go on, but
            # with a new connection, for a message may be missing in this one.
            name = type(effect).__name__
            log.exception("effect_failed", channel=self.channel.channel_id.hex(), effect=name)
            if self.session is not None:
                self.session.reset(Reason.INVALID, "an internal error")

    def send(self, message: "Message") -> None:
        """Speak on the connection of this channel, if it is still there."""
        if self.session is not None:
            self.session.send(message)

    def stop(self) -> None:
        """End the task after what it is doing now."""
        self.is_stopped = True
        self._wake.set()

    def _end(self) -> None:
        self.is_stopped = True
        stopped = CommandError("the channel is stopped")
        if self._is_unsure:
            # What was taken, and what waited before it, may be in the database, and then the peer
            # gets it after the next start: no word that nothing was done.
            for item in self._taken:
                item.refuse(InvariantError("nobody knows what became of a commit"))
        for item in (*self._taken, *self._inbox):
            item.refuse(stopped)
        self._taken, self._inbox = [], []
        for update in () if self._is_unsure else self.channel.queue:
            if isinstance(update, OfferHtlc):  # it waited for a signature and never went out
                self._perform(OfferRefused(update.origin, str(stopped)))
        if self.on_stop is not None:
            self.on_stop(self)


def _by_connection(items: list[_Item]) -> "list[list[_Item]]":
    """Split where a new connection begins: replies to the old one must not go out on the new."""
    batches: list[list[_Item]] = []
    for item in items:
        if not batches or item.session is not None:
            batches.append([])
        batches[-1].append(item)
    return batches
