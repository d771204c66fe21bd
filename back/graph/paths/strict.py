"""The cheapest way that is also short and fast enough, where plain searches found none. Pure.

A node may be reached by a cheap and slow way and by a dear and fast one, and only the second may
keep the limits. So several ways to a node are followed here: each that no cheaper one beats in both
blocks and hops.
"""

from heapq import heappop, heappush
from typing import NamedTuple

from back.graph.paths.network import EdgeTuple
from back.graph.paths.question import Question
from back.graph.paths.search import Found, found_by
from back.payment.route import MAX_HOPS

__all__ = ["search_strictly"]

WAYS = 16
"""To one node that are followed."""
STEPS = 400_000
"""Edges that are looked at."""


class _Way(NamedTuple):
    edge: EdgeTuple | None
    rest: "_Way | None"


def search_strictly(question: Question, amount_msat: int, max_fee_msat: int) -> Found | None:
    """Return the cheapest way for an amount within all limits; None if none was found in time.

    Raises:
        CommandError: the request's budget of steps is used up.
    """
    return _Strict(question, amount_msat, max_fee_msat).found()


class _Strict:
    def __init__(self, question: Question, amount_msat: int, max_fee_msat: int) -> None:
        self._question = question
        self._most_msat = amount_msat + max_fee_msat
        self._reached: dict[int, list[tuple[int, int]]] = {}
        self._number = 0
        start = _Way(None, None)
        self._heap = [(amount_msat, 0, 0, 0, question.payee, start)]

    def found(self) -> Found | None:
        question = self._question
        stop = question.steps_left - STEPS
        while self._heap and question.steps_left > stop:
            amount, delta, length, _, node, way = heappop(self._heap)
            if self._is_beaten(node, delta, length):
                continue
            if node == question.source:
                return found_by(question, _edges(way))
            self._reached.setdefault(node, []).append((delta, length))
            if length < question.request.max_hops:
                self._expand(amount, delta, length, node, way)
        return None

    def _is_beaten(self, node: int, delta: int, length: int) -> bool:
        reached = self._reached.get(node, ())
        return len(reached) >= WAYS or any(d <= delta and n <= length for d, n in reached)

    def _expand(self, amount: int, delta: int, length: int, node: int, way: _Way) -> None:
        question = self._question
        for edge in question.edges_to(node):
            _, previous, _, base, millionths, blocks, *_ = edge
            if not question.is_usable(edge, amount):
                continue
            fee = base + amount * millionths // 1_000_000
            if previous == question.free:
                fee = blocks = 0
            after = amount + fee, delta + blocks
            if after[0] > self._most_msat or after[1] > question.request.max_cltv_expiry_delta:
                continue
            if not self._is_beaten(previous, after[1], length + 1):
                self._number += 1
                heappush(self._heap, (*after, length + 1, self._number, previous, _Way(edge, way)))


def _edges(way: _Way) -> list[EdgeTuple]:
    edges: list[EdgeTuple] = []
    step: _Way | None = way
    while step is not None and step.edge is not None and len(edges) < MAX_HOPS:
        edges.append(step.edge)
        step = step.rest
    return edges
