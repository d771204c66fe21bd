"""What a peer is answered (BOLT 7 § Query Messages)."""

from itertools import pairwise
from zlib import compress

import pytest
from support.gossip_links import node_id
from support.gossip_values import CHAIN, channel, gone, node, scid_at, table, update

from front.gossip.answers import queries
from front.gossip.answers.filter import TimestampFilter
from front.gossip.answers.queries import Queries, is_dump
from shared.errors import Action, MalformedMessage, ProtocolViolation
from shared.gossip.checksum import checksum
from shared.gossip.table import Table
from shared.wire import (
    EncodedQueryFlags,
    GossipTimestampFilter,
    Ping,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    decode,
    decode_short_ids,
    decode_timestamps,
    encode_query_flags,
    encode_short_ids,
)

OTHER_CHAIN = bytes(range(32))
SCIDS = [scid_at(block) for block in (100, 101, 102)]
ANNOUNCEMENT, UPDATE_1, UPDATE_2, NODE_1, NODE_2 = 1, 2, 4, 8, 16


def raws(*changes) -> list[bytes]:
    return [getattr(change.value, "raw", change.value) for change in changes]


def answers(full: Table, message) -> list[bytes]:
    found = Queries().receive(lambda: full, CHAIN, message)
    assert found is not None
    return [raw for raw in found if raw]


def ranges(full: Table, first=0, blocks=0xFFFFFFFF, option=None, chain=CHAIN):
    query = QueryChannelRange(
        chain_hash=chain, first_blocknum=first, number_of_blocks=blocks, query_option=option
    )
    replies = [decode(raw) for raw in answers(full, query)]
    assert all(isinstance(reply, ReplyChannelRange) for reply in replies)
    return replies


def query(ids, flags=None, chain=CHAIN, encoded=None) -> QueryShortChannelIds:
    return QueryShortChannelIds(
        chain_hash=chain,
        encoded_short_ids=encoded or encode_short_ids(ids),
        query_flags=None if flags is None else encode_query_flags(flags),
    )


def asked(full: Table, *args, **named) -> tuple[list[bytes], int]:
    """Return the announcements, and full_information of the end."""
    *found, last = answers(full, query(*args, **named))
    end = decode(last)
    assert isinstance(end, ReplyShortChannelIdsEnd)
    return found, end.full_information


def history(full: Table, first=0, span=0xFFFFFFFF) -> list[bytes]:
    message = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=first, timestamp_range=span)
    return answers(full, message)


# --- query_channel_range ----------------------------------------------------------------------


def test_a_range_is_answered_with_the_unspent_channels_of_its_blocks() -> None:
    full = table(*map(channel, SCIDS), channel(scid_at(101, 9), spent_height=700))
    (reply,) = ranges(full, 100, 2)
    assert decode_short_ids(reply.encoded_short_ids) == SCIDS[:2]
    assert (reply.first_blocknum, reply.number_of_blocks, reply.sync_complete) == (100, 2, 1)
    assert reply.timestamps_tlv is reply.checksums_tlv is None


@pytest.mark.parametrize(
    ("first", "blocks"), [(0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 1), (5, 7)]
)
def test_a_range_without_channels_is_covered_by_one_final_reply(first: int, blocks: int) -> None:
    (reply,) = ranges(table(*map(channel, SCIDS)) if first else Table(), first, blocks)
    assert (reply.first_blocknum, reply.number_of_blocks) == (first, blocks)
    assert reply.sync_complete == 1
    assert decode_short_ids(reply.encoded_short_ids) == []


def test_no_blocks_are_answered_as_one_since_every_reply_overlaps_what_was_asked() -> None:
    (reply,) = ranges(table(*map(channel, SCIDS)), 101, 0)
    assert (reply.first_blocknum, reply.number_of_blocks, reply.sync_complete) == (101, 1, 1)


def test_a_range_of_another_chain_has_no_channels_and_is_answered_for_that_chain() -> None:
    (reply,) = ranges(table(*map(channel, SCIDS)), chain=OTHER_CHAIN)
    assert reply.chain_hash == OTHER_CHAIN
    assert decode_short_ids(reply.encoded_short_ids) == []
    assert reply.sync_complete == 1


@pytest.mark.parametrize("option", [0, 1, 2, 3, 4, 1 << 63])
def test_timestamps_and_checksums_are_said_if_they_are_asked_for(option: int) -> None:
    first, second = update(SCIDS[0], 0, 10), update(SCIDS[1], 1, 20)
    (reply,) = ranges(table(*map(channel, SCIDS), first, second), option=option)
    assert (reply.timestamps_tlv is not None) == bool(option & 1)
    assert (reply.checksums_tlv is not None) == bool(option & 2)
    if reply.timestamps_tlv is not None:
        assert decode_timestamps(reply.timestamps_tlv) == [(10, 0), (0, 20), (0, 0)]
    if reply.checksums_tlv is not None:
        sums = [(c.checksum_node_id_1, c.checksum_node_id_2) for c in reply.checksums_tlv]
        assert sums == [(checksum(*raws(first)), 0), (0, checksum(*raws(second))), (0, 0)]


