"""The network that other tests are fed with is itself right: signatures, shape, places."""

import pytest
from support.network import Network, Shape, generate

from back.transactions.scripts import funding_script_pubkey
from shared.chain import REGTEST
from shared.gossip.rules import check
from shared.gossip.signed import verify
from shared.gossip.view import channel_view, node_view, update_view, view
from shared.wire import ChannelAnnouncement, NodeAnnouncement, decode
from shared.wire.address import parse_addresses
from shared.wire.message import encode

NEWEST = 1_750_000_000
SHAPE = Shape(channels=90, nodes=30, transactions=9, transactions_per_block=2)


@pytest.fixture(scope="module")
def network() -> Network:
    return generate(SHAPE, NEWEST, first_block=111, cached=False)


def test_every_signature_is_right(network):
    for scid, raw in network.channels.items():
        assert verify(raw)
        ends = channel_view(raw)[2:4]
        for direction in (0, 1):
            assert verify(network.updates[scid << 1 | direction], ends[direction])
    assert all(verify(raw) for raw in network.nodes.values())
    assert network.signatures == 4 * 90 + 180 + 30


def test_no_rule_of_bolt_7_rejects_any_of_it(network):
    for raw in network.messages():
        assert check(view(raw), REGTEST.chain_hash, NEWEST + 3_600) is None


def test_all_of_it_is_what_the_declared_messages_say(network):
    for raw in network.messages():
        message = decode(raw)
        assert message is not None
        assert encode(message) == raw
        if isinstance(message, NodeAnnouncement):
            message.alias.rstrip(b"\0").decode()
            kinds = [address.kind for address in parse_addresses(message.addresses).known]
            assert kinds == sorted(kinds)


def test_every_channel_has_two_updates_and_every_node_a_channel_and_an_announcement(network):
    assert len(network.channels) == 90
    assert {key >> 1 for key in network.updates} == set(network.channels)
    assert len(network.updates) == 180
    assert set(network.degrees()) == set(network.nodes)
    assert len(network.nodes) == 30
    busiest, *_, idlest = (count for _, count in network.degrees().most_common())
    assert busiest >= 10
    assert idlest <= 3


def test_each_message_comes_once_and_after_what_it_needs(network):
    told: set[object] = set()
    for raw in network.messages():
        match seen := view(raw):
            case _ if isinstance(decode(raw), ChannelAnnouncement):
                names = {seen.short_channel_id, seen.node_id_1, seen.node_id_2}
            case _ if raw in network.nodes.values():
                assert node_view(raw).node_id in told
                names = {raw}
            case _:
                assert update_view(raw).short_channel_id in told
                names = {seen.key}
        assert raw not in told
        told |= {*names, raw}
    assert len([item for item in told if item in set(network.messages())]) == 90 + 180 + 30


def test_the_place_of_a_channel_counts_blocks_transactions_and_outputs(network):
    places = [(scid >> 40, scid >> 16 & 0xFFFFFF, scid & 0xFFFF) for scid in network.channels]
    assert places == sorted(places)
    assert places[0] == (111, 1, 0)
    assert places[9] == (111, 1, 9)
    assert places[10] == (111, 2, 0)
    assert places[20] == (112, 1, 0)
    assert places[-1] == (115, 1, 9)


def test_the_stubbed_output_pays_to_both_announced_keys(network):
    scid, raw = next(iter(network.channels.items()))
    keys = channel_view(raw)[4:6]
    output = network.output(scid)
    assert output is not None
    assert output.script_pubkey == funding_script_pubkey(*keys)
    assert 20_000 <= output.amount_sat <= 200_000
    assert network.output(scid + 1_000) is None


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(network):
    again = generate(SHAPE, NEWEST, first_block=111, cached=False)
    assert list(again.messages()) == list(network.messages())
    other = Shape(channels=90, nodes=30, seed=2)
    assert not set(generate(other, NEWEST, cached=False).nodes) & set(network.nodes)


def test_the_cache_gives_back_what_was_made(monkeypatch, tmp_path):
    monkeypatch.setattr("support.network.cache_folder", lambda: tmp_path)
    shape = Shape(channels=400, nodes=150)
    made = generate(shape, NEWEST, cached=False)
    for _ in range(2):
        assert list(generate(shape, NEWEST).changes()) == list(made.changes())
    assert len(list((tmp_path / "network").glob("*.bin"))) == 1


def test_a_part_is_closed_in_itself(network):
    part = network.part(10, 20)
    assert list(part.channels) == list(network.channels)[10:20]
    assert len(part.updates) == 20
    assert set(part.nodes) == set(part.degrees())


def test_more_nodes_than_channels_can_join_are_refused():
    with pytest.raises(ValueError, match="12 nodes cannot share 10 channels"):
        generate(Shape(channels=10, nodes=12), NEWEST, cached=False)
