"""One channel's life: decide, commit, act.

The runner is the thin shell around :mod:`back.channel`. It takes all that waits in its inbox,
applies it in one step, has the signer fill the step's requests, hands the new value and every fact
of the step to the committer in one commit, and only then lets the effects out, in order.
"""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from back.channel import machine
from back.channel.effects import Answer, Effect, Request
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
        """Do one effect of a durable step; never blocks, never raises."""


@dataclass(slots=True)
class _Item:
    event: "Event"
    writes: "Sequence[Write]" = ()
    done: "asyncio.Future[Channel] | None" = None
    session: "PeerSession | None" = None


@dataclass(slots=True)
class ChannelRunner:
    """Owns one channel value and the only task that may replace it.

    Attributes:
        channel: the last durable value.
    """

    world: World
    channel: "Channel"
    is_stored: bool = True
    session: "PeerSession | None" = None
    """The connection that this channel speaks on: a reply never strays into a newer one."""
    _inbox: list[_Item] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    is_stopped: bool = False
    on_stop: "Callable[[ChannelRunner], None] | None" = None

    def post(self, event: "Event", writes: "Sequence[Write]" = ()) -> None:
        """Queue an event; ``writes`` go into the commit of the step that takes it."""
        self._inbox.append(_Item(event, writes))
        self._wake.set()

    def connect(self, session: "PeerSession", event: "Event") -> None:
        """Queue the start of a new connection; what comes after it speaks on ``session``."""
        self._inbox.append(_Item(event, session=session))
        self._wake.set()

    def request(self, event: "Event", writes: "Sequence[Write]" = ()) -> "asyncio.Future[Channel]":
        """Queue a command; the future holds the durable channel after it, or its CommandError."""
        done: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        if self.is_stopped:
            done.set_exception(CommandError("the channel is stopped"))
            return done
        self._inbox.append(_Item(event, writes, done))
        self._wake.set()
        return done

    async def run(self, first: "machine.Step | None" = None) -> None:
        """Run until the channel is forgotten or breaks an invariant of ours.

        Args:
            first: a step that made the channel (opening) and is not durable yet.
        """
        try:
            if first is not None:
                await self._finish(None if not self.is_stored else self.channel, first, ())
            while not self.is_stopped:
                await self._wake.wait()
                self._wake.clear()
                items, self._inbox = self._inbox, []
                for batch in _by_connection(items):
                    await self._advance(batch)
        except LeaseLost:
            log.warning("channel_given_up", channel=self.channel.channel_id.hex())
        except LightningError:
            # A bug of ours: this channel stops as it stands in the database, the others go on.
            log.exception("channel_stopped", channel=self.channel.channel_id.hex())
        finally:
            self._stop()

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
            await self._finish(before, step, writes)
        except WriteRefused as error:
            self._undo(items, error)
            return
        refusals = dict(step.refusals)
        for index, item in enumerate(items):
            if item.done is None or item.done.done():
                continue
            if refusal := refusals.get(index):
                item.done.set_exception(refusal)
            else:
                item.done.set_result(self.channel)

    def _undo(self, items: list[_Item], error: WriteRefused) -> None:
        """The step never was: the channel stands as stored, and the peer reestablishes."""
        log.error("step_undone", channel=self.channel.channel_id.hex(), error=str(error))
        self.world.reloaded(self.channel)
        if self.session is not None:
            self.session.reset(Reason.INVALID, "the channel's state was loaded again")
        for item in items:
            if item.done is not None and not item.done.done():
                item.done.set_exception(CommandError(f"nothing was done: {error}"))

    def _answer(self, request: Request) -> Answer:
        return self.world.answer(self.channel, request)

    async def _finish(
        self, before: "Channel | None", step: machine.Step, writes: "Sequence[Write]"
    ) -> None:
        filled = machine.fill(step, lambda request: self.world.answer(step.channel, request))
        rows = [*self.world.writes(before, filled), *writes]
        while True:
            try:
                await self.world.commit(filled.channel, rows)
                break
            except BackendError as error:
                log.warning(
                    "commit_retried", channel=self.channel.channel_id.hex(), error=str(error)
                )
                await asyncio.sleep(RETRY_S)
        self.channel = filled.channel
        self.is_stored = True
        for effect in filled.effects:
            self.world.perform(self, effect)

    def send(self, message: "Message") -> None:
        """Speak on the connection of this channel, if it is still there."""
        if self.session is not None:
            self.session.send(message)

    def stop(self) -> None:
        """End the task after what it is doing now."""
        self.is_stopped = True
        self._wake.set()

    def _stop(self) -> None:
        self.is_stopped = True
        for item in self._inbox:
            if item.done is not None and not item.done.done():
                item.done.set_exception(CommandError("the channel is stopped"))
        self._inbox.clear()
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
