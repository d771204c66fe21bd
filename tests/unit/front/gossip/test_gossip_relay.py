"""What peers are told of what the table took."""

from dataclasses import dataclass

import pytest
from support.gossip_links import (
    CHAIN,
    NOW_UNIX_S,
    FakeLink,
    channel_change,
    node_change,
    node_id,
    update_change,
)

from front.gossip.relay.relay import Relay, RelayRules
from front.gossip.relay.ring import Changed, Ring
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table

US = node_id(500)
NOBODY = frozenset()


@dataclass
class Since:
    """A filter for what is at least so new."""

    first: int = 0

    def accepts(self, timestamp):
        return timestamp >= self.first


class Broadcast:
    """A relay with its table, and what its peers got."""

    def __init__(self, rules=RelayRules()):  # noqa: B008
        self.table = Table()
        self.relay = Relay(US, CHAIN, lambda: self.table, rules)
        self.now = 0.0
        self.got = {}

    def join(self, number, *, wanted=Since(), **fields):  # noqa: B008
        link = FakeLink(node_id(number), **fields)
        self.got[link] = []
        self.relay.joined(link, self.now)
        if wanted is not None:
            self.relay.filtered(link, wanted)
        return link

    def change(self, *changes, senders=NOBODY):
        for change in changes:
            if self.table.apply(change):
                self.relay.changed(change, frozenset(senders))

    def due(self):
        flushes = list(self.relay.due(self.now))
        for link, raws in flushes:
            self.got[link] += [raw for raw in raws if raw]
        return flushes

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            self.due()

    def take(self, link):
        """What a peer got since it was last looked at."""
        got, self.got[link] = self.got[link], []
        return got


def raw_of(change):
    return change.value.raw if change.kind is Kind.CHANNEL else change.value


def raws(*changes):
    return [raw_of(change) for change in changes]


CHANNEL, FIRST, SECOND = channel_change(1), update_change(1, 0), update_change(1, 1)
OWN = channel_change(2, 500, 3)
"""We are its node_id_2."""
OURS, THEIRS = update_change(2, 1), update_change(2, 0)
OUR_NODE = node_change(500)


@pytest.fixture
def broadcast():
    return Broadcast()


def test_a_change_reaches_a_peer_at_its_next_flush_channel_first(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, FIRST, SECOND, node_change(1))
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST, SECOND, node_change(1))
    broadcast.run(200)
    assert broadcast.take(link) == []


def test_an_update_that_changed_twice_is_sent_once(broadcast):
    link = broadcast.join(9)
    newest = update_change(1, 0, NOW_UNIX_S + 2)
    broadcast.change(CHANNEL, FIRST, update_change(1, 0, NOW_UNIX_S + 1), newest)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, newest)


def test_without_a_filter_a_peer_is_told_nothing_of_others(broadcast):
    link = broadcast.join(9, wanted=None)
    broadcast.change(CHANNEL, FIRST)
    broadcast.run(130)
    assert broadcast.take(link) == []


def test_what_changed_before_the_filter_is_not_relayed(broadcast):
    link = broadcast.join(9, wanted=None)
    broadcast.change(CHANNEL, FIRST)
    broadcast.relay.filtered(link, Since())
    broadcast.change(SECOND)
    broadcast.run(61)
    assert broadcast.take(link) == raws(SECOND)


def test_only_what_the_filter_accepts_is_relayed(broadcast):
    link = broadcast.join(9, wanted=Since(NOW_UNIX_S))
    old = NOW_UNIX_S - 1
    stale = [update_change(3, 0, old), update_change(3, 1, old), node_change(1, old)]
    broadcast.change(CHANNEL, FIRST, update_change(1, 1, old), channel_change(3), *stale)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST)


def test_a_filter_may_be_replaced_and_taken_back(broadcast):
    link = broadcast.join(9, wanted=Since(NOW_UNIX_S + 5))
    broadcast.change(CHANNEL, FIRST)
    broadcast.relay.filtered(link, Since())
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST)
    assert broadcast.relay.counts.filtered == 1
    broadcast.relay.filtered(link, None)
    broadcast.change(SECOND)
    broadcast.run(61)
    assert broadcast.take(link) == []
    assert broadcast.relay.counts.filtered == 0


