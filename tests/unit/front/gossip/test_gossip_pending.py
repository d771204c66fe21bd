"""Queues, holds, memories and budgets of announcements on their way."""

from dataclasses import replace

import pytest
from support.gossip_intake import Link

from front.gossip.intake.budget import Account, Budget, IntakeRules
from front.gossip.intake.pending import TURN, FairQueue, Holds, Item, Memory

RULES = IntakeRules()


def account(number: int = 1, rules: IntakeRules = RULES, **link) -> Account:
    return Account(Link(number, **link), rules, 0.0)


def item(number: int, owner: Account | None = None, *, key: int | bytes = 7, kind: int = 258):
    return Item(number.to_bytes(4, "big"), kind, key, 4 if kind == 256 else 1, owner)


# --- FairQueue ------------------------------------------------------------------------------------


def test_items_of_one_peer_are_taken_in_their_order():
    queue, peer = FairQueue(), account()
    items = [item(number, peer) for number in range(40)]
    for each in items:
        queue.add(each)
    assert queue.take(10) + queue.take(100) == items
    assert not queue


def test_a_peer_with_little_waits_for_one_turn_of_a_peer_with_much():
    queue, greedy, modest = FairQueue(), account(1), account(2)
    for number in range(1_000):
        queue.add(item(number, greedy))
    queue.add(item(5_000, modest))
    taken = queue.take(TURN + 1)
    assert [each.owner for each in taken] == [greedy] * TURN + [modest]


def test_turns_are_of_signatures_and_not_of_announcements():
    queue, channels, updates = FairQueue(), account(1), account(2)
    for number in range(100):
        queue.add(item(number, channels, kind=256))
        queue.add(item(number + 1_000, updates))
    taken = queue.take(2 * TURN)
    assert sum(each.cost for each in taken if each.owner is channels) == TURN
    assert sum(each.cost for each in taken if each.owner is updates) == TURN


def test_what_an_old_table_had_has_its_turn_too():
    queue, peer = FairQueue(), account()
    for number in range(100):
        queue.add(item(number, peer))
    queue.add(item(1_000))
    assert any(each.owner is None for each in queue.take(TURN + 1))


def test_dropping_a_peer_takes_all_of_its_and_nothing_of_others():
    queue, bad, good = FairQueue(), account(1), account(2)
    for number in range(10):
        queue.add(item(number, bad))
        queue.add(item(number + 100, good))
    assert [each.owner for each in queue.drop(bad)] == [bad] * 10
    assert [each.owner for each in queue.take(100)] == [good] * 10
    assert not queue.drop(bad)
    assert not queue


# --- Holds ----------------------------------------------------------------------------------------


def held(holds: Holds, *dues: tuple[int, float]) -> list[Item]:
    items = []
    for number, (key, due) in enumerate(dues):
        items.append(item(number, key=key))
        items[-1].due = due
        holds.add(items[-1])
    return items


def test_a_key_releases_all_that_was_held_for_it():
    holds = Holds()
    one, other, third = held(holds, (7, 1.0), (8, 2.0), (7, 3.0))
    assert list(holds.release(7)) == [one, third]
    assert not holds.release(7)
    assert len(holds) == 1
    assert list(holds.clear()) == [other]
    assert not holds


def test_what_came_later_for_the_same_key_is_held_as_long_as_all_else():
    holds = Holds()
    one, other, third = held(holds, (7, 1.0), (8, 2.0), (7, 30.0))
    assert holds.expired(1.0) == [one]
    assert holds.expired(29.0) == [other]
    assert holds.expired(30.0) == [third]
    assert not holds


def test_only_so_much_expires_at_a_time_also_of_one_key():
    holds = Holds()
    items = held(holds, *[(7, 1.0)] * 25)
    assert holds.expired(2.0, limit=10) == items[:10]
    assert len(holds) == 15
    assert holds.expired(2.0, limit=100) == items[10:]
    assert not holds.expired(2.0)
    assert not holds


# --- Memory ---------------------------------------------------------------------------------------


