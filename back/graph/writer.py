"""Writes the stream GRAPH: the current value of every subject, again until it is surely there."""

from collections.abc import Callable

from shared.fabric.client import FabricClient
from shared.gossip.record import Change

__all__ = ["GraphWriter"]


class GraphWriter:
    """The only writer of GRAPH.

    Args:
        fabric: the connection for bulk.

    Attributes:
        waiting: values that are not surely in the stream yet.
        refused: values that the broker did not take: the stream is full.
    """

    def __init__(self, fabric: FabricClient) -> None:
        self.waiting = 0
        self.refused = 0
        self._fabric = fabric

    def start(self) -> None:
        """Begin: make the stream, write; returns at once, also with no broker."""

    async def stop(self) -> None:
        """Write what waits, for a short while, and stop."""

    def put(self, change: Change) -> None:
        """Have this value written; it replaces one of the same subject that still waits.

        Never waits and never fails; call `drained` now and then when there is much to put.
        """

    def tip(self, height: int, block_hash: bytes) -> None:
        """Write up to which block funding spends are worked in (`ln.graph.tip`).

        Args:
            height: of the block.
            block_hash: internal byte order.
        """

    async def drained(self) -> None:
        """Return as soon as more may be put."""

    async def flushed(self) -> None:
        """Return when everything that was put is in the stream."""

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this when the stream was gone, or lost what it had: put the whole table again.

        The stream is there again, and may be empty, when this is called.
        """
