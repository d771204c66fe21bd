"""One route: Dijkstra from the payee backwards, for only so the fees on the way are known. Pure.

The cost of an edge is what its node takes, what the lock of the money costs, and the price of
trying in vain: the larger the part of a channel that an amount needs, the likelier it fails.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from back.graph.paths.experience import Bounds, Experience, Key
from back.graph.paths.network import EdgeTuple, Network
from back.payment.route import Hop, RouteRequest, fee_msat

__all__ = ["CHEAPEST", "SHORTEST", "USUAL", "Found", "Search", "Weights"]


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts in a cost, in msat.

    Attributes:
        fees: share of the fees.
        hop_msat: of each hop, whatever it takes.
        lock_per_block: of the amount, for each block that it is locked.
        failure_msat: of an attempt that surely fails.
        failure_share: of the amount, likewise.
    """

    fees: float = 1.0
    hop_msat: float = 100.0
    lock_per_block: float = 15e-9
    failure_msat: float = 1_000.0
    failure_share: float = 0.002


USUAL = Weights()
CHEAPEST = Weights(hop_msat=0, lock_per_block=0, failure_msat=0, failure_share=0)
SHORTEST = Weights(fees=0, hop_msat=1, lock_per_block=0, failure_msat=0, failure_share=0)


class Step(NamedTuple):
    """An edge on the way.

    Attributes:
        edge: as in the network.
        hop: as people know it.
    """

    edge: EdgeTuple
    hop: Hop


class Found(NamedTuple):
    """A way from the payer to the payee, first our own channel."""

    steps: tuple[Step, ...]

    @property
    def hops(self) -> tuple[Hop, ...]:
        """As a route has them."""
        return tuple(step.hop for step in self.steps)

    def amounts_msat(self, amount_msat: int) -> list[int]:
        """Return what each hop's HTLC carries so that the last carries ``amount_msat``."""
        carried = [amount_msat]
        for step in reversed(self.steps[1:]):
            carried.append(carried[-1] + fee_msat(step.hop, carried[-1]))
        carried.reverse()
        return carried


