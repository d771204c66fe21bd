"""Routes found on small graphs, against every route there is."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from back.graph.paths.experience import Experience
from back.graph.paths.network import Network, _Channel
from back.graph.paths.search import CHEAPEST, Search
from back.graph.paths.split import find_routes
from back.payment.route import Edge, Hop, LocalChannel, Route, RouteRequest
from shared.errors import CommandError

NODES = [bytes([2]) + bytes([number]) * 32 for number in range(6)]
SOURCE, PAYEE = NODES[0], NODES[-1]

edge = st.tuples(
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 3_000),
    st.sampled_from([0, 1, 100, 5_000, 100_000]),
    st.integers(0, 300),
    st.sampled_from([1, 1_000, 50_000]),
    st.sampled_from([60_000, 200_000, 1_000_000]),
)


class Graph:
    """A small graph, as a network and as a list."""

    def __init__(self, edges: list[tuple[int, ...]]) -> None:
        self.network = Network()
        self.edges: dict[tuple[int, bytes], tuple[Hop, int, int]] = {}
        for scid, (one, other, base, millionths, delta, least, most) in enumerate(edges, 1):
            if one == other:
                continue
            nodes = self.network._number_of(NODES[one]), self.network._number_of(NODES[other])
            self.network._channels[scid] = _Channel(nodes, most)
            key = scid << 1
            self.network.incoming[nodes[1]][key] = (
                key, nodes[0], base, millionths, delta, least, most, 1 / most
            )  # fmt: skip
            hop = Hop(NODES[one], NODES[other], scid, base, millionths, delta)
            self.edges[scid, NODES[one]] = hop, least, most

    def ways(self) -> Iterator[tuple[Hop, ...]]:
        """Every way without a loop."""
        stack: list[tuple[bytes, tuple[Hop, ...]]] = [(SOURCE, ())]
        while stack:
            node, hops = stack.pop()
            if node == PAYEE:
                yield hops
                continue
            seen = {hop.node_id for hop in hops}
            for hop, _, _ in self.edges.values():
                if hop.node_id == node and hop.next_node_id not in seen | {node}:
                    stack.append((hop.next_node_id, (*hops, hop)))

    def problem(self, route: Route, request: RouteRequest) -> str:
        """What is wrong with one route by itself; empty if nothing."""
        return next(self._problems(route, request), "")

    def _problems(self, route: Route, request: RouteRequest) -> Iterator[str]:
        hops = route.hops
        if hops[0].node_id != SOURCE or hops[-1].next_node_id != PAYEE:
            yield "ends"
        if len(hops) > request.max_hops:
            yield "too long"
        if route.cltv_expiry_delta > request.max_cltv_expiry_delta:
            yield "too slow"
        for hop, (msat, _) in zip(hops, route.forwarded(0), strict=True):
            _, least, most = self.edges[hop.short_channel_id, hop.node_id]
            if not least <= msat <= most:
                yield f"{msat} msat through {hop.short_channel_id}"
            if (hop.short_channel_id, hop.node_id) in request.ignored_channels:
                yield "ignored channel"
            if hop.node_id in request.ignored_nodes - {SOURCE}:
                yield "ignored node"


def plain(hop: Hop) -> Hop:
    return hop._replace(fee_base_msat=0, fee_proportional_millionths=0, cltv_expiry_delta=0)


requests = st.builds(
    RouteRequest,
    source=st.just(SOURCE),
    payee=st.just(PAYEE),
    amount_msat=st.sampled_from([500, 40_000, 150_000, 500_000]),
    max_fee_msat=st.sampled_from([0, 500, 20_000, 1_000_000]),
    max_cltv_expiry_delta=st.sampled_from([100, 400, 2_016]),
    max_hops=st.integers(1, 5),
    ignored_nodes=st.frozensets(st.sampled_from(NODES[1:-1]), max_size=1),
    max_parts=st.just(1),
    seed=st.integers(0, 1_000),
)


@settings(max_examples=400, deadline=None)
@given(edges=st.lists(edge, min_size=1, max_size=14), request=requests)
def test_a_single_route_keeps_every_limit_and_is_found_where_one_is_cheap_enough(
    edges: list[tuple[int, ...]], request: RouteRequest
) -> None:
    graph = Graph(edges)
    possible = [
        route
        for hops in graph.ways()
        if not graph.problem(
            route := Route(request.amount_msat, (plain(hops[0]), *hops[1:])), request
        )
        and route.fee_msat <= request.max_fee_msat
    ]
    try:
        (found,) = find_routes(Search(graph.network, Experience(), request))
    except CommandError:
        unlimited = request.max_hops == 5 and request.max_cltv_expiry_delta == 2_016
        # The cheapest way within the fees is found, unless another limit cuts it off.
        assert not (possible and unlimited and request.max_fee_msat == 1_000_000)
        return
    assert graph.problem(found, request) == ""
    assert found.fee_msat <= request.max_fee_msat
    assert found in possible


@settings(max_examples=200, deadline=None)
@given(edges=st.lists(edge, min_size=1, max_size=14), amount=st.sampled_from([1_000, 60_000]))
def test_by_fees_alone_no_way_is_cheaper(edges: list[tuple[int, ...]], amount: int) -> None:
    graph = Graph([(*e[:5], 1, 1_000_000_000) for e in edges])
    request = RouteRequest(SOURCE, PAYEE, amount, 10**9, max_cltv_expiry_delta=10**6)
    found = Search(graph.network, Experience(), request).route(amount, 10**9, CHEAPEST)
    fees = [Route(amount, (plain(h[0]), *h[1:])).fee_msat for h in graph.ways()]
    if found is None:
        assert not fees
    else:
        # Fees are rounded down at each hop: a smaller amount may cost a millisatoshi more.
        assert Route(amount, found.hops).fee_msat <= min(fees) + 2


@settings(max_examples=300, deadline=None)
@given(
    edges=st.lists(edge, min_size=2, max_size=16),
    amount=st.integers(100_000, 2_500_000),
    parts=st.integers(2, 6),
)
def test_parts_bring_exactly_the_amount_and_overload_no_channel(
    edges: list[tuple[int, ...]], amount: int, parts: int
) -> None:
    graph = Graph(edges)
    request = RouteRequest(
        SOURCE, PAYEE, amount, 100_000, max_parts=parts, min_part_msat=20_000, in_flight=()
    )
    try:
        routes = find_routes(Search(graph.network, Experience(), request))
    except CommandError:
        return
    assert sum(route.amount_msat for route in routes) == amount
    assert len(routes) <= parts
    assert sum(route.fee_msat for route in routes) <= request.max_fee_msat
    load: dict[tuple[int, bytes], int] = {}
    for route in routes:
        assert graph.problem(route, request) == ""
        for hop, (msat, _) in zip(route.hops, route.forwarded(0), strict=True):
            name = hop.short_channel_id, hop.node_id
            load[name] = load.get(name, 0) + msat
    for name, msat in load.items():
        assert msat <= graph.edges[name][2]


# --- what a request adds and takes ----------------------------------------------------------------


def request(**changed: Any) -> RouteRequest:
    values: dict[str, Any] = {
        "source": SOURCE, "payee": PAYEE, "amount_msat": 100_000, "max_fee_msat": 50_000
    }  # fmt: skip
    return RouteRequest(**(values | changed))


def routes(graph: Graph, asked: RouteRequest, known: Experience | None = None) -> list[list[int]]:
    found = find_routes(Search(graph.network, known or Experience(), asked))
    return [[hop.short_channel_id for hop in route.hops] for route in found]


LINE = [(0, 1, 0, 0, 0, 1, 10**9), (1, 5, 1_000, 0, 40, 1, 10**9), (1, 5, 2_000, 0, 40, 1, 10**9)]


def test_local_channels_replace_those_of_the_table() -> None:
    graph = Graph(LINE)
    ours = LocalChannel(77, NODES[1], 150_000)
    assert routes(graph, request(local=(ours,))) == [[77, 2]]
    with pytest.raises(CommandError):
        routes(graph, request(local=()))
    with pytest.raises(CommandError):
        routes(graph, request(local=(LocalChannel(77, NODES[1], 100_000),)))


def test_a_hint_reaches_a_node_that_nobody_knows() -> None:
    graph = Graph(LINE)
    hidden = b"\x03" + bytes(32)
    hint = Edge(Hop(PAYEE, hidden, 99, 500, 0, 20), 1, 10**9)
    assert routes(graph, request(payee=hidden, extra=(hint,))) == [[1, 2, 99]]


def test_fresher_terms_replace_those_of_the_table() -> None:
    graph = Graph(LINE)
    dearer = Edge(Hop(NODES[1], PAYEE, 2, 9_000, 0, 40), 1, 10**9)
    assert routes(graph, request(extra=(dearer,))) == [[1, 3]]


def test_an_ignored_channel_is_not_used() -> None:
    graph = Graph(LINE)
    assert routes(graph, request(ignored_channels=frozenset({(2, NODES[1])}))) == [[1, 3]]


def test_what_is_in_flight_counts() -> None:
    graph = Graph(LINE)
    assert routes(graph, request(in_flight=((2, NODES[1], 10**9 - 50_000),))) == [[1, 3]]
