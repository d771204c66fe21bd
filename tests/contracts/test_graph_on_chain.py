"""The back's routing table against a real bitcoind and broker: what enters, what goes, and when."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.bitcoind import funded_folder, own_bitcoind  # noqa: F401 - fixtures
from support.graph_scene import RULES, Scene, fill, graph_scene, reorg
from support.network import Network, Shape, recently
from support.network_on_chain import close_channel, on_chain
from support.waiting import until

from back.chain.regtest import Regtest
from back.graph.spent import DELAY
from shared.fabric.gossip import Outcome
from shared.gossip.record import Kind

ACCEPTED, REFUSED, LATER = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.LATER


@pytest.fixture
def node(own_bitcoind: Regtest) -> Regtest:  # noqa: F811
    """The bitcoind of one test."""
    return own_bitcoind


@pytest.fixture
async def network(node: Regtest) -> Network:
    """Four channels of three nodes, six blocks deep."""
    shape = Shape(channels=4, nodes=3, transactions=2, transactions_per_block=1)
    return await on_chain(node, shape, recently())


@pytest.fixture
async def scene(
    node: Regtest,
    network: Network,
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    async with graph_scene(node, tmp_path) as made:
        await made.synced()
        yield made


# --- acceptance -----------------------------------------------------------------------------------


async def test_a_network_that_is_on_the_chain_is_accepted_with_its_capacities(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    table = scene.graph.table
    assert (table.channels, table.updates, table.nodes) == (4, 8, 3)
    for scid, capacity_sat in network.capacities_sat.items():
        entry = table.channel(scid)
        assert entry is not None
        assert entry.capacity_sat == capacity_sat
        await scene.in_stream(scid, 0)
    assert set(scene.front.times.values()) == {1}, "one verdict each"


async def test_a_spent_channel_is_refused(scene: Scene, network: Network) -> None:
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    await scene.mine()
    assert await scene.front.submit(network.channels[scid]) == [REFUSED]
    assert scene.graph.table.channels == 0


async def test_a_spend_that_is_not_mined_does_not_keep_a_channel_out(
    scene: Scene, network: Network
) -> None:
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    assert await scene.front.submit(network.channels[scid]) == [ACCEPTED]
    height = await scene.mine()
    assert scene.spent_height(scid) == height


async def test_a_young_channel_comes_later_and_is_accepted_when_it_is_six_deep(
    scene: Scene, network: Network
) -> None:
    newest = max(network.channels)
    tip = await scene.node.call("getbestblockhash")
    await scene.node.call("invalidateblock", tip)
    await scene.synced()
    assert await scene.front.submit(network.channels[newest]) == [LATER]
    await scene.node.call("reconsiderblock", tip)
    await scene.synced()
    assert await scene.front.submit(network.channels[newest]) == [ACCEPTED]


def moved(raw: bytes, scid: int, to: int) -> bytes:
    """The announcement with another place; its signatures are wrong now."""
    at = raw.index(scid.to_bytes(8, "big"))
    return raw[:at] + to.to_bytes(8, "big") + raw[at + 8 :]


@pytest.mark.parametrize("trusts_fronts", [False, True], ids=["checking", "trusting"])
async def test_signatures_are_checked_unless_fronts_are_trusted(
    node: Regtest,
    network: Network,
    tmp_path: Path,
    trusts_fronts: bool,
) -> None:
    scid = min(network.channels)
    channel = bytearray(network.channels[scid])
    channel[5] ^= 1
    update = bytearray(network.updates[scid << 1])
    update[5] ^= 1
    async with graph_scene(node, tmp_path, trusts_fronts=trusts_fronts) as scene:
        await scene.synced()
        told = await scene.front.submit(bytes(channel))
        assert told == [ACCEPTED if trusts_fronts else Outcome.INVALID]
        await scene.front.submit(network.channels[scid])
        told = await scene.front.submit(bytes(update))
        assert told == [ACCEPTED if trusts_fronts else Outcome.INVALID]


async def test_a_place_without_the_right_output_is_refused(
    node: Regtest,
    network: Network,
    tmp_path: Path,
) -> None:
    first, second, *_ = network.channels
    raw, height = network.channels[first], first >> 40
    async with graph_scene(node, tmp_path, trusts_fronts=True) as scene:
        await scene.synced()
        wrong = {
            "not of the two": second,
            "no such P2WSH output": height << 40 | 1 << 16 | 0xFFFF,
            "P2WSH output": height << 40 | 0xFFFFFF << 16,
            "output": 0,
        }
        for why, place in wrong.items():
            assert await scene.front.submit(moved(raw, first, place)) == [REFUSED]
            assert why in scene.front.told[max(scene.front.told)][1]
        assert await scene.front.submit(moved(raw, first, 0xFFFFFF << 40)) == [REFUSED]


async def test_one_channel_submitted_by_many_at_once_is_looked_up_once(
    scene: Scene, network: Network
) -> None:
    raw = network.channels[min(network.channels)]
    told = await scene.front.submit(*[raw] * 20)
    assert ACCEPTED in told
    assert set(told) <= {ACCEPTED, Outcome.KNOWN}
    assert scene.graph.lookup.fetched == 1


async def test_a_made_up_announcement_does_not_keep_the_right_one_out(
    node: Regtest,
    network: Network,
    tmp_path: Path,
) -> None:
    first, second, *_ = network.channels
    fake = moved(network.channels[second], second, first)
    async with graph_scene(node, tmp_path, trusts_fronts=True) as scene:
        await scene.synced()
        told = await scene.front.submit(fake, network.channels[first], fake)
        assert told == [REFUSED, ACCEPTED, REFUSED]


# --- spends ---------------------------------------------------------------------------------------


async def test_a_spent_channel_is_marked_and_goes_after_72_blocks(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    height = await scene.mine()
    await scene.in_stream(scid, height)
    await scene.mine(DELAY - 1)
    assert scene.spent_height(scid) == height
    await scene.mine()
    assert scene.graph.table.channel(scid) is None
    assert scene.graph.table.channels == 3
    keys = {(Kind.CHANNEL, scid), (Kind.UPDATE, scid << 1), (Kind.UPDATE, scid << 1 | 1)}
    await until(lambda: not keys & scene.sink.table.keys(), "it is gone from GRAPH")


async def test_the_nodes_go_with_their_last_channel(scene: Scene, network: Network) -> None:
    await fill(scene, network)
    for scid in network.channels:
        await close_channel(scene.node, network, scid)
    await scene.mine(1 + DELAY)
    table = scene.graph.table
    assert (table.channels, table.updates, table.nodes) == (0, 0, 0)
    await until(lambda: not scene.sink.table, "all is gone from GRAPH")


async def test_a_reorg_takes_a_spend_back(scene: Scene, network: Network) -> None:
    await fill(scene, network)
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    height = await scene.mine(2) - 1
    await scene.in_stream(scid, height)
    await reorg(scene.node, 2, 3)
    await scene.synced()
    await scene.in_stream(scid, 0)
    height = await scene.mine()
    await scene.in_stream(scid, height)


async def test_a_reorg_while_no_back_ran_takes_a_spend_back(scene: Scene, network: Network) -> None:
    await fill(scene, network)
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    await scene.in_stream(scid, await scene.mine())
    await scene.stop()
    await reorg(scene.node, 1, 2)
    await scene.start()
    await scene.synced()
    await scene.in_stream(scid, 0)


async def test_a_channel_whose_funding_a_reorg_took_away_is_marked(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    newest = max(network.channels)
    # Those who were funded before are not touched by it.
    await reorg(scene.node, 6, 7)
    await scene.synced()
    assert scene.spent_height(newest) != 0
    assert scene.spent_height(min(network.channels)) == 0


async def test_a_chain_that_comes_back_brings_its_channels_back(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    newest = max(network.channels)
    funding = await scene.node.call("getblockhash", newest >> 40)
    await reorg(scene.node, 6, 7)
    await scene.synced()
    replaced = await scene.node.call("getblockhash", newest >> 40)
    await scene.node.call("invalidateblock", replaced)
    await scene.node.call("reconsiderblock", funding)
    await scene.mine(3)
    await scene.in_stream(newest, 0)


# --- restarts -------------------------------------------------------------------------------------


async def test_a_restarted_back_goes_on_from_where_the_stream_says(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    await scene.mine(8)
    await scene.stop()
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    await scene.node.mine(3)
    await scene.start()
    height = await scene.synced()
    assert scene.graph.table.channels == 4
    await scene.in_stream(scid, height - 2)


async def test_spends_of_a_long_absence_are_found_by_asking_for_every_output(
    node: Regtest,
    network: Network,
    tmp_path: Path,
) -> None:
    rules = replace(RULES, spends=replace(RULES.spends, far_blocks=5, check_batch=3))
    async with graph_scene(node, tmp_path, rules=rules) as scene:
        await scene.synced()
        await fill(scene, network)
        await scene.stop()
        scid = min(network.channels)
        await close_channel(scene.node, network, scid)
        await scene.node.mine(10)
        await scene.start()
        height = await scene.synced()
        await scene.in_stream(scid, height)
        assert scene.spent_height(max(network.channels)) == 0
