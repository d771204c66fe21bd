"""What a front has submitted to the back and awaits a verdict for. Pure.

Nothing of it is guaranteed to arrive: what gets no verdict is submitted again, for as long as it
takes, and only so much is under way at a time. So a back that is away costs a few messages a
second. Kinds and peers have their turns: whoever announces channels without end delays no update.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from front.gossip.intake.pending import FairQueue, Item
from shared.fabric import subjects
from shared.fabric.gossip import MAX_BYTES, MAX_ITEMS, encode_submission
from shared.gossip.view import CHANNEL_ANNOUNCEMENT, CHANNEL_UPDATE, NODE_ANNOUNCEMENT

if TYPE_CHECKING:
    from front.gossip.intake.budget import Account

__all__ = ["SubmitRules", "Submitting"]

SUBJECTS = {
    CHANNEL_ANNOUNCEMENT: subjects.gossip("channel_announcement"),
    CHANNEL_UPDATE: subjects.gossip("channel_update"),
    NODE_ANNOUNCEMENT: subjects.gossip("node_announcement"),
}
AT_ONCE = 2_000
"""Announcements whose time has come that one call of `retry` takes."""


@dataclass(frozen=True, slots=True)
class SubmitRules:
    """How announcements are submitted.

    Attributes:
        in_flight: announcements of one kind without a verdict.
        size: bytes of all that have none; one kind has half of it.
        retry_s: submits again what has none after so long, the first time.
        retry_at_most_s: and later; the time doubles.
        later_at_most_s: waits at most so long after the back asked to come again later.
        postponed: how often the back may say so; at the longest wait that is most of a day.
    """

    in_flight: int = 1_200
    size: int = 1 << 20
    retry_s: float = 4.0
    retry_at_most_s: float = 15.0
    later_at_most_s: float = 120.0
    postponed: int = 500


class _Kind:
    """What one kind of announcement has on its way."""

    __slots__ = ("in_flight", "next", "size", "waiting")

    def __init__(self) -> None:
        self.waiting = FairQueue()
        self.next: deque[Item] = deque()
        """Taken from the queue in their turn."""
        self.in_flight = 0
        self.size = 0


class Submitting:
    """Verified announcements, until the back has decided.

    Args:
        front: our name.
        first_id: random, below 2^52: verdicts for an earlier process of this name mean nothing.
        rules: limits.
    """

    def __init__(self, front: str, first_id: int, rules: SubmitRules = SubmitRules()) -> None:
        self._front = front
        self._next_id = first_id
        self._rules = rules
        self._kinds = {kind: _Kind() for kind in SUBJECTS}
        self._in_flight: dict[int, Item] = {}
        self._later: list[tuple[float, int, Item]] = []
        self._order = count()

    @property
    def in_flight(self) -> int:
        """Announcements without a verdict."""
        return len(self._in_flight)

    @property
    def has_work(self) -> bool:
        """Whether `take` could return something."""
        return any(
            (kind.next or kind.waiting) and self._room(kind) for kind in self._kinds.values()
        )

    def add(self, item: Item) -> None:
        """Have an item submitted."""
        self._kinds[item.type].waiting.add(item)

    def drop(self, owner: "Account") -> list[Item]:
        """Take out what of one peer's is not submitted yet."""
        return [item for kind in self._kinds.values() for item in kind.waiting.drop(owner)]

    def take(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Return subject and payload of what can be submitted now."""
        for number, kind in self._kinds.items():
            while items := self._batch(kind, now):
                raws = [item.raw for item in items]
                yield SUBJECTS[number], encode_submission(self._front, items[0].id, raws)

    def _room(self, kind: _Kind) -> int:
        if kind.size * 2 >= self._rules.size:
            return 0
        return max(0, self._rules.in_flight - kind.in_flight)

    def _batch(self, kind: _Kind, now: float) -> list[Item]:
        items: list[Item] = []
        room = MAX_BYTES
        while len(items) < MAX_ITEMS and (left := self._room(kind)):
            if not kind.next:
                kind.next.extend(kind.waiting.take(min(left, MAX_ITEMS)))
                if not kind.next:
                    break
            item = kind.next[0]
            room -= len(item.raw) + 2
            if room < 0 and items:
                break
            kind.next.popleft()
            if item.is_done:
                room += len(item.raw) + 2
                continue
            self._send(item, kind, now)
            items.append(item)
        return items

    def _send(self, item: Item, kind: _Kind, now: float) -> None:
        item.id = self._next_id
        self._next_id += 1
        item.due = now + self._wait_s(item.attempts, self._rules.retry_at_most_s)
        item.attempts += 1
        self._in_flight[item.id] = item
        kind.in_flight += 1
        kind.size += len(item.raw)

    def _landed(self, item: Item) -> None:
        """It is in flight no more."""
        del self._in_flight[item.id]
        item.id = 0
        kind = self._kinds[item.type]
        kind.in_flight -= 1
        kind.size -= len(item.raw)

    def verdict(self, number: int) -> Item | None:
        """A verdict came: return whose, None if it is none of ours any more."""
        item = self._in_flight.get(number)
        if item is not None:
            self._landed(item)
        return item

    def done(self, item: Item) -> None:
        """Forget an item, wherever it is."""
        if item.id:
            self._landed(item)
        item.is_done = True

    def again(self, item: Item, now: float) -> bool:
        """Submit an item later; False: often enough."""
        if item.postponed >= self._rules.postponed:
            return False
        item.due = now + self._wait_s(item.postponed, self._rules.later_at_most_s)
        item.postponed += 1
        heappush(self._later, (item.due, next(self._order), item))
        return True

    def retry(self, now: float) -> None:
        """Put back in the queue what has waited long enough; called now and then."""
        for item in [item for item in self._in_flight.values() if item.due <= now]:
            self._landed(item)
            self.add(item)
        for _ in range(AT_ONCE):
            if not self._later or self._later[0][0] > now:
                break
            item = heappop(self._later)[2]
            if not item.is_done:
                self.add(item)

    def _wait_s(self, times: int, at_most_s: float) -> float:
        return min(at_most_s, self._rules.retry_s * (1 << min(times, 16)))
