"""Feerates are floored, capped, ordered and smoothed, whatever bitcoind says."""

from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from back.chain.feerates import (
    FALLBACK_PER_KW,
    FLOOR_PER_KW,
    TARGETS,
    FeerateLimits,
    Feerates,
    decide,
    per_kw_from_btc_per_kvb,
    sat_per_vb,
)

LIMITS = FeerateLimits()
RATES = st.one_of(st.none(), st.integers(0, 10_000_000))
ORDER = ["minimum", "slow", "closing", "funding", "commitment", "fast"]


def _values(feerates: Feerates) -> list[int]:
    return [getattr(feerates, f"{name}_per_kw") for name in ORDER]


SAMPLES = st.tuples(st.fixed_dictionaries(dict.fromkeys(TARGETS, RATES)), st.integers(0, 10**7))


@given(st.lists(SAMPLES, min_size=1, max_size=8))
def test_feerates_stay_in_bounds_and_in_order(
    samples: list[tuple[dict[str, int | None], int]],
) -> None:
    feerates: Feerates | None = None
    for estimates, minimum in samples:
        feerates = decide(estimates, minimum, feerates, LIMITS)
        values = _values(feerates)
        assert values == sorted(values)
        assert values[0] >= LIMITS.floor_per_kw
        assert values[-1] <= LIMITS.ceiling_per_kw
        assert values[0] >= min(minimum, LIMITS.ceiling_per_kw)


def test_without_estimates_the_fallback_is_used() -> None:
    feerates = decide({}, FLOOR_PER_KW, None, LIMITS)
    assert _values(feerates) == [FLOOR_PER_KW] + [FALLBACK_PER_KW] * 5
    assert feerates == Feerates()


def test_a_full_mempool_raises_everything_at_once() -> None:
    before = decide({}, FLOOR_PER_KW, None, LIMITS)
    assert set(_values(decide({}, 20_000, before, LIMITS))) == {20_000}


def test_estimates_are_approached_quicker_up_than_down_and_reached() -> None:
    flat = dict.fromkeys(TARGETS, 1000)
    start = decide(flat, FLOOR_PER_KW, None, LIMITS)
    up = decide(dict.fromkeys(TARGETS, 9000), FLOOR_PER_KW, start, LIMITS)
    assert up.commitment_per_kw == 5_000
    down = decide(flat, FLOOR_PER_KW, up, LIMITS)
    assert down.commitment_per_kw == 4_000
    for _ in range(60):
        down = decide(flat, FLOOR_PER_KW, down, LIMITS)
    assert down == start


def test_a_missing_estimate_is_taken_from_the_next_longer_target() -> None:
    feerates = decide({"slow": 600, "commitment": 4_000}, FLOOR_PER_KW, None, LIMITS)
    assert _values(feerates) == [FLOOR_PER_KW, 600, 600, 600, 4_000, 4_000]


@pytest.mark.parametrize(
    ("btc_per_kvb", "per_kw"),
    [
        ("0.00001", 250),
        ("0.00001001", 251),
        ("0.0001", 2_500),
        ("0.00000001", 1),
        ("0.015", 375_000),
    ],
)
def test_bitcoinds_unit_is_rounded_up(btc_per_kvb: str, per_kw: int) -> None:
    assert per_kw_from_btc_per_kvb(Decimal(btc_per_kvb)) == per_kw


@given(st.integers(FLOOR_PER_KW, 1_000_000))
def test_a_feerate_survives_the_way_to_bitcoind_exactly(per_kw: int) -> None:
    assert Decimal(sat_per_vb(per_kw)) * 250 == per_kw
