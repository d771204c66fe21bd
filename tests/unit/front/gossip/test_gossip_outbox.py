"""What a peer asked for is sent as it reads, and neither before other things nor without end."""

from collections.abc import Iterator
from itertools import count, repeat

import pytest
from support.gossip_values import Reading

from front.gossip.answers.outbox import Outbox, OutboxRules
from shared.errors import Action, ProtocolViolation

KB = 1 << 10
RULES = OutboxRules(slice_s=60.0)
"""Only bytes end a turn, however slow the machine is."""
FRUGAL = OutboxRules(slice_s=60.0, burst=10_000.0, bytes_per_s=1_000.0)


def sized(size: int, name: bytes = b"x") -> bytes:
    return name * size


def flow(outbox: Outbox, link: Reading | None = None) -> None:
    """Write all that can be, by a peer that reads at once."""
    for _ in range(1_000):
        if not outbox.flow():
            return
        if link is not None:
            link.read()
    raise AssertionError("there is no end of it")


def fill(outbox: Outbox, link: Reading) -> None:
    """Write as much as a peer can be made to hold that does not read."""
    flow(outbox)
    assert link.unsent >= RULES.low_water


def counted(made: list[int]) -> Iterator[bytes]:
    for number in count():
        made.append(number)
        yield sized(KB)


# --- order ------------------------------------------------------------------------------------


def test_answers_are_sent_in_the_order_of_their_queries() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    for name in (b"a", b"b", b"c"):
        outbox.answer(iter([name, name]))
    flow(outbox)
    assert link.sent == [b"a", b"a", b"b", b"b", b"c", b"c"]
    assert not outbox.waits


def test_news_are_sent_before_answers_and_answers_before_history() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(iter([b"history"]))
    outbox.answer(iter([b"answer"]))
    outbox.tell(iter([b"news"]))
    flow(outbox)
    assert link.sent == [b"news", b"answer", b"history"]


def test_news_are_sent_in_the_middle_of_a_long_history() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB)))
    assert outbox.flow()
    link.read()
    outbox.tell(iter([b"news"]))
    outbox.flow()
    assert link.sent.index(b"news") == RULES.slice // KB


def test_news_are_sent_though_the_budget_is_used_up() -> None:
    link = Reading()
    outbox = Outbox(link, FRUGAL)
    outbox.dump(repeat(sized(KB)))
    flow(outbox, link)
    outbox.tell(iter([b"news"]))
    outbox.flow()
    assert link.sent[-1] == b"news"


def test_another_filter_replaces_the_history_of_the_one_before() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB, b"1")))
    outbox.flow()
    link.read()
    link.sent.clear()
    outbox.dump(iter([b"2"]))
    flow(outbox)
    assert link.sent == [b"2"]


# --- how much at once -------------------------------------------------------------------------


def test_a_turn_is_a_slice() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB)))
    assert outbox.flow()
    assert len(link.sent) == RULES.slice // KB


def test_a_turn_without_time_sends_nothing_and_goes_on() -> None:
    link = Reading()
    outbox = Outbox(link, OutboxRules(slice_s=-1.0))
    outbox.answer(iter([b"answer"]))
    assert outbox.flow()
    assert not link.sent


def test_steps_that_find_nothing_end_a_turn_too() -> None:
    outbox = Outbox(Reading(), RULES)
    outbox.dump(repeat(b""))
    assert outbox.flow()


def test_nothing_is_made_that_the_peer_has_no_room_for() -> None:
    link, made = Reading(), list[int]()
    outbox = Outbox(link, RULES)
    outbox.dump(counted(made))
    fill(outbox, link)
    assert len(made) == RULES.low_water // KB
    assert not outbox.flow()
    assert len(made) == RULES.low_water // KB
    link.read(10 * KB)
    flow(outbox)
    assert len(made) == RULES.low_water // KB + 10


def test_answers_that_wait_are_not_begun() -> None:
    made = list[int]()
    outbox = Outbox(Reading(), RULES)
    outbox.answer(repeat(sized(KB)))
    outbox.answer(counted(made))
    flow(outbox)
    assert not made


def test_nothing_is_sent_to_a_connection_that_ends() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.tell(iter([b"news"]))
    link.closing = True
    assert not outbox.flow()
    assert not link.sent


# --- how much in all --------------------------------------------------------------------------


def test_a_query_while_four_wait_is_worth_a_warning_and_the_four_are_answered() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    for name in (b"1", b"2", b"3", b"4"):
        outbox.asked(replaces=False)
        outbox.answer(iter([name]))
    with pytest.raises(ProtocolViolation) as caught:
        outbox.asked(replaces=False)
    assert caught.value.action is Action.WARN
    outbox.asked(replaces=True)
    flow(outbox)
    assert link.sent == [b"1", b"2", b"3", b"4"]
    outbox.asked(replaces=False)


