"""Memory of what did not work: peers that failed, channels that nobody has. Pure and bounded."""

from collections.abc import Iterable
from typing import TypeVar

__all__ = ["Bench", "Futile", "remember"]

K = TypeVar("K")
V = TypeVar("V")

_FACTOR = 4
_MAX_STRIKES = 10


def remember(memory: dict[K, V], key: K, value: V, size: int) -> None:
    """Put a value into a bounded memory, last; the first one is forgotten for it."""
    memory.pop(key, None)
    if len(memory) >= size:
        del memory[next(iter(memory))]
    memory[key] = value


class Bench:
    """Peers that are not chosen for a while, by node id: to come back helps nobody.

    Args:
        bench_s: the first time; four times that the next time, and so on.
        bench_max_s: bound of that.
        size: peers remembered.
    """

    def __init__(self, bench_s: float, bench_max_s: float, size: int) -> None:
        self._size = size
        self._bench_s = bench_s
        self._bench_max_s = bench_max_s
        self._peers: dict[bytes, tuple[int, float]] = {}

    def add(self, node_id: bytes, now: float) -> None:
        """A peer failed."""
        strikes = min(self._peers.get(node_id, (0, 0.0))[0] + 1, _MAX_STRIKES)
        for_s = min(self._bench_s * _FACTOR ** (strikes - 1), self._bench_max_s)
        remember(self._peers, node_id, (strikes, now + for_s), self._size)

    def forgive(self, node_id: bytes) -> None:
        """A peer did what it was asked for."""
        self._peers.pop(node_id, None)

    def holds(self, node_id: bytes, now: float) -> bool:
        """Whether a peer is not to be chosen."""
        held = self._peers.get(node_id)
        return held is not None and now < held[1]


class Futile:
    """Channels that were asked for in vain, by short_channel_id.

    Two generations: the younger takes what is new, and becomes the older; that is forgotten.

    Args:
        limit: how often in vain is too often.
        forget_s: life of a generation.
        size: channels in both; then the older is forgotten early.
    """

    def __init__(self, limit: int, forget_s: float, size: int) -> None:
        self._limit = limit
        self._forget_s = forget_s
        self._size = size // 2
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, short_channel_ids: Iterable[int]) -> None:
        """These were asked for in vain."""
        for scid in short_channel_ids:
            if len(self._young) >= self._size:
                self._turn()
            self._young[scid] = self._young.get(scid, self._old.get(scid, 0)) + 1

    def holds(self, short_channel_id: int) -> bool:
        """Whether a channel is not to be asked for."""
        times = self._young.get(short_channel_id) or self._old.get(short_channel_id, 0)
        return times >= self._limit

    def expire(self, now: float) -> bool:
        """Forget what is old; say whether it was time to."""
        if now < self._due:
            return False
        self._due = now + self._forget_s
        self._turn()
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old = {}, {}

    def _turn(self) -> None:
        self._young, self._old = {}, self._young
