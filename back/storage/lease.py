"""Whose the shards are: the lease rows, and the only ways to change their owner.

``UPDATE lease … WHERE epoch = …`` in front of every commit makes the row a fence: whoever raised
the epoch in a committed transaction has silenced the former owner, wherever that one stands.
Nothing here compares clocks of two machines.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, inspect, select

from back.storage import migration
from back.storage.database import Database
from back.storage.tables import lease, node
from shared.errors import BackendError, DatabaseRefused

__all__ = [
    "Claimant",
    "Lease",
    "LeaseHeld",
    "LeaseRow",
    "Process",
    "leave",
    "lock_epoch",
    "read_rows",
    "refuse_foreign",
    "take",
    "this_process",
]

_CLAIM_LOCK = 0x5371756C  # PostgreSQL: one claim or migration at a time
_START_FIELD = 19
"""Place of starttime in /proc/<pid>/stat, counted after the command's closing bracket."""


class LeaseHeld(BackendError):
    """The owner is alive after all; go on waiting."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one boot of one machine.

    Attributes:
        host: boot id and process namespace; empty where the system does not tell.
        pid: within that namespace.
        start: clock ticks from the boot to the start of the process: pids come again, these do not.
    """

    host: str
    pid: int
    start: int

    def is_alive(self) -> bool:
        """Say whether it still runs. Only meaningful on the same host."""
        return _start_of(self.pid) == self.start


