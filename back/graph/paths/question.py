"""A request, made ready for searches: what it adds to the network, and what it takes away. Pure."""

from math import ceil

from back.graph.paths.experience import Bounds, Experience, Key
from back.graph.paths.network import EdgeTuple, Network
from back.payment.route import Hop, RouteRequest
from shared.errors import CommandError

__all__ = ["STEPS", "Question"]

STEPS = 2_000_000
"""Edges that all searches for one request may look at: some two seconds."""


class Question:
    """What is looked for, in which graph. Nothing of the network or the experience is changed.

    Args:
        network: the routing table.
        experience: of past attempts.
        request: what is looked for.
        steps: edges that may be looked at.

    Attributes:
        source: number of the payer. Nodes that the network does not know have numbers after its.
        payee: number of the payee.
        free: number of the node that takes nothing, the payer; -1: there is none.
        size: how many numbers there are.
        to_node: edges that the request adds, by the node that they lead to.
        from_node: the same by the node that forwards into them.
        skipped: keys of edges that are not to be used.
        ignored: nodes that are not to be used.
        used: what parts of this payment hold, by key.
        steps_left: of the budget.
    """

    def __init__(
        self, network: Network, experience: Experience, request: RouteRequest, steps: int = STEPS
    ) -> None:
        self.network = network
        self.request = request
        self.known = experience.bounds
        self.steps_left = steps
        self.to_node: dict[int, list[EdgeTuple]] = {}
        self.from_node: dict[int, list[EdgeTuple]] = {}
        self.skipped: set[int] = set()
        self.used: dict[int, int] = {}
        self._numbers: dict[bytes, int] = {}
        self._hops: dict[int, Hop] = {}
        """By key: below zero, so that none is one of the network's."""
        self._keys: dict[tuple[int, bytes], int] = {}
        self._names: dict[int, Key] = {}
        """Under what name experience has them."""
        self.source = self._number(request.source)
        self.payee = self._number(request.payee)
        self.free = -1 if request.is_source_paid else self.source
        self._add_extra()
        self._add_local()
        self._skip_ignored()
        self.size = len(network) + len(self._numbers)
        for scid, node_id, msat in request.in_flight:
            key = self._key(scid, node_id)
            if key is not None:
                self.used[key] = self.used.get(key, 0) + msat

    # --- what the request adds and takes ----------------------------------------------------------

    def _number(self, node_id: bytes) -> int:
        number = self.network.number(node_id)
        if number is None:
            number = self._numbers.setdefault(node_id, len(self.network) + len(self._numbers))
        return number

    def _add(self, hop: Hop, least_msat: int, most_msat: int) -> None:
        name = hop.short_channel_id, hop.node_id
        in_table = self.network.key(*name)
        if in_table is not None:
            self.skipped.add(in_table)
        key = -1 - len(self._hops)
        self._hops[key] = hop
        self._keys[name] = key
        self._names[key] = name if in_table is None else in_table
        edge = (
            key,
            self._number(hop.node_id),
            self._number(hop.next_node_id),
            hop.fee_base_msat,
            hop.fee_proportional_millionths,
            hop.cltv_expiry_delta,
            least_msat,
            most_msat,
            0.0,
        )
        self.to_node.setdefault(edge[2], []).append(edge)
        self.from_node.setdefault(edge[1], []).append(edge)

    def _add_extra(self) -> None:
        # Two for the same direction: the last one is the fresher.
        edges = {(e.hop.short_channel_id, e.hop.node_id): e for e in self.request.extra}
        for edge in edges.values():
            if edge.hop.node_id != self.request.source or self.request.local is None:
                self._add(edge.hop, edge.htlc_minimum_msat, edge.htlc_maximum_msat)

    def _add_local(self) -> None:
        source = self.request.source
        own = {e.hop.short_channel_id: e.hop for e in self.request.extra if e.hop.node_id == source}
        for channel in self.request.local or ():
            scid = channel.short_channel_id
            hop = own.get(scid) or Hop(source, channel.next_node_id, scid)
            self._add(hop, channel.htlc_minimum_msat, channel.can_send_msat)

    def _skip_ignored(self) -> None:
        for name in self.request.ignored_channels:
            for key in (self._keys.get(name), self.network.key(*name)):
                if key is not None:
                    self.skipped.add(key)
        self.ignored = {self._number(node_id) for node_id in self.request.ignored_nodes}
        self.ignored -= {self.source, self.payee}

    def _key(self, scid: int, node_id: bytes) -> int | None:
        key = self._keys.get((scid, node_id))
        return self.network.key(scid, node_id) if key is None else key

    # --- asking -----------------------------------------------------------------------------------

    def edges_to(self, node: int) -> list[EdgeTuple]:
        """Return the edges that lead to a node, also ones that are to be skipped."""
        incoming = self.network.incoming
        edges = list(incoming[node].values()) if node < len(incoming) else []
        edges += self.to_node.get(node, ())
        self._pay(len(edges))
        return edges

    def edges_from(self, node: int) -> list[EdgeTuple]:
        """Return the edges that a node forwards into, also ones that are to be skipped.

        Of the payer whose channels are given, these and no others.
        """
        if node == self.source and self.request.local is not None:
            return self.from_node.get(node, [])
        outgoing = self.network.outgoing
        edges = list(outgoing[node].values()) if node < len(outgoing) else []
        edges += self.from_node.get(node, ())
        self._pay(len(edges))
        return edges

    def _pay(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise CommandError("route not found: looked for too long")

    def chance(self, edge: EdgeTuple, amount_msat: int) -> float | None:
        """Return how likely an edge fails, after all that is known of it; None: not to be used."""
        key, most_msat, share = edge[0], edge[7], edge[8]
        if key in self.used:
            amount_msat += self.used[key]
            if amount_msat > most_msat:
                return None
        bounds = self._bounds(key)
        if bounds is None:
            return amount_msat * share
        if bounds.closed_until_s > self.request.unix_s:
            return None
        low, high = self._between(edge, bounds)
        if bounds.failed_msat is not None:
            if amount_msat >= high:
                return None
        elif share == 0.0:
            return 0.0
        return max(0.0, amount_msat - low) / max(1.0, high - low)

    def _bounds(self, key: int) -> Bounds | None:
        return self.known.get(self._names[key] if key < 0 else key)

    def _between(self, edge: EdgeTuple, bounds: Bounds) -> tuple[float, float]:
        """Return between what amounts it is not known whether an edge carries them."""
        capacity_msat = round(1 / edge[8]) if edge[8] else edge[7]
        return bounds.at(self.request.unix_s, capacity_msat)

    def hop(self, edge: EdgeTuple) -> Hop:
        """Return an edge as people know it."""
        return self._hops.get(edge[0]) or self.network.hop(edge)

    def most_msat(self, edge: EdgeTuple) -> int:
        """Return the most that may still go by an edge.

        As declared, less than what failed, and without what other parts hold.
        """
        most_msat = edge[7]
        bounds = self._bounds(edge[0])
        if bounds is not None:
            if bounds.closed_until_s > self.request.unix_s:
                return 0
            if bounds.failed_msat is not None:
                most_msat = min(most_msat, ceil(self._between(edge, bounds)[1]) - 1)
        return most_msat - self.used.get(edge[0], 0)

    def likely_msat(self, edge: EdgeTuple) -> int:
        """Return what passes an edge rather than not: half of where nothing is known.

        Of our own channels the balance is known, and hints have no capacity to guess from.
        """
        most_msat, bounds = self.most_msat(edge), self._bounds(edge[0])
        if bounds is None:
            if edge[0] < 0:
                return most_msat
            bounds = Bounds()
        low, high = self._between(edge, bounds)
        return min(most_msat, int((low + high) / 2) - self.used.get(edge[0], 0))

    def most_at_the_ends_msat(self) -> int:
        """Return what the payer's channels, and the payee's, can carry at most.

        All together, or the largest one if there is to be but one part.
        """
        return min(
            self._together_msat(self.edges_from(self.source)),
            self._together_msat(self.edges_to(self.payee)),
        )

    def largest_at_the_ends_msat(self, max_fee_msat: int) -> int:
        """Return what one channel of the payer, and one of the payee, can carry at most.

        Args:
            max_fee_msat: that the payer's channel carries besides.
        """
        first = max(map(self._room_msat, self.edges_from(self.source)), default=0)
        last = max(map(self._room_msat, self.edges_to(self.payee)), default=0)
        return min(first - min(max_fee_msat, first // 20), last)

    def _room_msat(self, edge: EdgeTuple) -> int:
        return 0 if edge[0] in self.skipped else max(0, self.most_msat(edge))

    def _together_msat(self, edges: list[EdgeTuple]) -> int:
        most = [self._room_msat(edge) for edge in edges]
        return sum(most) if self.request.max_parts > 1 else max(most, default=0)

    def is_usable(self, edge: EdgeTuple, amount_msat: int) -> bool:
        """Whether an edge may be used for an amount."""
        key, previous = edge[:2]
        if key in self.skipped or previous in self.ignored:
            return False
        if key >= 0 and previous == self.source and self.request.local is not None:
            return False
        return edge[6] <= amount_msat <= self.most_msat(edge)
