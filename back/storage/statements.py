"""Row changes as values: what a channel's step hands to the committer.

A :class:`Statement` is one kind of change, declared once from :mod:`.tables` and compiled once per
database; a :class:`Write` is such a change with its values. :func:`grouped` turns the writes of
many steps into few ``executemany`` calls without ever swapping two writes that could meet in a
row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Column, Delete, Insert, Table, Update, and_, bindparam, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect

__all__ = [
    "Group",
    "Statement",
    "Write",
    "delete",
    "grouped",
    "insert",
    "insert_if_absent",
    "update",
    "upsert",
]

Change: TypeAlias = Insert | Update | Delete


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Statement:
    """One kind of row change.

    Attributes:
        table: the table that it changes; its name and ``order`` decide what may overtake what.
        order: parameter that names the family of rows it touches: two writes with the same value
            for the same table keep their order, whatever their statements.
        rows: how many rows each write must change; None: any number.
        build: makes the SQLAlchemy construct for a dialect's name.
    """

    table: Table
    order: str
    rows: int | None
    build: Callable[[str], Change] = field(repr=False)
    _compiled: dict[str, str] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Statement({self.table.name})"

    def write(self, **values: object) -> "Write":
        """Return this change with ``values``, one for each parameter."""
        return Write(self, values)

    def sql(self, dialect: Dialect) -> str:
        """Return the text for a driver; parameters are named."""
        sql = self._compiled.get(dialect.name)
        if sql is None:
            compiled = self.build(dialect.name).compile(dialect=dialect)
            if any(value is not None for value in compiled.params.values()):
                raise TypeError(f"a constant of {self!r} is not part of its text: {compiled}")
            sql = self._compiled[dialect.name] = str(compiled)
        return sql


class Write(NamedTuple):
    """One row change. Compare and keep it, but never look into its values: they may be secret."""

    statement: Statement
    values: Mapping[str, object]

    def __repr__(self) -> str:
        return f"Write({self.statement.table.name}, {self.statement.order}=…)"


class Group(NamedTuple):
    """Writes of one statement, in order: one ``executemany``."""

    statement: Statement
    rows: list[Mapping[str, object]]

    def __repr__(self) -> str:
        return f"Group({self.statement.table.name}, {len(self.rows)} rows)"


def grouped(items: Iterable[Sequence[Write]]) -> list[Group]:
    """Gather writes into groups, to be run in the order returned.

    Two writes keep their order if they belong to the same item, or touch the same table with the
    same order value. All others may move.

    Args:
        items: the writes of each submission.
    """
    groups: list[Group] = []
    newest: dict[Statement, int] = {}
    floors: dict[tuple[str, object], int] = {}
    for writes in items:
        floor = 0
        for statement, values in writes:
            key = (statement.table.name, values[statement.order])
            floor = max(floor, floors.get(key, 0))
            place = newest.get(statement, -1)
            if place < floor:
                place = newest[statement] = len(groups)
                groups.append(Group(statement, []))
            groups[place].rows.append(values)
            floors[key] = floor = place
    return groups


def insert(table: Table, order: str, *, rows: int | None = 1) -> Statement:
    """Return a plain INSERT of every column that the application gives."""

    def build(_: str) -> Change:
        return table.insert().inline().values(_binds(_given(table)))

    return Statement(table, order, rows, build)


def insert_if_absent(table: Table, order: str) -> Statement:
    """Return an INSERT that leaves an existing row alone: for idempotent facts."""

    def build(dialect: str) -> Change:
        made = _insert(dialect, table).values(_binds(_given(table)))
        return made.on_conflict_do_nothing()

    return Statement(table, order, None, build)


def upsert(table: Table, order: str, replaced: Sequence[Column[Any]] | None = None) -> Statement:
    """Return an INSERT that replaces ``replaced`` (all by default) where the primary key exists."""

    def build(dialect: str) -> Change:
        keys = [column.name for column in table.primary_key]
        made = _insert(dialect, table).values(_binds(_given(table)))
        names = [c.name for c in replaced or _given(table) if c.name not in keys]
        return made.on_conflict_do_update(
            index_elements=keys, set_={name: made.excluded[name] for name in names}
        )

    return Statement(table, order, 1, build)


def update(
    table: Table,
    order: str,
    columns: Sequence[Column[Any]],
    *,
    where: Sequence[Column[Any]] | None = None,
    only: str = "",
    rows: int | None = 1,
) -> Statement:
    """Return an UPDATE of ``columns`` where the primary key (or ``where``) equals its parameters.

    Args:
        table: what to change.
        order: see :class:`Statement`.
        columns: those to set, from parameters of their names.
        where: columns to compare with parameters of their names; the primary key by default.
        only: a further condition on the row as it stands, in SQL.
        rows: how many rows must match.
    """

    def build(_: str) -> Change:
        made = table.update().where(_matches(where or tuple(table.primary_key)))
        if only:
            made = made.where(text(only))
        return made.values(_binds(columns))

    return Statement(table, order, rows, build)


def delete(
    table: Table,
    order: str,
    *,
    where: Sequence[Column[Any]] | None = None,
    rows: int | None = None,
) -> Statement:
    """Return a DELETE where the primary key (or ``where``) equals its parameters."""

    def build(_: str) -> Change:
        return table.delete().where(_matches(where or tuple(table.primary_key)))

    return Statement(table, order, rows, build)


def _insert(dialect: str, table: Table) -> "postgresql.Insert | sqlite.Insert":
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def _given(table: Table) -> list[Column[Any]]:
    """Columns that the application fills: all but the numbers that the database makes."""
    return [column for column in table.columns if column is not table.autoincrement_column]


def _binds(columns: Iterable[Column[Any]]) -> dict[str, Any]:
    return {column.name: bindparam(column.name, type_=column.type) for column in columns}


def _matches(columns: Sequence[Column[Any]]) -> Any:  # noqa: ANN401 - wider in SQLAlchemy
    return and_(*(column == bindparam(column.name, type_=column.type) for column in columns))
