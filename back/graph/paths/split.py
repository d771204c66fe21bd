"""Routes that together carry an amount: one if there is one, else several. Pure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from back.graph.paths.question import Question
from back.graph.paths.search import CHEAPEST, FASTEST, SHORTEST, USUAL, Found, search
from back.graph.paths.strict import search_strictly
from back.payment.route import Route
from shared.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from back.graph.paths.network import EdgeTuple

__all__ = ["find_route", "find_routes"]

PATIENCE = 50_000
"""Edges that the best way is worth; where limits hide it, that is too long already."""
LIKELY = 0.4
"""A single route that is less likely to work comes after parts that need less of each channel."""


def find_routes(question: Question) -> tuple[Route, ...]:
    """Return routes for a request; more than one only where it may be and must.

    Raises:
        CommandError: there are none within the limits; says why.
    """
    request = question.request
    if request.source == request.payee:
        raise CommandError("route not found: payer and payee are the same")
    if question.most_at_the_ends_msat() < request.amount_msat:
        raise CommandError("route not found: the channels of payer or payee cannot carry so much")
    return _Split(question).routes()


def find_route(
    question: Question, amount_msat: int, max_fee_msat: int
) -> tuple[Found | None, bool]:
    """Return a way for an amount, and whether limits of the request cut ways off.

    The best one; if limits forbid that, the cheapest; if others forbid that too, the fastest, the
    shortest, or one that is looked for thoroughly.
    """
    usual = USUAL.shaken(question.request.seed)
    found, cut = search(question, amount_msat, max_fee_msat, usual, PATIENCE)
    if found is not None or not cut:
        return found, False
    found, cut = search(question, amount_msat, max_fee_msat, CHEAPEST)
    for weights in (FASTEST, SHORTEST):
        if found is None and cut.by_others:
            found, _ = search(question, amount_msat, max_fee_msat, weights)
    if found is None and cut.by_others:
        found = search_strictly(question, amount_msat, max_fee_msat)
    return found, bool(cut)


@dataclass(frozen=True, slots=True)
class _Left:
    """What parts have to bring still.

    Attributes:
        amount_msat: to the payee.
        fee_msat: that they may cost.
        parts: that there may be.
    """

    amount_msat: int
    fee_msat: int
    parts: int


class _Split:
    """Several routes for one request.

    The first part is the largest that finds a way, as large as that way carries, and so on until
    nothing is left: few parts, which matters more than the last millisatoshi of fees.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._was_limited = False
        self._firsts: dict[int, tuple[Found | None, bool]] = {}
        """Ways of the first part by its amount: the same for both kinds of splitting."""
        self._most_msat: Callable[[EdgeTuple], int] = question.most_msat

    def routes(self) -> tuple[Route, ...]:
        request, question = self._question.request, self._question
        whole = self._find(request.amount_msat, request.max_fee_msat, is_first=True)
        single = () if whole is None else (Route(request.amount_msat, whole.hops),)
        if request.max_parts == 1:
            return single or self._refuse("")
        if whole is not None and self._likelihood(whole) >= LIKELY:
            return single
        held = dict(question.used)
        for most_msat in (question.likely_msat, question.most_msat):
            self._most_msat = most_msat
            question.used = dict(held)
            try:
                return self._parts()
            except CommandError:
                if single:
                    return single
                if most_msat == question.most_msat:
                    raise
        return single

    def _find(self, amount_msat: int, max_fee_msat: int, *, is_first: bool) -> Found | None:
        answer = self._firsts.get(amount_msat) if is_first else None
        if answer is None:
            answer = find_route(self._question, amount_msat, max_fee_msat)
        if is_first:
            self._firsts[amount_msat] = answer
        self._was_limited = self._was_limited or answer[1]
        return answer[0]

    def _likelihood(self, found: Found) -> float:
        likelihood = 1.0
        amounts = found.amounts_msat(self._question.request.amount_msat)
        for edge, msat in zip(found.edges, amounts, strict=True):
            likelihood *= 1.0 - (self._question.chance(edge, msat) or 0.0)
        return likelihood

    def _refuse(self, why: str) -> tuple[Route, ...]:
        if self._was_limited:
            why = ": every way is dearer, longer or slower than allowed"
        raise CommandError(f"route not found{why}")

    def _parts(self) -> tuple[Route, ...]:
        question, request = self._question, self._question.request
        left = _Left(request.amount_msat, request.max_fee_msat, request.max_parts)
        routes: list[Route] = []
        while left.amount_msat > 0:
            found, amount_msat = self._part(left)
            if found is None:
                return self._refuse(": the channels on the way cannot carry so much")
            carried = found.amounts_msat(amount_msat)
            for edge, msat in zip(found.edges, carried, strict=True):
                question.used[edge[0]] = question.used.get(edge[0], 0) + msat
            routes.append(Route(amount_msat, found.hops))
            fee_msat = carried[0] - amount_msat
            left = _Left(left.amount_msat - amount_msat, left.fee_msat - fee_msat, left.parts - 1)
        return tuple(routes)

    def _part(self, left: _Left) -> tuple[Found | None, int]:
        """Return a way and how much to send by it: all that is left, or the most that finds one."""
        question = self._question
        least_msat = min(question.request.min_part_msat, left.amount_msat)
        amount_msat = min(left.amount_msat, question.largest_at_the_ends_msat(left.fee_msat))
        is_first = left.amount_msat == question.request.amount_msat
        while left.parts > 0 and amount_msat >= least_msat:
            found = self._find(amount_msat, left.fee_msat, is_first=is_first)
            if found is not None:
                most_msat = self._most(found, left)
                if most_msat == left.amount_msat or (most_msat >= least_msat and left.parts > 1):
                    return found, most_msat
            if left.parts == 1:
                break
            amount_msat //= 2
        return None, 0

    def _most(self, found: Found, left: _Left) -> int:
        """Return the most that a way carries of what is left, 0 if it is too little for it."""
        low_msat, high_msat = 0, left.amount_msat
        while low_msat < high_msat:
            middle_msat = (low_msat + high_msat + 1) // 2
            if self._carries(found, middle_msat, left.fee_msat):
                low_msat = middle_msat
            else:
                high_msat = middle_msat - 1
        least_msat = self._question.request.min_part_msat
        if 0 < left.amount_msat - low_msat < least_msat < low_msat - least_msat:
            # A last part that is too small for most channels finds no way.
            low_msat -= least_msat
        carried = found.amounts_msat(low_msat)
        is_enough = all(e[6] <= msat for e, msat in zip(found.edges, carried, strict=True))
        return low_msat if is_enough else 0

    def _carries(self, found: Found, amount_msat: int, max_fee_msat: int) -> bool:
        carried = found.amounts_msat(amount_msat)
        return carried[0] - amount_msat <= max_fee_msat and all(
            msat <= self._most_msat(edge) for edge, msat in zip(found.edges, carried, strict=True)
        )
