"""What became of payments that were asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from back.storage import payments as stored
from back.storage.payments import Attempt, Payment

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["find_payments", "with_attempts"]

AT_ONCE = 500
"""Databases take so many parameters and no more."""


def find_payments(
    connection: "Connection", payment_id: UUID | None = None, payment_hash: bytes | None = None
) -> list[tuple[Payment, list[Attempt]]]:
    """Return payments with their attempts, by id or else by hash, the oldest first.

    The id of a payment that the asker splits itself gives all that belong to it.
    """
    if payment_id is not None:
        payments = stored.find_family(connection, payment_id)
    else:
        payments = stored.list_payments(connection, payment_hash=payment_hash)
    return with_attempts(connection, payments)


def with_attempts(
    connection: "Connection", payments: Sequence[Payment]
) -> list[tuple[Payment, list[Attempt]]]:
    """Return payments with their attempts, in order."""
    found: dict[UUID, list[Attempt]] = {payment.id: [] for payment in payments}
    ids = list(found)
    for start in range(0, len(ids), AT_ONCE):
        for attempt in stored.list_attempts(connection, ids[start : start + AT_ONCE]):
            found[attempt.payment_id].append(attempt)
    return [(payment, found[payment.id]) for payment in payments]
