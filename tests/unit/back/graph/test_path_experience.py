"""What attempts taught of channels, and how it fades."""

import pytest
from hypothesis import given, settings, strategies as st

from back.graph.paths.experience import HALF_LIFE_S, PERMANENT_S, Bounds, Experience, is_faded
from back.graph.paths.network import Network, Terms
from back.graph.paths.question import Question
from back.payment.route import Lesson, RouteRequest

NODE, OTHER = b"\x02" + bytes(32), b"\x03" + bytes(32)
NOW = 1_000_000.0
CAPACITY = 1_000_000


def lesson(msat: int, *, passed: bool, at_s: float = NOW, is_permanent: bool = False) -> Lesson:
    return Lesson(1, NODE, msat, passed, at_s, is_permanent)


def after(*lessons: Lesson) -> Bounds:
    bounds = Bounds()
    for one in lessons:
        bounds = bounds.taught(one)
    return bounds


def test_nothing_is_known_at_first() -> None:
    assert Bounds().at(NOW, CAPACITY) == (0, CAPACITY)


def test_what_passed_and_what_did_not_are_bounds_that_fade_by_half_in_an_hour() -> None:
    bounds = after(lesson(200_000, passed=True), lesson(600_000, passed=False))
    assert bounds.at(NOW, CAPACITY) == (200_000, 600_000)
    assert bounds.at(NOW + HALF_LIFE_S, CAPACITY) == (100_000, 800_000)
    low, high = bounds.at(NOW + 30 * HALF_LIFE_S, CAPACITY)
    assert low < 1
    assert high > CAPACITY - 1


def test_a_later_success_refutes_a_failure_with_less() -> None:
    bounds = after(lesson(300_000, passed=False), lesson(400_000, passed=True))
    assert bounds.at(NOW, CAPACITY) == (400_000, CAPACITY)


def test_a_later_failure_refutes_a_success_with_more() -> None:
    bounds = after(lesson(400_000, passed=True), lesson(300_000, passed=False))
    assert bounds.at(NOW, CAPACITY) == (299_999, 300_000)


def test_a_failure_with_more_does_not_make_an_old_one_fresh() -> None:
    old = lesson(10_000, passed=False, at_s=NOW - 5 * HALF_LIFE_S)
    assert after(old, lesson(900_000, passed=False)).at(NOW, CAPACITY)[1] == 900_000
    recent = lesson(10_000, passed=False, at_s=NOW - HALF_LIFE_S / 2)
    assert after(recent, lesson(900_000, passed=False)).at(NOW, CAPACITY)[1] < 400_000


def test_a_channel_that_will_never_do_is_closed_for_a_while_or_until_something_passes() -> None:
    closed = after(lesson(1, passed=False, is_permanent=True))
    assert closed.closed_until_s == NOW + PERMANENT_S
    assert after(lesson(1, passed=False, is_permanent=True), lesson(1, passed=True))[4] == 0


def test_lessons_fade_in_a_day() -> None:
    assert not is_faded(lesson(1, passed=True), NOW + 23 * 3600)
    assert is_faded(lesson(1, passed=True), NOW + 25 * 3600)


def test_only_so_many_directions_are_remembered_the_last_ones_taught() -> None:
    experience = Experience(kept=2)
    experience.learn(
        (Lesson(scid, NODE, 5, True, NOW) for scid in (1, 2, 1, 3)), lambda scid, node: (scid, node)
    )
    assert list(experience.bounds) == [(1, NODE), (3, NODE)]


lessons = st.builds(
    lesson,
    st.integers(1, 2 * CAPACITY),
    passed=st.booleans(),
    at_s=st.floats(NOW, NOW + 10 * HALF_LIFE_S),
    is_permanent=st.booleans(),
)


@settings(max_examples=200)
@given(taught=st.lists(lessons, max_size=6), now=st.floats(NOW, NOW + 20 * HALF_LIFE_S))
def test_the_bounds_are_always_in_order_and_within_the_capacity(
    taught: list[Lesson], now: float
) -> None:
    low, high = after(*taught).at(now, CAPACITY)
    assert 0 <= low <= high <= CAPACITY


@settings(max_examples=200)
@given(
    taught=st.lists(lessons, max_size=6),
    amounts=st.tuples(st.integers(1, CAPACITY), st.integers(1, CAPACITY)),
)
def test_more_is_never_likelier_to_pass(taught: list[Lesson], amounts: tuple[int, int]) -> None:
    network = Network()
    network.add(1, (NODE, OTHER), CAPACITY)
    network.put(2, Terms(0, 0, 0, 1, CAPACITY))
    experience = Experience()
    experience.learn(taught, lambda scid, node_id: network.key(scid, node_id) or 0)
    asked = RouteRequest(NODE, OTHER, 1, 0, unix_s=NOW + 11 * HALF_LIFE_S)
    question = Question(network, experience, asked)
    (edge,) = question.edges_to(question.payee)
    less, more = (question.chance(edge, amount) for amount in sorted(amounts))
    if more is not None:
        assert less is not None
        assert 0 <= less <= more


def test_one_channel_in_both_directions_has_two_sets_of_bounds() -> None:
    network = Network()
    network.add(1, (NODE, OTHER), CAPACITY)
    assert (network.key(1, NODE), network.key(1, OTHER)) == (2, 3)
    assert network.key(1, b"\x02" + bytes([1]) * 32) is None


@pytest.mark.parametrize("at_s", [NOW, NOW - 100])
def test_a_clock_that_went_back_makes_nothing_stranger(at_s: float) -> None:
    bounds = after(lesson(200_000, passed=True), lesson(600_000, passed=False))
    assert bounds.at(at_s, CAPACITY) == (200_000, 600_000)
