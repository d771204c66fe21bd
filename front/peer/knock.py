"""Asking the owner of a peer's shard to let it in, until somebody answers."""

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from shared.errors import BackendError

if TYPE_CHECKING:
    from front.bridge import Bridge
    from shared.fabric.requests import OpenReply, OpenRequest

__all__ = ["Knock", "Knocker"]

log = structlog.get_logger()


class Knocker(Protocol):
    """The peer at the door."""

    shard: int

    def open_request(self) -> "OpenRequest":
        """The question, as it stands now."""

    def answered(self, reply: "OpenReply") -> bool:
        """Take the owner's answer; False to ask again."""

    def unanswered(self) -> None:
        """Nobody answered this time."""

    def knock_failed(self, error: BaseException) -> None:
        """A bug of ours: nobody is asking any more."""


class Knock:
    """The one task that asks for a peer; none while nothing is asked."""

    __slots__ = ("_bridge", "_knocker", "_task")

    def __init__(self, bridge: "Bridge", knocker: Knocker) -> None:
        self._bridge = bridge
        self._knocker = knocker
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask, unless that is being done."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._ask())
            self._task.add_done_callback(self._asked)

    def stop(self) -> None:
        """Stop asking; also from within an answer."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _asked(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._knocker.knock_failed(error)

    async def _ask(self) -> None:
        knocker, attempt = self._knocker, 0
        while True:
            try:
                reply = await self._bridge.open(knocker.shard, knocker.open_request())
                if knocker.answered(reply):
                    return
            except BackendError as error:
                log.debug("open_unanswered", why=str(error), attempt=attempt)
            knocker.unanswered()
            attempt += 1
            await self._bridge.owner_or_later(knocker.shard, attempt)
