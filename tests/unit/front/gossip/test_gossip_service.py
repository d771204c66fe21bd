"""Gossip of a front as one piece: peers that ask, and what they are sent meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from zlib import compress

from support.gossip_values import CHAIN, Reading, channel, scid_at, update
from support.waiting import until

from front.gossip.answers.outbox import OutboxRules
from front.gossip.service import Gossip, GossipRules
from front.gossip.sync.sync import SyncRules
from front.metrics import Metrics
from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.gossip.record import Change
from shared.gossip.view import message_type
from shared.wire import (
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    decode,
    decode_short_ids,
)

ALL = GossipTimestampFilter(chain_hash=CHAIN, first_timestamp=0, timestamp_range=0xFFFFFFFF)
RANGE = QueryChannelRange(chain_hash=CHAIN, first_blocknum=0, number_of_blocks=0xFFFFFFFF)
RULES = GossipRules(outbox=OutboxRules(slice_s=60.0), sync=SyncRules(peers=0))


def changes(count: int) -> list[Change]:
    scids = [scid_at(block) for block in range(count)]
    return [*map(channel, scids), *(update(scid, 0) for scid in scids)]


@asynccontextmanager
async def gossiping(count: int, rules: GossipRules = RULES) -> AsyncIterator[Gossip]:
    """A front's gossip with so many channels in its table."""
    fabric = MemoryFabric(MemoryBroker())
    await fabric.start()
    gossip = Gossip(fabric, "front-1", rules, Metrics())
    load(gossip, changes(count))
    await gossip.begin(b"\2" + bytes(32), CHAIN)
    try:
        yield gossip
    finally:
        await gossip.stop()
        await fabric.stop()


def load(gossip: Gossip, values: list[Change]) -> None:
    gossip.loading()
    for value in values:
        gossip.put(value)
    gossip.loaded()


def joined(gossip: Gossip, number: int = 1) -> Reading:
    link = Reading(number)
    gossip.joined(link)
    return link


def updates(link: Reading) -> int:
    return sum(message_type(raw) == 258 for raw in link.sent)


async def turn(gossip: Gossip, *links: Reading) -> None:
    """Let the loop turn once, and the peers read all."""
    await asyncio.sleep(0)
    for link in links:
        link.read()
        gossip.drained(link)


async def test_of_many_peers_with_much_to_be_sent_one_is_served_in_a_turn_and_each_in_its_turn():
    async with gossiping(1_000) as gossip:
        links = [joined(gossip, number) for number in range(20)]
        for link in links:
            gossip.message(link, ALL)
        served = []
        while len(served) < 60:
            before = [len(link.sent) for link in links]
            await turn(gossip, *links)
            grown = [
                link for link, size in zip(links, before, strict=True) if len(link.sent) > size
            ]
            assert len(grown) <= 1
            served += grown
        assert served == links * 3


async def test_a_filter_of_another_chain_leaves_the_history_of_ours_alone():
    async with gossiping(500) as gossip:
        link = joined(gossip)
        gossip.message(link, ALL)
        await turn(gossip)
        assert 0 < updates(link) < 500
        gossip.message(link, ALL.model_copy(update={"chain_hash": bytes(32)}))
        await asyncio.wait_for(read_all(gossip, link, 500), 15)
        assert updates(link) == 500


async def read_all(gossip: Gossip, link: Reading, count: int) -> None:
    while updates(link) < count:
        await turn(gossip, link)


async def test_a_query_too_many_is_not_even_looked_at():
    async with gossiping(10) as gossip:
        link = joined(gossip)
        link.unsent = 1 << 20
        for _ in range(4):
            gossip.message(link, RANGE)
        assert not link.offences
        bomb = b"\1" + compress(bytes(1 << 20))
        gossip.message(link, QueryShortChannelIds(chain_hash=CHAIN, encoded_short_ids=bomb))
        ((text, disconnects),) = link.offences
        assert "before the earlier ones were answered" in text
        assert not disconnects


async def test_a_query_that_cannot_be_read_is_worth_a_warning_and_the_next_is_answered():
    async with gossiping(10) as gossip:
        link = joined(gossip)
        gossip.message(link, QueryShortChannelIds(chain_hash=CHAIN, encoded_short_ids=b"\0\1"))
        ((_, disconnects),) = link.offences
        assert not disconnects
        gossip.message(link, RANGE)
        await until(lambda: link.sent)
        reply = decode(link.sent[0])
        assert isinstance(reply, ReplyChannelRange)
        assert decode_short_ids(reply.encoded_short_ids) == [scid_at(block) for block in range(10)]


async def test_history_goes_on_in_the_table_that_another_stream_brought():
    async with gossiping(500) as gossip:
        link = joined(gossip)
        gossip.message(link, ALL)
        await turn(gossip)
        begun = updates(link)
        assert 0 < begun < 400
        load(gossip, changes(400))
        await asyncio.wait_for(read_all(gossip, link, 400), 15)
        for _ in range(20):
            await turn(gossip, link)
        assert updates(link) == 400


async def test_a_peer_that_left_is_sent_nothing_more():
    async with gossiping(500) as gossip:
        link = joined(gossip)
        gossip.message(link, ALL)
        await turn(gossip)
        link.closing = True
        gossip.left(link)
        before = len(link.sent)
        for _ in range(20):
            await turn(gossip, link)
        assert len(link.sent) == before
