"""Whom we ask for announcements, and for what."""

import random

import pytest
from support.gossip_links import (
    CHAIN,
    NOW_UNIX_S,
    FakeLink,
    SyncedPeer,
    channel_change,
    node_change,
    node_id,
    range_reply,
    run,
    scid_of,
    update_change,
)

from front.gossip.sync.bench import Bench, Futile
from front.gossip.sync.sync import State, Sync, SyncRules
from shared.errors import Action, MalformedMessage, ProtocolViolation
from shared.gossip.rules import STALE_S
from shared.gossip.table import Table
from shared.wire import (
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyShortChannelIdsEnd,
)
from shared.wire.query import (
    ChannelUpdateChecksums,
    decode_query_flags,
    decode_short_ids,
)

RULES = SyncRules()
END = ReplyShortChannelIdsEnd(chain_hash=CHAIN, full_information=1)


@pytest.fixture
def table():
    return Table()


def sync_of(table, rules=RULES, seed=1, checksum=None):
    return Sync(CHAIN, lambda: table, rules, random.Random(seed), checksum)  # noqa: S311


def network(first, end, timestamp=NOW_UNIX_S):
    changes = []
    for number in range(first, end):
        changes.append(channel_change(number, number, number + 1))
        changes += [update_change(number, side, timestamp) for side in (0, 1)]
    return changes


def link_of(number, **fields):
    return FakeLink(node_id(number), **fields)


def join(sync, *links, now=0.0):
    for link in links:
        sync.joined(link, now)


def messages(asks, kind):
    return [ask.message for ask in asks if isinstance(ask.message, kind)]


def asked_after(sync, link, reply, *, now=1.0, unix_s=NOW_UNIX_S):
    """Answer the range query; return ids and flags of the chunk that follows."""
    sync.received(link, reply, now)
    queries = messages(sync.due(now, unix_s), QueryShortChannelIds)
    if not queries:
        return {}
    ids = decode_short_ids(queries[0].encoded_short_ids)
    flags = queries[0].query_flags
    return dict(zip(ids, decode_query_flags(flags) if flags else [None] * len(ids), strict=True))


# --- whom ---------------------------------------------------------------------------------------


def test_three_peers_get_a_filter_and_the_others_none(table):
    sync = sync_of(table)
    links = [link_of(number) for number in range(10)]
    join(sync, *links)
    filters = [a for a in sync.due(0.0, NOW_UNIX_S) if isinstance(a.message, GossipTimestampFilter)]
    assert len({ask.link for ask in filters}) == len(filters) == 3
    assert all(ask.message.first_timestamp == NOW_UNIX_S - 600 for ask in filters)
    assert all(ask.message.timestamp_range == 0xFFFFFFFF for ask in filters)
    assert not messages(sync.due(5.0, NOW_UNIX_S), GossipTimestampFilter)


def test_peers_that_we_dialled_are_preferred_as_live_peers(table):
    for seed in range(10):
        sync = sync_of(table, seed=seed)
        links = [link_of(number, is_outbound=number in {3, 60, 90}) for number in range(100)]
        join(sync, *links)
        asks = sync.due(0.0, NOW_UNIX_S)
        live = {a.link for a in asks if isinstance(a.message, GossipTimestampFilter)}
        assert live == {links[3], links[60], links[90]}


@pytest.mark.parametrize("fields", [{"queries": False}, {"networks": (bytes(32),)}])
def test_a_peer_without_gossip_queries_or_of_another_chain_is_never_asked(table, fields):
    sync = sync_of(table)
    join(sync, link_of(1, **fields))
    assert not sync.due(0.0, NOW_UNIX_S)
    assert sync.counts.peers == 0


def test_a_peer_that_names_our_chain_is_asked(table):
    sync = sync_of(table)
    join(sync, link_of(1, networks=(bytes(32), CHAIN)))
    (query,) = messages(sync.due(0.0, NOW_UNIX_S), QueryChannelRange)
    assert (query.first_blocknum, query.number_of_blocks) == (0, 0xFFFFFFFF)


def test_only_one_peer_at_a_time_says_what_it_has(table):
    sync = sync_of(table)
    join(sync, *[link_of(number) for number in range(10)])
    queries = [q for now in range(20) for q in messages(sync.due(now, 0), QueryChannelRange)]
    assert len(queries) == 1
    assert sync.state is State.RANGE


