"""What an HTLC may meet: what a payer could have seen, and never less than all of one update."""

from itertools import pairwise

from hypothesis import given, settings, strategies as st

from back.announcing.maximum import RUNGS, coarse_msat
from back.relay.terms import ChannelTerms, Former, TermsInForce

GRACE_S = 600.0
TERMS = st.builds(
    ChannelTerms,
    fee_base_msat=st.integers(0, 3_000),
    fee_proportional_millionths=st.integers(0, 3_000),
    cltv_expiry_delta=st.integers(18, 200),
    htlc_minimum_msat=st.integers(1, 2_000),
    htlc_maximum_msat=st.integers(2_000, 10_000_000),
)
HISTORY = st.lists(st.tuples(TERMS, st.floats(0, 400)), min_size=1, max_size=12)
"""Terms, and for how many seconds each held."""


def meets(amount: int, fee: int, delta: int, terms: ChannelTerms) -> bool:
    return (
        terms.htlc_minimum_msat <= amount <= terms.htlc_maximum_msat
        and fee >= terms.fee_msat(amount)
        and delta >= terms.cltv_expiry_delta
    )


def told(history: list[tuple[ChannelTerms, float]]) -> tuple[TermsInForce, list[float], float]:
    """What is in force after it all, when each began, and now."""
    now, began = 0.0, [0.0]
    in_force = TermsInForce(history[0][0])
    for (_, held_s), (terms, _) in pairwise(history):
        now += held_s
        began.append(now)
        in_force = in_force.replaced(terms, now, GRACE_S)
    return in_force, began, now + history[-1][1]


@settings(max_examples=200, deadline=None)
@given(HISTORY, st.data())
def test_an_htlc_that_meets_an_update_of_the_grace_is_accepted(
    history: list[tuple[ChannelTerms, float]], data: st.DataObject
) -> None:
    in_force, began, now = told(history)
    ended = [*began[1:], float("inf")]
    index = data.draw(st.integers(0, len(history) - 1))
    terms = history[index][0]
    amount = data.draw(st.integers(terms.htlc_minimum_msat, terms.htlc_maximum_msat))
    accepted = in_force.accepted(now, GRACE_S)
    if now - ended[index] < GRACE_S:
        fee, delta = terms.fee_msat(amount), terms.cltv_expiry_delta
        assert any(meets(amount, fee, delta, each) for each in accepted)


@settings(max_examples=200, deadline=None)
@given(
    HISTORY,
    st.integers(0, 12_000_000),
    st.integers(0, 50_000),
    st.integers(0, 250),
)
def test_an_htlc_below_every_update_of_the_grace_is_not(
    history: list[tuple[ChannelTerms, float]], amount: int, fee: int, delta: int
) -> None:
    in_force, began, now = told(history)
    ended = [*began[1:], float("inf")]
    live = [terms for (terms, _), end in zip(history, ended, strict=True) if now - end < GRACE_S]
    accepted = in_force.accepted(now, GRACE_S)
    assert set(accepted) <= set(live)
    assert accepted[0] == history[-1][0]
    if not any(meets(amount, fee, delta, each) for each in live):
        assert not any(meets(amount, fee, delta, each) for each in accepted)


@settings(max_examples=100, deadline=None)
@given(HISTORY, st.randoms(use_true_random=False))
def test_what_was_stored_is_in_force_again(
    history: list[tuple[ChannelTerms, float]], random: object
) -> None:
    in_force, _, now = told(history)
    former = list(in_force.former)
    random.shuffle(former)  # type: ignore[attr-defined]
    restored = TermsInForce.of(in_force.present, former)
    assert set(restored.accepted(now, GRACE_S)) == set(in_force.accepted(now, GRACE_S))


@given(TERMS, TERMS, st.integers(0, 12_000_000), st.integers(0, 50_000), st.integers(0, 250))
def test_terms_that_include_others_take_all_that_meets_them(
    wide: ChannelTerms, narrow: ChannelTerms, amount: int, fee: int, delta: int
) -> None:
    if wide.includes(narrow) and meets(amount, fee, delta, narrow):
        assert meets(amount, fee, delta, wide)


def test_only_so_much_of_the_past_is_kept() -> None:
    in_force = TermsInForce(ChannelTerms(0, 0, 18, 1, 2))
    for base in range(1, 200):
        in_force = in_force.replaced(ChannelTerms(base, 0, 18, 1, 2), base / 1000, GRACE_S)
    assert len(in_force.former) == 64
    assert in_force.former[0] == Former(ChannelTerms(198, 0, 18, 1, 2), 0.199)


# --- htlc_maximum_msat --------------------------------------------------------------------------


@given(
    st.integers(1_000, 1 << 50),
    st.lists(st.integers(-1_000, 1 << 51), min_size=1, max_size=30),
    st.integers(1, 100_000),
)
def test_only_rungs_are_ever_said_and_never_far_from_what_there_is(
    most: int, balances: list[int], least: int
) -> None:
    least = min(least, most)
    said: set[int] = set()
    present: int | None = None
    for balance in balances:
        present = coarse_msat(most, balance, least, present)
        said.add(present)
        assert least <= present <= most
        lowest = max(most >> RUNGS - 1, least)
        assert present * 3 <= balance * 4 or present == lowest
        # No rung that is twice as high would be there.
        assert present == most or balance * 16 < min(most, present * 4) * 15
    assert len(said) <= RUNGS


@given(
    st.integers(1_000, 1 << 50),
    st.integers(0, 1 << 50),
    st.lists(st.integers(-3, 3), max_size=20),
)
def test_a_balance_that_goes_to_and_fro_a_little_says_nothing(
    most: int, balance: int, steps: list[int]
) -> None:
    present = first = coarse_msat(most, balance, 1, None)
    changes = 0
    for step in steps:
        # Up to three times one percent of the rung.
        now = coarse_msat(most, balance + step * first // 100, 1, present)
        changes += now != present
        present = now
    assert changes <= 1
