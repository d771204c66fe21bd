"""One route of least cost, searched for from both ends. Pure.

The cost of an edge is what its node takes, what the lock of the money costs, and the price of
trying in vain: the larger the part of a channel that an amount needs, the likelier it fails.

What a channel carries is known only from the payee backwards, later fees included. So the search
from the payer (:class:`_Forward`) reckons with the bare amount: what it finds are bounds, never too
high. Both go on in turns until they meet; from there the search from the payee (:class:`_Backward`)
goes on alone, and the bounds lead it to the payer (A*).
"""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from back.graph.paths.network import EdgeTuple
from back.graph.paths.question import Question
from back.payment.route import Hop, fee_msat

__all__ = ["CHEAPEST", "FASTEST", "SHORTEST", "USUAL", "Cut", "Found", "Weights", "search"]


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts in a cost, in msat.

    Attributes:
        fees: share of the fees.
        hop_msat: of each hop, whatever it takes.
        block_msat: of each block that the money is locked.
        lock_per_block: likewise, of the amount.
        failure_msat: of an attempt that surely fails.
        failure_share: of the amount, likewise.
    """

    fees: float = 1.0
    hop_msat: float = 100.0
    block_msat: float = 0.0
    lock_per_block: float = 15e-9
    failure_msat: float = 1_000.0
    failure_share: float = 0.002

    def shaken(self, seed: int) -> "Weights":
        """Return them up to a tenth heavier, but for the fees.

        So ways that are about as good take turns.
        """
        more = 1.0 + seed % 1024 / 10_240
        return Weights(
            self.fees,
            self.hop_msat * more,
            self.block_msat * more,
            self.lock_per_block * more,
            self.failure_msat * more,
            self.failure_share * more,
        )


USUAL = Weights()
CHEAPEST = Weights(1, 0, 0, 0, 0, 0)
"""The cost is the fees, in msat."""
SHORTEST = Weights(0, 1, 0, 0, 0, 0)
"""The cost is the number of hops."""
FASTEST = Weights(0, 0, 1, 0, 0, 0)
"""The cost is the number of blocks."""


class Found(NamedTuple):
    """A way from the payer to the payee.

    Attributes:
        edges: first the payer's own channel.
        hops: the same as a route has them; the first one is free.
    """

    edges: tuple[EdgeTuple, ...]
    hops: tuple[Hop, ...]

    def amounts_msat(self, amount_msat: int) -> list[int]:
        """Return what each hop's HTLC carries so that the last carries ``amount_msat``."""
        carried = [amount_msat]
        for hop in reversed(self.hops[1:]):
            carried.append(carried[-1] + fee_msat(hop, carried[-1]))
        carried.reverse()
        return carried


def found_by(question: Question, edges: list[EdgeTuple]) -> Found:
    """Return a way of edges, the payer's own first."""
    hops = [question.hop(edge) for edge in edges]
    hops[0] = hops[0]._replace(fee_base_msat=0, fee_proportional_millionths=0, cltv_expiry_delta=0)
    return Found(tuple(edges), tuple(hops))


@dataclass(slots=True)
class Cut:
    """For which limits a search gave up ways.

    Attributes:
        by_fee: they were dearer than allowed.
        by_others: they were longer or slower.
        by_steps: it took too long.
    """

    by_fee: bool = False
    by_others: bool = False
    by_steps: bool = False

    def __bool__(self) -> bool:
        """Whether there may be a way that was not found."""
        return self.by_fee or self.by_others or self.by_steps


def search(
    question: Question,
    amount_msat: int,
    max_fee_msat: int,
    weights: Weights,
    steps: float = inf,
) -> tuple[Found | None, Cut]:
    """Return the way of least cost for an amount, None if none was found within the limits.

    Of the ways to a node only the one of least cost is followed: a limit that cuts it off may hide
    a dearer one that would have kept it. The answer says whether that can have been.

    Args:
        question: where it is looked for.
        amount_msat: for the payee.
        max_fee_msat: that the way may cost.
        weights: what counts.
        steps: edges that it may look at before it gives up.

    Raises:
        CommandError: the request's budget of steps is used up.
    """
    forward = _Forward(question, amount_msat, weights)
    backward = _Backward(question, amount_msat, max_fee_msat, weights, forward)
    if _meet(forward, backward) and backward.finish(steps):
        return found_by(question, backward.way()), backward.cut
    return None, backward.cut