def test_checksums_are_asked_only_of_peers_with_gossip_queries_ex(table):
    for has_ex, option in ((True, 3), (False, 1)):
        sync = sync_of(table)
        join(sync, link_of(1, queries_ex=has_ex))
        (query,) = messages(sync.due(0.0, 0), QueryChannelRange)
        assert query.query_option == option


def test_when_a_live_peer_leaves_another_gets_the_filter(table):
    sync = sync_of(table)
    links = [link_of(number) for number in range(4)]
    join(sync, *links)
    asks = sync.due(0.0, NOW_UNIX_S)
    live = [a.link for a in asks if isinstance(a.message, GossipTimestampFilter)]
    (other,) = set(links) - set(live)
    sync.left(live[0], 1.0)
    asks = sync.due(1.0, NOW_UNIX_S)
    assert [a.link for a in asks if isinstance(a.message, GossipTimestampFilter)] == [other]


def test_after_a_round_another_peer_pushes_what_is_new(table):
    peers = [SyncedPeer(link_of(number), manners="empty") for number in range(9)]
    sync = sync_of(table, SyncRules(peers=2))
    join(sync, *[peer.link for peer in peers])
    run(sync, table, peers, until=10)
    off = [peer for peer in peers if peer.filters and peer.filters[-1].timestamp_range == 0]
    on = [peer for peer in peers if peer.filters and peer.filters[-1].timestamp_range]
    assert (len(off), len(on)) == (1, 2)


# --- for what -----------------------------------------------------------------------------------


@pytest.fixture
def link():
    return link_of(1)


@pytest.fixture
def sync(table, link):
    sync = sync_of(table)
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    return sync


def test_an_unknown_channel_is_asked_for_with_everything_about_it(sync, link):
    reply = range_reply([scid_of(1)], timestamps=[(NOW_UNIX_S, 0)])
    assert asked_after(sync, link, reply) == {scid_of(1): 0b11111}


def test_of_a_known_channel_only_the_newer_update_is_asked_for(sync, link, table):
    for change in (*network(1, 2), node_change(1), node_change(2)):
        table.apply(change)
    reply = range_reply([scid_of(1)], timestamps=[(NOW_UNIX_S, NOW_UNIX_S + 1)])
    assert asked_after(sync, link, reply) == {scid_of(1): 0b00100}


def test_what_the_table_has_is_not_asked_for(sync, link, table):
    for change in (*network(1, 2), node_change(1), node_change(2)):
        table.apply(change)
    reply = range_reply([scid_of(1)], timestamps=[(NOW_UNIX_S, NOW_UNIX_S - 1)])
    assert asked_after(sync, link, reply) == {}


def test_nodes_that_the_table_lacks_are_asked_for_once(sync, link, table):
    for change in (*network(1, 3), node_change(1)):
        table.apply(change)
    times = [(NOW_UNIX_S, NOW_UNIX_S)] * 2
    asked = asked_after(sync, link, range_reply([scid_of(1), scid_of(2)], timestamps=times))
    # Node 1 is known; node 2 is asked for with the first channel, node 3 with the second.
    assert asked == {scid_of(1): 0b10000, scid_of(2): 0b10000}


def test_a_stale_channel_is_not_asked_for(sync, link):
    old = NOW_UNIX_S - STALE_S - 1
    times = [(old, 0), (old, NOW_UNIX_S)]
    reply = range_reply([scid_of(1), scid_of(2)], timestamps=times)
    assert list(asked_after(sync, link, reply)) == [scid_of(2)]


def test_an_update_of_the_far_future_is_not_asked_for(sync, link):
    reply = range_reply([scid_of(1)], timestamps=[(0xFFFFFFFF, NOW_UNIX_S + 200_000)])
    assert asked_after(sync, link, reply) == {}


def test_a_spent_channel_is_not_asked_for(sync, link, table):
    table.apply(channel_change(1, spent_height=700_000))
    reply = range_reply([scid_of(1)], timestamps=[(NOW_UNIX_S, NOW_UNIX_S)])
    assert asked_after(sync, link, reply) == {}


