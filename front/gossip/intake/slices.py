"""Work on much at once, in turns of the event loop that are short enough for everybody else."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from front.gossip.intake.pending import Item

__all__ = ["Slices"]

SLICE = 200
"""Items of one turn: about a millisecond."""

log = structlog.get_logger()


class Slices:
    """What is few is done at once, in place; what is more, in slices, one after the other."""

    def __init__(self) -> None:
        self._works: deque[tuple[Iterator[Item], Callable[[Item], None]]] = deque()
        self._next: asyncio.Handle | None = None

    def each(self, items: "Sequence[Item]", work: "Callable[[Item], None]") -> None:
        """Do something with each item."""
        if len(items) <= SLICE:
            for item in items:
                work(item)
            return
        self.run(iter(items), work)

    def run(self, items: "Iterator[Item]", work: "Callable[[Item], None]") -> None:
        """Do something with each of many items."""
        self._works.append((items, work))
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._slice)

    def stop(self) -> None:
        """Do no more."""
        self._works.clear()
        if self._next is not None:
            self._next.cancel()

    def _slice(self) -> None:
        self._next = None
        items, work = self._works[0]
        try:
            for _ in range(SLICE):
                item = next(items, None)
                if item is None:
                    self._works.popleft()
                    break
                work(item)
        except Exception:  # the next one is not to blame
            log.exception("gossip_slice_failed")
        if self._works:
            self._next = asyncio.get_running_loop().call_soon(self._slice)
