"""Which fronts live, by their heartbeats: a killed front cannot say goodbye. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.fabric.requests import Alive

__all__ = ["FRONT_SILENT_S", "Front", "Fronts"]

FRONT_SILENT_S = 2.5
"""A front without a heartbeat for so long is dead; its peers are reached through others."""


@dataclass(slots=True)
class Front:
    """A front as its heartbeats show it."""

    alive: Alive
    heard_at: float


@dataclass(slots=True)
class Fronts:
    """All that were heard of; times are monotonic seconds."""

    known: dict[str, Front] = field(default_factory=dict)
    unheard: dict[str, float] = field(default_factory=dict)
    """Fronts that have sessions here and no heartbeat yet, since when."""

    def heard(self, alive: Alive, now: float) -> bool:
        """Note a heartbeat; say whether the front is new."""
        is_new = alive.front not in self.known
        self.known[alive.front] = Front(alive, now)
        return is_new

    def excuse(self, now: float, stalled_s: float) -> None:
        """The broker or this process stood still for so long: nobody could be heard meanwhile."""
        for front in self.known.values():
            front.heard_at = min(now, front.heard_at + stalled_s)
        self.unheard = {name: min(now, at + stalled_s) for name, at in self.unheard.items()}

    def silent(self, now: float, carriers: Iterable[str], *, is_connected: bool) -> list[str]:
        """Return the fronts that count as dead, and forget them.

        Args:
            now: the time.
            carriers: names of the fronts that carry sessions.
            is_connected: whether heartbeats can arrive at all; else all start anew.
        """
        unheard = set(carriers) - self.known.keys()
        if not is_connected:
            for front in self.known.values():
                front.heard_at = now
            self.unheard = dict.fromkeys(unheard, now)
            return []
        self.unheard = {name: self.unheard.get(name, now) for name in unheard}
        heard_at = {name: front.heard_at for name, front in self.known.items()} | self.unheard
        dead = [name for name, at in heard_at.items() if now - at > FRONT_SILENT_S]
        for name in dead:
            self.known.pop(name, None)
        return dead
