"""Which announcements a peer wants: its `gossip_timestamp_filter` (BOLT 7). Pure."""

from typing import NamedTuple

__all__ = ["TimestampFilter"]


class TimestampFilter(NamedTuple):
    """A span of unix seconds.

    Attributes:
        first_timestamp: the first that is wanted.
        timestamp_range: how many seconds from it on; 0: nothing.
    """

    first_timestamp: int
    timestamp_range: int

    def accepts(self, timestamp: int) -> bool:
        """Whether the peer wants an announcement of that time."""
        return 0 <= timestamp - self.first_timestamp < self.timestamp_range