@pytest.mark.parametrize("message", [sized(KB), b""], ids=["announcements", "pauses"])
def test_the_budget_bounds_what_is_made_at_once_and_then_what_is_made_a_second(message) -> None:
    made: list[bytes] = []

    def steps() -> Iterator[bytes]:
        while True:
            made.append(message)
            yield message

    link = Reading()
    outbox = Outbox(link, FRUGAL)
    outbox.dump(steps())
    flow(outbox, link)
    at_once = len(made)
    assert 0 < at_once <= 10
    for second in range(1, 101):
        outbox.check(float(second), 1.0)
        flow(outbox, link)
    assert len(made) <= at_once + 100
    assert len(made) >= at_once + 40


def test_many_filters_in_a_row_start_history_no_oftener_than_the_budget_allows() -> None:
    link = Reading()
    outbox = Outbox(link, FRUGAL)
    for _ in range(1_000):
        outbox.asked(replaces=True)
        outbox.dump(repeat(sized(KB)))
        outbox.flow()
        link.read()
    assert len(link.sent) <= 10


def test_queries_alone_use_up_the_budget() -> None:
    link = Reading()
    outbox = Outbox(link, FRUGAL)
    for _ in range(10):
        outbox.asked(replaces=True)
    outbox.answer(iter([b"answer"]))
    flow(outbox)
    assert not link.sent
    outbox.check(1.0, 20.0)
    flow(outbox)
    assert link.sent == [b"answer"]


def test_a_budget_fills_up_to_a_burst_and_not_beyond() -> None:
    link = Reading()
    outbox = Outbox(link, FRUGAL)
    outbox.check(1.0, 1e9)
    outbox.dump(repeat(sized(KB)))
    flow(outbox, link)
    assert len(link.sent) <= 10


def test_an_outbox_is_idle_when_nothing_waits_and_its_budget_is_whole() -> None:
    link = Reading()
    outbox = Outbox(link, FRUGAL)
    assert outbox.is_idle
    outbox.answer(iter([b"answer"]))
    assert not outbox.is_idle
    flow(outbox)
    assert not outbox.is_idle
    outbox.check(1.0, 1.0)
    assert outbox.is_idle


# --- who does not read ------------------------------------------------------------------------


def checked(outbox: Outbox, start: int, seconds: int) -> None:
    for tenth in range(10 * start + 1, 10 * (start + seconds) + 1):
        outbox.check(tenth / 10, 0.1)
        flow(outbox)


@pytest.mark.parametrize("is_told_news", [False, True])
def test_a_peer_that_never_reads_is_given_up(is_told_news: bool) -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    (outbox.tell if is_told_news else outbox.dump)(repeat(sized(KB)))
    fill(outbox, link)
    checked(outbox, 0, 119)
    assert not link.offences
    checked(outbox, 119, 3)
    ((text, disconnects),) = link.offences
    assert "nothing read" in text
    assert disconnects
    assert not outbox.waits


def test_a_peer_is_given_up_though_it_has_us_write_pongs_that_it_never_reads() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB)))
    fill(outbox, link)
    for second in range(125):
        checked(outbox, second, 1)
        link.unsent += 100
    assert len(link.offences) == 1


@pytest.mark.parametrize("size", [1, 10 * KB, 80 * KB])
def test_a_peer_that_reads_a_little_every_minute_is_kept(size: int) -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB)))
    fill(outbox, link)
    for minute in range(20):
        checked(outbox, 60 * minute, 60)
        link.read(size)
    assert not link.offences
    assert outbox.waits


def test_a_peer_is_kept_whose_room_is_filled_again_between_two_looks_at_it() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB)))
    fill(outbox, link)
    for minute in range(20):
        before = link.unsent
        link.read(10 * KB)
        flow(outbox)
        assert link.unsent == before
        checked(outbox, 60 * minute, 60)
    assert not link.offences


def test_a_peer_that_waits_for_its_budget_only_is_kept() -> None:
    link = Reading()
    outbox = Outbox(link, OutboxRules(slice_s=60.0, burst=10.0, bytes_per_s=0.001))
    outbox.dump(repeat(sized(KB)))
    flow(outbox, link)
    link.read()
    checked(outbox, 0, 600)
    assert outbox.waits
    assert not link.offences


def test_a_peer_that_asked_nothing_may_leave_unread_what_it_was_sent() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    link.unsent = 10 * RULES.low_water
    checked(outbox, 0, 600)
    assert not link.offences


def test_who_was_given_up_and_kept_for_its_channels_has_as_long_again() -> None:
    link = Reading()
    outbox = Outbox(link, RULES)
    outbox.dump(repeat(sized(KB)))
    fill(outbox, link)
    checked(outbox, 0, 200)
    outbox.dump(repeat(sized(KB)))
    checked(outbox, 200, 100)
    assert len(link.offences) == 1
    checked(outbox, 300, 30)
    assert len(link.offences) == 2
