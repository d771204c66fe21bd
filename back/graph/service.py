"""The back's side of gossip: verdicts for fronts, the routing table, and what the chain takes out.

The back is the only judge of the table: what fronts submit is checked here, decided, applied to the
table and written to GRAPH. What GRAPH brings back is loaded at the start; later it is compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.gossip.record import Change
from shared.gossip.table import Table

if TYPE_CHECKING:
    from back.chain.bitcoind import ChainSettings
    from back.graph.writer import GraphWriter
    from shared.fabric.client import FabricClient

__all__ = ["GraphRules", "GraphService"]


@dataclass(frozen=True, slots=True)
class GraphRules:
    """Limits of the graph service.

    Attributes:
        waiting_per_front: announcements of one front that may wait; beyond it they get LATER.
    """

    waiting_per_front: int = 4_000


class GraphService:
    """Judge and keeper of the routing table; a `shared.fabric.graph.GraphSink`.

    Args:
        fabric: the connection for bulk.
        writer: of GRAPH; started and stopped here.
        chain: how to reach bitcoind; the service has connections of its own.
        chain_hash: of our network.
        trusts_fronts: do not check signatures again.
        rules: limits.

    Attributes:
        table: the routing table.
        is_ready: whether it is loaded; before, fronts get LATER.
        counts: verdicts by (kind of announcement, outcome).
    """

    def __init__(
        self,
        fabric: "FabricClient",
        writer: "GraphWriter",
        chain: "ChainSettings",
        chain_hash: bytes,
        *,
        trusts_fronts: bool = False,
        rules: GraphRules = GraphRules(),
    ) -> None:
        self.table = Table()
        self.is_ready = False
        self.counts: dict[tuple[str, str], int] = field(default_factory=dict)

    async def start(self) -> None:
        """Follow GRAPH and the chain, hear what fronts submit; returns at once."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Judge nothing more; what was decided is written, as long as that takes no time."""
        raise NotImplementedError

    def announce_own(self, changes: Iterable[Change]) -> None:
        """Take finished announcements of this node: trusted, idempotent, never blocks."""
        raise NotImplementedError

    def block(self) -> None:
        """There may be a new block: look now, not at the next poll."""
        raise NotImplementedError

    # --- GraphSink --------------------------------------------------------------------------------

    def loading(self) -> None:
        """A stream is read from its start."""

    def put(self, change: Change) -> None:
        """One value of the stream."""

    def loaded(self) -> None:
        """The stream has been read to its end."""

    def node_self(self, payload: bytes) -> None:
        """Who we are: we know."""

    def tip(self, payload: bytes) -> None:
        """Up to which block spends are worked in."""
