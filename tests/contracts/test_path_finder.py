"""The path-finding process: fed with the table, killed, asked too much."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.network import Network, Shape, generate, recently
from support.waiting import until

from back.graph.paths.service import PathFinder, PathRules
from back.payment.route import Lesson, LocalChannel, RouteRequest
from shared.errors import BackendError, CommandError
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table
from shared.gossip.view import channel_view

RULES = PathRules(restart_s=0.01, flush_s=0.01)


def known(network: Network) -> Table:
    table = Table()
    for change in network.changes():
        table.apply(change)
    return table


@pytest.fixture(scope="module")
def network() -> Network:
    return generate(Shape(400, 60), recently())


@asynccontextmanager
async def finding(table: Table, rules: PathRules = RULES) -> AsyncIterator[PathFinder]:
    finder = PathFinder(lambda: table, rules)
    await finder.start()
    try:
        await until(lambda: finder.pid is not None, "the worker has the table")
        yield finder
    finally:
        await finder.stop()


def ends(table: Table) -> tuple[bytes, bytes]:
    """Two nodes that have no channel with each other."""
    names = sorted(table.nodes_from(b"", 1_000))
    pairs = {entry.nodes for scid in table.short_channel_ids(0, 1 << 24)
             if (entry := table.channel(scid))}  # fmt: skip
    for one in names:
        for other in names:
            if one < other and (one, other) not in pairs and (other, one) not in pairs:
                return one, other
    raise AssertionError("everybody knows everybody")


def wanted(table: Table, **changed: Any) -> RouteRequest:
    source, payee = ends(table)
    values: dict[str, Any] = {
        "source": source, "payee": payee, "amount_msat": 10_000, "max_fee_msat": 1_000_000
    }  # fmt: skip
    return RouteRequest(**(values | changed))


async def test_it_finds_a_way_through_the_table(network: Network) -> None:
    table = known(network)
    async with finding(table) as finder:
        asked = wanted(table)
        (route,) = await finder.find(asked)
        assert route.hops[0].node_id == asked.source
        assert route.hops[-1].next_node_id == asked.payee
        for hop in route.hops:
            entry = table.channel(hop.short_channel_id)
            assert entry is not None
            assert {hop.node_id, hop.next_node_id} == set(entry.nodes)


async def test_it_says_why_there_is_no_way(network: Network) -> None:
    table = known(network)
    async with finding(table) as finder:
        with pytest.raises(CommandError, match="route not found"):
            await finder.find(wanted(table, local=()))


async def test_changes_of_the_table_reach_it(network: Network) -> None:
    table = Table()
    async with finding(table) as finder:
        whole = known(network)
        asked = wanted(whole)
        with pytest.raises(CommandError):
            await finder.find(asked)
        for change in network.changes():
            table.apply(change)
            finder.changed(change)

        async def found() -> bool:
            try:
                return bool(await finder.find(asked))
            except CommandError:
                return False

        async with asyncio.timeout(10):
            while not await found():
                await asyncio.sleep(0.02)
        for scid in table.short_channel_ids(0, 1 << 24):
            finder.changed(Change(Kind.CHANNEL, scid, None))
        async with asyncio.timeout(10):
            while await found():
                await asyncio.sleep(0.02)


async def test_a_killed_worker_is_replaced_and_knows_all_again(network: Network) -> None:
    table = known(network)
    async with finding(table) as finder:
        asked = wanted(table, unix_s=time.time())
        (route,) = await finder.find(asked)
        hop = route.hops[0]
        lesson = Lesson(hop.short_channel_id, hop.node_id, 1, False, asked.unix_s)
        finder.learned([lesson])
        (other,) = await finder.find(asked)
        assert other.hops[0] != hop
        for _ in range(2):
            before = finder.pid
            assert before is not None
            os.kill(before, signal.SIGKILL)
            await until(lambda before=before: finder.pid not in {None, before}, "another worker")
            assert (await finder.find(asked)) == (other,)


async def test_what_was_asked_while_the_worker_died_is_answered_by_the_next(
    network: Network,
) -> None:
    table = known(network)
    async with finding(table) as finder:
        assert finder.pid is not None
        os.kill(finder.pid, signal.SIGSTOP)
        asking = [asyncio.create_task(finder.find(wanted(table, seed=n))) for n in range(5)]
        await asyncio.sleep(0)
        os.kill(finder.pid, signal.SIGKILL)
        for routes in await asyncio.gather(*asking):
            assert routes


async def test_a_worker_that_hangs_is_ended_and_the_next_one_answers(network: Network) -> None:
    table = known(network)
    async with finding(table, PathRules(restart_s=0.01, search_s=0.3)) as finder:
        before = finder.pid
        assert before is not None
        os.kill(before, signal.SIGSTOP)
        assert await finder.find(wanted(table))
        assert finder.pid not in {None, before}
        assert finder.deaths == 1


async def test_a_request_that_every_worker_dies_of_is_refused_and_no_other(
    network: Network,
) -> None:
    table = known(network)
    async with finding(table, PathRules(restart_s=0.01, search_s=60)) as finder:

        async def ask(seed: int) -> bool:
            try:
                return bool(await finder.find(wanted(table, seed=seed)))
            except BackendError:
                return False

        assert finder.pid is not None
        os.kill(finder.pid, signal.SIGSTOP)
        asking = [asyncio.create_task(ask(seed)) for seed in range(4)]
        await asyncio.sleep(0)
        finder._kill()
        await until(lambda: finder.deaths == 1, "the first death")
        # Between its getting the requests and its answers.
        pump = finder._pump

        def stopped() -> None:
            if finder.pid is not None and finder.deaths == 1:
                os.kill(finder.pid, signal.SIGSTOP)
            pump()
            if finder.deaths == 1:
                finder._kill()

        finder._pump = stopped  # type: ignore[method-assign]
        assert await asyncio.gather(*asking) == [False, True, True, True]
        assert (finder.failed, finder.found, finder.waiting) == (1, 3, 0)


async def test_who_waits_too_long_is_told(network: Network) -> None:
    table = known(network)
    async with finding(table, PathRules(restart_s=0.01, timeout_s=0.2)) as finder:
        assert finder.pid is not None
        os.kill(finder.pid, signal.SIGSTOP)
        with pytest.raises(BackendError, match="in time"):
            await finder.find(wanted(table))
        os.kill(finder.pid, signal.SIGCONT)
        await until(lambda: finder.waiting == 0, "the answer that nobody waits for any more")
        assert await finder.find(wanted(table))


async def test_a_worker_that_reads_nothing_is_replaced(network: Network) -> None:
    table = known(network)
    async with finding(table, PathRules(restart_s=0.01, stall_s=0.3, flush_s=0.0)) as finder:
        before = finder.pid
        assert before is not None
        os.kill(before, signal.SIGSTOP)

        def told_until_another() -> bool:
            for change in network.changes():
                finder.changed(change)
            return finder.pid not in {None, before}

        await until(told_until_another, "another worker")
        assert await finder.find(wanted(table))


async def test_another_table_replaces_the_old_one_while_the_old_one_still_serves(
    network: Network,
) -> None:
    tables = [known(network), Table()]
    finder = PathFinder(lambda: tables[0], RULES)
    await finder.start()
    try:
        asked = wanted(tables[0])
        assert await finder.find(asked)
        del tables[0]
        finder.reload()

        async def is_gone() -> bool:
            try:
                return not await finder.find(asked)
            except CommandError:
                return True

        await until(is_gone, "the empty table")
        assert finder.deaths == 0
    finally:
        await finder.stop()


async def test_more_changes_than_may_wait_become_a_new_table(network: Network) -> None:
    table = Table()
    rules = PathRules(restart_s=0.01, flush_s=0.01, changes=10)
    async with finding(table, rules) as finder:
        for change in network.changes():
            table.apply(change)
            finder.changed(change)
        assert len(finder._changes) <= 10

        async def found() -> bool:
            try:
                return bool(await finder.find(wanted(table)))
            except CommandError:
                return False

        await until(found, "the table")


async def test_after_the_end_everybody_is_refused(network: Network) -> None:
    table = known(network)
    async with finding(table) as finder:
        assert finder.pid is not None
        os.kill(finder.pid, signal.SIGSTOP)
        asking = asyncio.create_task(finder.find(wanted(table)))
        await asyncio.sleep(0)
    with pytest.raises(BackendError, match="ended"):
        await asking
    with pytest.raises(BackendError, match="ended"):
        await finder.find(wanted(table))


@pytest.mark.parametrize(("age_s", "is_told"), [(25 * 3600, False), (0, True)])
async def test_lessons_are_told_to_a_new_worker_unless_they_are_old(
    network: Network, age_s: float, is_told: bool
) -> None:
    table = known(network)
    now = 1_000_000.0
    finder = PathFinder(lambda: table, RULES, clock=lambda: now)
    asked = wanted(table, unix_s=now - age_s)
    scids = [s for s in table.short_channel_ids(0, 1 << 24)
             if (e := table.channel(s)) and asked.source in e.nodes]  # fmt: skip
    finder.learned(Lesson(s, asked.source, 1, False, now - age_s, True) for s in scids)
    await finder.start()
    try:
        if is_told:
            with pytest.raises(CommandError):
                await finder.find(asked)
        else:
            assert await finder.find(asked)
    finally:
        await finder.stop()


async def test_too_many_questions_are_refused(network: Network) -> None:
    table = known(network)
    rules = PathRules(restart_s=0.01, waiting=3)
    async with finding(table, rules) as finder:
        asking = [asyncio.create_task(finder.find(wanted(table))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BackendError, match="too many"):
            await finder.find(wanted(table))
        await asyncio.gather(*asking)


async def test_a_payer_that_nobody_knows_goes_by_its_own_channels(network: Network) -> None:
    table = known(network)
    async with finding(table) as finder:
        local = (LocalChannel(5, channel_view(next(network.messages())).node_id_1, 10**9),)
        routes = await finder.find(wanted(table, source=b"\x02" + bytes(32), local=local))
        assert routes[0].hops[0].short_channel_id == 5
