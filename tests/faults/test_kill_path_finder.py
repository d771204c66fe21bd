"""The path-finding worker is killed again and again while payments ask for routes."""

import asyncio
import os
import random
import signal
import time

from support.network import Network, Shape, generate, recently
from support.waiting import until

from back.graph.paths.service import PathFinder, PathRules
from back.payment.route import Lesson, RouteRequest
from shared.errors import CommandError
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table
from shared.gossip.view import channel_view

PAYMENTS = 120
AT_A_TIME = 20
KILLS = 4


def table_of(network: Network) -> Table:
    table = Table()
    for change in network.changes():
        table.apply(change)
    return table


async def test_every_payment_gets_its_routes_and_a_spent_channel_is_never_used() -> None:
    network = generate(Shape(300, 50), recently())
    table = table_of(network)
    names = sorted(table.nodes_from(b"", 100))
    chance = random.Random(3)  # noqa: S311 - which payments
    finder = PathFinder(lambda: table, PathRules(restart_s=0.01, flush_s=0.0, deaths=9))
    turns = asyncio.Semaphore(AT_A_TIME)
    answers: dict[int, bool] = {}
    spent = next(iter(network.channels))

    async def pay(number: int) -> None:
        source, payee = chance.sample(names, 2)
        asked = RouteRequest(
            source, payee, 20_000, 1_000_000, unix_s=time.time(), seed=number, max_parts=4
        )
        async with turns:
            try:
                routes = await finder.find(asked)
            except CommandError:
                answers[number] = False
                return
        answers[number] = True
        assert sum(route.amount_msat for route in routes) == 20_000
        for hop in (hop for route in routes for hop in route.hops):
            view = channel_view(network.channels[hop.short_channel_id])
            assert {hop.node_id, hop.next_node_id} == {view.node_id_1, view.node_id_2}
            finder.learned([Lesson(*hop[2:3], hop.node_id, 20_000, True, time.time())])

    await finder.start()
    try:
        paying = [asyncio.create_task(pay(number)) for number in range(PAYMENTS)]
        for kill in range(1, KILLS + 1):
            await until(lambda: finder.pid is not None, "a worker that knows the table")
            if kill == 2:
                # While nobody is there to be told.
                record = table.channel(spent).record  # type: ignore[union-attr]
                change = Change(Kind.CHANNEL, spent, record._replace(spent_height=9))
                table.apply(change)
                finder.changed(change)
            if finder.pid is not None:
                os.kill(finder.pid, signal.SIGKILL)
            await until(lambda kill=kill: finder.deaths >= kill, "its death")
        await asyncio.gather(*paying)
        assert len(answers) == PAYMENTS
        assert sum(answers.values()) > PAYMENTS * 3 // 4
        assert (finder.failed, finder.waiting) == (0, 0)
        view = channel_view(network.channels[spent])
        (direct,) = await finder.find(
            RouteRequest(view.node_id_1, view.node_id_2, 20_000, 1_000_000)
        )
        assert spent not in {hop.short_channel_id for hop in direct.hops}
    finally:
        await finder.stop()
