"""Which times a gossip_timestamp_filter asks for (BOLT 7)."""

import pytest

from front.gossip.answers.filter import TimestampFilter


@pytest.mark.parametrize(
    ("timestamp", "is_wanted"), [(99, False), (100, True), (109, True), (110, False)]
)
def test_a_span_starts_with_its_first_second_and_ends_before_its_last(timestamp, is_wanted) -> None:
    assert TimestampFilter(100, 10).accepts(timestamp) is is_wanted


@pytest.mark.parametrize("timestamp", [0, 100, 0xFFFFFFFF])
def test_no_range_is_nothing(timestamp: int) -> None:
    assert not TimestampFilter(100, 0).accepts(timestamp)


def test_a_span_may_go_on_beyond_the_end_of_time() -> None:
    everything_new = TimestampFilter(0xFFFFFF00, 0xFFFFFFFF)
    assert everything_new.accepts(0xFFFFFFFF)
    assert not everything_new.accepts(0)


def test_all_times_can_be_asked_for() -> None:
    everything = TimestampFilter(0, 0xFFFFFFFF)
    assert everything.accepts(0)
    assert everything.accepts(0xFFFFFFFE)
