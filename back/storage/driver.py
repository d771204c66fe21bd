"""A writer's connection, below SQLAlchemy: what differs between SQLite and PostgreSQL.

Used by the committer and the heart, where every microsecond counts. One thread at a time.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol, TypeAlias

import psycopg
from psycopg import errors as pg_errors
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg as pg_dialect
from sqlalchemy.engine.interfaces import Dialect

__all__ = ["Call", "Driver", "PostgresDriver", "SqliteDriver", "is_refusal", "words_of"]

Call: TypeAlias = tuple[str, Sequence[Mapping[str, object]]]
"""A statement's text and its rows: one ``executemany``."""

_REFUSING_CODES = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)
_PRIMARY = 0xFF
"""Mask of SQLite's primary result code."""
_REFUSING_CLASSES = frozenset({"21", "22", "23", "42", "44"})
"""SQLSTATE classes: cardinality, data, integrity, syntax or access, check option."""


class Driver(Protocol):
    """One connection with explicit transactions."""

    dialect: Dialect

    def begin(self) -> None:
        """Begin a write transaction."""

    def run(self, calls: Sequence[Call]) -> list[int]:
        """Run calls in order; return how many rows each changed."""

    def select(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows of a query, within the transaction."""

    def commit(self) -> None:
        """Make the transaction durable. An error here leaves the outcome unknown."""

    def rollback(self) -> None:
        """Undo the transaction; harmless where there is none."""

    def relax(self) -> None:
        """Let commits of this connection be lost with the machine: for beats."""

    def close(self) -> None:
        """Close the connection, whatever its state."""


class SqliteDriver:
    """sqlite3 in driver autocommit: transactions are ours alone."""

    dialect: Dialect = sqlite.dialect(paramstyle="named")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()

    def begin(self) -> None:
        """Take the write lock now, so that what is read is what is written upon."""
        self._cursor.execute("BEGIN IMMEDIATE")

    def run(self, calls: Sequence[Call]) -> list[int]:
        """Run each call; see :class:`Driver`."""
        counts = []
        for sql, rows in calls:
            self._cursor.executemany(sql, rows)
            counts.append(self._cursor.rowcount)
        return counts

    def select(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Query; see :class:`Driver`."""
        return self._cursor.execute(sql, values).fetchall()

    def commit(self) -> None:
        """Write and sync the log."""
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """Undo; an error of SQLite may have done it already."""
        if self._connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def relax(self) -> None:
        """Sync no more at each commit of this connection: for beats, which may be lost."""
        self._cursor.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close; first undo, or a statement that something still refers to would keep the lock."""
        try:
            self.rollback()
        finally:
            self._cursor.close()
            self._connection.close()


class PostgresDriver:
    """psycopg in pipeline mode: one round trip for the work, one for the commit.

    The pipeline stays open as long as the connection. Leaving it sends a Flush after the last Sync,
    and that message switches off the server's idle-in-transaction timeout: a frozen owner would
    hold the lease's row for ever.
    """

    dialect: Dialect = pg_dialect.dialect()  # type: ignore[no-untyped-call]

    def __init__(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        self._connection = connection
        connection.prepare_threshold = 2
        self._open = ExitStack()
        self._pipeline = self._open.enter_context(connection.pipeline())

    def begin(self) -> None:
        """Nothing: psycopg sends BEGIN before the first statement, in the same packet."""

    def run(self, calls: Sequence[Call]) -> list[int]:
        """Run all calls in one round trip; see :class:`Driver`."""
        cursors = []
        for sql, rows in calls:
            cursor = self._connection.cursor()
            cursor.executemany(sql, rows)
            cursors.append(cursor)
        self._pipeline.sync()
        return [cursor.rowcount for cursor in cursors]

    def select(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Query; see :class:`Driver`."""
        cursor = self._connection.execute(sql, values)
        self._pipeline.sync()
        return cursor.fetchall()

    def commit(self) -> None:
        """Commit, flushed on the server (and its synchronous standbys)."""
        self._connection.commit()

    def rollback(self) -> None:
        """Undo."""
        self._connection.rollback()

    def relax(self) -> None:
        """Wait no more for the disk at each commit of this connection: for beats."""
        self._connection.execute("SET synchronous_commit = off")
        self._connection.commit()

    def close(self) -> None:
        """Close; an open transaction is undone."""
        self._connection.close()
        with suppress(psycopg.Error):
            self._open.close()


def is_refusal(error: BaseException) -> bool:
    """Say whether the database refuses the rows for what they say, rather than being away."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return not isinstance(error, sqlite3.OperationalError)
        return (code & _PRIMARY) in _REFUSING_CODES
    if isinstance(error, psycopg.Error):
        if error.sqlstate is not None:
            return error.sqlstate[:2] in _REFUSING_CLASSES
        return not isinstance(error, pg_errors.OperationalError | pg_errors.InterfaceError)
    return isinstance(error, OverflowError | TypeError | ValueError | KeyError)


def words_of(error: BaseException) -> str:
    """Return what a database's error says, without the row that it may quote: rows hold secrets."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary is not None:
        return f"{type(error).__name__}: {error.diag.message_primary}"
    return f"{type(error).__name__}: {str(error).strip()}"
