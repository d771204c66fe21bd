"""What a peer is told of its mistakes, and how often."""

from front.admission import TokenBucket
from shared.wire import Warning as WarningMessage

__all__ = ["Budget", "warning"]

_ALL_CHANNELS = bytes(32)
_LONGEST = 1000


class Budget:
    """A token bucket that costs nothing until it is first used.

    Args:
        rate: tokens per second that come back.
        burst: most tokens that wait.
    """

    __slots__ = ("_bucket", "_burst", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._bucket: TokenBucket | None = None

    def take(self, now: float) -> bool:
        """Use one token if there is one; say whether."""
        if self._bucket is None:
            self._bucket = TokenBucket(self._rate, self._burst, now)
        return self._bucket.take(now)


def warning(text: str) -> WarningMessage:
    """Return `warning` about no channel in particular; printable ASCII only (BOLT 1)."""
    printable = text.replace("§ ", "").encode("ascii", "replace")[:_LONGEST]
    return WarningMessage(channel_id=_ALL_CHANNELS, data=printable)
