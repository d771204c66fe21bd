"""What past attempts taught of channels, and how it fades. Pure.

Of each direction of a channel two bounds are remembered: so much passed, so much did not. Both fade
towards knowing nothing, for what passes now depends on what others send meanwhile: the lower one
to zero, the upper one to all that the channel can hold.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from back.payment.route import Lesson

__all__ = ["HALF_LIFE_S", "KEPT", "PERMANENT_S", "Bounds", "Experience", "Key", "is_faded"]

HALF_LIFE_S = 3600.0
"""After so long half of what is known of a channel's balance is forgotten."""
PERMANENT_S = 6 * 3600.0
"""So long a channel is left alone that said it would never do."""
FORGOTTEN_S = 24 * 3600.0
"""After so long nothing worth the memory is left of a lesson."""
KEPT = 200_000
"""Directions that are remembered at most, the last ones taught."""


def is_faded(lesson: Lesson, unix_s: float) -> bool:
    """Whether a lesson is too old to be worth telling."""
    return unix_s - lesson.unix_s > FORGOTTEN_S


def _kept(since_s: float, unix_s: float) -> float:
    """Return how much of what was learned then is still worth something: 1 to 0."""
    return float(0.5 ** (max(0.0, unix_s - since_s) / HALF_LIFE_S))


class Bounds(NamedTuple):
    """What is known of one direction.

    Attributes:
        passed_msat: the most that went through.
        passed_s: when.
        failed_msat: the least that did not; None: nothing failed.
        failed_s: when.
        closed_until_s: not to be used before.
    """

    passed_msat: int = 0
    passed_s: float = 0.0
    failed_msat: int | None = None
    failed_s: float = 0.0
    closed_until_s: float = 0.0

    def at(self, unix_s: float, most_msat: int) -> tuple[float, float]:
        """Return the faded bounds: what likely passes, and what likely does not; in order.

        Args:
            unix_s: now.
            most_msat: that the channel can carry at all.
        """
        high = float(most_msat)
        if self.failed_msat is not None and self.failed_msat < most_msat:
            high -= (most_msat - self.failed_msat) * _kept(self.failed_s, unix_s)
        low = self.passed_msat * _kept(self.passed_s, unix_s)
        return min(low, high), high

    def taught(self, lesson: Lesson) -> "Bounds":
        """Return what is known after another lesson."""
        amount, now = lesson.amount_msat, lesson.unix_s
        passed = int(self.passed_msat * _kept(self.passed_s, now))
        if lesson.passed:
            failed = self.failed_msat
            if failed is not None and failed <= amount:
                failed = None
            return Bounds(max(passed, amount), now, failed, self.failed_s)
        if lesson.is_permanent:
            return self._replace(closed_until_s=now + PERMANENT_S)
        passed = max(0, min(passed, amount - 1))
        is_less = self.failed_msat is None or amount <= self.failed_msat
        if is_less or now - self.failed_s > HALF_LIFE_S:
            return Bounds(passed, now, amount, now, self.closed_until_s)
        # What failed before was less, and not long ago: it says more.
        return Bounds(passed, now, self.failed_msat, self.failed_s, self.closed_until_s)


Key: TypeAlias = int | tuple[int, bytes]
"""A direction of a channel: the routing table's key, or scid and node where it is not in there."""


class Experience:
    """Bounds of directions of channels, by their key.

    Args:
        kept: directions that are remembered at most.

    Attributes:
        bounds: the last ones taught last.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.bounds: OrderedDict[Key, Bounds] = OrderedDict()
        self._kept = kept

    def learn(self, lessons: Iterable[Lesson], key_of: Callable[[int, bytes], Key]) -> None:
        """Take lessons, the oldest first.

        Args:
            lessons: what attempts taught.
            key_of: of (short_channel_id, node that forwards into it).
        """
        for lesson in lessons:
            key = key_of(lesson.short_channel_id, lesson.node_id)
            self.bounds[key] = self.bounds.pop(key, Bounds()).taught(lesson)
            if len(self.bounds) > self._kept:
                self.bounds.popitem(last=False)