def test_a_channel_without_update_waits_for_its_first(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL)
    broadcast.run(61)
    assert broadcast.take(link) == []
    broadcast.change(FIRST)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST)
    broadcast.change(SECOND)
    broadcast.run(61)
    assert broadcast.take(link) == raws(SECOND)


def test_a_channel_without_update_of_a_table_that_was_there_before_waits_too(broadcast):
    broadcast.table.apply(CHANNEL)
    link = broadcast.join(9)
    broadcast.run(61)
    broadcast.change(FIRST)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST)


def test_a_node_follows_its_channel_also_when_it_was_announced_before_the_first_update(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, node_change(1), FIRST)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST, node_change(1))


def test_a_node_that_came_before_its_first_channel_follows_it(broadcast):
    link = broadcast.join(9)
    broadcast.change(node_change(1))
    broadcast.run(61)
    broadcast.change(CHANNEL, FIRST)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST, node_change(1))


def test_updates_that_were_in_the_table_before_their_channel_are_relayed_with_it(broadcast):
    link = broadcast.join(9)
    broadcast.change(FIRST, SECOND, CHANNEL)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST, SECOND)


def test_nothing_goes_back_to_who_sent_it(broadcast):
    sender, other = broadcast.join(8), broadcast.join(9)
    broadcast.change(CHANNEL, FIRST, node_change(1), senders={sender.node_id})
    broadcast.run(61)
    assert broadcast.take(sender) == []
    assert len(broadcast.take(other)) == 3


def test_a_spent_channel_is_not_relayed(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, FIRST, channel_change(1, spent_height=700_000))
    broadcast.change(SECOND)
    broadcast.run(61)
    assert broadcast.take(link) == []


def test_what_is_gone_is_not_relayed(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, FIRST, node_change(1))
    broadcast.change(Change(Kind.UPDATE, FIRST.key, None))
    broadcast.change(Change(Kind.CHANNEL, CHANNEL.key, None), Change(Kind.NODE, node_id(1), None))
    broadcast.run(61)
    assert broadcast.take(link) == []


def test_a_node_without_known_channel_is_not_relayed(broadcast):
    link = broadcast.join(9)
    broadcast.change(node_change(77))
    broadcast.run(61)
    assert broadcast.take(link) == []


def test_a_peer_that_names_other_chains_only_is_told_nothing(broadcast):
    link = broadcast.join(9, networks=(bytes(32),))
    broadcast.change(CHANNEL, FIRST, OWN, OURS)
    broadcast.run(61)
    assert broadcast.take(link) == []
    broadcast.relay.left(link)


def test_flushes_are_spread_over_the_interval(broadcast):
    for number in range(600):
        broadcast.join(number)
    broadcast.run(60)
    broadcast.change(CHANNEL, FIRST)
    most = 0
    for _ in range(605):
        broadcast.now += 0.1
        most = max(most, len(broadcast.due()))
    assert 1 <= most <= 5
    assert all(len(got) == 2 for got in broadcast.got.values())


def test_after_a_standstill_only_some_peers_are_flushed_at_once():
    broadcast = Broadcast(RelayRules(peers_per_due=10))
    links = [broadcast.join(number) for number in range(50)]
    broadcast.change(CHANNEL, FIRST)
    broadcast.now = 1000.0
    assert len(broadcast.due()) <= 2 * 10
    for _ in range(10):
        broadcast.due()
    assert all(broadcast.got[link] for link in links)


def test_a_flush_that_nobody_read_does_not_stand_in_the_way_of_the_next(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, FIRST)
    while broadcast.now < 61:
        broadcast.now += 1
        broadcast.relay.due(broadcast.now)
    broadcast.run(61)
    assert broadcast.take(link) == raws(CHANNEL, FIRST)


def test_a_peer_that_still_reads_one_flush_gets_no_other(broadcast):
    link = broadcast.join(9)
    broadcast.run(2)
    broadcast.change(CHANNEL, FIRST, SECOND)
    flushes = []
    while not flushes:
        broadcast.now += 1
        assert broadcast.now < 100
        flushes = [flush for _, flush in broadcast.relay.due(broadcast.now)]
    (unread,) = flushes
    first = next(unread)
    broadcast.change(update_change(1, 1, NOW_UNIX_S + 1))
    broadcast.run(130)
    assert broadcast.take(link) == []
    assert [first, *unread] == raws(CHANNEL, FIRST)
    broadcast.run(61)
    assert broadcast.take(link) == raws(update_change(1, 1, NOW_UNIX_S + 1))


