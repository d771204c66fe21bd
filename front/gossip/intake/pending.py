"""Announcements on their way into the table: queues, holds, memories; all bounded. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from front.gossip.intake.budget import Account

__all__ = ["FairQueue", "Holds", "Item", "Memory"]

TURN = 16
"""Signatures of one peer before the next one has its turn."""

_Value = TypeVar("_Value")


class Item:
    """One announcement, from its first arrival to its end.

    Attributes:
        raw: the message.
        type: 256, 257, 258.
        key: the short_channel_id, or the node id of a `node_announcement`.
        names: what others may wait for it under: of a channel, its short_channel_id and nodes.
        cost: its signatures, and as much as its length is worth.
        owner: whose budget it counts against; None for one that an old table had.
        senders: who sent it, the owner first.
        signer: whose signature an update bears, once its channel is known.
        id: its number while it is submitted, 0 otherwise.
        attempts: how often it was submitted.
        postponed: how often the back asked to come again later.
        due: when something has to happen with it.
        is_stray: held, and nothing is pending that it could wait for.
        is_done: at its end.
    """

    __slots__ = (
        "attempts",
        "cost",
        "due",
        "id",
        "is_done",
        "is_stray",
        "key",
        "names",
        "owner",
        "postponed",
        "raw",
        "senders",
        "signer",
        "type",
    )

    def __init__(
        self,
        raw: bytes,
        message_type: int,
        key: int | bytes,
        cost: int,
        owner: "Account | None" = None,
    ) -> None:
        self.raw = raw
        self.type = message_type
        self.key = key
        self.cost = cost
        self.owner = owner
        self.senders: list[Account] = [] if owner is None else [owner]
        self.names: tuple[int | bytes, ...] = ()
        self.signer = b""
        self.id = 0
        self.attempts = 0
        self.postponed = 0
        self.due = 0.0
        self.is_stray = False
        self.is_done = False


class FairQueue:
    """Items that wait for something that takes its time: each peer's in turn."""

    def __init__(self) -> None:
        self._queues: dict[Account | None, deque[Item]] = {}
        self._turns: deque[Account | None] = deque()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, item: Item) -> None:
        """Put an item at the end of its owner's queue."""
        queue = self._queues.get(item.owner)
        if queue is None:
            queue = self._queues[item.owner] = deque()
            self._turns.append(item.owner)
        queue.append(item)

    def take(self, signatures: int) -> list[Item]:
        """Take items with about so many signatures, a few of each peer."""
        taken: list[Item] = []
        while self._turns and signatures > 0:
            owner = self._turns.popleft()
            queue = self._queues[owner]
            turn = min(TURN, signatures)
            while queue and turn > 0:
                item = queue.popleft()
                taken.append(item)
                turn -= item.cost
                signatures -= item.cost
            if queue:
                self._turns.append(owner)
            else:
                del self._queues[owner]
        return taken

    def drop(self, owner: "Account") -> deque[Item]:
        """Take out everything of one peer."""
        queue = self._queues.pop(owner, None)
        if queue is None:
            return deque()
        self._turns.remove(owner)
        return queue


class Holds:
    """Announcements whose channel, or whose node's first channel, is not in the table yet.

    All that came for a key is held until it is released or has waited too long: which of them is
    rightly signed is not known before.
    """

    def __init__(self) -> None:
        self._by_key: dict[int | bytes, deque[Item]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: Item) -> None:
        """Hold an item; its ``due`` says until when."""
        items = self._by_key.get(item.key)
        if items is None:
            items = self._by_key[item.key] = deque()
        items.append(item)
        self._count += 1

    def release(self, key: int | bytes) -> "deque[Item] | tuple[()]":
        """Take out what waits for a channel or for a node."""
        items = self._by_key.pop(key, ())
        self._count -= len(items)
        return items

    def clear(self) -> Iterator[Item]:
        """Take out everything, at once; return it one by one."""
        held, self._by_key, self._count = self._by_key, {}, 0
        return (item for items in held.values() for item in items)

    def expired(self, now: float, limit: int = 500) -> list[Item]:
        """Take out what has waited long enough, oldest keys first, ``limit`` of it at most."""
        gone: list[Item] = []
        while self._by_key and len(gone) < limit:
            key, items = next(iter(self._by_key.items()))
            if items[0].due > now:
                break
            while items and items[0].due <= now and len(gone) < limit:
                gone.append(items.popleft())
            if not items or items[0].due > now:
                del self._by_key[key]
            if items and items[0].due > now:
                # It is as old as what came last for it.
                self._by_key[key] = items
        self._count -= len(gone)
        return gone


class Memory(Generic[_Value]):
    """Remembers values by key for a while; what is oldest is forgotten in bulk.

    Args:
        size: of one generation; twice as many are remembered at most.
        keep_s: a value is remembered for at least that long, and at most twice, if there is room.
    """

    def __init__(self, size: int, keep_s: float) -> None:
        self._size = size
        self._keep_s = keep_s
        self._young: dict[int, _Value] = {}
        self._old: dict[int, _Value] = {}
        self._next = 0.0

    def put(self, key: int, value: _Value, now: float) -> None:
        """Remember."""
        if now >= self._next or len(self._young) >= self._size:
            self._next = now + self._keep_s
            self._old, self._young = self._young, {}
        self._young[key] = value

    def get(self, key: int, now: float) -> _Value | None:
        """Return what is remembered."""
        if now >= self._next and (self._young or self._old):
            self._next = now + self._keep_s
            self._old, self._young = self._young, {}
        value = self._young.get(key)
        return self._old.get(key) if value is None else value