def test_a_newer_update_that_says_the_same_is_not_asked_for(table, link):
    for change in (*network(1, 2), node_change(1), node_change(2)):
        table.apply(change)
    sync = sync_of(table, checksum=lambda raw: 7)
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    sums = ChannelUpdateChecksums(checksum_node_id_1=7, checksum_node_id_2=8)
    newer = [(NOW_UNIX_S + 1, NOW_UNIX_S + 1)]
    reply = range_reply([scid_of(1)], timestamps=newer, checksums_tlv=[sums])
    assert asked_after(sync, link, reply) == {scid_of(1): 0b00100}


def test_without_timestamps_unknown_channels_are_asked_for(sync, link, table):
    for change in network(1, 2):
        table.apply(change)
    reply = range_reply([scid_of(1), scid_of(2)])
    assert asked_after(sync, link, reply) == {scid_of(2): 0b11111}


def test_a_peer_without_gossip_queries_ex_gets_no_query_flags(table):
    link = link_of(1, queries_ex=False)
    sync = sync_of(table)
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    assert asked_after(sync, link, range_reply([scid_of(1)])) == {scid_of(1): None}


def test_channels_are_asked_for_in_chunks_one_at_a_time_spread_over_the_live_peers(table):
    sync = sync_of(table, SyncRules(chunk=10))
    peers = [SyncedPeer(link_of(number), network(1, 101)) for number in range(3)]
    join(sync, *[peer.link for peer in peers])
    run(sync, table, peers, done=lambda: table.updates == 200)
    assert table.channels == 100
    chunks = [q for p in peers for q in p.queries if isinstance(q, QueryShortChannelIds)]
    assert len(chunks) == 10
    assert all(len(peer.asked) >= 20 for peer in peers)


# --- peers that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "manners", ["silent", "empty", "liar", "withholds", "drips", "nonsense", "leaves"]
)
@pytest.mark.parametrize("seed", range(3))
def test_two_bad_peers_do_not_keep_the_network_from_us(table, manners, seed):
    rules = SyncRules(resync_s=300)
    changes = network(1, 31)
    bad = [
        SyncedPeer(link_of(number, is_outbound=True), changes, manners=manners) for number in (1, 2)
    ]
    good = SyncedPeer(link_of(3), changes)
    sync = sync_of(table, rules, seed)
    join(sync, *[peer.link for peer in (*bad, good)])
    peers = [*bad, good]
    end = run(sync, table, peers, until=1800, done=lambda: table.updates == 60)
    assert table.channels == 30, f"not after {end} s: {sync.counts}"


def test_a_silent_peer_is_replaced_and_not_chosen_again_for_a_while(table):
    silent = SyncedPeer(link_of(1, is_outbound=True), manners="silent")
    sync = sync_of(table, SyncRules(bench_s=100, round_s=1, resync_s=1))
    join(sync, silent.link)
    run(sync, table, [silent], until=29)
    assert len(silent.queries) == 1
    good = SyncedPeer(link_of(2), network(1, 3))
    join(sync, good.link, now=29.0)
    run(sync, table, [silent, good], start=29, until=125)
    assert table.channels == 2
    assert len(silent.queries) == 1
    assert silent.filters[-1].timestamp_range == 0


def test_a_peer_that_drips_a_range_is_replaced_in_time(table):
    drips = SyncedPeer(link_of(1), manners="drips")
    sync = sync_of(table)
    join(sync, drips.link)
    assert run(sync, table, [drips], done=lambda: sync.counts.failures) < 125


def test_a_slow_peer_that_was_given_up_may_end_its_answer(table, link):
    sync = sync_of(table)
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    sync.due(31.0, NOW_UNIX_S)
    assert sync.counts.failures == 1
    sync.received(link, range_reply([scid_of(1)], complete=0), 32.0)
    sync.received(link, range_reply([scid_of(2)]), 33.0)
    with pytest.raises(ProtocolViolation):
        sync.received(link, range_reply([scid_of(2)]), 33.0)


def test_a_peer_that_did_not_end_its_answer_is_asked_nothing_more(table, link):
    sync = sync_of(table)
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    for now in range(1, 20_000, 50):
        assert not messages(sync.due(float(now), NOW_UNIX_S), QueryChannelRange)


def test_all_blocks_without_the_final_word_count_as_all(table, link):
    sync = sync_of(table)
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    sync.received(link, range_reply([], complete=0), 1.0)
    sync.due(31.0, NOW_UNIX_S)
    sync.due(32.0, NOW_UNIX_S)
    assert sync.counts.failures == 0
    assert sync.is_synced


