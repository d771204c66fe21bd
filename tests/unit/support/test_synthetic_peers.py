"""The peers that gossip is tested with, against each other over BOLT 8."""

import secrets
import time

import pytest
from support.gossip_peers import Manners, checksum, observing, serving, spoiled
from support.gossip_table import Told, differences
from support.lightning_peer import node_id_of
from support.network import Network, Shape, generate

from shared.gossip.signed import verify
from shared.gossip.view import channel_view, update_timestamp
from shared.wire import GossipTimestampFilter, QueryChannelRange

NEWEST = 1_750_000_000


@pytest.fixture(scope="module")
def network() -> Network:
    return generate(Shape(channels=300, nodes=100, transactions=30), NEWEST, cached=False)


async def test_who_asks_for_everything_learns_it_byte_for_byte(network):
    private = secrets.token_bytes(32)
    async with (
        serving(private, network) as (port, arrived),
        observing(node_id_of(private), port) as observer,
    ):
        told = await observer.ask_for_everything()
        feeder = await arrived.get()
    assert differences(network, told) == ""
    assert (len(told), told.repeated, told.too_early) == (300 + 600 + 100, 0, 0)
    assert isinstance(feeder.asked[0], QueryChannelRange)
    assert feeder.answered == 1_000


async def test_a_range_holds_its_blocks_only_with_timestamps_and_checksums(network):
    private = secrets.token_bytes(32)
    async with (
        serving(private, network) as (port, _),
        observing(node_id_of(private), port) as observer,
    ):
        found = await observer.ask_range(600_001, 2)
    assert sorted(found) == [scid for scid in network.channels if scid >> 40 in (600_001, 600_002)]
    for scid, extra in found.items():
        updates = [network.updates[scid << 1 | direction] for direction in (0, 1)]
        assert extra == (*map(update_timestamp, updates), *map(checksum, updates))


async def test_a_filter_is_answered_with_what_is_of_its_time(network):
    private = secrets.token_bytes(32)
    async with (
        serving(private, network) as (port, arrived),
        observing(node_id_of(private), port) as observer,
    ):
        feeder = await arrived.get()
        await observer.filter(NEWEST - 86_400, 86_400)
        await observer.ask_range()
        wanted = feeder.filter
        assert isinstance(wanted, GossipTimestampFilter)
        await feeder.feed(feeder.matching(wanted))
        told = await observer.listen(0.3)
    times = [update_timestamp(raw) for raw in told.updates.values()]
    assert 60 < len(times) < 250
    assert min(times) >= NEWEST - 86_400
    assert set(told.channels) == {key >> 1 for key in told.updates}


async def test_a_feeder_sends_everything_or_what_is_given_at_a_rate(network):
    private = secrets.token_bytes(32)
    async with (
        serving(private, network) as (port, arrived),
        observing(node_id_of(private), port) as observer,
    ):
        feeder = await arrived.get()
        assert await feeder.feed() == 1_000
        told = await observer.listen_for(network)
        assert differences(network, told) == ""
        began = time.monotonic()
        assert await feeder.feed(network.nodes.values(), per_s=500) == 100
        assert time.monotonic() - began >= 0.19


async def test_a_liar_claims_channels_that_it_then_says_nothing_of(network):
    private = secrets.token_bytes(32)
    async with (
        serving(private, network, manners=Manners.LYING) as (port, _),
        observing(node_id_of(private), port) as observer,
    ):
        told = await observer.ask_for_everything()
        claimed = await observer.ask_range()
    assert len(told) == 0
    assert len(claimed) == 300
    assert not claimed.keys() & network.channels.keys()


async def test_a_silent_one_answers_nothing(network):
    private = secrets.token_bytes(32)
    async with (
        serving(private, network, manners=Manners.SILENT) as (port, arrived),
        observing(node_id_of(private), port) as observer,
    ):
        with pytest.raises(TimeoutError):
            await observer.ask_range(timeout_s=0.3)
        assert len((await arrived.get()).asked) == 1


def test_differences_say_what_is_missing_unknown_and_different(network):
    told = Told()
    for raw in network.messages():
        told.add(raw)
    scid = min(network.channels)
    del told.channels[scid]
    name = min(network.nodes)
    told.nodes[name] = network.nodes[name][:-1]
    told.updates[0x111] = b""
    said = differences(network, told)
    assert said.startswith("1 of 300 channels missing (600000x1x0); 1 of 600 updates unknown")
    assert said.endswith(f"1 of 100 nodes different ({name.hex()})")


def test_what_comes_before_its_channel_is_counted(network):
    told = Told()
    scid = min(network.channels)
    raws = list(network.of_channel(scid, 0b11111))
    for raw in reversed(raws):
        told.add(raw)
    told.add(raws[0])
    assert (told.too_early, told.repeated) == (4, 1)


def test_a_spoiled_announcement_has_one_wrong_signature_and_is_never_the_same(network):
    scid, raw = next(iter(network.channels.items()))
    ends = channel_view(raw)[2:4]
    update = network.updates[scid << 1]
    assert not verify(spoiled(raw, 0))
    assert not verify(spoiled(update, 5), ends[0])
    assert len({spoiled(raw, number) for number in range(100)} | {raw}) == 101
    assert spoiled(raw, 3)[:194] == raw[:194]
    assert spoiled(raw, 3)[258:] == raw[258:]


def test_a_checksum_covers_neither_signature_nor_timestamp(network):
    raw = network.updates[min(network.updates)]
    other = raw[:2] + bytes(64) + raw[66:106] + b"\1\2\3\4" + raw[110:]
    assert checksum(raw) == checksum(other) != 0
    assert checksum(raw[:-1] + b"\0") != checksum(raw)
    assert checksum(None) == 0
