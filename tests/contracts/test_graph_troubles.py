"""The back's routing table when something fails: bitcoind, the stream, the back itself, a front."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.bitcoind import funded_folder, own_bitcoind  # noqa: F401 - fixtures
from support.graph import ask
from support.graph_scene import Scene, fill, graph_scene, reorg
from support.network import Network, Shape, recently
from support.network_on_chain import close_channel, on_chain
from support.waiting import until

from back.chain import regtest
from back.chain.regtest import Regtest
from back.graph.spent import DELAY
from shared.errors import RpcError
from shared.fabric import subjects
from shared.fabric.gossip import Outcome
from shared.fabric.graph import STREAM, configuration
from shared.fabric.jetstream import make_stream
from shared.gossip.record import Change, ChannelRecord, Kind, change_payload, change_subject
from shared.gossip.rules import STALE_S

ACCEPTED, REFUSED, LATER = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.LATER
UNVERIFIABLE = Outcome.UNVERIFIABLE
SHAPE = Shape(channels=4, nodes=3, transactions=2, transactions_per_block=1)


@pytest.fixture
def node(own_bitcoind: Regtest) -> Regtest:  # noqa: F811
    """The bitcoind of one test."""
    return own_bitcoind


@pytest.fixture
async def network(node: Regtest) -> Network:
    """Four channels of three nodes, six blocks deep."""
    return await on_chain(node, SHAPE, recently())


@pytest.fixture
async def scene(node: Regtest, network: Network, tmp_path: Path) -> AsyncIterator[Scene]:
    async with graph_scene(node, tmp_path) as made:
        await made.synced()
        yield made


@pytest.fixture
async def trusting(node: Regtest, network: Network, tmp_path: Path) -> AsyncIterator[Scene]:
    """A back that does not check signatures."""
    async with graph_scene(node, tmp_path, trusts_fronts=True) as made:
        await made.synced()
        yield made


def newer(raw: bytes) -> bytes:
    """The same update a second later; its signature is wrong now."""
    timestamp = int.from_bytes(raw[106:110], "big") + 1
    return raw[:106] + timestamp.to_bytes(4, "big") + raw[110:]


# --- bitcoind -------------------------------------------------------------------------------------


async def test_while_bitcoind_is_away_channels_come_later_and_updates_go_on(
    scene: Scene, network: Network
) -> None:
    first, *_, last = network.channels
    assert await scene.front.submit(network.channels[first]) == [ACCEPTED]
    await scene.node.stop()
    await until(lambda: scene.graph.spends.height == 0, "it is noticed")
    assert await scene.front.submit(network.channels[last]) == [LATER]
    assert await scene.front.submit(network.updates[first << 1]) == [ACCEPTED]
    await scene.node.start()
    await scene.front.submit_until(network.channels[last], ACCEPTED)


async def test_blocks_that_came_while_bitcoind_was_away_are_worked_in(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    scid = min(network.channels)

    await scene.node.stop()
    await until(lambda: scene.graph.spends.height == 0, "it is noticed")
    await scene.node.start()
    await scene.node.create_wallet("miner")
    await close_channel(scene.node, network, scid)
    await scene.in_stream(scid, await scene.mine())


async def test_a_bitcoind_that_is_behind_takes_no_channel_away(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    await scene.stop()
    newest = max(network.channels)
    block = await scene.node.call("getblockhash", newest >> 40)
    await scene.node.call("invalidateblock", block)
    await scene.start()
    await until(lambda: not scene.graph.spends.is_behind, "it follows the shorter chain")
    assert scene.spent_height(newest) == 0
    await scene.node.call("reconsiderblock", block)
    await scene.synced()
    assert scene.spent_height(newest) == 0


async def test_a_pruned_bitcoind_lets_no_old_channel_in_and_keeps_those_that_are_there(
    tmp_path: Path,
) -> None:
    options = ["-prune=1", "-fastprune"]
    async with regtest.running(tmp_path / "pruned", options) as node:
        network = await on_chain(node, SHAPE, recently())
        first, *_, last = network.channels
        async with graph_scene(node, tmp_path) as scene:
            await scene.synced()
            assert await scene.front.submit(network.channels[first]) == [ACCEPTED]
            await scene.stop()
            await node.mine(800)
            height = await node.height()
            assert await node.call("pruneblockchain", height - 300) > last >> 40
            await scene.start()
            await scene.synced()
            assert scene.spent_height(first) == 0, "outputs are asked for without their blocks"
            assert await scene.front.submit(network.channels[last]) == [UNVERIFIABLE]
            assert "does not have that block" in scene.front.told[2][1]
            assert scene.graph.lookup.pruned == 1
            scene.graph.spends.outputs.doubtful.add(first)
            await scene.synced()
            assert scene.spent_height(first) == 0, "a block that is not there proves nothing"


async def test_a_block_that_bitcoind_does_not_give_is_done_without(
    scene: Scene, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(scene, network)
    bitcoind = scene.graph.spends._bitcoind
    real, refused = bitcoind.raw_block, list[bytes]()

    async def refuse(block_hash: bytes) -> bytes:
        if refused:
            return await real(block_hash)
        refused.append(block_hash)
        raise RpcError("getblock", -1, "Block not available (pruned data)")

    monkeypatch.setattr(bitcoind, "raw_block", refuse)
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    await scene.in_stream(scid, await scene.mine())
    assert refused


# --- what happens while a channel is looked up ----------------------------------------------------


async def test_a_channel_spent_just_after_it_was_asked_for_does_not_enter(
    scene: Scene, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    scid = min(network.channels)
    real = scene.graph.lookup.unspent

    async def slow(outpoints: Sequence[Any]) -> Any:
        coins = await real(outpoints)
        monkeypatch.setattr(scene.graph.lookup, "unspent", real)
        assert coins[0] is not None
        await close_channel(scene.node, network, scid)
        await scene.mine()
        return coins

    monkeypatch.setattr(scene.graph.lookup, "unspent", slow)
    assert await scene.front.submit(network.channels[scid]) == [LATER]
    assert await scene.front.submit(network.channels[scid]) == [REFUSED]
    assert not scene.graph.spends.outputs.by_outpoint


async def test_a_channel_whose_block_goes_while_it_is_looked_up_does_not_enter(
    scene: Scene, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = max(network.channels)
    real = scene.graph.lookup.unspent
    await scene.mine(3)

    async def slow(outpoints: Sequence[Any]) -> Any:
        coins = await real(outpoints)
        monkeypatch.setattr(scene.graph.lookup, "unspent", real)
        await reorg(scene.node, 9, 10)
        await scene.synced()
        return coins

    monkeypatch.setattr(scene.graph.lookup, "unspent", slow)
    assert await scene.front.submit(network.channels[newest]) == [LATER]
    assert await scene.front.submit(network.channels[newest]) == [REFUSED]


async def test_a_back_that_stops_gives_no_verdict_on_what_it_was_at(
    scene: Scene, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = asyncio.Event()

    async def never(_: Any) -> Any:
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(scene.graph.lookup, "locate", never)
    raw = network.channels[min(network.channels)]
    (number,) = scene.front.publish(raw)
    await asyncio.wait_for(began.wait(), 15)
    await scene.stop()
    await scene.start()
    await scene.synced()
    assert await scene.front.submit(raw) == [ACCEPTED]
    assert number not in scene.front.told


async def test_a_bug_at_one_announcement_costs_that_one_only(
    scene: Scene, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scene.graph.lookup.locate

    async def fails(_: Any) -> Any:
        monkeypatch.setattr(scene.graph.lookup, "locate", real)
        raise KeyError("a bug")

    monkeypatch.setattr(scene.graph.lookup, "locate", fails)
    first, *_, last = network.channels.values()
    assert await scene.front.submit(first) == [REFUSED]
    assert await scene.front.submit(last) == [ACCEPTED]
    assert len(scene.graph.judge.submissions) == 0
    assert len(scene.graph.judge.channels) == 0


# --- the stream -----------------------------------------------------------------------------------


async def test_a_stream_that_was_deleted_is_written_again(scene: Scene, network: Network) -> None:
    await fill(scene, network)
    await until(lambda: len(scene.sink.table) == 15, "fronts see it")
    loads = scene.sink.loads
    await ask(scene.admin, f"STREAM.DELETE.{STREAM}")
    await until(lambda: scene.sink.loads > loads, "fronts notice")
    await until(lambda: len(scene.sink.table) == 15, "it is there again")
    await scene.stop()
    await scene.start()
    assert scene.graph.table.channels == 4


async def test_a_stream_deleted_while_no_back_ran_fills_again(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    await scene.stop()
    await ask(scene.admin, f"STREAM.DELETE.{STREAM}")
    await scene.start()
    await scene.synced()
    assert scene.graph.table.channels == 0
    await fill(scene, network)


async def test_an_old_backup_put_in_place_under_a_running_back_is_merged(
    scene: Scene, network: Network
) -> None:
    spent, unknown, missing, kept = network.channels
    await fill(scene, network)
    await until(lambda: len(scene.sink.table) == 15, "fronts see it")
    backup = [Change(kind, key, value) for (kind, key), value in scene.sink.table.items()]  # type: ignore[arg-type]
    await scene.stop()
    await ask(scene.admin, f"STREAM.DELETE.{STREAM}")
    await scene.start()
    await scene.synced()
    for scid in (spent, missing, kept):
        assert await scene.front.submit(network.channels[scid]) == [ACCEPTED]
    for scid in (spent, unknown):
        await close_channel(scene.node, network, scid)
    height = await scene.mine(1 + DELAY)
    assert scene.graph.table.channel(spent) is None
    await ask(scene.admin, f"STREAM.DELETE.{STREAM}")
    await make_stream(scene.back, configuration(1))
    for change in backup:
        if change.key != missing:
            scene.back.publish(change_subject(change), change_payload(change))
    await scene.back.barrier()
    await scene.in_stream(missing, 0)
    await scene.in_stream(unknown, height)
    assert scene.spent_height(unknown) == height, "it is taken over, and looked up"
    await until(lambda: (Kind.CHANNEL, spent) not in scene.sink.table, "it is gone again")
    await until(lambda: (Kind.UPDATE, spent << 1) not in scene.sink.table, "and its updates")
    await until(lambda: scene.graph.table.updates >= 6, "the backup's updates are taken over")
    await scene.in_stream(kept, 0)


async def test_a_spend_that_a_dying_back_did_not_write_is_found_again(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    scid = min(network.channels)
    await scene.mine()
    scene.writer.mute()
    await close_channel(scene.node, network, scid)
    height = await scene.mine()
    assert scene.spent_height(scid) == height
    await scene.die()
    record = scene.record(scid)
    assert record is not None
    assert record.spent_height == 0
    await scene.start()
    await scene.synced()
    await scene.in_stream(scid, height)


async def test_a_spend_that_was_written_before_its_block_was_noted_is_doubted(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    await scene.mine()
    scid = min(network.channels)
    record = scene.record(scid)
    assert record is not None
    await scene.stop()
    ahead = Change(Kind.CHANNEL, scid, record._replace(spent_height=await scene.node.height() + 1))
    scene.back.publish(change_subject(ahead), change_payload(ahead))
    await scene.back.barrier()
    await scene.start()
    await scene.synced()
    await scene.in_stream(scid, 0)


async def test_what_a_former_owner_writes_late_is_put_right(scene: Scene, network: Network) -> None:
    await fill(scene, network)
    first, second, *_ = network.channels
    record = scene.record(first)
    assert isinstance(record, ChannelRecord)
    late = [
        Change(Kind.CHANNEL, first, record._replace(spent_height=5)),
        Change(Kind.CHANNEL, second, None),
        Change(Kind.UPDATE, second << 1, None),
    ]
    for change in late:
        scene.back.publish(change_subject(change), change_payload(change))
    await scene.back.barrier()
    for scid in (first, second):
        await scene.in_stream(scid, 0)
    await until(lambda: (Kind.UPDATE, second << 1) in scene.sink.table, "its update too")


async def test_what_belongs_to_no_channel_is_swept_out_at_the_start(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    await until(lambda: len(scene.sink.table) == 15, "fronts see it")
    await scene.stop()
    for scid in network.channels:
        gone = Change(Kind.CHANNEL, scid, None)
        scene.back.publish(change_subject(gone), change_payload(gone))
    await scene.back.barrier()
    await scene.start()
    await until(lambda: not scene.sink.table, "nothing is left")
    assert scene.graph.table.nodes == 0


async def test_a_tip_that_makes_no_sense_costs_a_look_at_every_output(
    scene: Scene, network: Network
) -> None:
    await fill(scene, network)
    scid = min(network.channels)
    await scene.stop()
    await close_channel(scene.node, network, scid)
    await scene.node.mine(9)
    scene.back.publish(subjects.GRAPH_TIP, b"rubbish")
    await scene.back.barrier()
    await scene.start()
    await scene.in_stream(scid, await scene.synced())


# --- ours, and the silent -------------------------------------------------------------------------


def own(network: Network) -> list[Change]:
    """The first channel, its first direction and that node, as if they were ours."""
    changes = list(network.changes())
    scid = min(network.channels)
    name = network.channels[scid][-132:-99]
    keys: set[int | bytes] = {scid, scid << 1, name}
    return [change for change in changes if change.key in keys]


async def real(scene: Scene, network: Network) -> list[Change]:
    """Ours, with the funding txid of the real chain."""
    scid = min(network.channels)
    await fill(scene, network)
    entry = scene.graph.table.channel(scid)
    assert entry is not None
    return [
        change._replace(value=entry.record) if change.kind is Kind.CHANNEL else change
        for change in own(network)
    ]


async def test_what_we_say_of_ourselves_no_front_replaces(
    trusting: Scene, network: Network
) -> None:
    changes = await real(trusting, network)
    trusting.graph.announce_own(changes)
    trusting.graph.announce_own(changes)
    scid = min(network.channels)
    told = await trusting.front.submit(
        newer(network.updates[scid << 1]), newer(network.updates[scid << 1 | 1])
    )
    assert told == [REFUSED, ACCEPTED]
    assert trusting.graph.table.update(scid, 0) == network.updates[scid << 1]


async def test_our_announcement_replaces_what_a_front_said_of_our_channel(
    trusting: Scene, network: Network
) -> None:
    changes = await real(trusting, network)
    await ask(trusting.admin, f"STREAM.DELETE.{STREAM}")
    await trusting.stop()
    await trusting.start()
    await trusting.synced()
    scid = min(network.channels)
    raw = network.channels[scid]
    fake = raw.replace(raw[-99:-66], b"\x03" + b"\xff" * 32)
    assert await trusting.front.submit(fake) == [ACCEPTED]
    trusting.graph.announce_own(changes)
    entry = trusting.graph.table.channel(scid)
    assert entry is not None
    assert entry.announcement == raw
    await trusting.synced()
    assert trusting.spent_height(scid) == 0


async def test_our_channel_is_marked_as_spent_like_any_other(
    scene: Scene, network: Network
) -> None:
    changes = await real(scene, network)
    scene.graph.announce_own(changes)
    scid = min(network.channels)
    await close_channel(scene.node, network, scid)
    height = await scene.mine()
    scene.graph.announce_own(changes)
    await scene.synced()
    await scene.in_stream(scid, height)
    await scene.mine(DELAY)
    scene.graph.announce_own(changes)
    assert scene.graph.table.channel(scid) is None


async def test_what_we_say_before_the_table_is_loaded_is_said_then(
    scene: Scene, network: Network
) -> None:
    changes = await real(scene, network)
    await scene.stop()
    await ask(scene.admin, f"STREAM.DELETE.{STREAM}")
    start = asyncio.create_task(scene.start())
    await until(lambda: (scene.graph is not None and not scene.graph.is_ready) or start.done())
    scene.graph.announce_own(changes)
    await start
    await scene.in_stream(min(network.channels), 0)


async def test_the_silent_are_forgotten_after_two_weeks_and_ours_is_not(
    scene: Scene, network: Network
) -> None:
    scene.graph.announce_own(await real(scene, network))
    scene.later_s = STALE_S + 86_400.0
    await until(lambda: scene.graph.table.channels == 1, "the silent are forgotten")
    assert scene.graph.table.channel(min(network.channels)) is not None
    assert scene.graph.pruned == 3


async def test_a_channel_without_updates_is_given_time(scene: Scene, network: Network) -> None:
    scids = list(network.channels)
    told = await scene.front.submit(*(network.channels[scid] for scid in scids))
    assert told == [ACCEPTED] * 4
    seen = scene.graph._first_seen_s
    await until(lambda: len(seen) == 4, "they are seen")
    scene.later_s = STALE_S + 60.0
    await until(lambda: scene.graph.table.channels == 0, "they are forgotten")
    await until(lambda: not seen, "for good")


# --- fronts ---------------------------------------------------------------------------------------


async def test_what_makes_no_sense_gets_no_verdict_and_does_no_harm(
    scene: Scene, network: Network
) -> None:
    subject = subjects.gossip("channel_update")
    for payload in (b"", b"\x01", b"\x01\xff", b"\x09\x05alone" + bytes(8), bytes(70_000)):
        scene.front.fabric.publish(subject, payload)
    raw = network.channels[min(network.channels)]
    assert await scene.front.submit(raw, raw[:80]) == [ACCEPTED, REFUSED]
    assert scene.graph.judge.refused == 5
