"""Answers to gossip queries, for any table, any split, any bytes (BOLT 7 § Query Messages)."""

from collections import Counter
from collections.abc import Callable
from unittest.mock import patch
from zlib import compress

from hypothesis import example, given, settings, strategies as st
from support.gossip_values import CHAIN, channel, gone, node, scid_at, table, update

from front.gossip.answers.queries import Queries
from front.gossip.sync.ranges import ALL_BLOCKS, RangeReplies
from shared.errors import PeerError
from shared.gossip.checksum import checksum
from shared.gossip.table import Table
from shared.gossip.view import (
    ChannelView,
    UpdateView,
    node_timestamp,
    update_timestamp,
    view,
)
from shared.wire import (
    GossipTimestampFilter,
    Message,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    decode,
    decode_short_ids,
    encode,
    encode_query_flags,
    encode_short_ids,
)

BLOCK = st.one_of(st.integers(0, 6), st.sampled_from([(1 << 24) - 2, (1 << 24) - 1]))
SCIDS = st.builds(scid_at, BLOCK, st.integers(0, 4))
STAMP = st.integers(0, 9)
U32 = st.integers(0, 0xFFFFFFFF)
SPLIT = st.integers(1, 5)


@st.composite
def values(draw) -> list:
    """Values of some channels, a few of them spent, with some updates and nodes."""
    made = []
    for scid in draw(st.lists(SCIDS, unique=True, max_size=25)):
        ends = draw(st.sampled_from([(1, 2), (2, 3), (1, 4)]))
        made.append(channel(scid, *ends, spent_height=draw(st.sampled_from([0, 0, 0, 9]))))
        directions = draw(st.sets(st.integers(0, 1)))
        made += [update(scid, direction, draw(STAMP)) for direction in directions]
    made += [node(number, draw(STAMP)) for number in draw(st.sets(st.integers(1, 5)))]
    return made


def unspent(full: Table) -> list[int]:
    scids = full.short_channel_ids(0, 1 << 32)
    return [scid for scid in scids if not full.channel(scid).spent_height]  # type: ignore[union-attr]


def answer(
    full: Table, query: Message, split: int = 2_500, step: Callable[[], object] = lambda: None
) -> list[bytes]:
    """Read an answer; ``step`` is done between its messages."""
    found = []
    with patch("front.gossip.answers.queries._REPLY_CHANNELS", split):
        for raw in Queries().receive(lambda: full, CHAIN, query) or ():
            assert len(raw) <= 65_535
            if raw:
                found.append(raw)
            step()
    return found


def replies(raws: list[bytes]) -> list[ReplyChannelRange]:
    read = [decode(raw) for raw in raws]
    assert all(isinstance(reply, ReplyChannelRange) for reply in read)
    return read  # type: ignore[return-value]


def check_cover(found: list[ReplyChannelRange], first: int, blocks: int) -> None:
    """Check what BOLT 7 says of the blocks of replies, and that no block is left out."""
    assert found[0].first_blocknum <= first < found[0].first_blocknum + found[0].number_of_blocks
    assert found[-1].first_blocknum + found[-1].number_of_blocks >= first + blocks
    assert [reply.sync_complete for reply in found] == [0] * (len(found) - 1) + [1]
    covered = first
    for reply in found:
        end = reply.first_blocknum + reply.number_of_blocks
        assert covered - 1 <= reply.first_blocknum <= covered
        assert end > first
        ids = decode_short_ids(reply.encoded_short_ids)
        assert all(reply.first_blocknum <= scid >> 40 < end for scid in ids)
        covered = end


# --- query_channel_range ----------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(values(), SPLIT, st.sampled_from([None, 0, 1, 2, 3]))
def test_our_own_sync_accepts_every_answer_and_learns_the_table_from_it(
    made: list, split: int, option: int | None
) -> None:
    full = table(*made)
    query = QueryChannelRange(
        chain_hash=CHAIN, first_blocknum=0, number_of_blocks=ALL_BLOCKS, query_option=option
    )
    reader = RangeReplies(CHAIN, max_ids=1_000, max_replies=1_000)
    ids, stamps, sums = [], [], []
    for reply in replies(answer(full, query, split)):
        assert not reader.is_complete
        rows = reader.take(reply)
        ids += rows.short_channel_ids
        stamps += rows.timestamps
        sums += rows.checksums
    assert reader.is_complete
    assert reader.is_covered
    assert ids == unspent(full)
    ends = [full.update(scid, direction) for scid in ids for direction in (0, 1)]
    wants = option or 0
    assert stamps == [update_timestamp(raw) if raw else 0 for raw in ends if wants & 1]
    assert sums == [checksum(raw) if raw else 0 for raw in ends if wants & 2]


@settings(max_examples=150, deadline=None)
@given(values(), SPLIT, st.one_of(BLOCK, U32), st.one_of(st.integers(1, 9), U32))
@example([], 1, 0xFFFFFFFF, 0xFFFFFFFF)
@example([channel(scid_at((1 << 24) - 1))], 1, (1 << 24) - 1, 0xFFFFFFFF)
@example([channel(scid_at(2, t)) for t in range(4)], 2, 2, 0)
def test_replies_cover_any_range_in_order_with_each_channel_once(
    made: list, split: int, first: int, blocks: int
) -> None:
    full = table(*made)
    query = QueryChannelRange(chain_hash=CHAIN, first_blocknum=first, number_of_blocks=blocks)
    found = replies(answer(full, query, split))
    check_cover(found, first, blocks)
    said = [scid for reply in found for scid in decode_short_ids(reply.encoded_short_ids)]
    end = first + max(blocks, 1)
    assert said == [scid for scid in unspent(full) if first <= scid >> 40 < end]


