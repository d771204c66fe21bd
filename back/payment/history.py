"""What became of payments that were asked for."""

from typing import TYPE_CHECKING
from uuid import UUID

from back.storage import payments as stored
from back.storage.payments import Attempt, Payment

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["find_payments"]


def find_payments(
    connection: "Connection", payment_id: UUID | None = None, payment_hash: bytes | None = None
) -> list[tuple[Payment, list[Attempt]]]:
    """Return payments with their attempts, by id or else by hash, the oldest first."""
    if payment_id is not None:
        one = stored.find_payment(connection, payment_id)
        payments = [one] if one is not None else []
    else:
        payments = stored.list_payments(connection, payment_hash=payment_hash)
    attempts = stored.list_attempts(connection, [payment.id for payment in payments])
    return [(p, [a for a in attempts if a.payment_id == p.id]) for p in payments]
