"""Routes that together carry an amount: one if there is one, else several. Pure."""

from back.graph.paths.search import CHEAPEST, SHORTEST, USUAL, Found, Search
from back.payment.route import Route
from shared.errors import CommandError

__all__ = ["find_routes"]


def find_routes(search: Search) -> tuple[Route, ...]:
    """Return routes for a request; more than one only where it may be and must.

    The largest part that finds a way goes first, as large as that way carries, until nothing is
    left: few parts, which matters more than the last millisatoshi of fees.

    Raises:
        CommandError: there are none within the limits; says why.
    """
    request = search.request
    if search.most_to_payee_msat() < request.amount_msat:
        raise CommandError("route not found: the payee's channels cannot carry so much")
    left_msat, fee_left_msat = request.amount_msat, request.max_fee_msat
    routes: list[Route] = []
    was_limited = False
    while left_msat > 0:
        parts_left = request.max_parts - len(routes)
        found, amount_msat = _part(search, left_msat, fee_left_msat, parts_left)
        was_limited = was_limited or search.was_limited
        if found is None:
            raise CommandError(_why(was_limited=was_limited, parts_left=parts_left))
        carried = found.amounts_msat(amount_msat)
        for step, msat in zip(found.steps, carried, strict=True):
            search.used[step.edge[0]] = search.used.get(step.edge[0], 0) + msat
        routes.append(Route(amount_msat, found.hops))
        left_msat -= amount_msat
        fee_left_msat -= carried[0] - amount_msat
    return tuple(routes)


def _why(*, was_limited: bool, parts_left: int) -> str:
    if was_limited:
        return "route not found: every way is dearer, longer or slower than allowed"
    if parts_left <= 1:
        return "route not found"
    return "route not found: the channels on the way cannot carry so much"


def _part(
    search: Search, left_msat: int, fee_left_msat: int, parts_left: int
) -> tuple[Found | None, int]:
    """Return a way and how much to send by it: all that is left, or the most that finds one."""
    request = search.request
    amount_msat = left_msat
    least_msat = min(request.min_part_msat, left_msat)
    while parts_left > 0:
        found = _best(search, amount_msat, fee_left_msat)
        if found is not None:
            if amount_msat < left_msat:
                amount_msat = _most(search, found, amount_msat, left_msat, fee_left_msat)
            return found, amount_msat
        if parts_left == 1 or amount_msat // 2 < least_msat:
            break
        amount_msat //= 2
    return None, 0


def _best(search: Search, amount_msat: int, max_fee_msat: int) -> Found | None:
    """Return the best way; where limits forbid that, the cheapest or the shortest one."""
    for weights in (USUAL, CHEAPEST, SHORTEST):
        found = search.route(amount_msat, max_fee_msat, weights)
        if found is not None or not search.was_limited:
            return found
    return None


def _most(search: Search, found: Found, found_msat: int, left_msat: int, fee_left_msat: int) -> int:
    """Return the most that a way carries; it carries what it was found for."""
    low_msat, high_msat = found_msat, left_msat
    while low_msat < high_msat:
        middle_msat = (low_msat + high_msat + 1) // 2
        if _fits(search, found, middle_msat, fee_left_msat):
            low_msat = middle_msat
        else:
            high_msat = middle_msat - 1
    rest_msat = left_msat - low_msat
    least_msat = search.request.min_part_msat
    smaller_msat = low_msat - least_msat
    if 0 < rest_msat < least_msat and _fits(search, found, smaller_msat, fee_left_msat):
        # A last part that is too small for most channels finds no way.
        return smaller_msat
    return low_msat


def _fits(search: Search, found: Found, amount_msat: int, fee_left_msat: int) -> bool:
    carried = found.amounts_msat(amount_msat)
    if amount_msat <= 0 or carried[0] - amount_msat > fee_left_msat:
        return False
    return all(
        step.edge[5] <= msat <= search.most_msat(step.edge)
        for step, msat in zip(found.steps, carried, strict=True)
    )