def test_what_a_peer_names_and_nobody_has_is_asked_for_a_few_times_only(table):
    liar = SyncedPeer(link_of(1), manners="liar")
    others = [SyncedPeer(link_of(number), manners="empty") for number in range(2, 8)]
    sync = sync_of(table, SyncRules(round_s=10, resync_s=10, forget_s=1e9))
    peers = [liar, *others]
    join(sync, *[peer.link for peer in peers])
    run(sync, table, peers, until=5000)
    assert sync.counts.rounds > 20
    times = max(sum(peer.asked.count(scid) for peer in peers) for scid in liar.asked)
    assert 1 <= times <= RULES.attempts * RULES.futile + 1


def test_what_liars_made_futile_is_still_asked_of_an_honest_peer_that_names_it(table):
    changes = network(1, 11)
    liars = [SyncedPeer(link_of(n, is_outbound=True), changes, manners="withholds") for n in (1, 2)]
    sync = sync_of(table, SyncRules(round_s=10, resync_s=10, forget_s=1e9))
    join(sync, *[peer.link for peer in liars])
    run(sync, table, liars, until=1000)
    assert sync.counts.futile == 10
    good = SyncedPeer(link_of(3), changes)
    join(sync, good.link, now=1000.0)
    run(sync, table, [*liars, good], start=1000, until=2000)
    assert table.channels == 10


@pytest.mark.parametrize("how", ["silent", "left"])
def test_a_chunk_that_a_peer_does_not_end_goes_to_another(table, how):
    sync = sync_of(table, SyncRules(resync_s=1e9, bench_s=1e9, bench_max_s=1e9))
    source = SyncedPeer(link_of(1), network(1, 11))
    join(sync, source.link)
    asks = sync.due(0.0, NOW_UNIX_S)
    for ask in asks:
        source.ask(sync, ask.message, 0.0)
    source.manners = "silent"
    run(sync, table, [source], until=5)
    assert source.asked
    assert not table.channels
    good = SyncedPeer(link_of(2), network(1, 11))
    join(sync, good.link, now=5.0)
    if how == "left":
        sync.left(source.link, 5.0)
    run(sync, table, [source, good], start=5, until=6 if how == "left" else 40)
    assert table.channels == 0 or good.asked
    assert good.asked == source.asked


def test_announcements_keep_a_peer_that_answers_from_being_replaced(sync, link):
    assert asked_after(sync, link, range_reply([scid_of(1)]))
    for now in range(2, 120, 20):
        sync.announced(link, float(now))
        sync.due(float(now), NOW_UNIX_S)
    assert sync.counts.failures == 0
    sync.due(121.5, NOW_UNIX_S)
    assert sync.counts.failures == 1


def test_who_ends_a_chunk_is_forgiven_what_it_failed_before(table, link):
    sync = sync_of(table, SyncRules(bench_s=10, resync_s=1, round_s=1, settle_s=0))
    join(sync, link)
    lengths = []
    now = 0.0
    for _ in range(2):
        while not messages(sync.due(now, NOW_UNIX_S), QueryChannelRange):
            now += 1
        sync.due(now + 31, NOW_UNIX_S)
        sync.received(link, range_reply([]), now + 32)
        begin = now = now + 31
        while not messages(sync.due(now, NOW_UNIX_S), QueryChannelRange):
            now += 1
        lengths.append(now - begin)
        sync.received(link, range_reply([scid_of(1)]), now)
        sync.due(now, NOW_UNIX_S)
        sync.received(link, END, now)
        sync.restart()
    assert lengths == [10, 10]


def test_a_second_attempt_is_made_with_the_peer_that_named_the_channel(table):
    others = [SyncedPeer(link_of(number, is_outbound=True), manners="empty") for number in range(9)]
    sync = sync_of(table, SyncRules(first_rounds=1, resync_s=1, attempts=2, settle_s=1))
    source = SyncedPeer(link_of(10), network(1, 3))
    peers = [source, *others]
    join(sync, *[peer.link for peer in peers])
    run(sync, table, peers, until=200, done=lambda: table.channels == 2)
    assert table.channels == 2
    assert source.asked == [scid_of(1), scid_of(2)]
    assert sync.counts.futile == 0