@settings(max_examples=150, deadline=None)
@given(values(), st.lists(values(), max_size=4), SPLIT)
def test_replies_stay_in_order_while_the_table_changes(made: list, later: list, split: int) -> None:
    full = table(*made)
    always = set(unspent(full))
    ever = set(always)
    steps = iter(later)

    def change() -> None:
        for value in next(steps, []):
            # What was there goes, what was not comes.
            there = value.kind == "channel" and full.channel(value.key) is not None
            full.apply(gone(value) if there else value)
        always.intersection_update(unspent(full))
        ever.update(unspent(full))

    query = QueryChannelRange(chain_hash=CHAIN, first_blocknum=0, number_of_blocks=ALL_BLOCKS)
    found = replies(answer(full, query, split, change))
    check_cover(found, 0, ALL_BLOCKS)
    said = [scid for reply in found for scid in decode_short_ids(reply.encoded_short_ids)]
    assert said == sorted(set(said))
    assert always <= set(said) <= ever


# --- query_short_channel_ids --------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(values(), st.lists(st.tuples(SCIDS, st.integers(0, 63)), max_size=30))
def test_each_channel_asked_for_is_sent_once_and_then_the_end(made: list, wanted: list) -> None:
    full = table(*made)
    query = QueryShortChannelIds(
        chain_hash=CHAIN,
        encoded_short_ids=encode_short_ids([scid for scid, _ in wanted]),
        query_flags=encode_query_flags([flags for _, flags in wanted]),
    )
    *found, last = answer(full, query)
    assert isinstance(decode(last), ReplyShortChannelIdsEnd)
    expected = set()
    for scid, flags in wanted:
        entry = full.channel(scid)
        if entry is not None and not entry.spent_height:
            nodes = [full.node(node_id) for node_id in entry.nodes]
            parts = [entry.announcement, *entry.updates, *nodes]
            expected |= {raw for bit, raw in enumerate(parts) if flags >> bit & 1 and raw}
    assert Counter(found) == Counter(expected)


# --- gossip_timestamp_filter --------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(values(), STAMP, st.one_of(STAMP, st.just(0xFFFFFFFF)))
def test_history_is_what_is_of_the_span_with_channels_before_all_that_is_of_them(
    made: list, first: int, span: int
) -> None:
    full = table(*made)
    query = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=first, timestamp_range=span)
    channels, updates, nodes = Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for raw in answer(full, query):
        seen = view(raw)
        if isinstance(seen, ChannelView):
            assert not {seen.node_id_1, seen.node_id_2} & nodes.keys()
            channels[seen.short_channel_id] += 1
        elif isinstance(seen, UpdateView):
            assert seen.short_channel_id in channels
            updates[seen.key] += 1
        else:
            nodes[seen.node_id] += 1
    live = [scid << 1 | direction for scid in unspent(full) for direction in (0, 1)]
    ours = [(key, full.update(key >> 1, key & 1)) for key in live]
    of_span = [key for key, raw in ours if raw and 0 <= update_timestamp(raw) - first < span]
    assert updates == Counter(of_span)
    assert channels == Counter({key >> 1 for key in of_span})
    known = [change for change in full.changes() if change.kind == "node"]
    assert nodes == Counter(
        change.key
        for change in known
        if full.has_channels(change.key) and 0 <= node_timestamp(change.value) - first < span
    )


# --- rubbish ----------------------------------------------------------------------------------

FULL = table(
    *(channel(scid_at(block)) for block in range(5)),
    *(update(scid_at(block), 0) for block in range(5)),
    node(1),
    node(2),
)
ARRAY = st.one_of(
    st.binary(max_size=40),
    st.lists(SCIDS, max_size=5).map(encode_short_ids),
    st.lists(SCIDS, max_size=5).map(lambda ids: b"\1" + compress(encode_short_ids(ids)[1:])),
    st.builds(
        lambda data, size: b"\1" + compress(data * size),
        st.binary(max_size=9),
        U32.map(lambda number: number % 40_000),
    ),
)
FLAGS = st.one_of(
    st.just(b""),
    st.binary(max_size=30),
    ARRAY.filter(lambda data: len(data) < 0xFD).map(lambda data: bytes([1, len(data)]) + data),
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.builds(lambda number, rest: (number, rest), st.integers(261, 265), st.binary()),
        st.builds(
            lambda array, flags: (261, CHAIN + len(array).to_bytes(2, "big") + array + flags),
            ARRAY,
            FLAGS,
        ),
        st.builds(lambda rest: (263, CHAIN + rest), st.binary(min_size=8, max_size=30)),
        st.builds(lambda rest: (265, CHAIN + rest), st.binary(min_size=8, max_size=30)),
    )
)
def test_rubbish_raises_nothing_but_errors_of_the_peer(message: tuple[int, bytes]) -> None:
    number, rest = message
    try:
        read = decode(number.to_bytes(2, "big") + rest)
        assert read is not None
        found = list(Queries().receive(lambda: FULL, CHAIN, read) or ())
    except PeerError:
        return
    assert all(len(raw) <= 65_535 for raw in found)
    assert encode(read)
