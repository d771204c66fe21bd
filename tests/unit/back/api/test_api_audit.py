"""`audit` and `relaystats`: fields of Eclair, times, pages, and lists of any length."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from support.api import PASSWORD, Api, Wallet, api_of, served
from support.payment_nodes import Pair, pair_of_nodes

from back.events.books import RelayStats, Span

DAY_S = 86_400


class Ledger:
    """Books of this many payments, and what was asked for."""

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self.spans: list[Span] = []
        self.turns = 0

    async def _pages(self, span: Span) -> AsyncIterator[list[dict[str, Any]]]:
        self.spans.append(span)
        for start in range(0, self.count, 500):
            yield [{"n": n} for n in range(start, min(start + 500, self.count))]

    sent = received = relayed = _pages

    async def relay_stats(self, span: Span) -> list[RelayStats]:
        self.spans.append(span)
        return [RelayStats(bytes([2]) + bytes([n]) * 32, fee_msat=n) for n in range(30)][::-1]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    return Ledger()


@pytest.fixture
async def api(ledger: Ledger) -> AsyncIterator[Api]:
    settings = SimpleNamespace(api_password=SecretStr(PASSWORD))
    node = SimpleNamespace(settings=settings, events=SimpleNamespace(books=ledger))
    async with served(node, Wallet()) as api:
        yield api


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair_of_nodes(tmp_path) as pair:
        yield pair


async def test_audit_lists_what_was_paid_and_received(pair: Pair) -> None:
    await pair.alice.pay(await pair.bob.invoice(10_000_000))
    await pair.quiet()
    async with api_of(pair.alice) as alice, api_of(pair.bob) as bob:
        paid = await alice.call("audit")
        assert [len(paid[name]) for name in ("sent", "received", "relayed")] == [1, 0, 0]
        (sent,) = paid["sent"]
        assert sent["recipientAmount"] == 10_000_000
        assert sent["recipientNodeId"] == pair.bob.node_id.hex()
        assert sent["fees"] == 0
        (part,) = sent["parts"]
        assert part["channelId"] == pair.alice.channel().channel_id.hex()
        assert part["nextNodeId"] == pair.bob.node_id.hex()
        got = await bob.call("audit")
        assert [len(got[name]) for name in ("sent", "received", "relayed")] == [0, 1, 0]
        (received,) = got["received"]
        assert received["paymentHash"] == sent["paymentHash"]
        assert received["parts"][0]["amount"] == 10_000_000
        assert received["parts"][0]["remoteNodeId"] == pair.alice.node_id.hex()
        assert await bob.call("relaystats") == []
        later = int(time.time()) + 100
        empty = await bob.call("audit", **{"from": later, "to": later + 1})
        assert empty == {"sent": [], "received": [], "relayed": []}


async def test_the_last_day_is_meant_where_no_time_is_given(api: Api, ledger: Ledger) -> None:
    before = int(time.time())
    await api.call("audit")
    (span,) = set(ledger.spans)
    assert span.until - span.since == DAY_S
    assert before <= span.until <= time.time()
    assert (span.count, span.skip) == (None, 0)


async def test_pages_are_asked_for_with_count_and_skip(api: Api, ledger: Ledger) -> None:
    await api.call("audit", **{"from": 5, "to": 9}, count=7, skip=3)
    assert set(ledger.spans) == {Span(5, 9, 7, 3)}
    words = await api.refused("audit", skip=3)
    assert "count" in words


async def test_an_audit_of_very_many_payments_is_written_as_it_is_read(
    api: Api, ledger: Ledger
) -> None:
    ledger.count = 12_345
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    answer = await api.call("audit")
    beside.cancel()
    for name in ("sent", "received", "relayed"):
        assert [each["n"] for each in answer[name]] == list(range(12_345))
    assert turns > 3 * 12_345 / 100


async def test_relaystats_shows_the_ten_best_peers_or_as_many_as_asked(
    api: Api, ledger: Ledger
) -> None:
    best = await api.call("relaystats")
    assert [peer["relayFeeEarned"] for peer in best] == list(range(29, 19, -1))
    some = await api.call("relaystats", count=3, skip=2)
    assert [peer["relayFeeEarned"] for peer in some] == [27, 26, 25]


async def test_relaystats_of_one_peer_is_an_object_also_where_it_brought_nothing(
    api: Api, ledger: Ledger
) -> None:
    known = await api.call("relaystats", nodeId="02" + "05" * 32, **{"from": 1, "to": 2})
    assert (known["relayFeeEarned"], known["from"]["unix"], known["to"]["unix"]) == (5, 1, 2)
    unknown = await api.call("relaystats", nodeId="03" + "05" * 32)
    assert (unknown["remoteNodeId"], unknown["relayFeeEarned"]) == ("03" + "05" * 32, 0)
