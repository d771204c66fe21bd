"""Open a database: the settings without which the rules of ownership do not hold.

Two engines per database: ``writer`` for the few that may write (committer, lease, heart,
migrations), each with a connection of its own, and ``reader`` for everybody else, read-only by
the connection.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from back.storage.driver import Driver, PostgresDriver, SqliteDriver, is_refusal
from shared.errors import DatabaseRefused, StorageUnavailable, WriteRefused

__all__ = ["BUSY_S", "Database", "open_database"]

BUSY_S = 2.0
"""How long a statement waits for another's lock before the database counts as away."""
IDLE_IN_TRANSACTION_S = 2.0
"""PostgreSQL: a frozen owner must not hold the lease's row for longer."""
TCP_USER_S = 3.0
"""PostgreSQL: bytes unacknowledged for longer end the connection, on both ends."""
CONNECT_S = 3
READERS = 4

_WRITER_NAME = "squall-writer"
_POSTGRES_WRITER = {
    "application_name": _WRITER_NAME,
    "default_transaction_isolation": "read\\ committed",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S * 1000:.0f}",
    "lock_timeout": f"{BUSY_S * 1000:.0f}",
    "tcp_user_timeout": f"{TCP_USER_S * 1000:.0f}",
    "synchronous_commit": "on",
}
_POSTGRES_READER = {
    "default_transaction_isolation": "repeatable\\ read",
    "default_transaction_read_only": "on",
    "lock_timeout": f"{BUSY_S * 1000:.0f}",
    "tcp_user_timeout": f"{TCP_USER_S * 1000:.0f}",
}
_END_FROZEN = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND usename = current_user AND application_name = :name "
    "AND pid <> pg_backend_pid() AND wait_event = 'ClientRead' "
    "AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
)


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. Threads may share it; connections they may not.

    Attributes:
        url: without password, for people.
        path: SQLite's file; None for PostgreSQL.
    """

    url: str
    path: Path | None
    writer: Engine = field(repr=False)
    reader: Engine = field(repr=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is one file on this machine."""
        return self.path is not None

    def connect(self) -> Driver:
        """Return a new driver connection for the committer or the heart.

        Raises:
            StorageUnavailable: no connection can be had.
        """
        with _translated():
            connection = self.writer.raw_connection()
            raw = connection.driver_connection
            connection.detach()
        if isinstance(raw, sqlite3.Connection):
            return SqliteDriver(raw)
        if isinstance(raw, psycopg.Connection):
            return PostgresDriver(raw)
        raise TypeError(f"no driver for {type(raw).__name__}")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction for start-up and tests (``BEGIN IMMEDIATE`` on SQLite).

        Raises:
            StorageUnavailable: the database is away, or a lock did not come free.
            WriteRefused: a constraint does not hold.
        """
        with _translated(), self.writer.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A read-only transaction that sees one state of the database and blocks nobody.

        Raises:
            StorageUnavailable: the database is away.
        """
        with _translated(), self.reader.begin() as connection:
            yield connection

    def end_frozen_sessions(self) -> int:
        """PostgreSQL: end writers' sessions whose client says nothing inside a transaction.

        The server's own timeout does not see a client that froze in the middle of a pipeline. Only
        the server's clock is asked. Returns how many were ended.

        Raises:
            StorageUnavailable: the database is away.
        """
        with self.transaction() as connection:
            ended = connection.execute(
                _END_FROZEN, {"name": _WRITER_NAME, "seconds": IDLE_IN_TRANSACTION_S}
            )
            return len(ended.all())

    def close(self) -> None:
        """Close the connections that wait in pools."""
        self.writer.dispose()
        self.reader.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error, psycopg.Error) as error:  # the last two: from connecting
        cause = (error.orig or error) if isinstance(error, DBAPIError) else error
        words = str(cause).strip()
        if getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise DatabaseRefused(words) from error
        if is_refusal(cause):
            raise WriteRefused(words) from error
        raise StorageUnavailable(words) from error


def open_database(url: str) -> Database:
    """Open ``sqlite:///path`` or ``postgresql+psycopg://…``; SQLite's file is made with mode 0600.

    Raises:
        DatabaseRefused: the address is not one of these.
        StorageUnavailable: the file cannot be made.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseRefused("the database's address cannot be read") from error
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql":
            return _open_postgres(parsed.set(drivername="postgresql+psycopg"))
        case name:
            raise DatabaseRefused(f"{name} is neither sqlite nor postgresql")


def _open_sqlite(url: URL) -> Database:
    if not url.database or url.database == ":memory:" or url.query:
        raise DatabaseRefused(
            "SQLite needs the path of a file: sqlite:////var/lib/squall/squall.db"
        )
    path = Path(url.database).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror}") from error
    arguments = {"check_same_thread": False, "timeout": BUSY_S, "isolation_level": None}
    writer = create_engine(
        url, poolclass=NullPool, connect_args=arguments, paramstyle="named", hide_parameters=True
    )
    reader = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
        connect_args=arguments,
        paramstyle="named",
        hide_parameters=True,
    )
    event.listen(writer, "connect", _prepare_sqlite_writer)
    event.listen(reader, "connect", _prepare_sqlite_reader)
    event.listen(writer, "begin", _begin_immediate)
    event.listen(reader, "begin", _begin_deferred)
    return Database(str(url), path, writer, reader)


def _prepare_sqlite(connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA cache_size = -32768")


def _prepare_sqlite_writer(connection: sqlite3.Connection, _: object) -> None:
    _prepare_sqlite(connection)


def _prepare_sqlite_reader(connection: sqlite3.Connection, _: object) -> None:
    _prepare_sqlite(connection)
    connection.execute("PRAGMA query_only = ON")


def _begin_immediate(connection: Connection) -> None:
    # The driver's own BEGIN comes before the first DML only: a SELECT before it fences nothing.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _open_postgres(url: URL) -> Database:
    def arguments(settings: dict[str, str]) -> dict[str, object]:
        return {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": int(TCP_USER_S * 1000),
            "keepalives_idle": 1,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        }

    writer = create_engine(
        url, poolclass=NullPool, connect_args=arguments(_POSTGRES_WRITER), hide_parameters=True
    )
    reader = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args=arguments(_POSTGRES_READER),
        hide_parameters=True,
    )
    return Database(url.render_as_string(hide_password=True), None, writer, reader)