def _start_of(pid: int) -> int | None:
    """Return when a process started; None where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[_START_FIELD])


def this_process() -> Process:
    """Return what the lease row says of us."""
    pid = os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return Process("", pid, 0)
    return Process(f"{boot}/{namespace}", pid, _start_of(pid) or 0)


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks for the lease.

    Attributes:
        owner: name of this back, for people; not empty.
        node_id: the node that it is, 33 bytes.
        chain: name of its network.
        process: itself.
    """

    owner: str
    node_id: bytes
    chain: str
    process: Process


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease row as read."""

    shard: int
    owner: str
    epoch: int
    beat: int
    commit_no: int
    process: Process

    @property
    def is_free(self) -> bool:
        """Whether its last owner left politely."""
        return not self.owner


@dataclass(frozen=True, slots=True)
class Lease:
    """Shards that are ours as long as nobody raises their epoch.

    Attributes:
        epoch: one number for all that was taken together.
        commit_numbers: each shard's ``commit_no`` when it was taken.
    """

    owner: str
    epoch: int
    commit_numbers: Mapping[int, int]

    @property
    def shards(self) -> tuple[int, ...]:
        """In the order in which rows are locked."""
        return tuple(sorted(self.commit_numbers))


def read_rows(connection: Connection, shards: Sequence[int]) -> dict[int, LeaseRow]:
    """Return the lease rows of ``shards`` that exist, by shard; none in an empty database."""
    if not inspect(connection).has_table(lease.name):
        return {}
    query = select(lease).where(lease.c.shard.in_(shards)).order_by(lease.c.shard)
    return {row.shard: _lease_row(row) for row in connection.execute(query)}


def _lease_row(row: Row[Any]) -> LeaseRow:
    return LeaseRow(
        row.shard,
        row.owner,
        row.epoch,
        row.beat,
        row.commit_no,
        Process(row.host, row.pid, row.process_start),
    )


def take(
    database: Database,
    claimant: Claimant,
    shards: Sequence[int],
    unix_s: int,
    seen: Mapping[int, LeaseRow],
) -> Lease:
    """Take shards: raise their epoch to max(stored + 1, ``unix_s``) and commit.

    What was read before this is void: load state in a new transaction. An empty database becomes
    this node's; an older schema is brought up to date after the epoch is raised.

    Args:
        database: where.
        claimant: who.
        shards: which; all or none.
        unix_s: the clock, only to keep epochs growing across databases.
        seen: the rows on which the decision to take them rests, as :func:`read_rows` gave them.

    Raises:
        LeaseHeld: a row has changed since.
        DatabaseRefused: it belongs to another node, network or a newer program.
        StorageUnavailable: the database is away or locked.
    """
    with database.transaction() as connection:
        _lock_claims(connection)
        migration.create_if_empty(connection)
        migration.refuse_newer(connection)
        _claim_node(connection, claimant, unix_s)
        rows = _lock_rows(connection, shards)
        if any(_moved(seen.get(shard), rows.get(shard)) for shard in shards):
            raise LeaseHeld("a lease row has changed: its owner lives, or another took it")
        taken = _raise_epoch(connection, claimant, shards, unix_s, rows)
    with database.transaction() as connection:
        if not lock_epoch(connection, taken):
            raise LeaseHeld("another took the lease before the schema was checked")
        migration.upgrade(connection)
    return taken


def _lock_claims(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_CLAIM_LOCK)))


def _claim_node(connection: Connection, claimant: Claimant, unix_s: int) -> None:
    if not refuse_foreign(connection, claimant):
        connection.execute(
            node.insert().values(
                id=1,
                node_id=claimant.node_id,
                chain=claimant.chain,
                created_at=unix_s,
            )
        )


def refuse_foreign(connection: Connection, claimant: Claimant) -> bool:
    """See whose the database is; whether it is anybody's yet.

    Whoever waits for the lease asks first: the owner of another node's must not be disturbed.

    Raises:
        DatabaseRefused: it belongs to another node or network.
    """
    if not inspect(connection).has_table(node.name):
        return False
    row = connection.execute(select(node.c.node_id, node.c.chain)).one_or_none()
    if row is None:
        return False
    if row.chain != claimant.chain:
        raise DatabaseRefused(f"this database is of {row.chain}, not of {claimant.chain}")
    if row.node_id != claimant.node_id:
        raise DatabaseRefused(
            f"this database is of node {row.node_id.hex()}, our seed is of {claimant.node_id.hex()}"
        )
    return True


def _lock_rows(connection: Connection, shards: Sequence[int]) -> dict[int, LeaseRow]:
    query = select(lease).where(lease.c.shard.in_(shards)).order_by(lease.c.shard)
    rows = connection.execute(query.with_for_update())  # SQLite has the whole lock already
    return {row.shard: _lease_row(row) for row in rows}


def _moved(seen: LeaseRow | None, now: LeaseRow | None) -> bool:
    if now is None or now.is_free:
        return False
    if seen is None:
        return True
    return (seen.epoch, seen.beat, seen.commit_no) != (now.epoch, now.beat, now.commit_no)


def _raise_epoch(
    connection: Connection,
    claimant: Claimant,
    shards: Sequence[int],
    unix_s: int,
    rows: Mapping[int, LeaseRow],
) -> Lease:
    epoch = max([unix_s, *(row.epoch + 1 for row in rows.values())])
    process = claimant.process
    new = {
        "owner": claimant.owner,
        "epoch": epoch,
        "host": process.host,
        "pid": process.pid,
        "process_start": process.start,
    }
    missing = [shard for shard in sorted(shards) if shard not in rows]
    if missing:
        connection.execute(
            lease.insert(), [{"shard": s, "beat": 0, "commit_no": 0, **new} for s in missing]
        )
    if rows:
        changed = lease.update().where(lease.c.shard.in_(sorted(rows))).values(new)
        connection.execute(changed)
    numbers = {s: rows[s].commit_no if s in rows else 0 for s in shards}
    return Lease(claimant.owner, epoch, numbers)


def leave(database: Database, held: Lease) -> None:
    """Give shards up politely: the next owner need not wait. Nothing of ours can commit after it.

    Raises:
        StorageUnavailable: the database is away; whoever waits finds out by itself.
    """
    with database.transaction() as connection:
        connection.execute(
            lease.update()
            .where(lease.c.shard.in_(held.shards), lease.c.epoch == held.epoch)
            .values(owner="", epoch=lease.c.epoch + 1)
        )


def lock_epoch(connection: Connection, held: Lease) -> bool:
    """Lock our rows until the transaction ends; say whether they are all still ours."""
    rows = _lock_rows(connection, held.shards)
    return all(s in rows and rows[s].epoch == held.epoch for s in held.shards)
