"""Nodes, channels and updates over the API, with Eclair's names; long lists in slices."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from support import graph as cheap
from support.api import PASSWORD, Api, Wallet, served
from support.network import Network, Shape, generate

from back.api.calls import CALLS
from back.api.network_json import alias_json, node_json
from back.api.slices import SLICE_BYTES, SLICE_STEPS, Slices
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table
from shared.gossip.view import channel_view, node_view, update_view
from shared.units import ShortChannelId
from shared.wire import NodeAnnouncement, encode

NEWEST = 1_700_000_000
UNKNOWN = "02" + "ab" * 32


@pytest.fixture(scope="module")
def network() -> Network:
    return generate(Shape(channels=12, nodes=6), newest=NEWEST)


def table_of(changes: Any) -> Table:
    table = Table()
    for change in changes:
        table.apply(change)
    return table


def node_with(table: Table) -> Any:
    return SimpleNamespace(
        settings=SimpleNamespace(api_password=SecretStr(PASSWORD)),
        graph=SimpleNamespace(is_ready=True, table=table),
    )


@pytest.fixture
async def api(network: Network) -> AsyncIterator[Api]:
    async with served(node_with(table_of(network.changes())), Wallet()) as api:
        yield api


async def test_nodes_are_told_as_they_announced_themselves(api: Api, network: Network) -> None:
    told = {node["nodeId"]: node for node in await api.call("nodes")}
    assert set(told) == {name.hex() for name in network.nodes}
    for name, raw in network.nodes.items():
        node, seen = told[name.hex()], node_view(raw)
        assert node["signature"] == raw[2:66].hex()
        assert node["timestamp"]["unix"] == seen.timestamp
        assert node["rgbColor"] == "#" + seen.rgb_color.hex()
        assert node["alias"] == seen.alias.rstrip(b"\0").decode()
        assert node["features"].keys() == {"activated"}
        assert isinstance(node["addresses"], list)
        assert node["tlvStream"] == {}


async def test_only_the_nodes_that_are_asked_for_are_told_and_each_once(
    api: Api, network: Network
) -> None:
    one, two = sorted(name.hex() for name in network.nodes)[:2]
    told = await api.call("nodes", nodeIds=f"{one},{UNKNOWN},{two},{one}")
    assert [node["nodeId"] for node in told] == [one, two]
    assert "node id begins with 02 or 03" in await api.refused("nodes", nodeIds="05" + "ab" * 32)


async def test_a_node_is_told_with_what_can_be_sent_to_it(api: Api, network: Network) -> None:
    name = max(network.degrees(), key=lambda node_id: network.degrees()[node_id])
    capacities = []
    for scid, raw in network.channels.items():
        ends = channel_view(raw)[2:4]
        if name in ends:
            to_it = network.updates[scid << 1 | 1 - ends.index(name)]
            if not update_view(to_it).is_disabled:
                capacities.append(network.capacities_sat[scid])
    told = await api.call("node", nodeId=name.hex())
    assert told["announcement"] == node_json(network.nodes[name])
    assert (told["activeChannels"], told["totalCapacity"]) == (len(capacities), sum(capacities))


async def test_a_direction_that_is_disabled_is_no_active_channel_of_the_node_it_leads_to() -> None:
    channel, one, two = cheap.channel(7), cheap.node(1), cheap.node(2)
    assert isinstance(channel.value, ChannelRecord)
    raw = channel.value.raw[:-132] + one.key + two.key + channel.value.raw[-66:]  # type: ignore[operator]
    off = bytearray(cheap.update(7, direction=1).value)  # type: ignore[arg-type]
    off[2 + 64 + 32 + 8 + 4 + 1] |= 2
    changes = [
        channel._replace(value=channel.value._replace(raw=raw)),
        cheap.update(7, direction=0),
        Change(Kind.UPDATE, 7 << 1 | 1, bytes(off)),
        one,
        two,
    ]
    async with served(node_with(table_of(changes)), Wallet()) as api:
        towards = [await api.call("node", nodeId=each.key.hex()) for each in (one, two)]  # type: ignore[union-attr]
    assert [told["activeChannels"] for told in towards] == [0, 1]
    assert [told["totalCapacity"] for told in towards] == [0, 1_000]


async def test_a_node_that_nobody_announced_is_not_found(api: Api) -> None:
    assert await api.refused("node", 404, nodeId=UNKNOWN) == "Not found"


async def test_all_channels_are_told_with_their_ends(api: Api, network: Network) -> None:
    told = await api.call("allchannels")
    expected = []
    for scid, raw in sorted(network.channels.items()):
        seen = channel_view(raw)
        name = str(ShortChannelId.unpack(scid))
        expected.append(
            {"shortChannelId": name, "a": seen.node_id_1.hex(), "b": seen.node_id_2.hex()}
        )
    assert told == expected


async def test_all_updates_are_told_with_their_terms(api: Api, network: Network) -> None:
    told = {
        (u["shortChannelId"], u["channelFlags"]["isNode1"]): u for u in await api.call("allupdates")
    }
    assert len(told) == len(network.updates)
    for raw in network.updates.values():
        seen = update_view(raw)
        update = told[str(ShortChannelId.unpack(seen.short_channel_id)), seen.direction == 0]
        assert update["signature"] == raw[2:66].hex()
        assert update["chainHash"] == seen.chain_hash.hex()
        assert update["timestamp"]["unix"] == seen.timestamp
        assert update["channelFlags"]["isEnabled"] is not seen.is_disabled
        assert update["messageFlags"]["dontForward"] is False
        assert update["cltvExpiryDelta"] == seen.cltv_expiry_delta
        assert update["htlcMinimumMsat"] == seen.htlc_minimum_msat
        assert update["feeBaseMsat"] == seen.fee_base_msat
        assert update["feeProportionalMillionths"] == seen.fee_proportional_millionths
        assert update["htlcMaximumMsat"] == seen.htlc_maximum_msat


async def test_updates_of_one_node_are_those_that_it_signed(api: Api, network: Network) -> None:
    name = next(iter(network.nodes))
    signed = {
        raw[2:66].hex()
        for key, raw in network.updates.items()
        if channel_view(network.channels[key >> 1])[2 + (key & 1)] == name
    }
    told = await api.call("allupdates", nodeId=name.hex())
    assert signed
    assert {update["signature"] for update in told} == signed
    assert await api.call("allupdates", nodeId=UNKNOWN) == []


async def test_a_table_that_is_not_loaded_is_not_told_as_an_empty_one(api: Api) -> None:
    api.node.graph.is_ready = False
    for call in ("nodes", "allchannels", "allupdates"):
        assert await api.refused(call, 503) == "the routing table is not loaded yet"
    assert await api.refused("node", 503, nodeId=UNKNOWN)


async def test_an_empty_table_is_an_empty_list(api: Api) -> None:
    api.node.graph.table = Table()
    for call in ("nodes", "allchannels", "allupdates"):
        assert await api.call(call) == []


# --- hostile words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "shown"),
    [
        (b"plain", "plain"),
        ("é≠ ⚡".encode(), "é≠ ⚡"),
        (b"\xff\xfe", "��"),
        (b"\x1b[2Jgone", "�[2Jgone"),
        ("\u202eevil".encode(), "�evil"),
        (b"a\0b", "a�b"),
        (b"\xed\xa0\x80", "���"),
        (b"", ""),
    ],
)
def test_an_alias_shows_nothing_that_it_is_not(alias: bytes, shown: str) -> None:
    assert alias_json(alias.ljust(32, b"\0")) == shown
    json.dumps(shown).encode()


def announcement(**fields: bytes) -> bytes:
    values: dict[str, Any] = {
        "signature": bytes(64),
        "features": b"",
        "timestamp": 1,
        "node_id": b"\x02" + bytes(31) + b"\x01",
        "rgb_color": b"\x01\x02\xff",
        "alias": bytes(32),
        "addresses": b"",
    }
    return encode(NodeAnnouncement(**values | fields))


@pytest.mark.parametrize(
    ("addresses", "shown"),
    [
        (bytes([1, 192, 0, 2, 7, 0x26, 7]), ["192.0.2.7:9735"]),
        (bytes([5, 3]) + b"a.b" + bytes([0, 80]), ["a.b:80"]),
        (bytes([1, 192]), []),
        (bytes([5, 3]) + b"\x1b[2" + bytes([0, 80]), []),
        (bytes([200]) + b"whatever", []),
        (bytes([1, 192, 0, 2, 7, 0x26, 7]) * 9_000, []),
    ],
)
def test_addresses_that_cannot_be_read_break_nothing(addresses: bytes, shown: list[str]) -> None:
    assert node_json(announcement(addresses=addresses))["addresses"] == shown


def test_features_have_their_names_however_long_the_field_is() -> None:
    expected = {"gossip_queries": "optional", "option_data_loss_protect": "mandatory"}
    for padding in (b"", bytes(100), b"\xff" * 60_000 + bytes(64)):
        shown = node_json(announcement(features=padding + b"\x81"))["features"]
        assert shown == {"activated": expected}
    assert "activated" in node_json(announcement(features=b"\xff" * 60_000))["features"]


# --- slices -----------------------------------------------------------------------------------


MANY = 50_000


@pytest.fixture(scope="module")
def big_table() -> Table:
    channels = (cheap.channel(number) for number in range(1, MANY + 1))
    updates = (cheap.update(n, side) for n in range(1, MANY + 1) for side in (0, 1))
    return table_of([*channels, *updates, Change(Kind.NODE, cheap.POINT, announcement())])


class Turns:
    """Counts what others do between two turns of the event loop."""

    def __init__(self) -> None:
        self.steps = self.most = self.turns = 0

    def counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.steps += 1
            yield item

    async def run(self) -> None:
        while True:
            self.most, self.steps = max(self.most, self.steps), 0
            self.turns += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["allchannels", "allupdates", "nodes"])
async def test_a_list_of_the_whole_network_lets_others_have_their_turn_all_the_time(
    name: str, big_table: Table
) -> None:
    answer = await CALLS[name].handler(node_with(big_table), {})
    assert isinstance(answer, Slices)
    turns = Turns()
    others = asyncio.create_task(turns.run())
    counted = Slices(turns.counted(answer.items))
    pieces = [piece async for piece in counted.encoded(json.dumps)]
    others.cancel()
    assert max(map(len, pieces)) < SLICE_BYTES + 2_000
    assert 0 < turns.most <= SLICE_STEPS
    assert turns.turns >= len(pieces) - 1
    expected = {"allchannels": MANY, "allupdates": 2 * MANY, "nodes": 1}
    assert len(json.loads(b"".join(pieces))) == expected[name]


async def test_counting_what_leads_to_a_node_lets_others_have_their_turn(big_table: Table) -> None:
    turns = Turns()
    others = asyncio.create_task(turns.run())
    told: Any = await CALLS["node"].handler(node_with(big_table), {"nodeId": cheap.POINT})
    others.cancel()
    assert told["activeChannels"] == MANY
    assert turns.turns >= MANY // SLICE_STEPS


async def test_a_list_is_right_json_wherever_it_is_cut() -> None:
    for count in (0, 1, 2, SLICE_STEPS - 1, SLICE_STEPS, SLICE_STEPS + 1):
        for step in (1, 2):
            items = iter([n if n % step == 0 else None for n in range(count)])
            text = b"".join([piece async for piece in Slices(items).encoded(json.dumps)])
            assert json.loads(text) == list(range(0, count, step))


async def test_a_channel_that_goes_while_the_list_is_read_breaks_nothing() -> None:
    table = table_of(cheap.channel(number) for number in range(1, 2_001))
    answer: Any = await CALLS["allchannels"].handler(node_with(table), {})
    pieces = answer.encoded(json.dumps)
    text = await anext(pieces)
    for number in range(1, 2_001):
        table.apply(cheap.gone(cheap.channel(number)))
    async for piece in pieces:
        text += piece
    assert 0 < len(json.loads(text)) < 2_000
