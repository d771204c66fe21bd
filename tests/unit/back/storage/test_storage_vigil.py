"""When a standby may take the lease: polls are counted, clocks are not compared."""

from dataclasses import replace

from support.databases import NOWHERE, claimant

from back.storage.lease import LeaseRow
from back.storage.standby import POLL_S, UNCHANGED_POLLS, Verdict, Vigil

ROW = LeaseRow(0, "alice", 100, 5, 7, NOWHERE)


def watch(vigil: Vigil, row: LeaseRow, times: int, *, is_dead: bool = False) -> list[Verdict]:
    return [vigil.observe({0: row}, is_dead=is_dead) for _ in range(times)]


def test_the_figures_are_those_of_the_architecture() -> None:
    assert (POLL_S, UNCHANGED_POLLS) == (0.5, 8)


def test_an_owner_is_overdue_after_eight_polls_that_saw_nothing_new() -> None:
    vigil = Vigil(claimant("bob"))
    verdicts = watch(vigil, ROW, 1 + UNCHANGED_POLLS)
    assert verdicts == [Verdict.WAIT] * UNCHANGED_POLLS + [Verdict.OVERDUE]


def test_every_sign_of_life_starts_the_count_again() -> None:
    for change in ({"beat": 6}, {"commit_no": 8}, {"epoch": 101}):
        vigil = Vigil(claimant("bob"))
        watch(vigil, ROW, UNCHANGED_POLLS)
        alive = replace(ROW, **change)
        assert watch(vigil, alive, UNCHANGED_POLLS) == [Verdict.WAIT] * UNCHANGED_POLLS
        assert watch(vigil, alive, 1) == [Verdict.OVERDUE]


def test_a_poll_that_failed_gives_the_owner_its_time_again() -> None:
    vigil = Vigil(claimant("bob"))
    watch(vigil, ROW, UNCHANGED_POLLS)
    vigil.interrupted()
    assert watch(vigil, ROW, UNCHANGED_POLLS)[:-1] == [Verdict.WAIT] * (UNCHANGED_POLLS - 1)


def test_nobody_is_waited_for_who_left_or_never_was_or_is_dead() -> None:
    assert Vigil(claimant("bob")).observe({}, is_dead=False) is Verdict.TAKE
    assert watch(Vigil(claimant("bob")), replace(ROW, owner=""), 1) == [Verdict.TAKE]
    assert watch(Vigil(claimant("bob")), ROW, 1, is_dead=True) == [Verdict.TAKE]


def test_one_silent_owner_among_several_is_not_enough() -> None:
    vigil = Vigil(claimant("bob"))
    for beat in range(2 * UNCHANGED_POLLS):
        rows = {0: ROW, 1: replace(ROW, shard=1, beat=beat)}
        assert vigil.observe(rows, is_dead=False) is Verdict.WAIT
