"""Invoices, payments, blocks, peers, events and transactions in both databases."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import pytest
from sqlalchemy import Connection
from support.databases import NODE_ID, take_over

from back.payment.kind import InvoiceKind
from back.storage import blocks, invoices, outbox, payments, peers, published
from back.storage.blocks import Block
from back.storage.database import Database
from back.storage.fence import FencedWriter
from back.storage.invoices import Invoice, InvoiceState, ReceivedHtlc
from back.storage.payments import Attempt, Payment, PaymentState
from back.storage.peers import StoredPeer
from back.storage.published import StoredTransaction
from back.storage.statements import Write, grouped
from shared.errors import WriteRefused

T = TypeVar("T")


class Records:
    """A database with one writer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.writer = FencedWriter(database, take_over(database))

    def write(self, *writes: Write) -> None:
        self.writer.commit((0,), grouped([writes]))

    def read(self, query: Callable[..., T], *args: object, **filters: object) -> T:
        def bound(connection: Connection) -> T:
            return query(connection, *args, **filters)

        with self._database.snapshot() as connection:
            return bound(connection)


@pytest.fixture
def records(database: Database) -> Iterator[Records]:
    records = Records(database)
    yield records
    records.writer.close()


# --- invoices -------------------------------------------------------------------------------------


def invoice(n: int, **values: object) -> Invoice:
    made = Invoice(
        payment_hash=bytes([n]) * 32,
        preimage=bytes([n + 1]) * 32,
        payment_secret=bytes([n + 2]) * 32,
        bolt11=f"lnbcrt{n}",
        amount_msat=None if n % 2 else n * 1000,
        description=f"Rüben № {n}\n",
        created_at=1_000 + n,
        expiry_s=60,
    )
    return replace(made, **values)


def test_an_invoice_comes_back_and_is_paid_once(records: Records) -> None:
    records.write(invoices.add_invoice(invoice(1)), invoices.add_invoice(invoice(2)))
    assert records.read(invoices.find_invoice, bytes([1]) * 32) == invoice(1)
    assert records.read(invoices.find_invoice, bytes([9]) * 32) is None
    paid = invoices.invoice_paid(bytes([1]) * 32, 1_500, 1_010)
    records.write(paid)
    assert records.read(invoices.find_invoice, bytes([1]) * 32) == invoice(
        1, state=InvoiceState.PAID, received_msat=1_500, paid_at=1_010
    )
    with pytest.raises(WriteRefused):
        records.write(paid)
    with pytest.raises(WriteRefused):
        records.write(invoices.invoice_paid(bytes([9]) * 32, 1, 1))
    with pytest.raises(WriteRefused):
        records.write(invoices.add_invoice(invoice(1)))


def test_invoices_are_listed_by_time_state_and_page(records: Records) -> None:
    all_of_them = [invoice(n) for n in range(1, 8)]
    records.write(*(invoices.add_invoice(each) for each in all_of_them))
    records.write(invoices.invoice_paid(all_of_them[0].payment_hash, 5, 6))
    all_of_them[0] = invoice(1, state=InvoiceState.PAID, received_msat=5, paid_at=6)

    def listed(**filters: object) -> list[int]:
        return [each.created_at - 1_000 for each in records.read(invoices.list_invoices, **filters)]

    assert records.read(invoices.list_invoices) == all_of_them
    assert listed(since=1_003, until=1_006) == [3, 4, 5]
    assert listed(limit=2, skip=3) == [4, 5]
    assert listed(state=InvoiceState.PAID) == [1]
    assert listed(state=InvoiceState.UNPAID, now=1_064) == [5, 6, 7]
    assert listed(state=InvoiceState.EXPIRED, now=1_064) == [2, 3, 4]
    assert [each.state_at(1_064).value for each in all_of_them[:5]] == [
        "paid",
        "expired",
        "expired",
        "expired",
        "unpaid",
    ]


def test_payments_of_each_kind_are_told_apart(records: Records) -> None:
    kinds = list(InvoiceKind)
    made = [invoice(2 * n, kind=kind) for n, kind in enumerate(kinds, start=1)]
    records.write(*(invoices.add_invoice(each) for each in made))
    for kind, each in zip(kinds, made, strict=True):
        assert records.read(invoices.list_invoices, kind=kind) == [each]


def test_what_paid_an_invoice_is_kept_once(records: Records) -> None:
    part = ReceivedHtlc(bytes(32), 1 << 61, 7, 1_000, 1_010)
    other = replace(part, id=8)
    records.write(invoices.received_htlc(part), invoices.received_htlc(other))
    records.write(invoices.received_htlc(part))
    assert records.read(invoices.list_received_htlcs, bytes(32)) == [part, other]


