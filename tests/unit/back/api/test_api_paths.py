"""Routes over the API, with Eclair's names and formats."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from support.api import PASSWORD, Api, Wallet, served
from support.network import Network, Shape, generate

from back.payment.route import Hop, LocalChannel, Route, RouteRequest
from shared.errors import CommandError
from shared.gossip.table import Table
from shared.gossip.view import channel_view, update_view
from shared.units import ShortChannelId

OWN = b"\x02" + bytes([7]) * 32
LOCAL = LocalChannel(42, b"\x03" + bytes([8]) * 32, 9_000, 5)


class Paths:
    """Answers with the routes that it is given, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[RouteRequest] = []
        self.routes: tuple[Route, ...] = ()

    async def find(self, request: RouteRequest) -> tuple[Route, ...]:
        self.asked.append(request)
        if not self.routes:
            raise CommandError("route not found")
        return self.routes


@pytest.fixture(scope="module")
def network() -> Network:
    return generate(Shape(channels=12, nodes=6), newest=1_700_000_000)


@pytest.fixture
def paths() -> Paths:
    return Paths()


@pytest.fixture
async def api(network: Network, paths: Paths) -> AsyncIterator[Api]:
    table = Table()
    for change in network.changes():
        table.apply(change)
    node: Any = SimpleNamespace(
        settings=SimpleNamespace(api_password=SecretStr(PASSWORD)),
        signer=SimpleNamespace(node_id=OWN),
        graph=SimpleNamespace(is_ready=True, table=table),
        paths=paths,
        payments=SimpleNamespace(
            sender=SimpleNamespace(
                exits=SimpleNamespace(
                    local=lambda: (LOCAL,),
                    runner=lambda scid: SimpleNamespace(channel=scid),
                )
            )
        ),
        announcing=SimpleNamespace(
            own_update=lambda scid: next(iter(network.updates.values())) if scid == 42 else None
        ),
    )
    async with served(node, Wallet()) as api:
        yield api


def route(network: Network) -> tuple[Route, list[int]]:
    """We to one end of a channel, and on to the other."""
    raw = next(iter(network.channels.values()))
    view = channel_view(raw)
    scid = view.short_channel_id
    hops = (
        Hop(OWN, view.node_id_1, 42),
        Hop(view.node_id_1, view.node_id_2, scid, 1_000, 10, 40),
    )
    return Route(5_000, hops), [42, scid]


async def test_a_route_is_told_by_nodes_by_channels_and_in_full(
    api: Api, paths: Paths, network: Network
) -> None:
    found, scids = route(network)
    paths.routes = (found,)
    target = found.hops[-1].next_node_id.hex()
    asked = {"nodeId": target, "amountMsat": 5_000}
    by_node = await api.call("findroutetonode", **asked)
    nodes = [OWN.hex(), found.hops[1].node_id.hex(), target]
    assert by_node == {"routes": [{"amount": 5_000, "nodeIds": nodes}]}
    by_channel = await api.call("findroutetonode", **asked, format="shortChannelId")
    names = [str(ShortChannelId.unpack(scid)) for scid in scids]
    assert by_channel == {"routes": [{"amount": 5_000, "shortChannelIds": names}]}
    full = await api.call("findroutetonode", **asked, format="full")
    first, second = full["routes"][0]["hops"]
    assert full["routes"][0]["fee"] == found.fee_msat > 0
    assert first["source"]["type"] == "announcement"
    assert second["source"]["type"] == "announcement"
    assert second["source"]["channelUpdate"]["shortChannelId"] == names[1]
    assert (second["nodeId"], second["nextNodeId"]) == (nodes[1], nodes[2])


async def test_what_is_to_be_avoided_is_asked_for(api: Api, paths: Paths, network: Network) -> None:
    found, scids = route(network)
    paths.routes = (found,)
    ends = channel_view(next(iter(network.channels.values())))[2:4]
    await api.call(
        "findroutetonode",
        nodeId=found.hops[-1].next_node_id.hex(),
        amountMsat=5_000,
        ignoreNodeIds=ends[0].hex(),
        ignoreShortChannelIds=str(ShortChannelId.unpack(scids[1])),
        maxFeeMsat=77,
        maxCltvExpiryDelta=500,
    )
    (asked,) = paths.asked
    assert asked.ignored_nodes == {ends[0]}
    assert asked.ignored_channels == {(scids[1], node) for node in (*ends, OWN)}
    assert (asked.max_fee_msat, asked.max_cltv_expiry_delta) == (77, 500)
    assert (asked.source, asked.local) == (OWN, (LOCAL,))
    assert (asked.max_parts, asked.is_source_paid, asked.extra) == (1, False, ())
    assert asked.unix_s > 1_700_000_000


async def test_between_other_nodes_our_channels_are_as_the_network_sees_them(
    api: Api, paths: Paths, network: Network
) -> None:
    found, _ = route(network)
    paths.routes = (found,)
    source = found.hops[1].node_id.hex()
    await api.call(
        "findroutebetweennodes",
        sourceNodeId=source,
        targetNodeId=found.hops[1].next_node_id.hex(),
        amountMsat=1,
    )
    assert paths.asked[0].local is None
    assert paths.asked[0].source.hex() == source


async def test_what_cannot_be_found_says_so(api: Api) -> None:
    target = (b"\x03" + bytes(32)).hex()
    assert await api.refused("findroutetonode", nodeId=target, amountMsat=1) == "route not found"
    own = await api.refused("findroutetonode", nodeId=OWN.hex(), amountMsat=1)
    assert "same node" in own
    assert "positive" in await api.refused("findroutetonode", nodeId=target, amountMsat=0)
    wrong = await api.refused("findroutetonode", nodeId=target, amountMsat=1, format="short")
    assert "format" in wrong


async def test_what_we_ask_for_our_own_channel_may_count(
    api: Api, paths: Paths, network: Network
) -> None:
    found, _ = route(network)
    paths.routes = (found,)
    await api.call(
        "findroutetonode",
        nodeId=found.hops[-1].next_node_id.hex(),
        amountMsat=5_000,
        includeLocalChannelCost="true",
    )
    (asked,) = paths.asked
    told = update_view(next(iter(network.updates.values())))
    (edge,) = asked.extra
    assert asked.is_source_paid
    assert edge.hop[:4] == (OWN, LOCAL.next_node_id, 42, told.fee_base_msat)
    assert edge.hop.fee_proportional_millionths == told.fee_proportional_millionths
    assert (edge.htlc_minimum_msat, edge.htlc_maximum_msat) == (5, 9_000)


async def test_terms_of_an_unannounced_channel_are_shown_as_those_of_a_hint(
    api: Api, paths: Paths, network: Network
) -> None:
    found, _ = route(network)
    hidden = b"\x03" + bytes([9]) * 32
    hint = Hop(found.hops[1].next_node_id, hidden, 99, 5, 6, 7)
    paths.routes = (Route(5_000, (*found.hops, hint)),)
    full = await api.call("findroutetonode", nodeId=hidden.hex(), amountMsat=5_000, format="full")
    assert full["routes"][0]["hops"][2]["source"] == {
        "type": "hint",
        "extraHop": {
            "sourceNodeId": hint.node_id.hex(),
            "targetNodeId": hidden.hex(),
            "shortChannelId": "0x0x99",
            "feeBase": 5,
            "feeProportionalMillionths": 6,
            "cltvExpiryDelta": 7,
            "htlcMinimum": 0,
        },
    }
