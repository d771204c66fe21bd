"""Announcements from peers to the back, with real worker processes and a scripted back."""

from support.gossip_intake import network, scene
from support.waiting import until

NETWORK = network()
ALL = list(NETWORK.messages())


async def test_a_whole_network_gets_into_the_table():
    async with scene() as it:
        peer = it.peer(1)
        for raw in ALL:
            it.intake.receive(peer, raw)
        await until(lambda: not it.intake.pending)
        assert sorted(it.submitted) == sorted(ALL)
        assert it.table.channels == len(NETWORK.channels)
        assert it.table.updates == len(NETWORK.updates)
        assert it.table.nodes == len(NETWORK.nodes)
        assert it.counted("accepted") == len(ALL)
        it.assert_empty()
        assert not peer.warnings
