"""Events for users: rows of the commit that made them true, deleted once the stream has them."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select

from back.storage.statements import Change, Statement, Write, delete, insert
from back.storage.tables import outbox

__all__ = [
    "ADD",
    "StoredEvent",
    "event",
    "forget_event",
    "forget_events",
    "pending_events",
    "pending_range",
]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event that waits to be published.

    Attributes:
        id: its number, growing, never used twice.
        topic: last part of its subject.
        payload: JSON.
        created_at: unix seconds.
    """

    id: int
    topic: str
    payload: str
    created_at: int


def _up_to_id(_: str) -> Change:
    return outbox.delete().where(outbox.c.id <= bindparam("id", type_=outbox.c.id.type))


ADD = insert(outbox, "topic")
"""The statement of every new event: who is told of commits knows them by it."""
_FORGET_ONE = delete(outbox, "id")
_FORGET = Statement(outbox, "id", None, _up_to_id)


def event(topic: str, payload: str, created_at: int) -> Write:
    """Return the write that announces something; put it behind the writes that make it true."""
    return ADD.write(topic=topic, payload=payload, created_at=created_at)


def forget_event(event_id: int) -> Write:
    """Return the write that deletes an event that the stream has."""
    return _FORGET_ONE.write(id=event_id)


def forget_events(up_to_id: int) -> Write:
    """Return the write that deletes every event up to one, published or not."""
    return _FORGET.write(id=up_to_id)


def pending_events(connection: Connection, limit: int = 1000) -> list[StoredEvent]:
    """Return events that are not published yet, the oldest first."""
    query = select(outbox.c.id, outbox.c.topic, outbox.c.payload, outbox.c.created_at)
    rows = connection.execute(query.order_by(outbox.c.id).limit(limit))
    return [StoredEvent(*row) for row in rows]


def pending_range(connection: Connection) -> tuple[int, int]:
    """Return the first and the last number that waits; (1, 0) if none does."""
    row = connection.execute(select(func.min(outbox.c.id), func.max(outbox.c.id))).one()
    return (1, 0) if row[0] is None else (row[0], row[1])
