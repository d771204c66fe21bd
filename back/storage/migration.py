"""Bring a database's schema up to date, by the holder of the lease only.

Revisions are numbered ``0001``, ``0002``, …; each first expands what older programs can live
with, a later release contracts. A revision that this program does not know is newer than it. The
tables ``lease`` and ``node`` are read before any migration and never change shape.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from back.storage.tables import lease
from shared.errors import DatabaseRefused

__all__ = ["create_if_empty", "current_revision", "head_revision", "refuse_newer", "upgrade"]

_FOLDER = Path(__file__).parent / "migrations"


def head_revision() -> str:
    """Return the revision that this program works with."""
    head = ScriptDirectory(str(_FOLDER)).get_current_head()
    if head is None:
        raise TypeError("there are no migrations")
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the database's revision; None if it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def create_if_empty(connection: Connection) -> None:
    """Make every table in an empty database.

    Raises:
        DatabaseRefused: it is not empty and not Squall's.
    """
    names = inspect(connection).get_table_names()
    if not names:
        upgrade(connection)
    elif lease.name not in names or current_revision(connection) is None:
        raise DatabaseRefused("this database is not empty and was not made by Squall")


def refuse_newer(connection: Connection) -> None:
    """Refuse a schema that only a newer program knows.

    Raises:
        DatabaseRefused: it is one.
    """
    current = current_revision(connection)
    known = {script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions()}
    if current not in known:
        raise DatabaseRefused(
            f"the database's schema is {current}, this program knows up to {head_revision()}: "
            "run a newer Squall"
        )


def upgrade(connection: Connection) -> None:
    """Migrate to the newest revision within the caller's transaction; nothing if it is there."""
    if current_revision(connection) == head_revision():
        return
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
