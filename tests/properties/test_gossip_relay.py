"""Whatever changes, and whoever comes and goes: each peer is told what it asked for, once."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st
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
from shared.gossip.record import Kind
from shared.gossip.table import Table
from shared.gossip.view import ChannelView, UpdateView, view

US = node_id(500)
RULES = RelayRules(interval_s=10)


@dataclass
class Window:
    """A filter."""

    first: int
    end: int

    def accepts(self, timestamp):
        return self.first <= timestamp < self.end


@dataclass
class Told:
    """What one peer wants and got."""

    link: FakeLink
    window: Window
    got: list = field(default_factory=list)


TIMES = st.integers(NOW_UNIX_S, NOW_UNIX_S + 20)
WINDOWS = st.builds(Window, TIMES, TIMES)
# What happens: a channel, an update, a node, or time passes.
NUMBERS = st.integers(1, 6)
SENDERS = st.frozensets(st.integers(1, 3).map(node_id), max_size=2)
CHANGES = st.one_of(
    st.builds(lambda n: channel_change(n, n, n + 1), NUMBERS),
    st.builds(update_change, NUMBERS, st.integers(0, 1), TIMES),
    st.builds(node_change, NUMBERS, TIMES),
)
EVENTS = st.lists(st.one_of(st.tuples(CHANGES, SENDERS), st.floats(0.1, 15)), max_size=60)


def timestamps(table, raw):
    """Those by which BOLT 7 filters an announcement."""
    seen = view(raw)
    if isinstance(seen, ChannelView):
        updates = table.channel(seen.short_channel_id).updates
        return [view(update).timestamp for update in updates if update]
    return [seen.timestamp]


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, windows=st.lists(WINDOWS, min_size=3, max_size=3))
def test_each_peer_is_told_what_matches_once_and_never_what_it_sent(events, windows):
    table = Table()
    relay = Relay(US, CHAIN, lambda: table, RULES)
    peers = [Told(FakeLink(node_id(n)), window) for n, window in enumerate(windows, 1)]
    by_link = {peer.link: peer for peer in peers}
    sent_by = {}
    now = 0.0
    for peer in peers:
        relay.joined(peer.link, now)
        relay.filtered(peer.link, peer.window)

    def flush():
        for link, raws in relay.due(now):
            for raw in filter(None, raws):
                peer = by_link[link]
                assert any(map(peer.window.accepts, timestamps(table, raw)))
                peer.got.append(raw)

    for event in [*events, 11.0]:
        if isinstance(event, float):
            end = now + event
            while now < end:
                now += 0.5
                flush()
            continue
        change, senders = event
        if table.apply(change):
            raw = change.value.raw if change.kind is Kind.CHANNEL else change.value
            sent_by[raw] = senders
            relay.changed(change, senders)

    for peer in peers:
        check(table, peer, sent_by)


def check(table, peer, sent_by):
    node = peer.link.node_id
    told = Counter(peer.got)
    for change in table.changes():
        raw = change.value.raw if change.kind is Kind.CHANNEL else change.value
        if node in sent_by.get(raw, ()):
            assert not told[raw], "back to its sender"
        elif raw in sent_by and wanted(table, peer.window, change, raw):
            assert told[raw], "never told"
    for raw, times in told.items():
        # A node may be told again behind its channel, which could not be sent before.
        limit = 1 if isinstance(view(raw), ChannelView | UpdateView) else 7
        assert times <= limit, "told again"


def is_reachable(table, node):
    """Whether a node has a channel that may be told."""
    entries = [
        table.channel(change.key) for change in table.changes() if isinstance(change.key, int)
    ]
    return any(entry and node in entry.nodes and any(entry.updates) for entry in entries)


def wanted(table, window, change, raw):
    """Whether what is in the table at the end must have been told.

    A channel goes by the update that came first, which may be replaced by now: it must have been
    told only if all its updates are in the window, and always were.
    """
    if change.kind is Kind.CHANNEL:
        return False
    if change.kind is Kind.NODE and not is_reachable(table, change.key):
        return False
    return all(map(window.accepts, timestamps(table, raw)))


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_who_wants_everything_is_told_everything_each_channel_before_its_updates(events):
    table = Table()
    relay = Relay(US, CHAIN, lambda: table, RULES)
    link = FakeLink(node_id(9))
    relay.joined(link, 0.0)
    relay.filtered(link, Window(0, 1 << 32))
    got, now = [], 0.0
    for event in [*events, 11.0]:
        if not isinstance(event, float):
            if table.apply(event[0]):
                relay.changed(event[0], event[1])
            continue
        end = now + event
        while now < end:
            now += 0.5
            for _, raws in relay.due(now):
                got += filter(None, raws)
    channels = set()
    for raw in got:
        seen = view(raw)
        if isinstance(seen, ChannelView):
            channels.add(seen.short_channel_id)
        elif isinstance(seen, UpdateView):
            assert seen.short_channel_id in channels
    for change in table.changes():
        raw = change.value.raw if change.kind is Kind.CHANNEL else change.value
        is_bare = change.kind is Kind.CHANNEL and table.channel(change.key).updates == (None, None)
        is_alone = change.kind is Kind.NODE and not is_reachable(table, change.key)
        assert is_alone or got.count(raw) == (not is_bare) or change.kind is Kind.NODE
        assert is_bare or is_alone or raw in got


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.one_of(
            st.sampled_from([channel_change(1, 500, 3), node_change(500)]),
            st.builds(update_change, st.just(1), st.just(1), TIMES),
            st.builds(node_change, st.just(500), TIMES),
            st.floats(0.1, 5),
        ),
        max_size=30,
    )
)
def test_everybody_has_the_newest_of_our_own_soon(events):
    table = Table()
    relay = Relay(US, CHAIN, lambda: table, RULES)
    links = [FakeLink(node_id(1)), FakeLink(node_id(2), queries=False)]
    got = {link: [] for link in links}
    now = 0.0
    for link in links:
        relay.joined(link, now)
    for event in [*events, 4.0]:
        if not isinstance(event, float):
            if table.apply(event):
                relay.changed(event, frozenset())
            continue
        end = now + event
        while now < end:
            now += 0.5
            for link, raws in relay.due(now):
                got[link] += filter(None, raws)
    update, node = table.update(channel_change(1).key, 1), table.node(US)
    for link in links:
        if update is not None:
            assert got[link].count(update) >= 1
            assert table.channel(channel_change(1).key).announcement in got[link]
        if node is not None and update is not None:
            assert node in got[link]
