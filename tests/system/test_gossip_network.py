"""A whole network told to one front is on every front, and on each that is started later."""

import asyncio
import os
from functools import partial

import pytest
from support.bitcoind import funded_folder, own_bitcoind  # noqa: F401 - fixtures
from support.gossip_nodes import (
    complete,
    gossip_node,
    shape,
    start_front_with_key,
    table_of,
    where,
)
from support.gossip_peers import Manners, feeding, observing
from support.gossip_table import differences
from support.network import recently
from support.network_on_chain import close_channel, on_chain
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, Front

CHANNELS = int(os.environ.get("GOSSIP_CHANNELS", "3000"))
"""50,000 is what the figures are promised for; it takes some minutes."""
WITHIN_S = 40 + CHANNELS / 150

pytestmark = pytest.mark.timeout(60 + 3 * WITHIN_S)


async def test_what_one_front_is_told_is_on_all_also_on_new_ones_also_with_no_back(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(CHANNELS), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with feeding(*where(node, one), network) as feeder:
            await feeder.feed()
            told = await complete(node, one, network, within_s=WITHIN_S)
            assert told.too_early == 0
            await complete(node, two, network, within_s=WITHIN_S)
            # BOLT 7: nothing goes back to where it came from, and nothing was asked for
            assert len(feeder.told) == 0
        third = await node.start_front("third")
        assert differences(network, await table_of(node, third)) == ""
        assert node.back is not None
        await node.back.stop()
        fourth = await start_front_with_key(node, "fourth")
        assert differences(network, await table_of(node, fourth)) == ""


async def test_who_wants_all_gossip_is_told_by_another_front_and_the_origin_is_not(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(600), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with (
            feeding(*where(node, one), network) as feeder,
            observing(*where(node, two)) as listener,
            observing(*where(node, two)) as uninterested,
        ):
            await listener.filter()
            await feeder.feed()
            told = await listener.listen_for(network, timeout_s=40)
            assert differences(network, told) == ""
            assert (told.too_early, told.repeated) == (0, 0)
            assert len(await uninterested.listen(0.2)) == 0
            assert len(feeder.told) == 0


async def test_the_table_is_fetched_from_who_answers_though_others_lie_or_are_silent(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(600), recently())
    async with gossip_node(own_bitcoind, tmp_path) as node:
        (front,) = node.fronts.values()
        async with (
            feeding(*where(node, front), network, manners=Manners.SILENT) as silent,
            feeding(*where(node, front), network, manners=Manners.LYING) as liar,
        ):
            await until(lambda: silent.asked, "a question to the silent one")
            async with feeding(*where(node, front), network) as honest:
                await complete(node, front, network, within_s=60)
                assert honest.answered >= len(network.channels)
                assert not liar.is_closed.is_set()


async def test_many_tell_the_same_and_each_announcement_is_taken_once(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(600), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with (
            feeding(*where(node, one), network) as first,
            feeding(*where(node, one), network) as second,
            feeding(*where(node, two), network) as third,
        ):
            everything = list(network.messages())
            await asyncio.gather(
                first.feed(everything), second.feed(reversed(everything)), third.feed(everything)
            )
            for front in (one, two):
                told = await complete(node, front, network)
                assert told.repeated == 0


async def test_a_channel_closed_on_chain_is_given_to_nobody_and_gone_after_72_blocks(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(60), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with feeding(*where(node, one), network) as feeder:
            await feeder.feed()
            await complete(node, two, network)
        closed = list(network.channels)[30]
        await close_channel(own_bitcoind, network, closed)
        await own_bitcoind.mine(1)
        rest = [scid for scid in network.channels if scid != closed]
        for front in (one, two):
            await until(partial(_gives, node, front, [*network.channels], rest), "no spent one")
        await own_bitcoind.mine(72)
        for front in (one, two):
            await until(partial(_lists, node, front, rest), "the closed one gone")


async def _gives(node: Cluster, front: Front, asked: list[int], expected: list[int]) -> bool:
    async with observing(*where(node, front)) as observer:
        await observer.ask_channels(asked)
        return sorted(observer.told.channels) == expected


async def _lists(node: Cluster, front: Front, expected: list[int]) -> bool:
    async with observing(*where(node, front)) as observer:
        return sorted(await observer.ask_range()) == expected