@pytest.mark.parametrize("option", [None, 3])
def test_thousands_of_channels_of_one_block_are_split_into_messages_that_fit(option) -> None:
    ids = [scid_at(100, transaction) for transaction in range(6_000)]
    full = table(*map(channel, ids))
    query = QueryChannelRange(
        chain_hash=CHAIN, first_blocknum=0, number_of_blocks=200, query_option=option
    )
    assert max(map(len, answers(full, query))) <= 65_535
    replies = ranges(full, 0, 200, option)
    assert [scid for r in replies for scid in decode_short_ids(r.encoded_short_ids)] == ids
    assert [(r.first_blocknum, r.first_blocknum + r.number_of_blocks) for r in replies] == [
        (0, 101),
        (100, 101),
        (100, 200),
    ]
    assert [reply.sync_complete for reply in replies] == [0, 0, 1]


def test_a_reply_ends_with_a_whole_block_if_it_can(monkeypatch) -> None:
    monkeypatch.setattr(queries, "_REPLY_CHANNELS", 3)
    ids = [scid_at(block, transaction) for block in (5, 6) for transaction in (0, 1)]
    replies = ranges(table(*map(channel, ids)), 0, 10)
    assert [decode_short_ids(r.encoded_short_ids) for r in replies] == [ids[:2], ids[2:]]
    assert [(r.first_blocknum, r.number_of_blocks) for r in replies] == [(0, 6), (6, 4)]


def test_as_many_channels_as_fit_are_one_reply(monkeypatch) -> None:
    monkeypatch.setattr(queries, "_REPLY_CHANNELS", 3)
    (reply,) = ranges(table(*map(channel, SCIDS)))
    assert decode_short_ids(reply.encoded_short_ids) == SCIDS


def test_an_answer_says_what_came_and_not_what_went_while_it_was_read(monkeypatch) -> None:
    monkeypatch.setattr(queries, "_REPLY_CHANNELS", 1)
    full = table(*map(channel, SCIDS))
    message = QueryChannelRange(chain_hash=CHAIN, first_blocknum=0, number_of_blocks=1000)
    replies = Queries().receive(lambda: full, CHAIN, message)
    assert replies is not None
    found = [decode(next(replies))]
    full.apply(gone(channel(SCIDS[1])))
    full.apply(channel(scid_at(99)))
    full.apply(channel(scid_at(500)))
    found += map(decode, replies)
    said = [scid for reply in found for scid in decode_short_ids(reply.encoded_short_ids)]
    assert said == [SCIDS[0], SCIDS[2], scid_at(500)]
    ends = [(r.first_blocknum, r.first_blocknum + r.number_of_blocks) for r in found]
    assert (ends[0][0], ends[-1][1]) == (0, 1000)
    assert all(before[1] == after[0] for before, after in pairwise(ends))


def test_a_channel_that_came_just_behind_those_already_said_is_in_the_next_reply(
    monkeypatch,
) -> None:
    monkeypatch.setattr(queries, "_REPLY_CHANNELS", 1)
    full = table(channel(SCIDS[0]), channel(SCIDS[2]))
    message = QueryChannelRange(chain_hash=CHAIN, first_blocknum=0, number_of_blocks=1000)
    replies = Queries().receive(lambda: full, CHAIN, message)
    assert replies is not None
    found = [decode(next(replies))]
    full.apply(channel(SCIDS[1]))
    found += map(decode, replies)
    assert [scid for r in found for scid in decode_short_ids(r.encoded_short_ids)] == SCIDS


# --- query_short_channel_ids --------------------------------------------------------------------


def test_a_channel_is_sent_with_its_updates_then_its_nodes_and_an_end() -> None:
    parts = channel(SCIDS[0], 1, 2), update(SCIDS[0], 0), update(SCIDS[0], 1), node(1), node(2)
    assert asked(table(*parts), SCIDS[:1]) == (raws(*parts), 1)


def test_what_is_not_known_or_spent_is_left_out() -> None:
    full = table(channel(SCIDS[0], spent_height=700), update(SCIDS[0], 0), channel(SCIDS[1]))
    assert asked(full, SCIDS) == (raws(channel(SCIDS[1])), 1)


