"""The last changes of the routing table, kept once for all peers. Pure."""

from typing import NamedTuple

from shared.gossip.record import Kind

__all__ = ["Changed", "Ring"]


class Changed(NamedTuple):
    """One key of the table that has a new value.

    Attributes:
        senders: node ids that sent us that value: they have it already.
    """

    kind: Kind
    key: int | bytes
    senders: frozenset[bytes]


class Ring:
    """The last changes, numbered from the start; a key stands in it once, at its newest.

    Args:
        size: numbers that it reaches back.

    Attributes:
        end: number of the next change.
    """

    def __init__(self, size: int) -> None:
        self.end = 0
        self._size = size
        self._places: list[Changed | None] = []
        """Change n is at n modulo ``size``; None: there is a newer one of its key."""
        self._numbers: dict[tuple[Kind, int | bytes], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def first(self) -> int:
        """Number of the oldest change that is still there."""
        return self.end - len(self._places)

    def number(self, kind: Kind, key: int | bytes) -> int:
        """Return where a key stands, -1 if nowhere."""
        return self._numbers.get((kind, key), -1)

    def add(self, change: Changed) -> None:
        """Put a change at the end, instead of an older one of the same key."""
        name = change.kind, change.key
        before = self._numbers.pop(name, None)
        if before is not None:
            self._places[before % self._size] = None
        self._numbers[name] = self.end
        if len(self._places) < self._size:
            self._places.append(change)
        else:
            oldest = self._places[self.end % self._size]
            if oldest is not None:
                del self._numbers[oldest.kind, oldest.key]
            self._places[self.end % self._size] = change
        self.end += 1

    def get(self, number: int) -> Changed | None:
        """Return a change, or None if there is a newer one of its key, or it is too old."""
        return self._places[number % self._size] if self.first <= number < self.end else None

    def move(self, kind: Kind, key: int | bytes, since: int) -> None:
        """Put a key at the end again if it changed since a number."""
        number = self.number(kind, key)
        change = self.get(number) if number >= since else None
        if change is not None:
            self.add(change)