def test_a_round_that_takes_too_long_is_dropped(table):
    liar = SyncedPeer(link_of(1), network(1, 200), manners="withholds", delay_s=20)
    sync = sync_of(table, SyncRules(chunk=1, round_limit_s=300))
    join(sync, liar.link)
    run(sync, table, [liar], until=350)
    assert sync.counts.rounds == 1
    assert sync.counts.wanted == sync.counts.unsettled == 0


# --- replies that break the rules -----------------------------------------------------------------


@pytest.mark.parametrize(
    "replies",
    [
        [range_reply([], chain_hash=bytes(32))],
        [range_reply([], first=1)],
        [range_reply([], blocks=0)],
        [range_reply([scid_of(2), scid_of(1)])],
        [range_reply([scid_of(1), scid_of(1)])],
        [range_reply([scid_of(1)], blocks=600_001)],
        [range_reply([], complete=0, blocks=9), range_reply([1 << 40], first=9)],
        [range_reply([], complete=0), range_reply([], first=5, complete=0), range_reply([])],
        [range_reply([5], complete=0), range_reply([5])],
        [range_reply([5], timestamps=[])],
        [range_reply([5], timestamps=[(1, 1), (2, 2)])],
        [range_reply([5], checksums_tlv=[])],
        [range_reply([1, 2, 3, 4], complete=0)],
        [range_reply([], complete=0)] * 6,
    ],
    ids=str,
)
def test_a_reply_that_breaks_the_rules_is_refused_and_its_peer_replaced(table, link, replies):
    sync = sync_of(table, SyncRules(max_ids=3, max_replies=5))
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    *before, last = replies
    for reply in before:
        sync.received(link, reply, 1.0)
    with pytest.raises(ProtocolViolation) as caught:
        sync.received(link, last, 1.0)
    assert caught.value.action is Action.WARN
    assert sync.counts.failures == 1
    assert sync.state is State.WAITING


def test_an_array_that_cannot_be_read_is_refused(sync, link):
    reply = range_reply([]).model_copy(update={"encoded_short_ids": b"\x01zlib"})
    with pytest.raises(MalformedMessage) as caught:
        sync.received(link, reply, 1.0)
    assert caught.value.action is Action.WARN
    assert sync.counts.failures == 1


@pytest.mark.parametrize("message", [range_reply([]), END])
def test_replies_never_asked_for_are_refused(table, message):
    sync = sync_of(table)
    links = [link_of(number) for number in range(2)]
    join(sync, *links)
    asked = [a.link for a in sync.due(0.0, 0) if isinstance(a.message, QueryChannelRange)]
    (other,) = set(links) - set(asked)
    for link in (other, link_of(5)):
        with pytest.raises(ProtocolViolation):
            sync.received(link, message, 0.0)


def test_a_chunk_ended_for_another_chain_is_refused(sync, link):
    assert asked_after(sync, link, range_reply([scid_of(1)]))
    with pytest.raises(ProtocolViolation):
        sync.received(link, END.model_copy(update={"chain_hash": bytes(32)}), 2.0)
    assert sync.counts.failures == 1


def test_a_flood_of_replies_after_it_was_given_up_is_refused(table, link):
    sync = sync_of(table, SyncRules(max_replies=5))
    join(sync, link)
    sync.due(0.0, NOW_UNIX_S)
    sync.due(31.0, NOW_UNIX_S)
    for _ in range(5):
        sync.received(link, range_reply([], complete=0), 32.0)
    with pytest.raises(ProtocolViolation):
        sync.received(link, range_reply([], complete=0), 32.0)


# --- later ----------------------------------------------------------------------------------------


def test_the_table_is_compared_with_three_peers_first_and_then_now_and_then(table):
    peers = [SyncedPeer(link_of(number), network(1, 3)) for number in range(6)]
    sync = sync_of(table)
    join(sync, *[peer.link for peer in peers])
    end = run(sync, table, peers, done=lambda: sync.is_synced)
    assert sync.counts.rounds == 3
    run(sync, table, peers, start=end, until=end + 3500)
    assert sync.counts.rounds == 3
    run(sync, table, peers, start=end + 3500, until=end + 3800)
    assert sync.counts.rounds == 4
    ranges = [sum(isinstance(q, QueryChannelRange) for q in p.queries) for p in peers]
    assert sorted(ranges) == [0, 0, 1, 1, 1, 1]


