"""Our offers (BOLT 12), and which invoices were made for them."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, select

from back.storage.invoices import InvoiceState
from back.storage.statements import Write, delete, insert, update
from back.storage.tables import invoices, offer_invoices, offers

__all__ = [
    "StoredOffer",
    "add_offer",
    "add_offer_invoice",
    "count_offer_invoices",
    "forget_expired",
    "list_expired",
    "load_offers",
    "offer_disabled",
]


@dataclass(frozen=True, slots=True)
class StoredOffer:
    """An offer of ours.

    Attributes:
        offer_id: 32 bytes, the root of its records.
        text: ``lno1…``.
        path_id: in its blinded paths, and the word of its issuer's key; None: it shows our node
            id and has no paths.
        created_at: unix milliseconds.
        disabled_at: unix milliseconds; None: it is answered.
    """

    offer_id: bytes
    text: str
    path_id: bytes | None = field(repr=False)
    created_at: int
    disabled_at: int | None = None


_ADD = insert(offers, "offer_id")
_DISABLE = update(offers, "offer_id", [offers.c.disabled_at], only="disabled_at IS NULL")
_ADD_INVOICE = insert(offer_invoices, "payment_hash")
_FORGET = delete(offer_invoices, "payment_hash")
_FORGET_UNPAID = delete(invoices, "payment_hash", where=[invoices.c.payment_hash, invoices.c.state])


def add_offer(offer: StoredOffer) -> Write:
    """Return the write of a new offer; refused if there is one with this offer_id."""
    return _ADD.write(
        offer_id=offer.offer_id,
        offer=offer.text,
        path_id=offer.path_id,
        created_at=offer.created_at,
        disabled_at=offer.disabled_at,
    )


def offer_disabled(offer_id: bytes, unix_ms: int) -> Write:
    """Return the write after which an offer is not answered; refused unless it is."""
    return _DISABLE.write(offer_id=offer_id, disabled_at=unix_ms)


def load_offers(connection: Connection) -> list[StoredOffer]:
    """Return every offer, the oldest first."""
    query = select(offers).order_by(offers.c.created_at, offers.c.offer_id)
    return [_offer(row) for row in connection.execute(query)]


def add_offer_invoice(payment_hash: bytes, offer_id: bytes, expires_at: int) -> Write:
    """Return the write that notes for which offer an invoice was made.

    Args:
        payment_hash: of the invoice.
        offer_id: of the offer.
        expires_at: unix seconds; some time after that it may be forgotten.
    """
    return _ADD_INVOICE.write(payment_hash=payment_hash, offer_id=offer_id, expires_at=expires_at)


def count_offer_invoices(connection: Connection) -> int:
    """Return how many invoices were made for offers and are not forgotten."""
    return connection.execute(select(func.count()).select_from(offer_invoices)).scalar_one()


def list_expired(connection: Connection, before: int, limit: int) -> list[bytes]:
    """Return payment hashes of invoices for offers that expired before a unix second."""
    query = select(offer_invoices.c.payment_hash).where(offer_invoices.c.expires_at < before)
    rows = connection.execute(query.order_by(offer_invoices.c.expires_at).limit(limit))
    return [row.payment_hash for row in rows]


def forget_expired(payment_hash: bytes) -> list[Write]:
    """Return the writes that forget an unpaid invoice for an offer, or that a paid one was for it.

    Args:
        payment_hash: of an invoice that expired long enough ago for nothing to pay it.
    """
    state = InvoiceState.UNPAID.value
    return [
        _FORGET_UNPAID.write(payment_hash=payment_hash, state=state),
        _FORGET.write(payment_hash=payment_hash),
    ]


def _offer(row: Row[Any]) -> StoredOffer:
    return StoredOffer(row.offer_id, row.offer, row.path_id, row.created_at, row.disabled_at)
