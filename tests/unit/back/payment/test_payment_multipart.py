"""When HTLCs that pay together are complete, and when all of them fail."""

from collections.abc import Sequence

from hypothesis import given, strategies as st

from back.payment.multipart import (
    MAX_PARTS,
    MAX_SURPLUS_MSAT,
    MPP_TIMEOUT_S,
    Abandoned,
    Again,
    Complete,
    Held,
    Part,
    Set,
    TooMuch,
    Verdict,
    join,
    overdue,
    without,
)

TOTAL = 10_000_000
CLTV = 500


def part(number: int, amount_msat: int, surplus_msat: int = 0, cltv: int = CLTV) -> Part:
    return Part(number % 3, number, amount_msat + surplus_msat, amount_msat, cltv)


def held(*amounts: int) -> Set:
    return Set(TOTAL, 5.0, tuple(part(number, amount) for number, amount in enumerate(amounts)))


def test_a_first_part_begins_a_set_and_waits() -> None:
    assert join(None, part(0, 1), TOTAL, 5.0) == Held(held(1))


def test_the_part_that_keeps_the_promise_completes_the_set() -> None:
    waiting = held(6_000_000)
    assert join(waiting, part(1, 3_999_999), TOTAL, 6.0) == Held(held(6_000_000, 3_999_999))
    assert join(waiting, part(1, 4_000_000), TOTAL, 6.0) == Complete(held(6_000_000, 4_000_000))


def test_one_part_may_pay_all() -> None:
    assert join(None, part(0, TOTAL), TOTAL, 5.0) == Complete(held(TOTAL))


def test_what_nodes_on_the_way_gave_away_does_not_count() -> None:
    assert isinstance(join(held(6_000_000), part(1, 3_999_999, 1), TOTAL, 6.0), Held)


def test_a_set_waits_from_its_first_part_on() -> None:
    verdict = join(held(1), part(1, 1), TOTAL, 50.0)
    assert isinstance(verdict, Held)
    assert verdict.set.began_s == 5.0


def test_another_promise_ends_the_set() -> None:
    verdict = join(held(1), part(1, TOTAL), TOTAL + 1, 6.0)
    assert verdict == Abandoned(held(1, TOTAL), has_timed_out=False)


def test_the_same_htlc_is_counted_once() -> None:
    assert join(held(1, 2), part(1, 2), TOTAL, 6.0) == Again()


def test_twice_the_promise_is_the_most_or_a_little_more_than_a_small_one() -> None:
    assert isinstance(join(held(1), part(1, 2 * TOTAL - 1), TOTAL, 6.0), Complete)
    assert join(held(1), part(1, 2 * TOTAL), TOTAL, 6.0) == TooMuch()
    assert isinstance(join(None, part(0, 1 + MAX_SURPLUS_MSAT), 1, 6.0), Complete)
    assert join(None, part(0, 2 + MAX_SURPLUS_MSAT), 1, 6.0) == TooMuch()


def test_a_set_has_so_many_parts_and_no_more() -> None:
    full = held(*[1] * (MAX_PARTS - 1))
    verdict = join(full, part(99, 1), TOTAL, 6.0)
    assert isinstance(verdict, Abandoned)
    assert verdict.has_timed_out
    assert len(verdict.set.parts) == MAX_PARTS
    assert isinstance(join(full, part(99, TOTAL), TOTAL, 6.0), Complete)


def test_a_set_is_given_up_a_minute_after_its_first_part() -> None:
    assert MPP_TIMEOUT_S >= 60
    assert not overdue(held(1), 5.0 + MPP_TIMEOUT_S - 0.1, CLTV)
    assert "in time" in overdue(held(1), 5.0 + MPP_TIMEOUT_S, CLTV)
    assert not overdue(held(TOTAL), 5.0 + MPP_TIMEOUT_S, CLTV)


def test_a_set_is_given_up_while_each_of_its_htlcs_can_still_be_claimed() -> None:
    assert not overdue(held(1), 5.0, CLTV)
    assert "too soon" in overdue(held(TOTAL), 5.0, CLTV + 1)


def test_what_is_lost_to_the_chain_does_not_count_any_more() -> None:
    waiting = held(1, 2, 4)
    assert without(waiting, frozenset({(1, 1)})) == Set(TOTAL, 5.0, (part(0, 1), part(2, 4)))
    assert without(waiting, frozenset({(0, 0), (1, 1), (2, 2)})) is None


amounts = st.lists(st.integers(1, TOTAL), min_size=1, max_size=12)


@given(amounts=amounts, order=st.randoms(use_true_random=False), twice=st.booleans())
def test_in_any_order_a_set_is_complete_when_the_promise_is_kept_and_not_before(
    amounts: Sequence[int], order: object, twice: bool
) -> None:
    parts = [part(number, amount) for number, amount in enumerate(amounts)]
    order.shuffle(parts)  # type: ignore[attr-defined]
    waiting: Set | None = None
    brought = 0
    for each in parts:
        verdict: Verdict = join(waiting, each, TOTAL, 0.0)
        brought += each.amt_to_forward_msat
        if brought >= TOTAL:
            assert isinstance(verdict, Complete)
            assert verdict.set.forwarded_msat == verdict.set.received_msat == brought
            return
        assert isinstance(verdict, Held)
        waiting = verdict.set
        assert waiting.forwarded_msat == brought
        if twice:
            assert join(waiting, each, TOTAL, 0.0) == Again()