def test_another_table_is_compared_soon(table):
    peer = SyncedPeer(link_of(1), network(1, 3))
    sync = sync_of(table)
    join(sync, peer.link)
    end = run(sync, table, [peer], done=lambda: sync.is_synced)
    table.__init__()
    sync.restart()
    run(sync, table, [peer], start=end, until=end + 5)
    assert table.channels == 2


def test_what_was_dropped_is_asked_for_later_of_one_peer_after_another(table):
    peers = [SyncedPeer(link_of(number), manners="empty") for number in range(2)]
    sync = sync_of(table, SyncRules(resync_s=1e9, first_rounds=1))
    join(sync, *[peer.link for peer in peers])
    end = run(sync, table, peers, done=lambda: sync.is_synced)
    for _ in range(2):
        sync.missing([scid_of(1)])
        end = run(sync, table, peers, start=end, until=end + 11)
    assert [len(peer.asked) >= 1 for peer in peers] == [True, True]


def test_two_queries_for_what_is_missing_go_to_different_peers(table):
    for seed in range(8):
        peers = [SyncedPeer(link_of(number), network(1, 2)) for number in range(2)]
        rules = SyncRules(resync_s=1e9, first_rounds=1, settle_s=1e9)
        sync = sync_of(table, rules, seed)
        join(sync, *[peer.link for peer in peers])
        run(sync, table, peers, until=30)
        for peer in peers:
            peer.asked.clear()
        for scid in (7, 8):
            sync.missing([scid])
            run(sync, table, peers, start=30 + 20 * scid, until=45 + 20 * scid)
        assert [len(peer.asked) for peer in peers] == [1, 1]


def test_what_is_dropped_over_and_over_is_left_alone(table):
    peer = SyncedPeer(link_of(1), manners="empty")
    sync = sync_of(table, SyncRules(resync_s=1e9, forget_s=1e9))
    join(sync, peer.link)
    now = 0.0
    for _ in range(30):
        sync.missing([scid_of(1)])
        now = run(sync, table, [peer], start=now, until=now + 20)
    assert len(peer.asked) <= RULES.futile + 1


def test_what_is_missing_is_bounded(table):
    sync = sync_of(table, SyncRules(max_missing=10))
    sync.missing(range(100))
    assert sync.counts.missing == 10


def test_nothing_is_asked_for_while_it_is_held(table):
    peer = SyncedPeer(link_of(1), network(1, 3))
    sync = sync_of(table)
    join(sync, peer.link)
    sync.is_held = True
    run(sync, table, [peer], until=100)
    assert not peer.queries
    sync.is_held = False
    run(sync, table, [peer], start=100, until=110)
    assert table.channels == 2


def test_what_was_asked_for_before_it_was_held_has_time_to_settle_after(sync, link):
    assert asked_after(sync, link, range_reply([scid_of(1)]))
    sync.received(link, END, 2.0)
    sync.is_held = True
    sync.due(100.0, NOW_UNIX_S)
    sync.is_held = False
    sync.due(159.0, NOW_UNIX_S)
    assert sync.counts.unsettled == 1
    sync.due(160.0, NOW_UNIX_S)
    assert sync.counts.unsettled == 0


def test_a_peer_that_fails_again_is_benched_for_longer():
    bench = Bench(10, 100, 2)
    bench.add(b"a", 0)
    assert (bench.holds(b"a", 9), bench.holds(b"a", 10)) == (True, False)
    bench.add(b"a", 10)
    assert (bench.holds(b"a", 49), bench.holds(b"a", 50)) == (True, False)
    for now in (50, 60, 70):
        bench.add(b"a", now)
    assert (bench.holds(b"a", 169), bench.holds(b"a", 170)) == (True, False)
    bench.forgive(b"a")
    assert not bench.holds(b"a", 71)


def test_what_is_futile_is_forgotten_in_time_and_bounded():
    futile = Futile(2, 100, 10)
    futile.expire(0)
    futile.add([1])
    assert not futile.holds(1)
    futile.add([1])
    assert futile.holds(1)
    futile.expire(100)
    assert futile.holds(1)
    futile.expire(200)
    assert not futile.holds(1)
    futile.add(range(1000))
    assert len(futile) <= 10
