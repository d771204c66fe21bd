"""What we were asked to pay, and the ways on which it was tried.

The same invoice is never paid twice: of the payments (those without a parent) with one
payment_hash at most one is pending or sent, and the database itself refuses a second.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, func, or_, select, text

from back.storage.statements import Change, Statement, Write, insert, update
from back.storage.tables import attempts, payments

__all__ = [
    "Attempt",
    "Payment",
    "PaymentState",
    "add_attempt",
    "add_payment",
    "attempt_failed",
    "attempt_sent",
    "find_family",
    "find_payment",
    "find_standing",
    "has_split_payments",
    "list_attempts",
    "list_payments",
    "load_open_payments",
    "payment_failed",
    "payment_fees",
    "payment_sent",
]


class PaymentState(Enum):
    """Where a payment or an attempt stands; the last two are final."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment of ours.

    Attributes:
        parent: the payment that this is a part of, None for one that was asked for.
        external_id: whatever the asker calls it.
        amount_msat: what the recipient gets.
        recipient: 33 bytes.
        fees_msat: paid on top, once sent.
        created_at: unix seconds.
        completed_at: unix seconds.
        failures: JSON objects, in order.
    """

    id: UUID
    parent: UUID | None
    external_id: str | None
    payment_hash: bytes
    amount_msat: int
    recipient: bytes
    bolt11: str | None
    created_at: int
    state: PaymentState = PaymentState.PENDING
    preimage: bytes | None = field(default=None, repr=False)
    fees_msat: int = 0
    completed_at: int | None = None
    failures: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTLC of a payment.

    Attributes:
        number: counts up within the payment.
        key_index: of the channel that it went into.
        htlc_id: in that channel.
        amount_msat: that the recipient gets by it.
        fees_msat: on top.
        route: JSON, for people.
        shared_secrets: of the onion, 32 bytes a hop: they open the error that may come back.
        failure: JSON, once failed.
    """

    payment_id: UUID
    number: int
    key_index: int | None
    htlc_id: int | None
    amount_msat: int
    fees_msat: int
    route: str
    created_at: int
    shared_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    state: PaymentState = PaymentState.PENDING
    completed_at: int | None = None
    failure: str | None = None


_SECRET_BYTES = 32
_PENDING = PaymentState.PENDING.value
_ADD = insert(payments, "id")
# Facts may come again (a fulfilled HTLC is told of after every start): what is final stays.
_SENT = update(
    payments,
    "id",
    [payments.c.state, payments.c.preimage, payments.c.fees_msat, payments.c.completed_at],
    only="state = 'pending'",
    rows=None,
)
_FAILED = update(
    payments,
    "id",
    [payments.c.state, payments.c.completed_at, payments.c.failures],
    only="state = 'pending'",
    rows=None,
)


def _sum_fees(_: str) -> Change:
    """Parts are paid in several commits, which may be tried again: each adds up what is stored."""
    total = func.coalesce(func.sum(attempts.c.fees_msat), text("0"))
    paid = attempts.c.payment_id == payments.c.id, text("attempts.state = 'sent'")
    return (
        payments.update()
        .where(payments.c.id == bindparam("id", type_=payments.c.id.type), text("state = 'sent'"))
        .values(fees_msat=select(total).where(*paid).scalar_subquery())
    )


_FEES = Statement(payments, "id", None, _sum_fees)
_ADD_ATTEMPT = insert(attempts, "payment_id")
_END_ATTEMPT = update(
    attempts,
    "payment_id",
    [attempts.c.state, attempts.c.completed_at, attempts.c.failure],
    only="state = 'pending'",
    rows=None,
)


# --- writes ---------------------------------------------------------------------------------------


def add_payment(payment: Payment) -> Write:
    """Return the write of a new payment; refused while its payment_hash is pending or sent."""
    return _ADD.write(
        id=payment.id.bytes,
        parent=payment.parent.bytes if payment.parent else None,
        external_id=payment.external_id,
        payment_hash=payment.payment_hash,
        amount_msat=payment.amount_msat,
        recipient=payment.recipient,
        bolt11=payment.bolt11,
        state=payment.state.value,
        preimage=payment.preimage,
        fees_msat=payment.fees_msat,
        created_at=payment.created_at,
        completed_at=payment.completed_at,
        failures=json.dumps(payment.failures),
    )


def payment_sent(payment_id: UUID, preimage: bytes, fees_msat: int, completed_at: int) -> Write:
    """Return the write that ends a pending payment well; nothing if it has ended."""
    return _SENT.write(
        id=payment_id.bytes,
        state=PaymentState.SENT.value,
        preimage=preimage,
        fees_msat=fees_msat,
        completed_at=completed_at,
    )


def payment_fees(payment_id: UUID) -> Write:
    """Return the write of what a payment cost so far, once it is sent: parts may still come in.

    After :func:`attempt_sent` in the same commit.
    """
    return _FEES.write(id=payment_id.bytes)


def payment_failed(
    payment_id: UUID, failures: Sequence[dict[str, Any]], completed_at: int
) -> Write:
    """Return the write that ends a pending payment badly; nothing if it has ended.

    Only once no HTLC of it can be fulfilled any more: after this, the invoice may be paid again.
    """
    return _FAILED.write(
        id=payment_id.bytes,
        state=PaymentState.FAILED.value,
        failures=json.dumps(list(failures)),
        completed_at=completed_at,
    )


