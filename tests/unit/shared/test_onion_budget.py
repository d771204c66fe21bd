"""How many onion messages peers may send, each of them and all together."""

import pytest

from shared.onion_budget import OnionBudget, OnionLimits, Over

LIMITS = OnionLimits(
    messages_per_s=10, stranger_messages_per_s=2, bytes_per_s=50_000, total_messages_per_s=100
)
SMALL, LARGE = 1_403, 32_871


def peer(number: int) -> bytes:
    return b"\x02" + number.to_bytes(32, "big")


def taken(
    budget: OnionBudget, times: int, *, who: int = 1, size: int = SMALL, known: bool = True
) -> int:
    """How many of so many messages at once are let through, at second 0."""
    return sum(
        budget.take(peer(who), size, has_channels=known, now=0.0) is None for _ in range(times)
    )


def test_a_peer_with_channels_may_send_five_seconds_worth_at_once() -> None:
    assert taken(OnionBudget(LIMITS, 0.0), 200) == 50


def test_a_peer_without_channels_may_send_less() -> None:
    assert taken(OnionBudget(LIMITS, 0.0), 200, known=False) == 13


def test_what_was_used_comes_back_with_time() -> None:
    budget = OnionBudget(LIMITS, 0.0)
    taken(budget, 200)
    assert budget.take(peer(1), SMALL, has_channels=True, now=0.05) is Over.PEER
    assert budget.take(peer(1), SMALL, has_channels=True, now=0.12) is None
    assert budget.take(peer(1), SMALL, has_channels=True, now=0.12) is Over.PEER


def test_a_large_message_counts_as_its_bytes() -> None:
    assert taken(OnionBudget(LIMITS, 0.0), 200, size=LARGE) == 50 // (LARGE / 5_000) == 7


@pytest.mark.parametrize("known", [True, False])
def test_the_largest_message_is_let_through_whatever_the_rate(known: bool) -> None:
    slow = OnionLimits(0.1, 0.01, 500, 0.1)
    budget = OnionBudget(slow, 0.0)
    assert budget.take(peer(1), 0xFFFF, has_channels=known, now=0.0) is None
    assert budget.take(peer(1), 0xFFFF, has_channels=known, now=0.0) is Over.PEER


def test_a_thousand_strangers_leave_half_to_peers_with_channels() -> None:
    budget = OnionBudget(LIMITS, 0.0)
    let_through = sum(taken(budget, 10, who=number, known=False) for number in range(1_000))
    assert let_through == 250
    assert budget.take(peer(5_000), SMALL, has_channels=False, now=0.0) is Over.STRANGERS
    assert sum(taken(budget, 50, who=6_000 + number) for number in range(100)) == 250
    assert budget.take(peer(7_000), SMALL, has_channels=True, now=0.0) is Over.TOTAL


def test_a_first_channel_gives_a_peer_the_budget_of_those_with_channels() -> None:
    budget = OnionBudget(LIMITS, 0.0)
    assert taken(budget, 100, known=False) == 13
    assert taken(budget, 100, known=True) == 50


def test_many_peers_do_not_fill_the_memory() -> None:
    budget = OnionBudget(LIMITS, 0.0)
    for number in range(30_000):
        budget.take(peer(number), SMALL, has_channels=True, now=0.0)
    assert len(budget._peers) == 20_000
