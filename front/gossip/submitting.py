"""What a front has submitted to the back and awaits a verdict for. Pure.

Nothing of it is guaranteed to arrive: what gets no verdict is submitted again, for as long as it
takes, and only so much is under way at a time. So a back that is away costs a few messages a
second.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from front.gossip.pending import Item
from shared.fabric import subjects
from shared.fabric.gossip import MAX_BYTES, MAX_ITEMS, encode_submission
from shared.gossip.view import CHANNEL_ANNOUNCEMENT, CHANNEL_UPDATE, NODE_ANNOUNCEMENT

__all__ = ["SubmitRules", "Submitting"]

SUBJECTS = {
    CHANNEL_ANNOUNCEMENT: subjects.gossip("channel_announcement"),
    CHANNEL_UPDATE: subjects.gossip("channel_update"),
    NODE_ANNOUNCEMENT: subjects.gossip("node_announcement"),
}


@dataclass(frozen=True, slots=True)
class SubmitRules:
    """How announcements are submitted.

    Attributes:
        in_flight: announcements without a verdict.
        retry_s: submits again what has none after so long, the first time.
        retry_at_most_s: and later; the time doubles.
        later_at_most_s: waits at most so long after the back asked to come again later.
        attempts: how often the back may say so; at the longest wait that is most of a day.
    """

    in_flight: int = 2_000
    retry_s: float = 4.0
    retry_at_most_s: float = 15.0
    later_at_most_s: float = 120.0
    attempts: int = 500


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
        self._waiting: dict[int, deque[Item]] = {kind: deque() for kind in SUBJECTS}
        self._in_flight: dict[int, Item] = {}
        self._later: list[tuple[float, int, Item]] = []
        self._order = count()

    @property
    def in_flight(self) -> int:
        """Announcements without a verdict."""
        return len(self._in_flight)

    @property
    def has_work(self) -> bool:
        """Whether `take` would return something."""
        return len(self._in_flight) < self._rules.in_flight and any(self._waiting.values())

    def add(self, item: Item) -> None:
        """Have an item submitted."""
        self._waiting[item.type].append(item)

    def take(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Return subject and payload of what can be submitted now."""
        for kind, queue in self._waiting.items():
            while queue and (room := self._rules.in_flight - len(self._in_flight)) > 0:
                items = self._batch(queue, min(room, MAX_ITEMS), now)
                if items:
                    raws = [item.raw for item in items]
                    yield SUBJECTS[kind], encode_submission(self._front, items[0].id, raws)

    def _batch(self, queue: deque[Item], size: int, now: float) -> list[Item]:
        items: list[Item] = []
        room = MAX_BYTES
        while queue and len(items) < size:
            item = queue[0]
            room -= len(item.raw) + 2
            if room < 0 and items:
                break
            queue.popleft()
            if item.is_done:
                continue
            item.id = self._next_id
            self._next_id += 1
            item.attempts += 1
            item.due = now + self._wait_s(item, self._rules.retry_at_most_s)
            self._in_flight[item.id] = item
            items.append(item)
        return items

    def verdict(self, number: int) -> Item | None:
        """A verdict came: return whose, None if it is none of ours any more."""
        item = self._in_flight.pop(number, None)
        if item is not None:
            item.id = 0
        return item

    def done(self, item: Item) -> None:
        """Forget an item, wherever it is."""
        if item.id:
            self._in_flight.pop(item.id, None)
            item.id = 0
        item.is_done = True

    def again(self, item: Item, now: float) -> bool:
        """Submit an item later; False: often enough."""
        if item.attempts >= self._rules.attempts:
            return False
        item.due = now + self._wait_s(item, self._rules.later_at_most_s)
        heappush(self._later, (item.due, next(self._order), item))
        return True

    def retry(self, now: float) -> None:
        """Put back in the queue what has waited long enough; called now and then."""
        lost = [item for item in self._in_flight.values() if item.due <= now]
        for item in lost:
            del self._in_flight[item.id]
            item.id = 0
            self.add(item)
        while self._later and self._later[0][0] <= now:
            _, _, item = heappop(self._later)
            if not item.is_done:
                self.add(item)

    def _wait_s(self, item: Item, at_most_s: float) -> float:
        return min(at_most_s, self._rules.retry_s * (1 << min(item.attempts, 16)))