def test_an_invoice_can_be_forgotten_once(records: Records) -> None:
    records.write(invoices.add_invoice(invoice(1)))
    records.write(invoices.forget_invoice(bytes([1]) * 32))
    assert records.read(invoices.list_invoices) == []
    with pytest.raises(WriteRefused):
        records.write(invoices.forget_invoice(bytes([1]) * 32))


# --- payments -------------------------------------------------------------------------------------


def payment(n: int, **values: object) -> Payment:
    made = Payment(
        id=UUID(int=n),
        parent=None,
        external_id=f"order {n}",
        payment_hash=bytes([n]) * 32,
        amount_msat=n,
        recipient=NODE_ID,
        bolt11="lnbcrt1",
        created_at=1_000 + n,
    )
    return replace(made, **values)


def test_a_payment_comes_back_with_its_end(records: Records) -> None:
    records.write(*(payments.add_payment(payment(n)) for n in (1, 2, 3)))
    assert records.read(payments.find_payment, UUID(int=1)) == payment(1)
    assert records.read(payments.find_payment, UUID(int=9)) is None
    failures = ({"failureType": "LOCAL", "failureMessage": "no route"},)
    records.write(payments.payment_sent(UUID(int=1), bytes(32), 7, 1_009))
    records.write(payments.payment_failed(UUID(int=2), failures, 1_010))
    sent = payment(1, state=PaymentState.SENT, preimage=bytes(32), fees_msat=7, completed_at=1_009)
    failed = payment(2, state=PaymentState.FAILED, failures=failures, completed_at=1_010)
    assert records.read(payments.find_payment, UUID(int=1)) == sent
    assert records.read(payments.find_payment, UUID(int=2)) == failed
    assert records.read(payments.load_open_payments) == [payment(3)]


def test_what_is_final_stays_and_a_fact_may_come_again(records: Records) -> None:
    records.write(*(payments.add_payment(payment(n)) for n in (1, 2)))
    sent = payments.payment_sent(UUID(int=1), bytes(32), 7, 1_009)
    records.write(sent)
    records.write(sent, payments.payment_failed(UUID(int=1), [], 2_000))
    found = records.read(payments.find_payment, UUID(int=1))
    assert found is not None
    assert (found.state, found.completed_at) == (PaymentState.SENT, 1_009)


def test_what_a_payment_cost_is_the_sum_of_what_its_paid_parts_cost(records: Records) -> None:
    """Also where a commit is tried again after a later one."""
    one, other = UUID(int=1), UUID(int=2)
    records.write(*(payments.add_payment(payment(n)) for n in (1, 2)))
    for number, owner in enumerate((one, one, one, other)):
        made = Attempt(owner, number, 1, number, 1_000, 10**number, "[]", 1_000)
        records.write(payments.add_attempt(made))
    rows = [
        [
            payments.attempt_sent(one, number, 1_001),
            payments.payment_sent(one, bytes(32), 0, 1_001),
            payments.payment_fees(one),
        ]
        for number in (2, 0)
    ]
    for writes in (*rows, rows[0]):
        records.write(*writes)
    records.write(payments.payment_fees(other))
    found = [records.read(payments.find_payment, payment_id) for payment_id in (one, other)]
    assert [each.fees_msat for each in found if each is not None] == [101, 0]


def test_payments_that_stand_are_found_with_their_parts(records: Records) -> None:
    assert not records.read(payments.has_split_payments)
    part = payment(2, payment_hash=payment(1).payment_hash, parent=UUID(int=1))
    records.write(*(payments.add_payment(each) for each in (payment(1), part)))
    assert records.read(payments.has_split_payments)
    assert len(records.read(payments.find_standing, part.payment_hash)) == 2
    records.write(payments.payment_failed(UUID(int=1), [], 1_010))
    assert records.read(payments.find_standing, part.payment_hash) == [part]


def test_the_same_invoice_is_never_paid_twice(records: Records) -> None:
    same = bytes(32)

    def again(n: int, **values: object) -> None:
        records.write(payments.add_payment(payment(n, payment_hash=same, **values)))

    again(1)
    with pytest.raises(WriteRefused):
        again(2)
    records.write(payments.payment_failed(UUID(int=1), [], 5))
    again(3)
    records.write(payments.payment_sent(UUID(int=3), bytes(32), 0, 6))
    with pytest.raises(WriteRefused):
        again(4)
    again(5, parent=UUID(int=3))
    found = records.read(payments.list_payments, payment_hash=same)
    assert [each.id.int for each in found] == [1, 3, 5]


def test_payments_are_listed_by_what_they_are_and_when(records: Records) -> None:
    records.write(*(payments.add_payment(payment(n)) for n in range(1, 8)))
    records.write(payments.add_payment(payment(8, parent=UUID(int=1))))

    def listed(**filters: object) -> list[int]:
        return [each.id.int for each in records.read(payments.list_payments, **filters)]

    assert listed() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert listed(since=1_003, until=1_006) == [3, 4, 5]
    assert listed(limit=2, skip=3) == [4, 5]
    assert listed(external_id="order 2") == [2]
    assert listed(parent=UUID(int=1)) == [8]
    assert listed(payment_hash=bytes([4]) * 32) == [4]


