"""Whatever peers do: if one honest peer stays, what it has is asked for, and memory is bounded."""

import random

from hypothesis import given, settings, strategies as st
from support.gossip_links import (
    CHAIN,
    NOW_UNIX_S,
    FakeLink,
    SyncedPeer,
    channel_change,
    node_id,
    run,
    update_change,
)

from front.gossip.sync.sync import Sync, SyncRules
from shared.gossip.table import Table

RULES = SyncRules(
    chunk=5,
    settle_s=10,
    round_s=20,
    resync_s=60,
    round_limit_s=600,
    max_missing=50,
    max_futile=40,
    bench_max_s=600,
)
MANNERS = ("honest", "silent", "empty", "liar", "withholds", "drips", "nonsense", "leaves")
NETWORK = [
    change
    for number in range(30)
    for change in (channel_change(number), update_change(number, 0), update_change(number, 1))
]
PARTS = st.tuples(st.integers(0, 30), st.integers(0, 30))


def part(first, end):
    """Channels of a range of numbers, with their updates."""
    return NETWORK[3 * first : 3 * end]


@st.composite
def bad_peers(draw):
    count = draw(st.integers(0, 6))
    return [
        SyncedPeer(
            FakeLink(
                node_id(number),
                is_outbound=draw(st.booleans()),
                queries_ex=draw(st.booleans()),
            ),
            part(*draw(PARTS)),
            manners=draw(st.sampled_from(MANNERS)),
            delay_s=draw(st.sampled_from([0.1, 2.0, 29.0, 31.0, 200.0])),
        )
        for number in range(1, count + 1)
    ]


def bounded(sync):
    counts = sync.counts
    assert counts.missing <= RULES.max_missing
    assert counts.futile <= RULES.max_futile
    assert counts.live <= RULES.peers
    # One honest network, and what one liar names; each channel waits in one place only.
    assert counts.wanted + counts.unsettled <= 30 + 50
    return counts


@settings(max_examples=60, deadline=None)
@given(
    others=bad_peers(),
    is_outbound=st.booleans(),
    has_ex=st.booleans(),
    joins=st.lists(st.floats(0, 300), min_size=7, max_size=7),
    seed=st.integers(0, 1000),
    missing=st.lists(st.integers(0, 1 << 64), max_size=100),
)
def test_everything_that_an_honest_peer_has_is_asked_for_in_bounded_time(
    others, is_outbound, has_ex, joins, seed, missing
):
    table = Table()
    sync = Sync(CHAIN, lambda: table, RULES, random.Random(seed))  # noqa: S311
    link = FakeLink(node_id(0), is_outbound=is_outbound, queries_ex=has_ex)
    honest = SyncedPeer(link, NETWORK)
    peers = [honest, *others]
    sync.missing(scid % (1 << 64) for scid in missing)
    now = 0.0
    for at, peer in sorted(zip(joins, peers, strict=False), key=lambda pair: pair[0]):
        now = run(sync, table, peers, start=now, until=at, step=1.0)
        bounded(sync)
        sync.joined(peer.link, now)
    while now < 5000 and table.channels < 30:
        now = run(sync, table, peers, start=now, until=now + 20, step=1.0)
        bounded(sync)
    assert table.channels == 30, f"{sync.state} {sync.counts}"
    assert not honest.violations


@settings(max_examples=30, deadline=None)
@given(
    leaves=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=20),
    seed=st.integers(0, 1000),
)
def test_peers_that_come_and_go_in_the_middle_of_answers_do_not_stall_it(leaves, seed):
    table = Table()
    sync = Sync(CHAIN, lambda: table, RULES, random.Random(seed))  # noqa: S311
    peers = [SyncedPeer(FakeLink(node_id(n)), NETWORK, delay_s=3.0) for n in range(7)]
    for peer in peers:
        sync.joined(peer.link, 0.0)
    now = 0.0
    for at, number in sorted(leaves):
        now = run(sync, table, peers, start=now, until=at, step=1.0)
        sync.left(peers[number].link, now)
        peers[number].answers.clear()
        back = SyncedPeer(FakeLink(node_id(number)), NETWORK, delay_s=3.0)
        sync.joined(back.link, now)
        peers[number] = back
    run(sync, table, peers, start=now, until=now + 900, step=1.0, done=lambda: table.updates == 60)
    assert table.updates == 60
    assert not any(peer.violations for peer in peers)


@settings(max_examples=30, deadline=None)
@given(
    known=st.lists(st.tuples(st.booleans(), st.integers(-2, 2)), min_size=30, max_size=30),
    seed=st.integers(0, 1000),
)
def test_in_the_end_the_table_has_the_newest_of_everything(known, seed):
    table = Table()
    for number, (has, age) in enumerate(known):
        if has:
            table.apply(channel_change(number))
            table.apply(update_change(number, 1, NOW_UNIX_S + age, fee=5))
    sync = Sync(CHAIN, lambda: table, RULES, random.Random(seed))  # noqa: S311
    peer = SyncedPeer(FakeLink(node_id(0)), NETWORK)
    sync.joined(peer.link, 0.0)
    run(sync, table, [peer], until=300, step=1.0, done=lambda: sync.is_synced)
    assert (table.channels, table.updates) == (30, 60)
    for number, (has, age) in enumerate(known):
        newest = max(NOW_UNIX_S, NOW_UNIX_S + age) if has else NOW_UNIX_S
        assert table.update_timestamp(NETWORK[3 * number].key, 1) == newest