def _most_cost(question: Question, max_fee_msat: int, weights: Weights) -> float:
    """Return what a way within the limits costs at most, where the cost is one of them."""
    request = question.request
    limits = ((CHEAPEST, max_fee_msat), (SHORTEST, request.max_hops))
    for limited, limit in (*limits, (FASTEST, request.max_cltv_expiry_delta)):
        if weights == limited:
            return float(limit)
    return inf


def _meet(forward: "_Forward", backward: "_Backward") -> bool:
    """Go on from both ends in turns until a node is reached for good from both."""
    while True:
        if backward.looked <= forward.looked:
            node = backward.step()
            if node is None:
                return False
            if forward.is_done[node]:
                return True
        else:
            node = forward.step()
            if node is None:
                return False
            if backward.is_done[node]:
                return True


class _Forward:
    """From the payer on: bounds of what it costs to get to a node.

    Attributes:
        least: by node; what is more than ``radius`` may still become less, but not than that.
        radius: so far the search has come.
        looked: edges that it has looked at.
    """

    def __init__(self, question: Question, amount_msat: int, weights: Weights) -> None:
        self.question = question
        self.weights = weights
        self.amount_msat = amount_msat
        self.least = [inf] * question.size
        self.least[question.source] = 0.0
        self.is_done = bytearray(question.size)
        self.radius = 0.0
        self.looked = 0
        self._heap = [(0.0, question.source)]

    def step(self) -> int | None:
        """Reach one more node for good; return it, None if there is no other."""
        heap, is_done = self._heap, self.is_done
        while heap:
            cost, node = heappop(heap)
            if not is_done[node]:
                is_done[node] = 1
                self.radius = cost
                self._expand(cost, node)
                return node
        return None

    def _expand(self, so_far: float, node: int) -> None:
        question, weights, amount = self.question, self.weights, self.amount_msat
        least, is_done, heap = self.least, self.is_done, self._heap
        skipped, ignored, used = question.skipped, question.ignored, question.used
        is_free = node == question.free
        is_special = bool(used or question.known)
        fees, hop_msat = weights.fees, weights.hop_msat
        block_msat = weights.block_msat + amount * weights.lock_per_block
        failure_msat = weights.failure_msat + amount * weights.failure_share
        risk_msat = amount * failure_msat
        edges = question.edges_from(node)
        self.looked += len(edges) + 1
        for edge in edges:
            key, _, target, base, millionths, blocks, _, most, share = edge
            if amount > most or is_done[target]:
                continue
            if is_free:
                cost = so_far + hop_msat
            else:
                fee = base + amount * millionths // 1_000_000
                cost = so_far + fee * fees + hop_msat + blocks * block_msat
            if is_special:
                chance = question.chance(edge, amount)
                if chance is None:
                    continue
                cost += chance * failure_msat
            else:
                cost += share * risk_msat
            if cost >= least[target] or key in skipped or target in ignored:
                continue
            least[target] = cost
            heappush(heap, (cost, target))


class _Label(NamedTuple):
    """The way from a node to the payee.

    Attributes:
        amount_msat: that the node gets.
        delta: blocks of the hops.
        length: how many hops.
        edge: the first one; None: it is the payee.
    """

    amount_msat: int
    delta: int
    length: int
    edge: EdgeTuple | None