def test_a_value_is_remembered_for_at_least_its_time_and_at_most_twice():
    memory: Memory[str] = Memory(10, 60.0)
    memory.put(1, "one", 0.0)
    memory.put(2, "two", 59.0)
    assert memory.get(1, 59.0) == memory.get(1, 119.0) == "one"
    assert memory.get(2, 119.0) == "two"
    assert memory.get(1, 181.0) is None
    assert memory.get(2, 181.0) is None


def test_twice_the_size_is_remembered_at_most_and_the_newest_always():
    memory: Memory[int] = Memory(10, 1e9)
    for key in range(1_000):
        memory.put(key, key, 1.0)
        assert memory.get(key, 1.0) == key
    assert 10 <= sum(memory.get(key, 1.0) is not None for key in range(1_000)) <= 20


def test_the_latest_value_counts():
    memory: Memory[str] = Memory(1, 60.0)
    memory.put(1, "old", 0.0)
    memory.put(2, "other", 0.0)
    memory.put(1, "new", 0.0)
    assert memory.get(1, 0.0) == "new"


# --- Account and Budget ---------------------------------------------------------------------------


def test_a_budget_returns_to_nothing_whatever_way_an_item_goes():
    budget, one, other = Budget(RULES, 0.0), account(1), account(2)
    items = [item(number, one) for number in range(4)]
    items[0].is_stray = items[1].is_stray = True
    for each in items:
        budget.add(each)
    assert (budget.items, budget.size, budget.strays) == (4, 16, 2)
    assert (one.items, one.size, one.held) == (4, 16, 2)
    budget.found(items[0])
    budget.found(items[0])
    assert budget.strays == one.held == 1
    budget.give(items[0], other)
    assert (other.items, other.size, one.items) == (1, 4, 3)
    for each in items:
        budget.remove(each)
    assert (budget.items, budget.size, budget.strays) == (0, 0, 0)
    assert (one.items, one.size, one.held, other.items, other.size) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("limit", ["items", "size"])
def test_whoever_fills_the_budget_leaves_room_for_the_next_one(limit):
    rules = replace(RULES, **{limit: 1_200})
    budget, newcomers = Budget(rules, 0.0), [account(n, rules) for n in range(6)]
    for newcomer in newcomers:
        for number in range(2_000):
            each = item(number, newcomer)
            if not budget.has_room(each, 0.0):
                break
            budget.add(each)
        assert newcomer.items
    assert budget.items < 1_200


def test_the_budget_of_all_is_never_exceeded():
    rules = replace(RULES, items=50)
    budget = Budget(rules, 0.0)
    for number in range(200):
        each = item(number, account(number, rules))
        if budget.has_room(each, 0.0):
            budget.add(each)
    assert budget.items == 50


def test_strays_have_a_limit_for_each_peer_and_for_all():
    rules = replace(RULES, peer_held=3, held=5)
    budget = Budget(rules, 0.0)

    def strays(owner: Account) -> int:
        for number in range(10):
            each = item(number, owner)
            each.is_stray = True
            if budget.has_room(each, 0.0):
                budget.add(each)
        return owner.held

    assert [strays(account(n, rules)) for n in range(3)] == [3, 2, 0]
    # what is known to be on its way has its place all the same
    assert budget.has_room(item(99, account(9, rules)), 0.0)


def test_signatures_beyond_the_burst_come_at_the_rate():
    rules = replace(RULES, peer_signature_burst=8, peer_signatures_per_s=4)
    budget, peer = Budget(rules, 0.0), account(1, rules)
    channels = [item(number, peer, kind=256) for number in range(4)]
    assert [budget.has_room(each, 0.0) for each in channels[:3]] == [True, True, False]
    assert budget.has_room(channels[3], 1.0)
    assert not budget.has_room(channels[3], 1.5)


def test_whether_a_peer_had_channels_is_known_after_it_left():
    partner, stranger = account(1, has_channels=True), account(2)
    for each in (partner, stranger):
        each.left()
        assert each.link is None
    assert partner.has_channels
    assert not stranger.has_channels