def test_a_peer_that_the_ring_overtakes_misses_the_oldest_only():
    broadcast = Broadcast(RelayRules(max_changes=10))
    link = broadcast.join(9)
    for number in range(20):
        broadcast.change(channel_change(number), update_change(number, 0))
    broadcast.run(61)
    got = broadcast.take(link)
    assert len(got) == 10
    assert got[-1] == raw_of(update_change(19, 0))
    assert broadcast.relay.counts.missed == 30
    assert broadcast.relay.counts.changes == 10


def test_an_iterator_that_finds_little_pauses(broadcast):
    link = broadcast.join(9)
    broadcast.run(2)
    for number in range(1000):
        broadcast.change(channel_change(number), update_change(number, 0))
    broadcast.relay.filtered(link, Since(NOW_UNIX_S + 1))
    steps = []
    while not steps:
        broadcast.now += 1
        assert broadcast.now < 100
        steps = [list(raws) for _, raws in broadcast.relay.due(broadcast.now)][-1:]
        steps = [step for step in steps if step]
    assert set(steps[0]) == {b""}
    assert 20 <= len(steps[0]) <= 30


def test_a_peer_that_left_is_forgotten(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, FIRST, OWN, OURS)
    broadcast.relay.left(link)
    broadcast.run(61)
    assert broadcast.take(link) == []
    assert broadcast.relay.counts.peers == broadcast.relay.counts.filtered == 0


def test_a_closing_peer_is_sent_nothing(broadcast):
    link = broadcast.join(9)
    broadcast.change(CHANNEL, FIRST, OWN, OURS)
    link.closing = True
    broadcast.run(61)
    assert broadcast.take(link) == []


# --- our own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [True, False])
def test_a_new_peer_is_told_our_own_soon_filter_or_not(broadcast, queries):
    broadcast.change(CHANNEL, FIRST, OWN, OURS, THEIRS, OUR_NODE)
    broadcast.run(5)
    link = broadcast.join(9, wanted=None, queries=queries)
    broadcast.run(0.5)
    assert broadcast.take(link) == []
    broadcast.run(1)
    assert broadcast.take(link) == raws(OWN, OURS, OUR_NODE)
    broadcast.run(61)
    assert broadcast.take(link) == []


def test_our_own_are_found_in_a_table_that_was_there_before(broadcast):
    for change in (CHANNEL, FIRST, OWN, OURS, THEIRS, OUR_NODE):
        broadcast.table.apply(change)
    link = broadcast.join(9, wanted=None)
    broadcast.run(2)
    assert broadcast.take(link) == raws(OWN, OURS, OUR_NODE)


def test_a_big_table_is_looked_through_in_parts():
    broadcast = Broadcast(RelayRules(channels_per_due=10))
    for number in range(100, 200):
        broadcast.table.apply(channel_change(number))
    for change in (OWN, OURS):
        broadcast.table.apply(change)
    link = broadcast.join(9, wanted=None)
    for _ in range(10):
        broadcast.now += 0.5
        assert not list(broadcast.relay.due(broadcast.now))
    broadcast.due()
    assert broadcast.take(link) == raws(OWN, OURS)


def test_our_own_change_reaches_everybody_soon(broadcast):
    links = [broadcast.join(number, wanted=None) for number in range(5)]
    broadcast.run(5)
    broadcast.change(OWN, OURS, OUR_NODE)
    broadcast.run(2)
    assert all(broadcast.take(link) == raws(OWN, OURS, OUR_NODE) for link in links)
    newer = update_change(2, 1, NOW_UNIX_S + 9)
    broadcast.change(newer)
    broadcast.run(2)
    assert all(broadcast.take(link) == raws(newer) for link in links)


def test_the_other_end_of_our_channel_is_relayed_as_any_other(broadcast):
    link, asking = broadcast.join(8, wanted=None), broadcast.join(9)
    broadcast.run(5)
    broadcast.change(OWN, OURS, THEIRS)
    broadcast.run(61)
    assert broadcast.take(link) == raws(OWN, OURS)
    # The channel comes with each of the two, whoever is first.
    assert sorted(broadcast.take(asking)) == sorted(raws(OWN, OWN, OURS, THEIRS))


