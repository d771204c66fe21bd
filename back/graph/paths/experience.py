"""What past attempts taught of channels, and how it fades. Pure.

Of each direction of a channel two bounds are remembered: so much passed, so much did not. Both fade
towards knowing nothing, for what passes now depends on what others send meanwhile: the lower one
to zero, the upper one to all that the channel can hold.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from back.payment.route import Lesson

__all__ = ["HALF_LIFE_S", "Bounds", "Experience", "Key"]

HALF_LIFE_S = 3600.0
"""After so long half of what is known of a channel's balance is forgotten."""
PERMANENT_S = 6 * 3600.0
"""So long a channel is left alone that said it would never do."""
KEPT = 200_000
"""Directions that are remembered at most, the last ones taught."""


@dataclass(slots=True)
class Bounds:
    """What is known of one direction.

    Attributes:
        passed_msat: the most that went through.
        failed_msat: the least that did not; None: nothing failed.
        unix_s: when they were learned.
        closed_until_s: not to be used before.
    """

    passed_msat: int = 0
    failed_msat: int | None = None
    unix_s: float = 0.0
    closed_until_s: float = 0.0

    def at(self, unix_s: float, most_msat: int) -> tuple[float, float]:
        """Return the faded bounds: (surely passes, surely does not pass).

        Args:
            unix_s: now.
            most_msat: that the channel can carry at all.
        """
        kept = 0.5 ** (max(0.0, unix_s - self.unix_s) / HALF_LIFE_S)
        low = self.passed_msat * kept
        if self.failed_msat is None:
            return low, float(most_msat)
        return low, most_msat - (most_msat - min(self.failed_msat, most_msat)) * kept


Key: TypeAlias = int | tuple[int, bytes]
"""A direction of a channel: the routing table's key, or scid and node where it is not in there."""


class Experience:
    """Bounds of directions of channels, by their key.

    Attributes:
        bounds: the last ones taught last.
    """

    def __init__(self) -> None:
        self.bounds: OrderedDict[Key, Bounds] = OrderedDict()

    def learn(self, lessons: Iterable[Lesson], key_of: Callable[[int, bytes], Key]) -> None:
        """Take lessons, the oldest first.

        Args:
            lessons: what attempts taught.
            key_of: of (short_channel_id, node that forwards into it).
        """
        for lesson in lessons:
            key = key_of(lesson.short_channel_id, lesson.node_id)
            bounds = self.bounds.pop(key, None) or Bounds()
            self.bounds[key] = self._taught(bounds, lesson)
            if len(self.bounds) > KEPT:
                self.bounds.popitem(last=False)

    @staticmethod
    def _taught(old: Bounds, lesson: Lesson) -> Bounds:
        kept = 0.5 ** (max(0.0, lesson.unix_s - old.unix_s) / HALF_LIFE_S)
        passed, failed = int(old.passed_msat * kept), old.failed_msat
        closed = old.closed_until_s
        if lesson.passed:
            passed, closed = max(passed, lesson.amount_msat), 0.0
            if failed is not None and failed <= lesson.amount_msat:
                failed = None
        elif lesson.is_permanent:
            closed = lesson.unix_s + PERMANENT_S
        else:
            failed = lesson.amount_msat if failed is None else min(failed, lesson.amount_msat)
            passed = min(passed, failed - 1)
        return Bounds(max(0, passed), failed, lesson.unix_s, closed)
