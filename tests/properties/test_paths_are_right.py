"""Routes found on small graphs, against every route there is."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from back.graph.paths.experience import Experience
from back.graph.paths.network import Network, Terms
from back.graph.paths.question import Question
from back.graph.paths.search import CHEAPEST, search
from back.graph.paths.split import find_routes
from back.payment.route import Edge, Hop, Lesson, LocalChannel, Route, RouteRequest, fee_msat
from shared.errors import CommandError

NODES = [bytes([2]) + bytes([number]) * 32 for number in range(80)]
SOURCE, PAYEE = NODES[0], NODES[5]

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
            self.network.add(scid, (NODES[one], NODES[other]), most)
            self.network.put(scid << 1, Terms(base, millionths, delta, least, most))
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


def found(graph: Graph, request: RouteRequest, known: Experience | None = None) -> list[Route]:
    try:
        return list(find_routes(Question(graph.network, known or Experience(), request)))
    except CommandError:
        return []


requests = st.builds(
    RouteRequest,
    source=st.just(SOURCE),
    payee=st.just(PAYEE),
    amount_msat=st.sampled_from([500, 40_000, 150_000, 500_000]),
    max_fee_msat=st.sampled_from([0, 500, 5_000, 20_000, 1_000_000]),
    max_cltv_expiry_delta=st.sampled_from([0, 100, 400, 2_016]),
    max_hops=st.integers(1, 5),
    ignored_nodes=st.frozensets(st.sampled_from(NODES[:6]), max_size=2),
    ignored_channels=st.frozensets(
        st.tuples(st.integers(1, 14), st.sampled_from(NODES[:6])), max_size=4
    ),
    max_parts=st.just(1),
    seed=st.integers(0, 1_000),
)


@settings(max_examples=400, deadline=None)
@given(edges=st.lists(edge, min_size=1, max_size=14), request=requests)
def test_a_single_route_keeps_every_limit_and_is_found_whenever_there_is_one(
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
    # A way whose minimum is met only because later hops are dear is not looked for.
    sure = [
        route
        for route in possible
        if all(
            graph.edges[hop.short_channel_id, hop.node_id][1] <= request.amount_msat
            for hop in route.hops
        )
    ]
    routes = found(graph, request)
    if sure:
        assert routes
    for route in routes:
        assert graph.problem(route, request) == ""
        assert route.fee_msat <= request.max_fee_msat
        assert route in possible


@settings(max_examples=200, deadline=None)
@given(edges=st.lists(edge, min_size=1, max_size=14), amount=st.sampled_from([1_000, 60_000]))
def test_by_fees_alone_no_way_is_cheaper(edges: list[tuple[int, ...]], amount: int) -> None:
    graph = Graph([(*e[:5], 1, 1_000_000_000) for e in edges])
    request = RouteRequest(SOURCE, PAYEE, amount, 10**9, max_cltv_expiry_delta=10**6)
    question = Question(graph.network, Experience(), request)
    cheapest, _ = search(question, amount, 10**9, CHEAPEST)
    fees = [Route(amount, (plain(h[0]), *h[1:])).fee_msat for h in graph.ways()]
    if cheapest is None:
        assert not fees
    else:
        assert Route(amount, cheapest.hops).fee_msat == min(fees)


def least_fee(graph: Graph, source: bytes, payee: bytes, amount: int) -> int | None:
    """By plain search from the payee over every edge, until nothing gets better."""
    amounts = {payee: amount}
    is_better = True
    while is_better:
        is_better = False
        for hop, _, _ in graph.edges.values():
            msat = amounts.get(hop.next_node_id)
            if msat is None or hop.next_node_id == source:
                continue
            fee = 0 if hop.node_id == source else fee_msat(hop, msat)
            if msat + fee < amounts.get(hop.node_id, 1 << 60):
                amounts[hop.node_id] = msat + fee
                is_better = True
    return amounts[source] - amount if source in amounts else None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), ends=st.permutations(range(80)))
def test_in_a_larger_graph_no_way_is_cheaper(seed: int, ends: list[int]) -> None:
    chance = random.Random(seed)  # noqa: S311 - a graph
    # Most nodes know only near ones: ways are long, and both searches far apart.
    pairs = [(one, (one + chance.randint(-4, 4)) % 80) for one in range(80) for _ in range(4)]
    edges = [(*pair, chance.randint(0, 900), 0, 0, 1, 10**9) for pair in pairs]
    graph = Graph(edges)
    source, payee = NODES[ends[0]], NODES[ends[1]]
    asked = RouteRequest(source, payee, 5_000, 10**6, max_hops=1_000)
    cheapest, _ = search(Question(graph.network, Experience(), asked), 5_000, 10**6, CHEAPEST)
    expected = least_fee(graph, source, payee, 5_000)
    if cheapest is None:
        assert expected is None
    else:
        assert Route(5_000, cheapest.hops).fee_msat == expected


@settings(max_examples=150, deadline=None)
@given(
    edges=st.lists(edge, min_size=1, max_size=14),
    request=requests,
    lessons=st.lists(
        st.builds(
            Lesson,
            st.integers(1, 14),
            st.sampled_from(NODES[:6]),
            st.sampled_from([400, 100_000, 600_000]),
            st.booleans(),
            st.just(0.0),
            st.booleans(),
        ),
        max_size=6,
    ),
)
def test_what_just_failed_is_not_tried_again_with_as_much(
    edges: list[tuple[int, ...]], request: RouteRequest, lessons: list[Lesson]
) -> None:
    graph = Graph(edges)
    experience = Experience()
    experience.learn(lessons, lambda scid, node_id: graph.network.key(scid, node_id) or (scid, b""))
    last = {(lesson.short_channel_id, lesson.node_id): lesson for lesson in lessons}
    for route in found(graph, request, experience):
        assert graph.problem(route, request) == ""
        for hop, (msat, _) in zip(route.hops, route.forwarded(0), strict=True):
            lesson = last.get((hop.short_channel_id, hop.node_id))
            if lesson is not None and not lesson.passed:
                assert msat < lesson.amount_msat
                assert not lesson.is_permanent


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
    request = RouteRequest(SOURCE, PAYEE, amount, 100_000, max_parts=parts, min_part_msat=20_000)
    routes = found(graph, request)
    if not routes:
        return
    assert sum(route.amount_msat for route in routes) == amount
    assert all(route.amount_msat >= 20_000 for route in routes[:-1])
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
    question = Question(graph.network, known or Experience(), asked)
    return [[hop.short_channel_id for hop in route.hops] for route in find_routes(question)]


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


def test_a_blinded_path_is_an_edge_to_a_node_that_stands_for_the_payee() -> None:
    graph = Graph(LINE)
    stand_in = bytes(33)
    paths = [
        Edge(Hop(NODES[1], stand_in, 0, 5_000, 0, 100), 1, 10**9),
        Edge(Hop(PAYEE, stand_in, 1, 1_000, 0, 100), 1, 10**9),
    ]
    assert routes(graph, request(payee=stand_in, extra=tuple(paths))) == [[1, 2, 1]]
    both = request(payee=stand_in, extra=tuple(paths), max_fee_msat=1_500)
    with pytest.raises(CommandError):
        routes(graph, both)


def test_a_request_may_be_for_a_payee_without_any_graph() -> None:
    peer = b"\x03" + bytes(32)
    ours = LocalChannel(77, peer, 150_000)
    assert routes(Graph([]), request(payee=peer, local=(ours,))) == [[77]]
    hidden = b"\x03" + bytes([1]) * 32
    hint = Edge(Hop(peer, hidden, 99, 500, 0, 20), 1, 10**9)
    assert routes(Graph([]), request(payee=hidden, local=(ours,), extra=(hint,))) == [[77, 99]]


def test_a_tight_limit_of_blocks_finds_the_dear_and_fast_beginning() -> None:
    graph = Graph(
        [
            (0, 1, 0, 0, 0, 1, 10**9),
            (1, 2, 10, 0, 200, 1, 10**9),
            (1, 2, 900, 0, 10, 1, 10**9),
            (2, 5, 10, 0, 90, 1, 10**9),
            (2, 5, 5_000, 0, 10, 1, 10**9),
        ]
    )
    asked = request(max_cltv_expiry_delta=100, max_fee_msat=1_000)
    assert routes(graph, asked) == [[1, 3, 4]]


def test_no_channel_carries_more_than_it_has_though_several_parts_use_it() -> None:
    graph = Graph([(0, 1, 0, 0, 0, 1, 10**9), (1, 5, 0, 0, 9, 1, 300_000)])
    with pytest.raises(CommandError):
        routes(graph, request(amount_msat=300_001, max_parts=4, min_part_msat=1_000))
    held = ((2, NODES[1], 250_000),)
    with pytest.raises(CommandError):
        routes(graph, request(amount_msat=60_000, in_flight=held))
    assert routes(graph, request(amount_msat=50_000, in_flight=held)) == [[1, 2]]


def test_parts_leave_room_in_channels_whose_balance_nobody_knows() -> None:
    lines = [(0, n, 0, 0, 0, 1, 10**9) for n in (1, 2, 3)]
    lines += [(n, 5, 0, 0, 9, 1, 1_000_000) for n in (1, 2, 3)]
    graph = Graph(lines)
    asked = request(amount_msat=900_000, max_parts=3, min_part_msat=10_000)
    parts = find_routes(Question(graph.network, Experience(), asked))
    assert len(parts) == 2
    assert max(part.amount_msat for part in parts) <= 500_000
    (single,) = find_routes(Question(graph.network, Experience(), request(amount_msat=900_000)))
    assert single.amount_msat == 900_000


def test_a_request_may_look_at_so_many_edges_only() -> None:
    graph = Graph(LINE)
    with pytest.raises(CommandError, match="too long"):
        find_routes(Question(graph.network, Experience(), request(), steps=3))


def test_a_node_without_channels_gives_its_number_to_another() -> None:
    network = Network()
    network.add(1, (NODES[0], NODES[1]), 5)
    network.add(2, (NODES[1], NODES[2]), 5)
    network.forget(1)
    assert network.number(NODES[0]) is None
    network.add(3, (NODES[3], NODES[4]), 5)
    assert len(network) == 4
    network.put(3 << 1, Terms(1, 2, 3, 4, 5))
    (edge,) = network.outgoing[network.number(NODES[3]) or 0].values()
    assert network.hop(edge) == Hop(NODES[3], NODES[4], 3, 1, 2, 3)


def test_a_way_that_is_neither_cheapest_nor_fastest_keeps_both_limits() -> None:
    graph = Graph(
        [
            (0, 1, 0, 0, 0, 1, 10**9),
            (1, 2, 500, 0, 40, 1, 10**9),
            (2, 5, 0, 0, 100, 1, 10**9),
            (2, 5, 900, 0, 0, 1, 10**9),
            (2, 5, 400, 0, 50, 1, 10**9),
        ]
    )
    asked = request(max_cltv_expiry_delta=100, max_fee_msat=1_000)
    assert routes(graph, asked) == [[1, 2, 5]]


def test_what_the_payer_asks_for_its_own_channel_counts_only_if_it_shall() -> None:
    graph = Graph([(0, 1, 9_000, 0, 5, 1, 10**9), (0, 5, 700, 0, 5, 1, 10**9), *LINE[1:]])
    assert routes(graph, request(max_fee_msat=650)) == [[2]]
    with pytest.raises(CommandError):
        routes(graph, request(max_fee_msat=650, is_source_paid=True))
    local = tuple(LocalChannel(n, NODES[1], 10**6) for n in (7, 8))
    terms = tuple(
        Edge(Hop(SOURCE, NODES[1], n, fee, 0, 0), 1, 10**6) for n, fee in ((7, 90), (8, 20))
    )
    paid = request(local=local, extra=terms, is_source_paid=True)
    assert routes(graph, paid) == [[8, 3]]
    (found_by_it,) = find_routes(Question(graph.network, Experience(), paid))
    assert found_by_it.fee_msat == 1_000
    with pytest.raises(CommandError):
        routes(graph, replace(paid, max_fee_msat=1_010))