def test_attempts_come_back_in_order_with_their_ends(records: Records) -> None:
    first = Attempt(
        UUID(int=1), 0, 1 << 61, 4, 1_000, 3, "[]", 1_000, shared_secrets=(b"a" * 32, b"b" * 32)
    )
    second = replace(first, number=1, key_index=None, htlc_id=None, shared_secrets=())
    other = replace(first, payment_id=UUID(int=2))
    records.write(*map(payments.add_attempt, (second, first, other)))
    records.write(payments.attempt_failed(UUID(int=1), 0, 1_001, '{"code":1}'))
    records.write(payments.attempt_sent(UUID(int=1), 1, 1_002))
    records.write(payments.attempt_failed(UUID(int=1), 1, 1_003, "late"))
    assert records.read(payments.list_attempts, [UUID(int=1)]) == [
        replace(first, state=PaymentState.FAILED, completed_at=1_001, failure='{"code":1}'),
        replace(second, state=PaymentState.SENT, completed_at=1_002),
    ]
    with pytest.raises(WriteRefused):
        records.write(payments.add_attempt(first))


def test_secrets_are_in_no_repr() -> None:
    shown = repr([invoice(65), payment(1, preimage=b"B" * 32)])
    shown += repr(Attempt(UUID(int=1), 0, 0, 0, 0, 0, "", 0, shared_secrets=(b"C" * 32,)))
    assert not any(secret * 4 in shown for secret in "BC")


# --- the rest -------------------------------------------------------------------------------------


def test_the_last_blocks_are_kept_and_a_reorg_undoes_them(records: Records) -> None:
    chain = [Block(height, height.to_bytes(32, "big")) for height in range(100, 100 + 310)]
    for block in chain:
        records.write(*blocks.connected(block))
    assert records.read(blocks.last_blocks) == chain[::-1][: blocks.KEPT]
    other = Block(408, b"\xff" * 32)
    records.write(*blocks.disconnected(408), *blocks.connected(other))
    assert records.read(blocks.last_blocks, 2) == [other, chain[-3]]


def test_peers_are_remembered_beside_their_blobs(records: Records) -> None:
    first = StoredPeer(NODE_ID, ("127.0.0.1:9735", "[::1]:9735"), b"\x02", 7)
    second = StoredPeer(NODE_ID[::-1], (), b"", 8)
    records.write(peers.keep_blob(NODE_ID, b"blob 1"), peers.seen(first), peers.seen(second))
    records.write(peers.seen(replace(first, last_seen=9)), peers.keep_blob(NODE_ID, b"blob 2"))
    assert records.read(peers.load_peers, [NODE_ID]) == [replace(first, last_seen=9)]
    assert len(records.read(peers.load_peers)) == 2
    assert records.read(peers.load_blob, NODE_ID) == b"blob 2"
    assert records.read(peers.load_blob, NODE_ID[::-1]) is None
    assert records.read(peers.load_blob, bytes(33)) is None


def test_events_are_numbered_for_ever_and_forgotten_once_published(records: Records) -> None:
    records.write(*(outbox.event(f"topic.{n}", f'{{"n":{n}}}', n) for n in range(5)))
    waiting = records.read(outbox.pending_events)
    assert [each.topic for each in waiting] == [f"topic.{n}" for n in range(5)]
    assert [each.id for each in waiting] == sorted({each.id for each in waiting})
    records.write(outbox.forget_events(waiting[2].id))
    assert records.read(outbox.pending_events) == waiting[3:]
    records.write(outbox.forget_events(waiting[4].id))
    records.write(outbox.event("next", "{}", 1))
    (after,) = records.read(outbox.pending_events, 1)
    assert after.id > waiting[4].id


def test_transactions_are_kept_until_and_after_they_confirm(records: Records) -> None:
    first = StoredTransaction(b"\1" * 32, 1 << 61, "funding", b"raw", 300, 1_000)
    second = StoredTransaction(b"\2" * 32, None, "sweep", b"raw", None, 1_001)
    records.write(published.published(first), published.published(second))
    records.write(published.published(replace(first, raw=b"another")))
    assert records.read(published.unconfirmed) == [first, second]
    records.write(published.confirmed(first.txid, 700))
    assert records.read(published.unconfirmed) == [second]
    listed = records.read(published.list_transactions, since=1_000, until=1_002)
    assert listed == [second, replace(first, confirmed_height=700)]
    records.write(published.confirmed(first.txid, None))
    assert len(records.read(published.unconfirmed)) == 2
