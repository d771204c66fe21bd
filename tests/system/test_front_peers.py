"""One front over the memory fabric, between a scripted peer and a scripted back."""

import secrets
from contextlib import asynccontextmanager

from support.front_in_test import port_of, running_front
from support.lightning_peer import LightningPeer
from support.scripted_back import ScriptedBack

from shared.fabric.memory import MemoryBroker, MemoryFabric
from shared.wire import UpdateFee

CHANNEL = bytes(range(32))


@asynccontextmanager
async def cluster(**changes):
    broker = MemoryBroker()
    back_fabric = MemoryFabric(broker, "back")
    await back_fabric.start()
    back = ScriptedBack(back_fabric, secrets.token_bytes(32))
    await back.start()
    try:
        async with running_front(MemoryFabric(broker, "front"), **changes) as front:
            yield front, back, broker
    finally:
        await back.stop()
        await back_fabric.stop()


@asynccontextmanager
async def connected(front, back):
    async with await LightningPeer.connect(back.node_id, "127.0.0.1", port_of(front)) as peer:
        await peer.init()
        yield peer, await back.next_session()


async def test_a_peer_comes_in_and_messages_go_both_ways():
    async with cluster() as (front, back, _), connected(front, back) as (peer, session):
        await peer.send(UpdateFee(channel_id=CHANNEL, feerate_per_kw=253))
        assert await session.next() == UpdateFee(channel_id=CHANNEL, feerate_per_kw=253)
        session.send(UpdateFee(channel_id=CHANNEL, feerate_per_kw=1000), channel=CHANNEL)
        assert await peer.expect(UpdateFee) == UpdateFee(channel_id=CHANNEL, feerate_per_kw=1000)
