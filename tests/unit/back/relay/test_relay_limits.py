"""How much of a channel one peer may fill: channel jamming stays local."""

from dataclasses import replace

import pytest

from back.relay.limits import ForwardLimits, Load, PendingForwards, refusal

LIMITS = ForwardLimits(
    peer_slot_share=0.5,
    peer_value_share=0.5,
    small_htlc_msat=1_000_000,
    small_slot_share=0.75,
    peer_max_pending=20,
)
EMPTY = Load(slots=10, value_msat=100_000_000)
LARGE = 5_000_000
SMALL = 999_999
ALICE, BOB = b"\x02" * 33, b"\x03" * 33


def why(amount_msat: int = LARGE, **load: int) -> str:
    return refusal(EMPTY._replace(**load), amount_msat, LIMITS)


def test_an_empty_channel_takes_anything() -> None:
    assert why() == ""
    assert why(SMALL) == ""
    assert why(100_000_000) == "", "htlc_maximum_msat is no business of limits"


def test_one_peer_has_a_share_of_the_slots() -> None:
    assert why(peer_slots=4) == ""
    assert why(peer_slots=5) == "peer_slots"


def test_one_peer_has_a_share_of_the_amount_from_the_second_htlc_on() -> None:
    assert why(49_000_000, peer_slots=1, peer_msat=1_000_000) == ""
    assert why(49_000_001, peer_slots=1, peer_msat=1_000_000) == "peer_value"
    assert why(1_000_000, peer_slots=1, peer_msat=100_000_000) == "peer_value"


def test_small_htlcs_leave_slots_to_larger_ones() -> None:
    assert why(SMALL, small_slots=6) == ""
    assert why(SMALL, small_slots=7) == "small_slots"
    assert why(SMALL + 1, small_slots=10) == ""


def test_one_peer_has_so_many_pending_in_all_channels() -> None:
    assert why(peer_pending=19) == ""
    assert why(peer_pending=20) == "peer_pending"


def test_a_channel_of_few_slots_has_one_for_everybody() -> None:
    assert why(slots=1) == ""
    assert why(SMALL, slots=1) == ""
    assert why(slots=1, peer_slots=1) == "peer_slots"


def test_limits_can_be_taken_away() -> None:
    none = ForwardLimits(1.0, 1.0, 0, 1.0, 1 << 30)
    full = Load(10, 100, small_slots=9, peer_slots=9, peer_msat=99, peer_pending=9_999)
    assert refusal(full, 1, none) == ""


@pytest.mark.parametrize("peer", [ALICE, BOB])
def test_what_is_pending_is_counted_by_peer_and_channel(peer: bytes) -> None:
    pending = PendingForwards(LIMITS)
    pending.began((1, 0), ALICE, 7, LARGE)
    pending.began((1, 1), ALICE, 7, SMALL)
    pending.began((1, 2), ALICE, 8, LARGE)
    pending.began((2, 0), BOB, 7, SMALL)
    load = pending.load(peer, 7, 10, 100)
    expected = {ALICE: (2, LARGE + SMALL, 3), BOB: (1, SMALL, 1)}[peer]
    assert (load.peer_slots, load.peer_msat, load.peer_pending) == expected
    assert (load.slots, load.value_msat, load.small_slots) == (10, 100, 2)


def test_each_forward_counts_once_and_is_forgotten_once() -> None:
    pending = PendingForwards(LIMITS)
    for _ in range(3):
        pending.began((1, 0), ALICE, 7, SMALL)
    # It goes into another channel with the same peer, after the first had no room.
    pending.began((1, 0), ALICE, 8, SMALL)
    assert pending.load(ALICE, 7, 10, 100) == Load(10, 100, peer_pending=1)
    assert pending.load(ALICE, 8, 10, 100) == Load(10, 100, 1, 1, SMALL, 1)
    for _ in range(3):
        pending.ended((1, 0))
    assert pending.load(ALICE, 8, 10, 100) == Load(10, 100)
    assert len(pending) == 0
    assert not pending._by_pair
    assert not pending._by_peer
    assert not pending._small


def test_two_peers_are_needed_to_fill_a_channel() -> None:
    limits = replace(LIMITS, small_htlc_msat=0)
    pending = PendingForwards(limits)

    def fill(peer: bytes, first_id: int) -> int:
        taken = 0
        while not refusal(pending.load(peer, 7, 10, 1 << 60), LARGE, limits):
            pending.began((1, first_id + taken), peer, 7, LARGE)
            taken += 1
        return taken

    assert fill(ALICE, 0) == 5
    assert fill(BOB, 100) == 5
