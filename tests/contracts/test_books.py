"""The books in both databases: pages, sums, and plans that stay cheap with millions of rows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from support.databases import storing

from back.events import part_id
from back.events.books import Books, Span
from back.relay.handoff import ForwardId
from back.storage import audit, forwards, invoices, payments
from back.storage.forwards import StoredForward
from back.storage.invoices import Invoice, ReceivedHtlc
from back.storage.payments import Attempt, Payment
from back.storage.statements import Write, insert
from back.storage.store import NODE_SHARD, Store
from back.storage.tables import channels

ALL = Span(0, 10_000)
PEERS = [bytes([2]) + bytes([n]) * 32 for n in range(3)]


@asynccontextmanager
async def books_of(url: str, *writes: Write) -> AsyncIterator[tuple[Books, Store]]:
    """A database with three channels, one with each peer, and what is written into it."""
    async with storing(url) as store:
        add_channel = insert(channels, "key_index")
        peers = [
            add_channel.write(
                key_index=key,
                channel_id=bytes([0xC0 + key]) * 32,
                node_id=node_id,
                shard=0,
                phase="NORMAL",
                is_over=key == 2,
                parameters="{}",
                details="{}",
                created_height=1,
            )
            for key, node_id in enumerate(PEERS)
        ]
        await store.committer.submit(NODE_SHARD, [*peers, *writes])
        yield Books(store), store


def relayed(n: int, source: int, target: int, at_s: int, fee_msat: int = 7) -> list[Write]:
    """A forward of n * 1000 msat that ended well."""
    forward = StoredForward(
        id=ForwardId(source, n),
        out_key_index=target,
        out_htlc_id=n,
        payment_hash=bytes([n % 256]) * 32,
        in_amount_msat=n * 1000 + fee_msat,
        out_amount_msat=n * 1000,
        created_at_ms=at_s * 1000 - 250,
    )
    ended = forwards.forward_fulfilled(forward.id, bytes(32), at_s * 1000 + 5)
    return [forwards.add_forward(forward), ended]


def sent(n: int, at_s: int, *parts: int) -> list[Write]:
    """A payment of ours in parts through channels."""
    payment_id = UUID(int=n)
    amount = 10_000 * len(parts)
    hash_ = n.to_bytes(32, "big")
    writes = [
        payments.add_payment(
            Payment(payment_id, None, None, hash_, amount, PEERS[2], None, at_s - 3)
        )
    ]
    for number, key in enumerate(parts, 1):
        attempt = Attempt(
            payment_id,
            number,
            key,
            number,
            10_000,
            number,
            '[{"shortChannelId":"1x1x1"}]',
            at_s - 2,
        )
        writes += [
            payments.add_attempt(attempt),
            payments.attempt_sent(payment_id, number, at_s - 1),
        ]
    failed = Attempt(payment_id, 99, 0, 99, 10_000, 1, "[]", at_s - 2)
    writes += [
        payments.add_attempt(failed),
        payments.attempt_failed(payment_id, 99, at_s - 1, "{}"),
    ]
    return [*writes, payments.payment_sent(payment_id, bytes(32), 3, at_s)]


def received(n: int, at_s: int, *keys: int) -> list[Write]:
    """An invoice of ours that was paid through channels."""
    hash_ = n.to_bytes(32, "big")
    invoice = Invoice(hash_, bytes(32), bytes(32), "lnbcrt1", None, "", at_s - 9, 3600)
    parts = [
        invoices.received_htlc(ReceivedHtlc(hash_, key, n, 500 + key, at_s - 1)) for key in keys
    ]
    paid = invoices.invoice_paid(hash_, sum(500 + key for key in keys), at_s)
    return [invoices.add_invoice(invoice), *parts, paid]


async def listed(pages: AsyncIterator[list[dict[str, object]]]) -> list[dict[str, object]]:
    return [each async for page in pages for each in page]


async def test_payments_stand_in_the_books_as_events_show_them(database_url: str) -> None:
    writes = [*sent(1, 100, 0, 1), *received(2, 200, 0, 2), *relayed(3, 0, 1, 300)]
    unfinished = [
        payments.add_payment(Payment(UUID(int=9), None, None, bytes(32), 1, PEERS[0], None, 50)),
        forwards.add_forward(
            StoredForward(ForwardId(1, 1), 0, 1, bytes(32), 2, 1, 250_000),
        ),
    ]
    async with books_of(database_url, *writes, *unfinished) as (books, _):
        (out,) = await listed(books.sent(ALL))
        assert out == {
            "id": str(UUID(int=1)),
            "paymentHash": (1).to_bytes(32, "big").hex(),
            "paymentPreimage": bytes(32).hex(),
            "recipientAmount": 20_000,
            "recipientNodeId": PEERS[2].hex(),
            "parts": [
                {
                    "id": str(part_id(UUID(int=1), number)),
                    "channelId": (bytes([0xC0 + number - 1]) * 32).hex(),
                    "nextNodeId": PEERS[number - 1].hex(),
                    "amountWithFees": 10_000 + number,
                    "fees": number,
                    "startedAt": {"iso": "1970-01-01T00:01:38Z", "unix": 98},
                    "settledAt": {"iso": "1970-01-01T00:01:39Z", "unix": 99},
                    "route": [{"shortChannelId": "1x1x1"}],
                }
                for number in (1, 2)
            ],
            "fees": 3,
            "startedAt": {"iso": "1970-01-01T00:01:37Z", "unix": 97},
            "settledAt": {"iso": "1970-01-01T00:01:39Z", "unix": 99},
        }
        (arrived,) = await listed(books.received(ALL))
        moment = {"iso": "1970-01-01T00:03:19Z", "unix": 199}
        assert arrived == {
            "paymentHash": (2).to_bytes(32, "big").hex(),
            "parts": [
                {
                    "channelId": (bytes([0xC0 + key]) * 32).hex(),
                    "remoteNodeId": PEERS[key].hex(),
                    "amount": 500 + key,
                    "receivedAt": moment,
                }
                for key in (0, 2)
            ],
        }
        (through,) = await listed(books.relayed(ALL))
        assert through == {
            "paymentHash": (bytes([3]) * 32).hex(),
            "incoming": [
                {
                    "channelId": (b"\xc0" * 32).hex(),
                    "remoteNodeId": PEERS[0].hex(),
                    "amount": 3007,
                    "receivedAt": {"iso": "1970-01-01T00:04:59.750Z", "unix": 299},
                }
            ],
            "outgoing": [
                {
                    "channelId": (b"\xc1" * 32).hex(),
                    "remoteNodeId": PEERS[1].hex(),
                    "amount": 3000,
                    "settledAt": {"iso": "1970-01-01T00:05:00.005Z", "unix": 300},
                }
            ],
        }


async def test_pages_have_every_payment_once_whatever_shares_a_second(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("back.events.books.PAGE", 7)
    writes = []
    for n in range(60):
        writes += relayed(n, n % 3, (n + 1) % 3, 100 + n // 20)
        writes += sent(1000 + n, 100 + n // 20, 0)
        writes += received(2000 + n, 100 + n // 20, 0)
    async with books_of(database_url, *writes) as (books, _):
        for pages in (books.sent, books.received, books.relayed):
            whole = await listed(pages(ALL))
            hashes = [each["paymentHash"] for each in whole]
            assert len(hashes) == len(set(hashes)) == 60
            assert await listed(pages(Span(0, 10_000, 10))) == whole[:10]
            assert await listed(pages(Span(0, 10_000, 17, 31))) == whole[31:48]
            assert await listed(pages(Span(0, 10_000, 10, 55))) == whole[55:]
            assert await listed(pages(Span(101, 101))) == whole[20:40]
            assert await listed(pages(Span(0, 99))) == []
            assert await listed(pages(Span(0, 10_000, 0))) == []


async def test_what_each_peer_brought_adds_up_to_the_millisatoshi(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("back.events.books.STRETCH_MS", 3_000)
    writes = [
        *relayed(1, 0, 1, 100, fee_msat=5),
        *relayed(2, 0, 1, 101, fee_msat=6),
        *relayed(3, 1, 2, 5_000, fee_msat=100),
        *relayed(4, 2, 2, 9_999, fee_msat=0),
        *relayed(5, 0, 1, 20_000, fee_msat=1_000_000),
    ]
    async with books_of(database_url, *writes) as (books, _):
        stats = await books.relay_stats(ALL)
        figures = [
            (p.node_id, p.incoming_count, p.incoming_msat, p.outgoing_count, p.outgoing_msat)
            for p in stats
        ]
        assert figures == [
            (PEERS[2], 1, 4_000, 2, 7_000),
            (PEERS[1], 1, 3_100, 2, 3_000),
            (PEERS[0], 2, 3_011, 0, 0),
        ]
        assert [p.fee_msat for p in stats] == [100, 11, 0]
        assert stats[0].shown(ALL) == {
            "remoteNodeId": PEERS[2].hex(),
            "incomingPaymentCount": 1,
            "totalAmountIn": 4_000,
            "outgoingPaymentCount": 2,
            "totalAmountOut": 7_000,
            "relayFeeEarned": 100,
            "onChainTransactionsCount": 0,
            "onChainFeePaid": 0,
            "liquidityFeeEarned": 0,
            "liquidityFeePaid": 0,
            "from": {"iso": "1970-01-01T00:00:00Z", "unix": 0},
            "to": {"iso": "1970-01-01T02:46:40Z", "unix": 10_000},
        }
        assert await books.relay_stats(Span(50, 99)) == []


QUERIES: dict[str, tuple[str, Callable[[Connection], object]]] = {
    "sent": ("ix_payments_sent", lambda c: audit.sent_payments(c, 1, 9, 5, 0, (3, b"x"))),
    "received": ("ix_invoices_paid", lambda c: audit.received_payments(c, 1, 9, 5, 0, (3, b"x"))),
    "relayed": (
        "ix_forwards_fulfilled",
        lambda c: audit.relayed_payments(c, 1, 9, 5, 0, (3_000, 1, 1)),
    ),
    "first relayed": ("ix_forwards_fulfilled", lambda c: audit.first_relayed_ms(c, 1, 9)),
    "sums": ("ix_forwards_fulfilled", lambda c: audit.relay_sums(c, 1, 9)),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_every_query_walks_its_index(database_url: str, name: str) -> None:
    index, query = QUERIES[name]
    async with storing(database_url) as store:
        with store.database.snapshot() as connection:
            asked = []

            class Asking:
                """A connection that explains instead."""

                def execute(self, statement: object) -> object:
                    asked.append(statement)
                    return connection.execute(statement)  # type: ignore[call-overload]

            query(Asking())  # type: ignore[arg-type]
            compiled = asked[0].compile(  # type: ignore[attr-defined]
                connection, compile_kwargs={"literal_binds": True}
            )
            is_sqlite = connection.dialect.name == "sqlite"
            if not is_sqlite:
                connection.execute(text("SET enable_seqscan = off"))
                connection.execute(text("SET enable_bitmapscan = off"))
            explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
            plan = str(connection.exec_driver_sql(explain + str(compiled)).all())
            assert index in plan
            if name != "sums":
                assert "TEMP B-TREE" not in plan
                assert "Sort" not in plan


async def test_who_reads_the_books_holds_up_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("back.events.books.PAGE", 50)
    writes = [write for n in range(2_000) for write in relayed(n, 0, 1, n)]
    async with books_of(database_url, *writes) as (books, store):
        reading = books.relayed(ALL)
        first = await anext(reading)
        await asyncio.wait_for(store.committer.submit(NODE_SHARD, relayed(5_000, 0, 1, 5_000)), 5)
        rest = [each async for page in reading for each in page]
        assert len(first) + len(rest) == 2_001