def add_attempt(attempt: Attempt) -> Write:
    """Return the write of an attempt, for the commit of its HTLC's add."""
    return _ADD_ATTEMPT.write(
        payment_id=attempt.payment_id.bytes,
        number=attempt.number,
        key_index=attempt.key_index,
        htlc_id=attempt.htlc_id,
        amount_msat=attempt.amount_msat,
        fees_msat=attempt.fees_msat,
        route=attempt.route,
        shared_secrets=b"".join(attempt.shared_secrets),
        state=attempt.state.value,
        created_at=attempt.created_at,
        completed_at=attempt.completed_at,
        failure=attempt.failure,
    )


def attempt_sent(payment_id: UUID, number: int, completed_at: int) -> Write:
    """Return the write that ends a pending attempt well."""
    return _end_attempt(payment_id, number, PaymentState.SENT, completed_at, None)


def attempt_failed(payment_id: UUID, number: int, completed_at: int, failure: str) -> Write:
    """Return the write that ends a pending attempt badly; ``failure`` is JSON."""
    return _end_attempt(payment_id, number, PaymentState.FAILED, completed_at, failure)


def _end_attempt(
    payment_id: UUID, number: int, state: PaymentState, completed_at: int, failure: str | None
) -> Write:
    return _END_ATTEMPT.write(
        payment_id=payment_id.bytes,
        number=number,
        state=state.value,
        completed_at=completed_at,
        failure=failure,
    )


# --- queries --------------------------------------------------------------------------------------


def find_payment(connection: Connection, payment_id: UUID) -> Payment | None:
    """Return the payment with this id."""
    query = select(payments).where(payments.c.id == payment_id.bytes)
    row = connection.execute(query).one_or_none()
    return None if row is None else _payment(row)


def find_family(connection: Connection, payment_id: UUID) -> list[Payment]:
    """Return the payment with this id, and those that are parts of it, the oldest first."""
    query = (
        select(payments)
        .where(or_(payments.c.id == payment_id.bytes, payments.c.parent == payment_id.bytes))
        .order_by(payments.c.created_at, payments.c.id)
    )
    return [_payment(row) for row in connection.execute(query)]


def list_payments(
    connection: Connection,
    *,
    payment_hash: bytes | None = None,
    parent: UUID | None = None,
    external_id: str | None = None,
    since: int = 0,
    until: int = 1 << 62,
    limit: int = 1000,
    skip: int = 0,
) -> list[Payment]:
    """Return payments made in [since, until) that match all that is given, the oldest first."""
    query = select(payments)
    if payment_hash is not None:
        query = query.where(payments.c.payment_hash == payment_hash)
    if parent is not None:
        query = query.where(payments.c.parent == parent.bytes)
    if external_id is not None:
        query = query.where(payments.c.external_id == external_id)
    query = (
        query.where(payments.c.created_at >= since, payments.c.created_at < until)
        .order_by(payments.c.created_at, payments.c.id)
        .limit(limit)
        .offset(skip)
    )
    return [_payment(row) for row in connection.execute(query)]


def load_open_payments(connection: Connection) -> list[Payment]:
    """Return every payment that is pending, or sent with parts under way, for a start."""
    under_way = select(attempts.c.payment_id).where(attempts.c.state == _PENDING)
    query = select(payments).where(or_(payments.c.state == _PENDING, payments.c.id.in_(under_way)))
    return [_payment(row) for row in connection.execute(query)]


def find_standing(connection: Connection, payment_hash: bytes) -> list[Payment]:
    """Return the payments of a payment_hash that are pending or sent, parts of others too."""
    query = select(payments).where(
        payments.c.payment_hash == payment_hash,
        payments.c.state != PaymentState.FAILED.value,
    )
    return [_payment(row) for row in connection.execute(query)]


def has_split_payments(connection: Connection) -> bool:
    """Say whether any payment is a part of another one."""
    query = select(payments.c.id).where(payments.c.parent.is_not(None)).limit(1)
    return connection.execute(query).first() is not None


def list_attempts(connection: Connection, payment_ids: Sequence[UUID]) -> list[Attempt]:
    """Return the attempts of some payments, in order."""
    ids = [payment_id.bytes for payment_id in payment_ids]
    query = (
        select(attempts)
        .where(attempts.c.payment_id.in_(ids))
        .order_by(attempts.c.payment_id, attempts.c.number)
    )
    return [_attempt(row) for row in connection.execute(query)]


def _payment(row: Row[Any]) -> Payment:
    values = row._asdict()
    values["id"] = UUID(bytes=row.id)
    values["parent"] = None if row.parent is None else UUID(bytes=row.parent)
    values["state"] = PaymentState(row.state)
    values["failures"] = tuple(json.loads(row.failures))
    return Payment(**values)


def _attempt(row: Row[Any]) -> Attempt:
    values = row._asdict()
    joined: bytes = row.shared_secrets
    values["payment_id"] = UUID(bytes=row.payment_id)
    values["state"] = PaymentState(row.state)
    values["shared_secrets"] = tuple(
        joined[place : place + _SECRET_BYTES] for place in range(0, len(joined), _SECRET_BYTES)
    )
    return Attempt(**values)