def test_a_node_of_several_channels_is_sent_once() -> None:
    full = table(*(channel(scid, 1, 2) for scid in SCIDS), node(1), node(2))
    found, _ = asked(full, SCIDS)
    assert [found.count(raw) for raw in raws(node(1), node(2))] == [1, 1]


@pytest.mark.parametrize("flags", range(32))
def test_only_what_the_flags_name_is_sent(flags: int) -> None:
    parts = channel(SCIDS[0], 1, 2), update(SCIDS[0], 0), update(SCIDS[0], 1), node(1), node(2)
    found, _ = asked(table(*parts), SCIDS[:1], [flags])
    bits = ANNOUNCEMENT, UPDATE_1, UPDATE_2, NODE_1, NODE_2
    assert found == [raw for bit, raw in zip(bits, raws(*parts), strict=True) if flags & bit]


def test_flags_that_mean_nothing_yet_ask_for_nothing_more() -> None:
    full = table(channel(SCIDS[0]), update(SCIDS[0], 0))
    assert asked(full, SCIDS[:1], [0x100 | UPDATE_1]) == (raws(update(SCIDS[0], 0)), 1)


def test_a_channel_named_again_is_sent_once_with_all_that_was_asked_of_it() -> None:
    full = table(channel(SCIDS[0]), update(SCIDS[0], 0), channel(SCIDS[1]))
    ids = [SCIDS[0], SCIDS[1], SCIDS[0], SCIDS[0]]
    found, _ = asked(full, ids, [ANNOUNCEMENT, ANNOUNCEMENT, UPDATE_1, ANNOUNCEMENT])
    assert found == raws(channel(SCIDS[0]), update(SCIDS[0], 0), channel(SCIDS[1]))


def test_thousands_of_the_same_id_are_one_answer_that_counts_as_thousands() -> None:
    encoded = b"\x01" + compress(SCIDS[0].to_bytes(8, "big") * 16_000)
    full = table(channel(SCIDS[0]))
    steps = Queries().receive(lambda: full, CHAIN, query([], encoded=encoded))
    assert steps is not None
    steps = list(steps)
    assert steps.count(b"") >= 150
    assert steps.count(raws(channel(SCIDS[0]))[0]) == 1


def test_ids_out_of_order_are_answered_too() -> None:
    full = table(*map(channel, SCIDS))
    found, _ = asked(full, SCIDS[::-1])
    assert found == raws(*map(channel, SCIDS[::-1]))


def test_another_chain_is_ended_at_once_without_full_information() -> None:
    full = table(*map(channel, SCIDS))
    assert asked(full, SCIDS, chain=OTHER_CHAIN) == ([], 0)


def test_nothing_asked_for_is_ended_at_once() -> None:
    assert asked(table(*map(channel, SCIDS)), []) == ([], 1)


@pytest.mark.parametrize("flags", [[], [1], [1] * 4])
def test_another_number_of_flags_than_of_channels_is_worth_a_warning(flags) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        Queries().receive(Table, CHAIN, query(SCIDS, flags))
    assert caught.value.action is Action.WARN


@pytest.mark.parametrize(
    "flags", [b"\x01" * 131_000, b"\xfd\x01\x00" * 43_000], ids=["short", "long"]
)
def test_a_little_zlib_that_claims_to_be_a_hundred_thousand_flags_is_refused(flags) -> None:
    tlv = EncodedQueryFlags(encoding_type=1, encoded_query_flags=compress(flags))
    message = query(SCIDS).model_copy(update={"query_flags": tlv})
    with pytest.raises((ProtocolViolation, MalformedMessage)) as caught:
        Queries().receive(Table, CHAIN, message)
    assert caught.value.action is Action.WARN


def test_what_is_renewed_while_it_is_sent_is_sent_as_it_is_then() -> None:
    full = table(*map(channel, SCIDS), update(SCIDS[1], 0, 10))
    found = Queries().receive(lambda: full, CHAIN, query(SCIDS))
    assert found is not None
    first = next(found)
    full.apply(update(SCIDS[1], 0, 11))
    full.apply(gone(channel(SCIDS[2])))
    assert [first, *found][:-1] == raws(
        channel(SCIDS[0]), channel(SCIDS[1]), update(SCIDS[1], 0, 11)
    )


# --- gossip_timestamp_filter --------------------------------------------------------------------


def test_a_filter_says_what_a_peer_wants_from_now_on() -> None:
    asks = Queries()
    assert asks.filter is None
    for first in (7, 9):
        message = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=first, timestamp_range=8)
        asks.receive(Table, CHAIN, message)
        assert asks.filter == TimestampFilter(first, 8)
        assert is_dump(message)


