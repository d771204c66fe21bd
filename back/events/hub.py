"""Hands committed events to websockets: bounded, and nobody waits for a slow one."""

import asyncio
from collections.abc import Iterable

import structlog

__all__ = ["EventHub", "Listener"]

MAX_LISTENERS = 64
MAX_WAITING = 5000
MAX_WAITING_BYTES = 4 << 20

log = structlog.get_logger()


class Listener:
    """What one websocket has to send.

    Attributes:
        cut: set once it did not read what came: there is nothing more for it.
    """

    __slots__ = ("_bytes", "_news", "_waiting", "cut")

    def __init__(self) -> None:
        self.cut = asyncio.Event()
        self._waiting: list[str] = []
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, events: list[str], size: int) -> None:
        """Add events, or cut the listener off if it has too much already."""
        if self.cut.is_set():
            return
        is_behind = bool(self._waiting)
        self._bytes += size
        count = len(self._waiting) + len(events)
        is_too_much = count > MAX_WAITING or self._bytes > MAX_WAITING_BYTES
        # One commit may bring many at once: that is not the fault of who has read all before.
        if is_behind and is_too_much:
            self.cut.set()
            self._waiting.clear()
        else:
            self._waiting += events
        self._news.set()

    async def take(self) -> list[str]:
        """Wait for events and return them."""
        await self._news.wait()
        self._news.clear()
        taken, self._waiting = self._waiting, []
        self._bytes = 0
        return taken


class EventHub:
    """All websockets that listen.

    Attributes:
        cut: listeners that were cut off, since the start.
    """

    def __init__(self, max_listeners: int = MAX_LISTENERS) -> None:
        self.cut = 0
        self._max_listeners = max_listeners
        self._listeners: set[Listener] = set()

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self) -> Listener | None:
        """Return a new listener; None: there are too many."""
        if len(self._listeners) >= self._max_listeners:
            return None
        listener = Listener()
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Tell it nothing more."""
        self._listeners.discard(listener)

    def tell(self, events: Iterable[str]) -> None:
        """Give everybody events (JSON) that are durable now."""
        if not self._listeners:
            return
        told = list(events)
        size = sum(map(len, told))
        for listener in list(self._listeners):
            listener.put(told, size)
            if listener.cut.is_set():
                self._listeners.discard(listener)
                self.cut += 1
                log.warning("event_listener_cut", waiting=MAX_WAITING)
