"""Turns of the event loop for those who have much to do: one at a time, each in its order."""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

__all__ = ["Turns"]

log = structlog.get_logger()


class Turns:
    """Runs one piece of somebody's work in a turn of the loop, then of the next one's.

    A thousand peers that are all sent history at once would otherwise be served all in the same
    turn: for seconds nothing would be read.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], bool]] = deque()
        self._next: asyncio.Handle | None = None

    def add(self, work: Callable[[], bool]) -> None:
        """Call it in a later turn, and again as long as it returns True."""
        self._waiting.append(work)
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._turn)

    def stop(self) -> None:
        """Call nothing any more."""
        self._waiting.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _turn(self) -> None:
        self._next = None
        work = self._waiting.popleft()
        try:
            if work():
                self._waiting.append(work)
        except Exception:  # the next one is not to blame
            log.exception("gossip_turn_failed")
        if self._waiting and self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._turn)