class _Backward:
    """From the payee backwards: what is known of a node here is exact.

    Attributes:
        cut: for which limits ways were given up.
        looked: edges that it has looked at.
    """

    def __init__(
        self,
        question: Question,
        amount_msat: int,
        max_fee_msat: int,
        weights: Weights,
        forward: _Forward,
    ) -> None:
        self.question = question
        self.weights = weights
        self.cut = Cut()
        self.is_done = bytearray(question.size)
        self.looked = 0
        self._forward = forward
        self._bare_msat = amount_msat
        self._most_msat = amount_msat + max_fee_msat
        self._most_cost = _most_cost(question, max_fee_msat, weights)
        self._radius = 0.0
        self._is_led = False
        """The heap is ordered by the whole cost to the payer, as far as that is known."""
        self._least = [inf] * question.size
        self._least[question.payee] = 0.0
        self._labels = {question.payee: _Label(amount_msat, 0, 0, None)}
        self._heap = [(0.0, question.payee)]

    def step(self) -> int | None:
        """Reach one more node for good; return it, None if there is no other."""
        heap, is_done = self._heap, self.is_done
        bounds = self._forward.least
        while heap:
            cost, node = heappop(heap)
            if is_done[node]:
                continue
            beyond = 0.0 if self._is_led else min(bounds[node], self._forward.radius)
            if cost + beyond > self._most_cost:
                self._cut_by_cost()
                continue
            is_done[node] = 1
            if node != self.question.source:
                self._expand(node)
            return node
        return None

    def _cut_by_cost(self) -> None:
        if self.weights == CHEAPEST:
            self.cut.by_fee = True
        else:
            self.cut.by_others = True

    def finish(self, steps: float) -> bool:
        """Go on to the payer, led by what the other search found; whether it was reached."""
        source, is_done = self.question.source, self.is_done
        if is_done[source]:
            return True
        self._radius, bounds, self._is_led = self._forward.radius, self._forward.least, True
        least = self._least
        self._heap = [
            (least[node] + min(bounds[node], self._radius), node)
            for node in {node for _, node in self._heap}
            if not is_done[node]
        ]
        heapify(self._heap)
        while (node := self.step()) is not None:
            if node == source:
                return True
            if self.looked > steps:
                self.cut.by_steps = True
                break
        return False

    def way(self) -> list[EdgeTuple]:
        """Return the edges from the payer to the payee."""
        edges = []
        edge = self._labels[self.question.source].edge
        while edge is not None:
            edges.append(edge)
            edge = self._labels[edge[2]].edge
        return edges

    def _expand(self, node: int) -> None:  # noqa: C901, PLR0912, PLR0915 - the loop that everything waits for
        question, weights = self.question, self.weights
        least, is_done, heap, labels = self._least, self.is_done, self._heap, self._labels
        bounds, radius = self._forward.least, self._radius
        skipped, ignored, used = question.skipped, question.ignored, question.used
        source, free = question.source, question.free
        is_special = bool(used or question.known)
        bare_msat = self._bare_msat
        is_local = question.request.local is not None
        max_delta, most_msat = question.request.max_cltv_expiry_delta, self._most_msat
        so_far = least[node]
        amount, delta, length, _ = labels[node]
        if length >= question.request.max_hops:
            self.cut.by_others = True
            return
        length += 1
        fees, hop_msat = weights.fees, weights.hop_msat
        block_msat = weights.block_msat + amount * weights.lock_per_block
        failure_msat = weights.failure_msat + amount * weights.failure_share
        risk_msat = amount * failure_msat
        edges = question.edges_to(node)
        self.looked += len(edges) + 1
        for edge in edges:
            key, previous, _, base, millionths, blocks, minimum, most, share = edge
            if amount > most or is_done[previous] or amount < minimum:
                if bare_msat <= most < amount:
                    self.cut.by_fee = True
                continue
            if previous == source and is_local and key >= 0:
                continue
            if previous == free:
                fee = blocks = 0
            else:
                fee = base + amount * millionths // 1_000_000
            cost = so_far + fee * fees + hop_msat + blocks * block_msat
            if cost >= least[previous]:
                continue
            if is_special:
                chance = question.chance(edge, amount)
                if chance is None:
                    self.cut.by_fee = self.cut.by_fee or amount > bare_msat
                    continue
                cost += chance * failure_msat
            else:
                cost += share * risk_msat
            if cost >= least[previous] or key in skipped or previous in ignored:
                continue
            if amount + fee > most_msat:
                self.cut.by_fee = True
                continue
            if delta + blocks > max_delta:
                self.cut.by_others = True
                continue
            least[previous] = cost
            labels[previous] = _Label(amount + fee, delta + blocks, length, edge)
            beyond = bounds[previous] if bounds[previous] < radius else radius  # noqa: FURB136 - quick
            heappush(heap, (cost + beyond, previous))
