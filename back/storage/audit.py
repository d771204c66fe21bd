"""The books: payments that were sent, received and relayed, page by page, and sums per channel.

Each query walks an index of its own from a given place and reads as many rows as a page has,
however many there are; sums are asked for a stretch of time at a time. Nobody waits for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, func, or_, select, text

from back.storage.payments import Attempt, list_attempts
from back.storage.tables import channels, forwards, invoices, payments, received_htlcs

__all__ = [
    "Ends",
    "Place",
    "ReceivedPart",
    "ReceivedPayment",
    "RelayedPayment",
    "SentPayment",
    "Sums",
    "channel_ends",
    "first_relayed_ms",
    "received_payments",
    "relay_sums",
    "relayed_payments",
    "sent_payments",
]

Place = tuple[Any, ...]
"""Where a page ended: time and key of its last row."""
_MANY = 500
"""Keys in one query."""


class Ends(NamedTuple):
    """A channel as others know it."""

    channel_id: bytes
    node_id: bytes


@dataclass(frozen=True, slots=True)
class SentPayment:
    """A payment of ours that succeeded; times are unix seconds.

    Attributes:
        parts: the attempts that did.
    """

    id: UUID
    payment_hash: bytes
    preimage: bytes = field(repr=False)
    amount_msat: int
    recipient: bytes
    created_at: int
    completed_at: int
    parts: tuple[Attempt, ...] = ()

    @property
    def place(self) -> Place:
        """Where it stands in the books."""
        return self.completed_at, self.id.bytes


class ReceivedPart(NamedTuple):
    """An HTLC of a payment to us."""

    key_index: int
    amount_msat: int
    received_at: int


@dataclass(frozen=True, slots=True)
class ReceivedPayment:
    """A payment to us; times are unix seconds."""

    payment_hash: bytes
    paid_at: int
    received_msat: int
    parts: tuple[ReceivedPart, ...] = ()

    @property
    def place(self) -> Place:
        """Where it stands in the books."""
        return self.paid_at, self.payment_hash


class RelayedPayment(NamedTuple):
    """A payment through us; times are unix milliseconds."""

    in_key_index: int
    in_htlc_id: int
    out_key_index: int
    payment_hash: bytes
    in_amount_msat: int
    out_amount_msat: int
    created_at_ms: int
    completed_at_ms: int

    @property
    def place(self) -> Place:
        """Where it stands in the books."""
        return self.completed_at_ms, self.in_key_index, self.in_htlc_id


class Sums(NamedTuple):
    """What went from one channel into another in some time."""

    in_key_index: int
    out_key_index: int
    payments: int
    in_amount_msat: int
    out_amount_msat: int


# --- pages ----------------------------------------------------------------------------------------


def sent_payments(
    connection: Connection, since: int, until: int, limit: int, skip: int = 0, after: Place = ()
) -> list[SentPayment]:
    """Return payments that succeeded in [since, until], unix seconds, the oldest first.

    Args:
        connection: of a snapshot.
        since: unix seconds.
        until: unix seconds.
        limit: at most so many.
        skip: after leaving out so many.
        after: only what stands behind this place.
    """
    columns = (
        payments.c.id,
        payments.c.payment_hash,
        payments.c.preimage,
        payments.c.amount_msat,
        payments.c.recipient,
        payments.c.created_at,
        payments.c.completed_at,
    )
    keys = (payments.c.completed_at, payments.c.id)
    query = select(*columns).where(text("state = 'sent'"))
    rows = connection.execute(_page(query, keys, since, until, after, limit, skip)).all()
    parts: dict[UUID, list[Attempt]] = {}
    ids = [UUID(bytes=row.id) for row in rows]
    for start in range(0, len(ids), _MANY):
        for attempt in list_attempts(connection, ids[start : start + _MANY]):
            if attempt.state.value == "sent":
                parts.setdefault(attempt.payment_id, []).append(attempt)
    return [
        SentPayment(**{**row._asdict(), "id": payment_id}, parts=tuple(parts.get(payment_id, ())))
        for payment_id, row in zip(ids, rows, strict=True)
    ]


def received_payments(
    connection: Connection, since: int, until: int, limit: int, skip: int = 0, after: Place = ()
) -> list[ReceivedPayment]:
    """Return payments to us that were whole in [since, until]; see :func:`sent_payments`."""
    keys = (invoices.c.paid_at, invoices.c.payment_hash)
    query = select(invoices.c.payment_hash, invoices.c.paid_at, invoices.c.received_msat)
    rows = connection.execute(_page(query, keys, since, until, after, limit, skip)).all()
    parts: dict[bytes, list[ReceivedPart]] = {}
    hashes = [row.payment_hash for row in rows]
    part = select(
        received_htlcs.c.payment_hash,
        received_htlcs.c.key_index,
        received_htlcs.c.amount_msat,
        received_htlcs.c.received_at,
    ).order_by(received_htlcs.c.payment_hash, received_htlcs.c.key_index, received_htlcs.c.id)
    for start in range(0, len(hashes), _MANY):
        some = hashes[start : start + _MANY]
        for payment_hash, *values in connection.execute(
            part.where(received_htlcs.c.payment_hash.in_(some))
        ):
            parts.setdefault(payment_hash, []).append(ReceivedPart(*values))
    return [
        ReceivedPayment(**row._asdict(), parts=tuple(parts.get(row.payment_hash, ())))
        for row in rows
    ]


def relayed_payments(
    connection: Connection, since: int, until: int, limit: int, skip: int = 0, after: Place = ()
) -> list[RelayedPayment]:
    """Return payments whose preimage came in [since, until]; see :func:`sent_payments`."""
    keys = (forwards.c.completed_at_ms, forwards.c.in_key_index, forwards.c.in_htlc_id)
    query = select(*(forwards.c[name] for name in RelayedPayment._fields))
    query = query.where(text("state = 'fulfilled'"))
    page = _page(query, keys, since * 1000, until * 1000 + 999, after, limit, skip)
    return [RelayedPayment(*row) for row in connection.execute(page)]


def _page(
    query: Select[Any],
    keys: Sequence[ColumnElement[Any]],
    since: int,
    until: int,
    after: Place,
    limit: int,
    skip: int,
) -> Select[Any]:
    query = query.where(keys[0] >= (after[0] if after else since), keys[0] <= until)
    if after:
        query = query.where(_behind(keys, after))
    return query.order_by(*keys).limit(limit).offset(skip)


def _behind(keys: Sequence[ColumnElement[Any]], place: Place) -> ColumnElement[bool]:
    """Whether a row stands behind a place, in the order of the keys."""
    first, *rest = keys
    behind: ColumnElement[bool] = first > place[0]
    if rest:
        behind = or_(behind, and_(first == place[0], _behind(rest, place[1:])))
    return behind


# --- sums -----------------------------------------------------------------------------------------


def first_relayed_ms(connection: Connection, since_ms: int, until_ms: int) -> int | None:
    """Return when the first payment in [since_ms, until_ms] was relayed, if any was."""
    query = (
        select(forwards.c.completed_at_ms)
        .where(text("state = 'fulfilled'"), _between(forwards, since_ms, until_ms))
        .order_by(forwards.c.completed_at_ms)
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()


def relay_sums(connection: Connection, since_ms: int, until_ms: int) -> list[Sums]:
    """Return what was relayed in [since_ms, until_ms], unix milliseconds, per pair of channels."""
    ends = (forwards.c.in_key_index, forwards.c.out_key_index)
    amounts = (func.sum(forwards.c.in_amount_msat), func.sum(forwards.c.out_amount_msat))
    query = (
        select(*ends, func.count(), *amounts)
        .where(text("state = 'fulfilled'"), _between(forwards, since_ms, until_ms))
        .group_by(*ends)
    )
    return [
        Sums(in_key, out_key, number, int(in_msat), int(out_msat))
        for in_key, out_key, number, in_msat, out_msat in connection.execute(query)
    ]


def _between(table: Table, since_ms: int, until_ms: int) -> ColumnElement[bool]:
    return and_(table.c.completed_at_ms >= since_ms, table.c.completed_at_ms <= until_ms)


def channel_ends(connection: Connection, key_indexes: Sequence[int]) -> dict[int, Ends]:
    """Return the names of channels, those that are over too."""
    found: dict[int, Ends] = {}
    for start in range(0, len(key_indexes), _MANY):
        query = select(channels.c.key_index, channels.c.channel_id, channels.c.node_id).where(
            channels.c.key_index.in_(key_indexes[start : start + _MANY])
        )
        for key_index, channel_id, node_id in connection.execute(query):
            found[key_index] = Ends(channel_id, node_id)
    return found
