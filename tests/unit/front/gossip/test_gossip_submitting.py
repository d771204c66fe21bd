"""Submissions: what is under way to the back, until it has decided."""

from dataclasses import replace
from itertools import pairwise

from support.gossip_intake import Link

from front.gossip.intake.budget import Account, IntakeRules
from front.gossip.intake.pending import Item
from front.gossip.intake.submitting import SubmitRules, Submitting
from shared.fabric.gossip import MAX_BYTES, MAX_ITEMS, decode_submission

RULES = SubmitRules(in_flight=250)
KINDS = {
    "ln.gossip.channel_announcement": 256,
    "ln.gossip.node_announcement": 257,
    "ln.gossip.channel_update": 258,
}


def submitting(rules: SubmitRules = RULES) -> Submitting:
    return Submitting("front-1", 1_000, rules)


def item(number: int, kind: int = 258, owner: Account | None = None, size: int = 8) -> Item:
    return Item(number.to_bytes(size, "big"), kind, number, 1, owner)


def peer(number: int) -> Account:
    return Account(Link(number), IntakeRules(), 0.0)


def taken(it: Submitting, now: float = 0.0) -> list[tuple[int, int, bytes]]:
    """Kind, number and announcement of everything that is submitted now."""
    found = []
    for subject, payload in it.take(now):
        submission = decode_submission(payload)
        assert submission.front == "front-1"
        numbers = range(submission.first_id, submission.first_id + len(submission.items))
        found += zip([KINDS[subject]] * len(numbers), numbers, submission.items, strict=True)
    return found


def test_each_announcement_goes_to_the_subject_of_its_kind_under_a_number_of_its_own():
    it = submitting()
    items = [item(number, kind) for number, kind in enumerate((256, 257, 258, 258))]
    for each in items:
        it.add(each)
    found = taken(it)
    assert sorted((kind, raw) for kind, _, raw in found) == [(i.type, i.raw) for i in items]
    assert sorted(number for _, number, _ in found) == [1_000, 1_001, 1_002, 1_003]
    assert {number: raw for _, number, raw in found} == {i.id: i.raw for i in items}


def test_a_submission_keeps_to_the_limits_of_the_fabric():
    it = submitting(replace(RULES, size=8 * MAX_BYTES))
    for number in range(150):
        it.add(item(number, 256, size=2_000))
        it.add(item(number, 258))
    payloads = [payload for _, payload in it.take(0.0)]
    for payload in payloads:
        items = decode_submission(payload).items
        assert len(items) <= MAX_ITEMS
        assert sum(len(raw) + 2 for raw in items) <= MAX_BYTES
    assert sum(len(decode_submission(payload).items) for payload in payloads) == 300


def test_the_longest_announcement_that_there_is_goes_alone():
    it = submitting()
    it.add(item(1, size=65_535))
    it.add(item(2, size=65_535))
    it.add(item(3, size=65_535))
    sizes = [len(decode_submission(payload).items) for _, payload in it.take(0.0)]
    assert sum(sizes) == 3


def test_so_many_of_a_kind_are_under_way_and_a_verdict_makes_room_for_another():
    it = submitting()
    for number in range(1_000):
        it.add(item(number))
    found = taken(it)
    assert len(found) == it.in_flight == RULES.in_flight
    assert not it.has_work
    assert not taken(it)
    it.verdict(found[0][1])
    assert it.has_work
    assert len(taken(it)) == 1


def test_so_many_bytes_are_under_way():
    it = submitting(replace(RULES, size=100_000))
    for number in range(100):
        it.add(item(number, size=1_000))
    assert 50 <= len(taken(it)) <= 51


def test_channels_without_end_delay_no_update():
    it = submitting()
    for number in range(1_000):
        it.add(item(number, 256))
    taken(it)
    it.add(item(5_000, 258))
    assert [(kind, raw) for kind, _, raw in taken(it)] == [(258, item(5_000).raw)]


def test_a_peer_with_much_lets_others_have_their_turn():
    it, greedy, modest = submitting(), peer(1), peer(2)
    for number in range(1_000):
        it.add(item(number, owner=greedy))
    it.add(item(5_000, owner=modest))
    assert item(5_000).raw in {raw for _, _, raw in taken(it)}


def test_what_of_a_peer_is_not_submitted_yet_can_be_taken_out():
    it, bad, good = submitting(), peer(1), peer(2)
    for number in range(300):
        it.add(item(number, owner=bad))
    before = len(taken(it))
    it.add(item(500, owner=good))
    dropped = it.drop(bad)
    assert before + len(dropped) == 300
    assert {each.owner for each in dropped} == {bad}
    for number in range(1_000, 1_000 + before):
        it.verdict(number)
    assert [raw for _, _, raw in taken(it)] == [item(500).raw]


def test_a_verdict_is_for_one_announcement_and_counts_once():
    it = submitting()
    one, other = item(1), item(2)
    it.add(one)
    it.add(other)
    taken(it)
    assert it.verdict(1_001) is other
    assert it.verdict(1_001) is None
    assert it.verdict(5) is None
    assert it.in_flight == 1


def test_what_is_done_is_not_submitted_wherever_it_was():
    it = submitting()
    waiting, later, flying = item(1), item(2), item(3)
    it.add(flying)
    it.add(later)
    taken(it)
    it.again(it.verdict(later.id), 0.0)
    it.add(waiting)
    for each in (waiting, later, flying):
        it.done(each)
    it.retry(1e6)
    assert not taken(it, 1e6)
    assert it.in_flight == 0


def test_what_gets_no_verdict_is_submitted_again_and_ever_less_often():
    it = submitting()
    it.add(item(1))
    now, times, numbers = 0.0, [], set()
    while len(times) < 8:
        it.retry(now)
        for _, number, _ in taken(it, now):
            times.append(now)
            numbers.add(number)
        now += 0.5
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] == RULES.retry_s
    assert gaps[-1] == max(gaps) == RULES.retry_at_most_s
    assert len(numbers) == 8


def test_a_verdict_for_an_earlier_number_of_the_same_announcement_means_nothing():
    it = submitting()
    one = item(1)
    it.add(one)
    (_, first, _), *_ = taken(it)
    it.retry(60.0)
    taken(it, 60.0)
    assert it.verdict(first) is None
    assert it.verdict(one.id) is one


def test_what_the_back_wants_later_is_submitted_later():
    it = submitting()
    one = item(1)
    it.add(one)
    taken(it)
    assert it.again(it.verdict(one.id), 0.0)
    it.retry(RULES.retry_s - 0.1)
    assert not taken(it, RULES.retry_s - 0.1)
    it.retry(RULES.retry_s)
    assert len(taken(it, RULES.retry_s)) == 1


def test_days_without_a_back_do_not_count_as_its_wish_to_come_again_later():
    it = submitting()
    one = item(1)
    it.add(one)
    for hour in range(24 * 7):
        it.retry(hour * 3_600.0)
        taken(it, hour * 3_600.0)
    assert one.attempts > 100
    assert it.again(it.verdict(one.id), 0.0)


def test_a_back_that_always_wants_it_later_is_not_asked_for_ever():
    it = submitting(replace(RULES, postponed=3))
    one, now, asked = item(1), 0.0, 0
    it.add(one)
    while True:
        it.retry(now)
        asked += len(taken(it, now))
        if not it.again(it.verdict(one.id), now):
            break
        now += RULES.later_at_most_s
    assert asked == 4
