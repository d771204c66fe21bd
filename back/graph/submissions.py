"""What fronts have submitted and nobody has decided yet: bounded, and fair between fronts. Pure.

A stolen front may submit rubbish without end, also under names that it makes up. Each name has its
budget of announcements and bytes, and there are so many names at a time; whatever is over that is
for later. Each front in turn gets its share of the work, and of the blocks that bitcoind is asked
for, which are the dearest.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

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

    def is_full(self, front: str, items: int = 1, size: int = 1) -> bool:
        """Whether so much more of this front would not be taken."""
        account = self._accounts.get(front)
        if account is None:
            if len(self._accounts) >= self._budget.fronts:
                return True
            account = _Account()
        return account.items + items > self._budget.items or account.size + size > self._budget.size

    def add(self, submission: Submission) -> bool:
        """Take a submission, or say that it is over the budget."""
        front, items = submission.front, len(submission.items)
        size = sum(map(len, submission.items))
        if self.is_full(front, items, size):
            return False
        account = self._accounts.setdefault(front, _Account())
        account.items += items
        account.size += size
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
    """A channel announcement whose funding output is to be looked up."""

    pending: Pending
    seen: ChannelView
    claims: list[Claim] = field(default_factory=list)


class PendingChannels:
    """Channel announcements that wait for the chain.

    Several may claim one short_channel_id. Each is judged by itself, for the first that comes may
    be made up to keep the right one out.
    """

    def __init__(self) -> None:
        self._channels: dict[bytes, WaitingChannel] = {}
        self._claimed: dict[int, int] = {}
        """How many of them claim a short_channel_id."""
        self._fronts: dict[str, _Queue] = {}
        """Whose turn it is comes first."""

    def __len__(self) -> int:
        """How many wait, or are being looked up."""
        return len(self._channels)

    def has(self, short_channel_id: int) -> bool:
        """Whether some announcement of it waits, or is being looked up."""
        return short_channel_id in self._claimed

    def join(self, raw: bytes, claims: Iterable[Claim]) -> bool:
        """Have a verdict told to these too, if this very announcement is among them."""
        known = self._channels.get(raw)
        if known is not None:
            known.claims.extend(claims)
        return known is not None

    def add(self, pending: Pending, seen: ChannelView, claims: Sequence[Claim]) -> None:
        """Have it looked up, on account of who claims it first."""
        if self.join(pending.raw, claims):
            return
        channel = WaitingChannel(pending, seen, list(claims))
        self._channels[pending.raw] = channel
        scid = seen.short_channel_id
        self._claimed[scid] = self._claimed.get(scid, 0) + 1
        self._fronts.setdefault(claims[0][0], _Queue()).put(channel)

    def take(self, blocks: int, count: int) -> list[WaitingChannel]:
        """Take out the channels of some blocks: in turn the lowest of each front.

        They stay known until `done`.

        Args:
            blocks: how many blocks at most.
            count: how many channels at most.
        """
        taken: list[WaitingChannel] = []
        chosen: set[int] = set()
        skipped: dict[str, _Queue] = {}
        share = max(1, count // blocks)
        while self._fronts and len(taken) < count:
            front = next(iter(self._fronts))
            queue = self._fronts.pop(front)
            if queue.lowest not in chosen and len(chosen) >= blocks:
                skipped[front] = queue
                continue
            chosen.add(queue.lowest)
            taken += queue.take(min(share, count - len(taken)))
            if queue:
                # to the end of the line
                self._fronts[front] = queue
        self._fronts = skipped | self._fronts
        return taken

    def done(self, channels: Iterable[WaitingChannel]) -> None:
        """They are decided."""
        for channel in channels:
            if self._channels.pop(channel.pending.raw, None) is None:
                continue
            scid = channel.seen.short_channel_id
            self._claimed[scid] -= 1
            if not self._claimed[scid]:
                del self._claimed[scid]


class _Queue:
    """Channels of one front, by block."""

    def __init__(self) -> None:
        self._blocks: dict[int, list[WaitingChannel]] = {}
        self._heights: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._heights)

    @property
    def lowest(self) -> int:
        """Height of the lowest block."""
        return self._heights[0]

    def put(self, channel: WaitingChannel) -> None:
        """Add one."""
        height = funding_height(channel.seen.short_channel_id)
        if height not in self._blocks:
            self._blocks[height] = []
            heappush(self._heights, height)
        self._blocks[height].append(channel)

    def take(self, count: int) -> list[WaitingChannel]:
        """Take out some of the lowest block."""
        channels = self._blocks[self.lowest]
        taken = channels[-count:]
        del channels[-count:]
        if not channels:
            del self._blocks[heappop(self._heights)]
        return taken
