"""A front, the broker or the routing table's stream dies while the network is being told."""

import asyncio
from contextlib import suppress

import pytest
from nats.js.errors import NotFoundError
from support.bitcoind import funded_folder, own_bitcoind  # noqa: F401 - fixtures
from support.gossip_nodes import admin_stream, complete, gossip_node, shape, where
from support.gossip_peers import feeding
from support.lightning_peer import PeerClosed
from support.network import recently
from support.network_on_chain import on_chain
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster
from shared.gossip.view import CHANNEL_ANNOUNCEMENT, message_type

pytestmark = pytest.mark.timeout(180)

STREAM = "GRAPH"


async def stored(node: Cluster) -> int:
    """How many values the stream holds."""
    async with admin_stream(node) as streams:
        with suppress(NotFoundError):
            return int((await streams.stream_info(STREAM)).state.messages)
    return 0


async def test_a_front_killed_while_it_is_told_comes_back_and_nothing_is_missing_anywhere(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(1_000), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with feeding(*where(node, one), network) as feeder:
            telling = asyncio.create_task(feeder.feed(per_s=2_000))

            async def some_arrived() -> bool:
                return await stored(node) > 300

            await until(some_arrived, "some of it in the stream")
            one.child.kill()
            await one.child.wait()
            await asyncio.wait_for(feeder.is_closed.wait(), 5)
            with suppress(PeerClosed):
                await telling
        before = await stored(node)
        one = await node.start_front(one.name, one.port)
        assert await stored(node) >= before
        async with feeding(*where(node, one), network) as feeder:
            await feeder.feed()
            for front in (one, two):
                await complete(node, front, network)


async def test_the_broker_restarted_while_fronts_are_told_drops_nobody_and_loses_nothing(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(1_000), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with feeding(*where(node, one), network) as feeder:
            telling = asyncio.create_task(feeder.feed(per_s=1_500))

            async def some_arrived() -> bool:
                return await stored(node) > 300

            await until(some_arrived, "some of it in the stream")
            await node.restart_nats()
            assert await telling == len(list(network.messages()))
            for front in (one, two):
                await complete(node, front, network, within_s=60)
            assert not feeder.is_closed.is_set()
        third = await node.start_front("third")
        await complete(node, third, network, within_s=5)


@pytest.mark.parametrize("is_back_restarted", [False, True], ids=["running back", "new back"])
async def test_a_deleted_table_comes_back_from_those_who_have_it(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
    is_back_restarted,
):
    network = await on_chain(own_bitcoind, shape(500), recently())
    async with gossip_node(own_bitcoind, tmp_path, fronts=2) as node:
        one, two = node.fronts.values()
        async with feeding(*where(node, one), network) as feeder:
            await feeder.feed()
            for front in (one, two):
                await complete(node, front, network)
        assert node.back is not None
        if is_back_restarted:
            await node.back.stop()
        async with admin_stream(node) as streams:
            await streams.delete_stream(STREAM)
        if is_back_restarted:
            # nobody but the fronts has it now
            await node.start_back()

        async def is_whole() -> bool:
            return await stored(node) >= len(list(network.messages()))

        await until(is_whole, "the whole table in the stream", 60)
        for front in (one, two, await node.start_front("third")):
            await complete(node, front, network)


async def test_what_was_told_while_no_back_runs_is_taken_once_one_does(
    own_bitcoind: Regtest,  # noqa: F811
    tmp_path,
):
    network = await on_chain(own_bitcoind, shape(300), recently())
    async with gossip_node(own_bitcoind, tmp_path) as node:
        (front,) = node.fronts.values()
        async with feeding(*where(node, front), network) as feeder:
            channels = [raw for raw in network.messages() if is_channel(raw)]
            await feeder.feed(channels[:50])
            assert node.back is not None
            await node.back.stop()
            await feeder.feed()
            assert not feeder.is_closed.is_set()
            await node.start_back()
            await complete(node, front, network, within_s=60)
            assert not feeder.is_closed.is_set()


def is_channel(raw: bytes) -> bool:
    """Whether it announces a channel."""
    return message_type(raw) == CHANNEL_ANNOUNCEMENT