def test_a_filter_of_another_chain_changes_nothing_and_is_not_answered() -> None:
    asks = Queries()
    message = GossipTimestampFilter(chain_hash=OTHER_CHAIN, first_timestamp=0, timestamp_range=9)
    assert asks.receive(Table, CHAIN, message) is None
    assert asks.filter is None


def test_what_is_no_query_is_not_answered() -> None:
    assert Queries().receive(Table, CHAIN, Ping(num_pong_bytes=0, ignored=b"")) is None


def test_history_is_each_channel_before_its_updates_and_all_channels_before_nodes() -> None:
    full = table(
        *(channel(scid, number, number + 1) for number, scid in enumerate(SCIDS)),
        *(update(scid, direction, 10) for scid in SCIDS for direction in (0, 1)),
        *(node(number, 10) for number in range(4)),
    )
    expected = []
    for number, scid in enumerate(SCIDS):
        expected += [channel(scid, number, number + 1), update(scid, 0, 10), update(scid, 1, 10)]
    assert history(full) == raws(*expected, *(node(number, 10) for number in range(4)))


def test_history_holds_only_what_is_of_the_span() -> None:
    full = table(
        channel(SCIDS[0], 1, 2),
        update(SCIDS[0], 0, 99),
        update(SCIDS[0], 1, 100),
        channel(SCIDS[1], 3, 4),
        update(SCIDS[1], 0, 110),
        node(1, 99),
        node(2, 100),
        node(3, 109),
        node(4, 110),
    )
    assert history(full, 100, 10) == raws(
        channel(SCIDS[0], 1, 2), update(SCIDS[0], 1, 100), node(2, 100), node(3, 109)
    )


def test_a_node_that_is_of_the_span_comes_after_a_later_channel_of_it_that_is_too() -> None:
    full = table(
        channel(SCIDS[0], 1, 2),
        update(SCIDS[0], 0, 5),
        channel(SCIDS[1], 1, 3),
        update(SCIDS[1], 0, 100),
        node(1, 100),
    )
    assert history(full, 100, 10) == raws(
        channel(SCIDS[1], 1, 3), update(SCIDS[1], 0, 100), node(1, 100)
    )


def test_a_channel_without_updates_or_spent_is_no_history() -> None:
    full = table(
        channel(SCIDS[0]),
        channel(SCIDS[1], spent_height=700),
        update(SCIDS[1], 0),
        update(SCIDS[1], 1),
    )
    assert history(full) == []


def test_a_node_without_any_channel_is_no_history() -> None:
    full = table(channel(SCIDS[0], 1, 2), node(1), node(3))
    full.apply(gone(channel(SCIDS[0], 1, 2)))
    assert full.node(node_id(1)) is not None
    assert history(full) == []


def test_no_span_is_no_history() -> None:
    full = table(channel(SCIDS[0]), update(SCIDS[0], 0, 10), node(1, 10))
    assert history(full, 10, 0) == []


def test_history_goes_on_through_a_table_that_changes() -> None:
    full = table(*map(channel, SCIDS), *(update(scid, 0, 10) for scid in SCIDS), node(1, 10))
    message = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=0, timestamp_range=99)
    told = Queries().receive(lambda: full, CHAIN, message)
    assert told is not None
    first = next(told)
    full.apply(gone(channel(SCIDS[1])))
    full.apply(update(SCIDS[2], 0, 11))
    full.apply(node(1, 12))
    assert [raw for raw in [first, *told] if raw] == raws(
        channel(SCIDS[0]),
        update(SCIDS[0], 0, 10),
        channel(SCIDS[2]),
        update(SCIDS[2], 0, 11),
        node(1, 12),
    )


def test_an_answer_goes_on_in_the_table_that_replaced_the_one_it_began_with() -> None:
    ids = [scid_at(block) for block in range(150)]
    present = [table(*map(channel, ids), *(update(scid, 0, 10) for scid in ids))]
    message = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=0, timestamp_range=99)
    told = Queries().receive(lambda: present[0], CHAIN, message)
    assert told is not None
    next(told)
    present[0] = table(channel(ids[149]), update(ids[149], 0, 11))
    rest = [raw for raw in told if raw]
    assert rest[-2:] == raws(channel(ids[149]), update(ids[149], 0, 11))
    assert len(rest) == 3


@pytest.mark.parametrize("is_spent", [False, True])
def test_an_answer_pauses_where_it_has_much_to_look_at_and_little_to_say(is_spent: bool) -> None:
    ids = [scid_at(block) for block in range(1_000)]
    full = table(*(channel(scid, spent_height=int(is_spent)) for scid in ids))
    message = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=0, timestamp_range=99)
    told = Queries().receive(lambda: full, CHAIN, message)
    assert told is not None
    assert list(told) == [b""] * 10
