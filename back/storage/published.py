"""On-chain transactions that we published or that spent a channel."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from back.storage.statements import Write, insert_if_absent, update
from back.storage.tables import transactions

__all__ = ["StoredTransaction", "confirmed", "list_transactions", "published", "unconfirmed"]

_ADD = insert_if_absent(transactions, "txid")
_CONFIRM = update(transactions, "txid", [transactions.c.confirmed_height], rows=None)


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A transaction.

    Attributes:
        txid: 32 bytes, internal order.
        key_index: of the channel that it belongs to, if any.
        what: ``funding``, ``commitment``, ``closing``, ….
        raw: signed, as broadcast.
        fee_sat: what we paid, where we know.
        created_at: unix seconds.
        confirmed_height: None while unconfirmed.
    """

    txid: bytes
    key_index: int | None
    what: str
    raw: bytes
    fee_sat: int | None
    created_at: int
    confirmed_height: int | None = None


def published(transaction: StoredTransaction) -> Write:
    """Return the write that remembers a transaction; idempotent."""
    return _ADD.write(
        txid=transaction.txid,
        key_index=transaction.key_index,
        what=transaction.what,
        raw=transaction.raw,
        fee_sat=transaction.fee_sat,
        created_at=transaction.created_at,
        confirmed_height=transaction.confirmed_height,
    )


def confirmed(txid: bytes, height: int | None) -> Write:
    """Return the write that says in which block a transaction is; None after a reorg."""
    return _CONFIRM.write(txid=txid, confirmed_height=height)


def unconfirmed(connection: Connection) -> list[StoredTransaction]:
    """Return what must be broadcast again."""
    query = select(transactions).where(transactions.c.confirmed_height.is_(None))
    return [StoredTransaction(*row) for row in connection.execute(query)]


def list_transactions(
    connection: Connection, *, since: int, until: int, limit: int = 1000, skip: int = 0
) -> list[StoredTransaction]:
    """Return transactions made in [since, until), unix seconds, the newest first."""
    query = (
        select(transactions)
        .where(transactions.c.created_at >= since, transactions.c.created_at < until)
        .order_by(transactions.c.created_at.desc())
        .limit(limit)
        .offset(skip)
    )
    return [StoredTransaction(*row) for row in connection.execute(query)]
