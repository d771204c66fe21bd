"""Offers and the invoices made for them, in both databases."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.databases import take_over

from back.payment.kind import InvoiceKind
from back.storage import invoices, offers
from back.storage.database import Database
from back.storage.fence import FencedWriter
from back.storage.invoices import Invoice
from back.storage.offers import StoredOffer
from back.storage.statements import Write, grouped
from shared.errors import WriteRefused

PLAIN = StoredOffer(b"\1" * 32, "lno1plain", None, 1_000)
HIDDEN = StoredOffer(b"\2" * 32, "lno1hidden", b"\3" * 32, 2_000)


class Writer:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.fenced = FencedWriter(database, take_over(database))

    def write(self, *writes: Write) -> None:
        self.fenced.commit((0,), grouped([writes]))


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database)
    yield writer
    writer.fenced.close()


def invoice(number: int) -> Invoice:
    return Invoice(
        payment_hash=bytes([number]) * 32,
        preimage=bytes(32),
        payment_secret=bytes(32),
        bolt11="lni1",
        amount_msat=5,
        description="",
        created_at=100,
        expiry_s=10,
        kind=InvoiceKind.BOLT12,
    )


def test_an_offer_is_disabled_once(writer: Writer) -> None:
    writer.write(offers.add_offer(HIDDEN), offers.add_offer(PLAIN))
    with pytest.raises(WriteRefused):
        writer.write(offers.add_offer(replace(PLAIN, text="lno1other")))
    writer.write(offers.offer_disabled(PLAIN.offer_id, 3_000))
    with writer.database.snapshot() as connection:
        assert offers.load_offers(connection) == [replace(PLAIN, disabled_at=3_000), HIDDEN]
    for offer_id in (PLAIN.offer_id, bytes(32)):
        with pytest.raises(WriteRefused):
            writer.write(offers.offer_disabled(offer_id, 4_000))


def test_invoices_that_nobody_paid_are_forgotten_and_paid_ones_kept(writer: Writer) -> None:
    for number in (1, 2, 3):
        made = invoice(number)
        expires_at = 100 + number
        writer.write(
            invoices.add_invoice(made),
            offers.add_offer_invoice(made.payment_hash, PLAIN.offer_id, expires_at),
        )
    writer.write(invoices.invoice_paid(bytes([2]) * 32, 5, 101))
    with writer.database.snapshot() as connection:
        assert offers.count_offer_invoices(connection) == 3
        assert offers.list_expired(connection, 101, 10) == []
        assert offers.list_expired(connection, 104, 1) == [bytes([1]) * 32]
        expired = offers.list_expired(connection, 103, 10)
        assert expired == [bytes([1]) * 32, bytes([2]) * 32]
    for payment_hash in expired:
        writer.write(*offers.forget_expired(payment_hash))
        writer.write(*offers.forget_expired(payment_hash))
    with writer.database.snapshot() as connection:
        assert offers.count_offer_invoices(connection) == 1
        left = invoices.list_invoices(connection)
        assert [each.payment_hash[0] for each in left] == [2, 3]
