"""Our invoices and what was paid on them."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Row, select

from back.payment.kind import InvoiceKind
from back.storage.statements import Write, delete, insert, insert_if_absent, update
from back.storage.tables import invoices, received_htlcs

__all__ = [
    "Invoice",
    "InvoiceKind",
    "InvoiceState",
    "ReceivedHtlc",
    "add_invoice",
    "find_invoice",
    "forget_invoice",
    "invoice_paid",
    "list_invoices",
    "list_received_htlcs",
    "received_htlc",
]


class InvoiceState(Enum):
    """Where an invoice stands. EXPIRED is never stored: see :meth:`Invoice.state_at`."""

    UNPAID = "unpaid"
    PAID = "paid"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice of ours, or a payment that came without one.

    Attributes:
        payment_secret: or the path_id of a BOLT 12 invoice.
        bolt11: as given out, also of a BOLT 12 invoice; empty where nothing was.
        amount_msat: None: any.
        created_at: unix seconds.
        expiry_s: seconds after ``created_at``.
        received_msat: the sum of the HTLCs that paid it.
    """

    payment_hash: bytes
    preimage: bytes = field(repr=False)
    payment_secret: bytes = field(repr=False)
    bolt11: str
    amount_msat: int | None
    description: str
    created_at: int
    expiry_s: int
    state: InvoiceState = InvoiceState.UNPAID
    received_msat: int = 0
    paid_at: int | None = None
    kind: InvoiceKind = InvoiceKind.BOLT11

    def state_at(self, unix_s: int) -> InvoiceState:
        """Return the state as people mean it: unpaid invoices expire."""
        if self.state is InvoiceState.UNPAID and unix_s >= self.created_at + self.expiry_s:
            return InvoiceState.EXPIRED
        return self.state


@dataclass(frozen=True, slots=True)
class ReceivedHtlc:
    """An HTLC that paid an invoice.

    Attributes:
        key_index: of the channel that it came through.
        id: in that channel.
        received_at: unix seconds.
    """

    payment_hash: bytes
    key_index: int
    id: int
    amount_msat: int
    received_at: int


_HASH = "payment_hash"
_ADD = insert(invoices, _HASH)
_PAID = update(
    invoices,
    _HASH,
    [invoices.c.state, invoices.c.received_msat, invoices.c.paid_at],
    only="state = 'unpaid'",
)
_FORGET = delete(invoices, _HASH, rows=1)
_RECEIVED = insert_if_absent(received_htlcs, _HASH)


def add_invoice(invoice: Invoice) -> Write:
    """Return the write of a new invoice, paid or not; refused if its payment_hash exists."""
    return _ADD.write(
        payment_hash=invoice.payment_hash,
        preimage=invoice.preimage,
        payment_secret=invoice.payment_secret,
        bolt11=invoice.bolt11,
        amount_msat=invoice.amount_msat,
        description=invoice.description,
        created_at=invoice.created_at,
        expiry_s=invoice.expiry_s,
        state=invoice.state.value,
        received_msat=invoice.received_msat,
        paid_at=invoice.paid_at,
        kind=invoice.kind.value,
    )


def invoice_paid(payment_hash: bytes, received_msat: int, paid_at: int) -> Write:
    """Return the write that marks an invoice paid; refused unless it is unpaid."""
    state = InvoiceState.PAID.value
    return _PAID.write(
        payment_hash=payment_hash, state=state, received_msat=received_msat, paid_at=paid_at
    )


def received_htlc(part: ReceivedHtlc) -> Write:
    """Return the write of an HTLC that paid an invoice; idempotent."""
    return _RECEIVED.write(
        payment_hash=part.payment_hash,
        key_index=part.key_index,
        id=part.id,
        amount_msat=part.amount_msat,
        received_at=part.received_at,
    )


def forget_invoice(payment_hash: bytes) -> Write:
    """Return the write that deletes an invoice; refused if there is none. Check first: unpaid."""
    return _FORGET.write(payment_hash=payment_hash)


def find_invoice(connection: Connection, payment_hash: bytes) -> Invoice | None:
    """Return the invoice with this payment_hash."""
    query = select(invoices).where(invoices.c.payment_hash == payment_hash)
    row = connection.execute(query).one_or_none()
    return None if row is None else _invoice(row)


def list_invoices(
    connection: Connection,
    *,
    since: int = 0,
    until: int = 1 << 62,
    state: InvoiceState | None = None,
    kind: InvoiceKind | None = None,
    now: int = 0,
    limit: int = 1000,
    skip: int = 0,
) -> list[Invoice]:
    """Return invoices made in [since, until), the oldest first.

    Args:
        connection: of a snapshot.
        since: unix seconds.
        until: unix seconds.
        state: only those; UNPAID and EXPIRED are told apart by ``now``.
        kind: only those.
        now: unix seconds.
        limit: at most so many.
        skip: after leaving out so many.
    """
    query = select(invoices).where(invoices.c.created_at >= since, invoices.c.created_at < until)
    if kind is not None:
        query = query.where(invoices.c.kind == kind.value)
    end = invoices.c.created_at + invoices.c.expiry_s
    match state:
        case InvoiceState.PAID:
            query = query.where(invoices.c.state == InvoiceState.PAID.value)
        case InvoiceState.UNPAID:
            query = query.where(invoices.c.state == InvoiceState.UNPAID.value, end > now)
        case InvoiceState.EXPIRED:
            query = query.where(invoices.c.state == InvoiceState.UNPAID.value, end <= now)
        case None:
            pass
    query = query.order_by(invoices.c.created_at, invoices.c.payment_hash)
    return [_invoice(row) for row in connection.execute(query.limit(limit).offset(skip))]


def list_received_htlcs(connection: Connection, payment_hash: bytes) -> list[ReceivedHtlc]:
    """Return the HTLCs that paid an invoice."""
    query = select(received_htlcs).where(received_htlcs.c.payment_hash == payment_hash)
    return [ReceivedHtlc(*row) for row in connection.execute(query)]


def _invoice(row: Row[Any]) -> Invoice:
    values = row._asdict()
    state, kind = InvoiceState(values["state"]), InvoiceKind(values["kind"])
    return Invoice(**{**values, "state": state, "kind": kind})
