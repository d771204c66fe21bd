"""The stream GRAPH, which holds the routing table, and how a process follows it.

One value per subject (`shared.gossip.record`), the last one. A follower gets every value that is
there, then every change, through one consumer that it pulls from: so much at a time that neither
memory nor the event loop suffers.
"""

import asyncio
from typing import Protocol

from shared.fabric.client import FabricClient
from shared.gossip.record import Change

__all__ = ["STREAM", "GraphFollower", "GraphSink"]

STREAM = "GRAPH"


class GraphSink(Protocol):
    """Who takes what the stream holds. Nothing here may wait; an exception is logged."""

    def loading(self) -> None:
        """The first stream, or another one than before: what follows fills a new table."""

    def put(self, change: Change) -> None:
        """One value, old or new; also values that came before."""

    def loaded(self) -> None:
        """The snapshot is complete: nothing that was there at `loading` is missing."""

    def node_self(self, payload: bytes) -> None:
        """Who we are (`ln.graph.self`)."""

    def tip(self, payload: bytes) -> None:
        """Up to which block the table is worked through (`ln.graph.tip`)."""


class GraphFollower:
    """Follows GRAPH over any number of connections, brokers and streams.

    Args:
        fabric: the connection for bulk.
        sink: gets everything.

    Attributes:
        ready: set while a complete snapshot was handed over; stays set while the stream is away.
        lag: values that are known to wait, before and behind the broker.
        refused: messages that were no value of the table.
    """

    def __init__(self, fabric: FabricClient, sink: GraphSink) -> None:
        self.ready = asyncio.Event()
        self.lag = 0
        self.refused = 0
        self._fabric = fabric
        self._sink = sink

    def start(self) -> None:
        """Begin; returns at once, also with no broker."""

    async def stop(self) -> None:
        """Stop; the sink hears nothing any more."""
