"""What fronts have submitted and nobody has decided yet: bounded, and fair between fronts. Pure.

A stolen front may submit rubbish without end, also under names that it makes up. Each name has its
budget of announcements and bytes, and there are so many names at a time; whatever is over that is
for later. Each front in turn gets its share of the work, and of the blocks that bitcoind is asked
for, which are the dearest.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from back.graph.acceptance import Pending, funding_height
from shared.fabric.gossip import Submission
from shared.gossip.view import ChannelView

__all__ = ["Budget", "Claim", "PendingChannels", "Submissions", "WaitingChannel"]

Claim = tuple[str, int]
"""A front and its number of an announcement: whom a verdict is due to."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may wait for a decision.

    Attributes:
        fronts: names with something that waits.
        items: announcements of one front.
        size: bytes of one front's announcements.
    """

    fronts: int = 64
    items: int = 4_000
    size: int = 2 << 20


@dataclass(slots=True)
class _Account:
    items: int = 0
    size: int = 0


class Submissions:
    """Submissions by front, taken in turn.

    An announcement counts against its front's budget until `settle`.
    """

    def __init__(self, budget: Budget = Budget()) -> None:
        self._budget = budget
        self._accounts: dict[str, _Account] = {}
        self._waiting: dict[str, deque[Submission]] = {}

    def __len__(self) -> int:
        """How many announcements are undecided."""
        return sum(account.items for account in self._accounts.values())

    def is_full(self, front: str) -> bool:
        """Whether nothing more of this front would be taken."""
        account = self._accounts.get(front)
        if account is None:
            return len(self._accounts) >= self._budget.fronts
        return account.items >= self._budget.items or account.size >= self._budget.size

    def add(self, submission: Submission) -> bool:
        """Take a submission, or say that it is over the budget."""
        front = submission.front
        if self.is_full(front):
            return False
        account = self._accounts.setdefault(front, _Account())
        account.items += len(submission.items)
        account.size += sum(map(len, submission.items))
        self._waiting.setdefault(front, deque()).append(submission)
        return True

    def take(self, count: int) -> list[tuple[Claim, bytes]]:
        """Take out about ``count`` announcements, one submission of each front in turn."""
        taken: list[tuple[Claim, bytes]] = []
        while self._waiting and len(taken) < count:
            front, queue = next(iter(self._waiting.items()))
            submission = queue.popleft()
            del self._waiting[front]
            if queue:
                # to the end of the line
                self._waiting[front] = queue
            first = submission.first_id
            taken += [((front, first + i), raw) for i, raw in enumerate(submission.items)]
        return taken

    def settle(self, front: str, size: int) -> None:
        """An announcement of so many bytes was decided."""
        account = self._accounts.get(front)
        if account is None:
            return
        account.items -= 1
        account.size -= size
        if account.items <= 0:
            del self._accounts[front]


@dataclass(slots=True)
class WaitingChannel:
    """A channel whose funding output is to be looked up."""

    pending: Pending
    seen: ChannelView
    claims: list[Claim] = field(default_factory=list)


class PendingChannels:
    """Channels that wait for the chain, by short_channel_id."""

    def __init__(self) -> None:
        self._waiting: dict[int, WaitingChannel] = {}
        self._taken: dict[int, WaitingChannel] = {}
        self._turn: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def has(self, short_channel_id: int) -> bool:
        """Whether it waits, or is being looked up."""
        return short_channel_id in self._waiting or short_channel_id in self._taken

    def add(self, pending: Pending, seen: ChannelView, claims: Iterable[Claim]) -> bool:
        """Have it looked up; False if another announcement of the same channel is."""
        scid = seen.short_channel_id
        known = self._waiting.get(scid) or self._taken.get(scid)
        if known is None:
            known = self._waiting[scid] = WaitingChannel(pending, seen)
        elif known.pending.raw != pending.raw:
            return False
        known.claims.extend(claims)
        return True

    def take(self, blocks: int, count: int) -> list[WaitingChannel]:
        """Take out the channels of some blocks, ascending: as many blocks of each front's.

        They stay known until `done`.

        Args:
            blocks: how many blocks at most.
            count: how many channels at most.
        """
        chosen = self._blocks(blocks)
        scids = sorted(scid for scid in self._waiting if funding_height(scid) in chosen)
        for scid in scids[:count]:
            self._taken[scid] = self._waiting.pop(scid)
        return [self._taken[scid] for scid in scids[:count]]

    def done(self, channels: Iterable[WaitingChannel]) -> None:
        """They are decided."""
        for channel in channels:
            self._taken.pop(channel.seen.short_channel_id, None)

    def _blocks(self, count: int) -> set[int]:
        """Choose blocks: the lowest of each front, in turn."""
        wanted: dict[str, set[int]] = {}
        for scid, channel in self._waiting.items():
            wanted.setdefault(channel.claims[0][0], set()).add(funding_height(scid))
        # Whose turn it was comes last.
        order = [front for front in self._turn if front in wanted]
        order += [front for front in wanted if front not in order]
        queues = {front: iter(sorted(wanted[front])) for front in order}
        chosen: set[int] = set()
        while queues and len(chosen) < count:
            for front in list(islice(queues, len(queues))):
                height = next(queues[front], None)
                if height is None:
                    del queues[front]
                elif len(chosen) < count:
                    chosen.add(height)
                    order.remove(front)
                    order.append(front)
        self._turn = deque(order)
        return chosen
