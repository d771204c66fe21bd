"""How many onion messages peers may send: each of them, and all together (BOLT 4). Pure.

Fronts and backs count alike. BOLT 4 lets anybody send onion messages, also peers without channels,
to whom connecting costs nothing: so these together may use half of what there is, at most.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Bucket", "OnionBudget", "OnionLimits", "Over"]

REMEMBERED = 20_000
"""Peers whose rates are remembered; the least recently heard is forgotten first."""
BURST_S = 5.0
"""What is not used in so long is saved up."""
STRANGERS_SHARE = 0.5


class Over(StrEnum):
    """Which budget has no room for a message; the reason in the metrics."""

    PEER = "peer"
    STRANGERS = "strangers"
    """That of all peers without channels."""
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class OnionLimits:
    """Rates in the long run; five seconds' worth may come at once.

    Attributes:
        messages_per_s: of one peer with channels.
        stranger_messages_per_s: of one peer without.
        bytes_per_s: of one peer with channels; in proportion of one without, and of all.
        total_messages_per_s: of all peers.
    """

    messages_per_s: float = 10.0
    stranger_messages_per_s: float = 2.0
    bytes_per_s: float = 50_000.0
    total_messages_per_s: float = 200.0


class Bucket:
    """A rate with a burst.

    Args:
        rate: tokens per second that come back.
        burst: most tokens that wait.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def has(self, tokens: float, now: float) -> bool:
        """Whether so much is there."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._tokens >= tokens

    def take(self, tokens: float) -> None:
        """Use what :meth:`has` said is there."""
        self._tokens -= tokens


class OnionBudget:
    """The budgets of all peers.

    Args:
        limits: rates.
        now: monotonic seconds.
    """

    def __init__(self, limits: OnionLimits, now: float) -> None:
        self._limits = limits
        self._bytes_per_message = limits.bytes_per_s / limits.messages_per_s
        total = limits.total_messages_per_s
        self._total = self._bucket(total, now)
        self._strangers = self._bucket(total * STRANGERS_SHARE, now)
        self._peers: OrderedDict[tuple[bytes, bool], Bucket] = OrderedDict()

    def take(self, peer: bytes, size: int, *, has_channels: bool, now: float) -> Over | None:
        """Count a message; say which budget has no room for it.

        Args:
            peer: node id.
            size: bytes on the wire.
            has_channels: whether the peer has channels with us.
            now: monotonic seconds.
        """
        tokens = max(1.0, size / self._bytes_per_message)
        own = self._of(peer, has_channels=has_channels, now=now)
        if not own.has(tokens, now):
            return Over.PEER
        if not has_channels and not self._strangers.has(tokens, now):
            return Over.STRANGERS
        if not self._total.has(tokens, now):
            return Over.TOTAL
        own.take(tokens)
        self._total.take(tokens)
        if not has_channels:
            self._strangers.take(tokens)
        return None

    def _of(self, peer: bytes, *, has_channels: bool, now: float) -> Bucket:
        bucket = self._peers.pop((peer, has_channels), None)
        if bucket is None:
            limits = self._limits
            rate = limits.messages_per_s if has_channels else limits.stranger_messages_per_s
            bucket = self._bucket(rate, now)
            if len(self._peers) >= REMEMBERED:
                self._peers.popitem(last=False)
        self._peers[peer, has_channels] = bucket
        return bucket

    def _bucket(self, rate: float, now: float) -> Bucket:
        """One whose burst lets the largest message through, whatever the rate."""
        largest = 0xFFFF / self._bytes_per_message
        return Bucket(rate, max(rate * BURST_S, largest, 1.0), now)
