"""How often an announcement may be replaced by a newer one; the newest gets its turn. Pure."""

from typing import TYPE_CHECKING

from front.gossip.intake.pending import Item, Memory
from shared.gossip.view import (
    CHANNEL_UPDATE,
    direction_of,
    node_timestamp,
    update_key,
    update_timestamp,
)

if TYPE_CHECKING:
    from front.gossip.intake.budget import IntakeRules

__all__ = ["Pace"]

AT_ONCE = 1_000


class Pace:
    """Rightly signed updates of a direction, or announcements of a node, one after the other.

    Whoever replays what a node said before uses up that node's rate: but what the node said last
    waits only for its turn.
    """

    def __init__(self, rules: "IntakeRules") -> None:
        self._every_s = rules.replaced_every_s
        self._burst_s = rules.replaced_burst * rules.replaced_every_s
        self._used_until: Memory[float] = Memory(
            rules.memory // 2, max(rules.memory_s, self._burst_s)
        )
        self._waiting: dict[int, Item] = {}

    def passes(self, item: Item, now: float) -> bool:
        """Whether an item need not wait."""
        key = _key(item)
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.is_done:
            return False
        used_until = max(self._used_until.get(key, now) or now, now) + self._every_s
        if used_until - now > self._burst_s:
            return False
        self._used_until.put(key, used_until, now)
        return True

    def wait(self, item: Item, now: float) -> Item | None:
        """Have an item wait; return that which is given up, because another is as new or newer."""
        key = _key(item)
        other = self._waiting.get(key)
        if other is None or other.is_done:
            item.due = now + self._every_s
            self._waiting.pop(key, None)
            self._waiting[key] = item
            return None
        if _timestamp(item) <= _timestamp(other):
            return item
        item.due = other.due
        self._waiting[key] = item
        return other

    def due(self, now: float) -> list[Item]:
        """Take out what has waited for its turn, some of it at a time."""
        items: list[Item] = []
        while self._waiting and len(items) < AT_ONCE:
            key, item = next(iter(self._waiting.items()))
            if item.due > now and not item.is_done:
                break
            del self._waiting[key]
            if not item.is_done:
                used_until = max(self._used_until.get(key, now) or now, now) + self._every_s
                self._used_until.put(key, used_until, now)
                items.append(item)
        return items


def _key(item: Item) -> int:
    if item.type == CHANNEL_UPDATE:
        return update_key(*direction_of(item.raw))
    return hash(item.key)


def _timestamp(item: Item) -> int:
    read = update_timestamp if item.type == CHANNEL_UPDATE else node_timestamp
    return read(item.raw)