def test_our_own_wait_for_our_update_and_end_with_the_channel(broadcast):
    broadcast.change(OWN)
    link = broadcast.join(9, wanted=None)
    broadcast.run(5)
    assert broadcast.take(link) == []
    broadcast.change(OURS)
    broadcast.run(3)
    assert broadcast.take(link) == raws(OWN, OURS)
    broadcast.change(channel_change(2, 500, 3, spent_height=700_000))
    late = broadcast.join(10, wanted=None)
    broadcast.run(5)
    assert broadcast.take(late) == []


@pytest.mark.parametrize("first", [(THEIRS, OURS), (OURS, THEIRS)], ids=["theirs", "ours"])
def test_our_own_channel_comes_before_the_other_ends_update_whoever_is_flushed_when(first):
    for interval_s in (0.5, 1, 60):
        broadcast = Broadcast(RelayRules(interval_s=interval_s))
        link = broadcast.join(9)
        broadcast.run(5)
        broadcast.change(OWN, *first)
        broadcast.run(61)
        got = broadcast.take(link)
        assert got[0] == raw_of(OWN)
        assert set(got) == set(raws(OWN, OURS, THEIRS))


def test_our_own_do_not_go_back_to_who_sent_them(broadcast):
    link = broadcast.join(9, wanted=None)
    broadcast.run(5)
    broadcast.change(OWN, OURS, senders={link.node_id})
    broadcast.run(5)
    assert broadcast.take(link) == []


def test_our_own_change_reaches_many_peers_in_parts():
    broadcast = Broadcast(RelayRules(peers_per_due=10))
    links = [broadcast.join(number, wanted=None) for number in range(100)]
    broadcast.run(20)
    broadcast.change(OWN, OURS)
    for _ in range(40):
        broadcast.now += 0.1
        assert len(broadcast.due()) <= 10
    assert all(broadcast.take(link) == raws(OWN, OURS) for link in links)


def test_a_peer_that_still_reads_our_own_gets_the_rest_when_it_is_done(broadcast):
    link = broadcast.join(9, wanted=None)
    broadcast.run(5)
    broadcast.change(OWN, OURS)
    flushes = []
    while not flushes:
        broadcast.now += 0.5
        flushes = [flush for _, flush in broadcast.relay.due(broadcast.now)]
    (unread,) = flushes
    broadcast.change(OUR_NODE)
    broadcast.run(10)
    assert broadcast.take(link) == []
    assert [raw for raw in unread if raw] == raws(OWN, OURS)
    broadcast.run(10)
    assert broadcast.take(link) == raws(OUR_NODE)


def test_a_change_of_our_own_before_a_new_peer_was_told_anything_is_told_once():
    broadcast = Broadcast(RelayRules(own_delay_s=5))
    broadcast.change(OWN, OURS)
    broadcast.run(0.5)
    link = broadcast.join(9, wanted=None)
    broadcast.run(10)
    assert broadcast.take(link) == raws(OWN, OURS)


def test_our_own_of_another_table_are_told_when_the_table_is_replaced(broadcast):
    broadcast.change(OWN, OURS)
    broadcast.run(5)
    broadcast.table = Table()
    other, update = channel_change(4, 500, 3), update_change(4, 1)
    for change in (other, update):
        broadcast.table.apply(change)
    broadcast.run(5)
    assert list(broadcast.relay._own._channels) == [other.key]
    link = broadcast.join(9, wanted=None)
    broadcast.run(5)
    assert broadcast.take(link) == raws(other, update)


# --- the ring -------------------------------------------------------------------------------------


def test_a_key_stands_in_the_ring_once_at_its_newest():
    ring = Ring(4)
    for key in (1, 2, 1, 3, 3):
        ring.add(Changed(Kind.CHANNEL, key, NOBODY))
    assert (ring.first, ring.end, len(ring)) == (1, 5, 3)
    assert [ring.get(n) and ring.get(n).key for n in range(6)] == [None, 2, 1, None, 3, None]
    assert ring.number(Kind.CHANNEL, 1) == 2
    assert ring.number(Kind.UPDATE, 1) == -1