class Search:
    """A request, ready to be searched for: what it adds to the network and takes from it.

    Args:
        network: the routing table.
        experience: of past attempts.
        request: what is looked for.

    Attributes:
        was_limited: whether the last search gave up ways for a limit of the request.
    """

    def __init__(self, network: Network, experience: Experience, request: RouteRequest) -> None:
        self.network = network
        self.request = request
        self.was_limited = False
        self._known = experience.bounds
        self._numbers: dict[bytes, int] = {}
        self._ids: list[bytes] = []
        self._source = self._number(request.source)
        self._payee = self._number(request.payee)
        self._extra: dict[int, list[EdgeTuple]] = {}
        self._hops: dict[int, Hop] = {}
        self._skipped: set[int] = set()
        self._names: dict[int, Key] = {}
        """Of extra edges: under what name experience has them."""
        self._add_extra()
        self._add_local()
        self._skip_ignored()
        self._jitter = 1.0 + request.seed % 1024 / 1_000_000
        self.used: dict[int, int] = {}
        for scid, node_id, msat in request.in_flight:
            key = self._key(scid, node_id)
            if key is not None:
                self.used[key] = self.used.get(key, 0) + msat

    # --- what the request adds and takes ----------------------------------------------------------

    def _number(self, node_id: bytes) -> int:
        number = self.network.number(node_id)
        if number is None:
            number = self._numbers.get(node_id)
        if number is None:
            number = self._numbers[node_id] = len(self.network.ids) + len(self._ids)
            self._ids.append(node_id)
        return number

    def _add(self, hop: Hop, least_msat: int, most_msat: int) -> None:
        key = -1 - len(self._hops)
        self._hops[key] = hop
        in_table = self.network.key(hop.short_channel_id, hop.node_id)
        self._names[key] = in_table if in_table is not None else (hop.short_channel_id, hop.node_id)
        if in_table is not None:
            self._skipped.add(in_table)
        edge = (
            key,
            self._number(hop.node_id),
            hop.fee_base_msat,
            hop.fee_proportional_millionths,
            hop.cltv_expiry_delta,
            least_msat,
            most_msat,
            0.0,
        )
        self._extra.setdefault(self._number(hop.next_node_id), []).append(edge)

    def _add_extra(self) -> None:
        for edge in self.request.extra:
            if edge.hop.node_id != self.request.source or self.request.local is None:
                self._add(edge.hop, edge.htlc_minimum_msat, edge.htlc_maximum_msat)

    def _add_local(self) -> None:
        for channel in self.request.local or ():
            hop = Hop(self.request.source, channel.next_node_id, channel.short_channel_id)
            self._add(hop, channel.htlc_minimum_msat, channel.can_send_msat)

    def _skip_ignored(self) -> None:
        ignored = self.request.ignored_channels
        for scid, node_id in ignored:
            key = self.network.key(scid, node_id)
            if key is not None:
                self._skipped.add(key)
        self._skipped.update(
            key for key, hop in self._hops.items() if (hop.short_channel_id, hop.node_id) in ignored
        )
        self._ignored = {self._number(node_id) for node_id in self.request.ignored_nodes}
        self._ignored -= {self._source, self._payee}

    def _key(self, scid: int, node_id: bytes) -> int | None:
        for key, hop in self._hops.items():
            if hop.short_channel_id == scid and hop.node_id == node_id:
                return key
        return self.network.key(scid, node_id)

    # --- searching --------------------------------------------------------------------------------

    def route(self, amount_msat: int, max_fee_msat: int, weights: Weights) -> Found | None:
        """Return the way of least cost for an amount; None if there is none within the limits."""
        self.was_limited = False
        via = self._via(amount_msat, max_fee_msat, weights)
        if self._source not in via:
            return None
        steps, node = [], self._source
        while node != self._payee:
            edge, node = via[node]
            hop = self._hops.get(edge[0]) or self.network.hop(edge, node)
            steps.append(Step(edge, hop))
        first = steps[0].hop._replace(
            fee_base_msat=0, fee_proportional_millionths=0, cltv_expiry_delta=0
        )
        return Found((Step(steps[0].edge, first), *steps[1:]))

    def _via(  # noqa: C901, PLR0912, PLR0915 - the one loop that everything waits for
        self, amount_msat: int, max_fee_msat: int, weights: Weights
    ) -> dict[int, tuple[EdgeTuple, int]]:
        """Return the edge by which each reached node goes on, and where it leads."""
        request, source, ignored = self.request, self._source, self._ignored
        incoming, extra, skipped, used = (
            self.network.incoming,
            self._extra,
            self._skipped,
            self.used,
        )
        has_known, is_local = bool(self._known), request.local is not None
        max_delta, max_hops = request.max_cltv_expiry_delta, request.max_hops
        fee_weight, lock = weights.fees * self._jitter, weights.lock_per_block
        most_amount_msat = amount_msat + max_fee_msat
        size = len(self.network.ids) + len(self._ids)
        best = [inf] * size
        best[self._payee] = 0.0
        amounts, deltas, lengths = {self._payee: amount_msat}, {self._payee: 0}, {self._payee: 0}
        via: dict[int, tuple[EdgeTuple, int]] = {}
        heap = [(0.0, self._payee)]
        is_done = bytearray(size)
        while heap:
            cost, node = heappop(heap)
            if is_done[node]:
                continue
            if node == source:
                break
            is_done[node] = 1
            amount, delta, length = amounts[node], deltas[node], lengths[node] + 1
            if length > max_hops:
                self.was_limited = True
                continue
            failure_msat = weights.failure_msat + amount * weights.failure_share
            lock_msat = amount * lock
            edges = incoming[node].values() if node < len(incoming) else ()
            for edge in (*edges, *extra[node]) if node in extra else edges:
                key, previous, base, millionths, blocks, least, most, share = edge
                if amount > most or amount < least or is_done[previous]:
                    continue
                if previous == source:
                    if is_local and key >= 0:
                        continue
                    fee = blocks = 0
                else:
                    fee = base + amount * millionths // 1_000_000
                new_cost = cost + fee * fee_weight + weights.hop_msat + blocks * lock_msat
                if new_cost >= best[previous]:
                    continue
                if amount + fee > most_amount_msat or delta + blocks > max_delta:
                    self.was_limited = True
                    continue
                if key in skipped or previous in ignored:
                    continue
                if key in used and amount + used[key] > most:
                    continue
                chance = amount * share
                if has_known and (bounds := self._bounds(key)) is not None:
                    if bounds.closed_until_s > request.unix_s:
                        continue
                    low, high = bounds.at(request.unix_s, most)
                    if amount >= high and bounds.failed_msat is not None:
                        continue
                    if bounds.failed_msat is not None or amount <= low:
                        chance = max(0.0, amount - low) / max(1.0, high - low)
                new_cost += chance * failure_msat
                if new_cost >= best[previous]:
                    continue
                best[previous] = new_cost
                amounts[previous], deltas[previous] = amount + fee, delta + blocks
                lengths[previous] = length
                via[previous] = edge, node
                heappush(heap, (new_cost, previous))
        return via if is_done[self._payee] and best[source] < inf else {}

    def _bounds(self, key: int) -> Bounds | None:
        """Return what past attempts taught of an edge."""
        return self._known.get(self._names[key] if key < 0 else key)

    def most_to_payee_msat(self) -> int:
        """Return what all the payee's channels carry together, or one if there is but one part."""
        payee = self._payee
        edges = [*self._extra.get(payee, ())]
        if payee < len(self.network.incoming):
            edges += self.network.incoming[payee].values()
        most = [max(0, self.most_msat(edge)) for edge in edges if edge[0] not in self._skipped]
        return sum(most) if self.request.max_parts > 1 else max(most, default=0)

    def most_msat(self, edge: EdgeTuple) -> int:
        """Return the most that may go by an edge: what it declares, less than what failed."""
        most_msat = edge[6] - self.used.get(edge[0], 0)
        bounds = self._bounds(edge[0])
        if bounds is None or bounds.failed_msat is None:
            return most_msat
        return min(most_msat, int(bounds.at(self.request.unix_s, edge[6])[1]) - 1)
