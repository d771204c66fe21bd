"""The lease on both databases: one owner, growing epochs, and nobody else's database."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from support.databases import NODE_ID, SHARDS, claimant, committing, storing, take_over
from support.waiting import until

from back.storage import migration, outbox
from back.storage.database import Database
from back.storage.heart import Heart
from back.storage.lease import (
    Lease,
    LeaseHeld,
    LeaseRow,
    Process,
    leave,
    read_rows,
    take,
    this_process,
)
from back.storage.standby import acquire
from back.storage.tables import metadata
from shared.errors import DatabaseRefused, LeaseLost, LightningError


def rows_of(database: Database) -> dict[int, LeaseRow]:
    with database.snapshot() as connection:
        return read_rows(connection, SHARDS)


def run_sql(database: Database, *statements: str) -> None:
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_every_start_raises_the_epoch_even_of_its_own_row(database: Database) -> None:
    epochs = [take_over(database, unix_s=unix_s).epoch for unix_s in (100, 50, 100, 500)]
    assert epochs == [100, 101, 102, 500]
    assert {row.epoch for row in rows_of(database).values()} == {500}


def test_shards_taken_together_share_an_epoch_above_all_of_theirs(database: Database) -> None:
    take_over(database, shards=(0,), unix_s=100)
    take_over(database, "bob", shards=(1,), unix_s=200)
    assert take_over(database, "carol", shards=(0, 1, 2), unix_s=10).epoch == 201


async def test_commit_numbers_survive_takeovers(database: Database) -> None:
    async with committing(database, take_over(database)) as committer:
        await committer.submit(0)
        await committer.submit([0, 2])
    assert take_over(database, "bob").commit_numbers == {0: 2, 1: 0, 2: 1}


def test_the_row_names_the_owners_process(database: Database) -> None:
    process = this_process()
    assert process.is_alive()
    assert not replace(process, start=process.start + 1).is_alive()
    take(database, claimant("alice", process), SHARDS, 1, {})
    assert {row.process for row in rows_of(database).values()} == {process}
    assert {row.owner for row in rows_of(database).values()} == {"alice"}


async def test_after_a_polite_leave_the_next_takes_at_once_and_the_leaver_is_silent(
    database: Database,
) -> None:
    held = take_over(database)
    async with committing(database, held) as committer:
        leave(database, held)
        with pytest.raises(LeaseLost):
            await committer.submit(0)
    new = await asyncio.wait_for(acquire(database, claimant("bob"), SHARDS, poll_s=60), 10)
    assert new.epoch > held.epoch


def test_leaving_a_lease_that_another_took_changes_nothing(database: Database) -> None:
    held = take_over(database)
    take_over(database, "bob")
    before = rows_of(database)
    leave(database, held)
    assert rows_of(database) == before


def test_an_owner_that_moved_since_it_was_seen_keeps_its_lease(database: Database) -> None:
    take_over(database)
    for change in ("beat = beat + 1", "commit_no = commit_no + 1", "epoch = epoch + 1"):
        seen = rows_of(database)
        run_sql(database, f"UPDATE lease SET {change}")  # noqa: S608 - ours
        with pytest.raises(LeaseHeld):
            take(database, claimant("bob"), SHARDS, 1, seen)
    assert rows_of(database)[0].owner == "alice"


def test_of_two_that_start_on_an_empty_database_one_owns_it(database: Database) -> None:
    taken: list[Lease] = []
    refused: list[LightningError] = []
    start = threading.Barrier(2)

    def begin(owner: str) -> None:
        start.wait()
        try:
            taken.append(take(database, claimant(owner), SHARDS, 1, {}))
        except LightningError as error:
            refused.append(error)

    threads = [threading.Thread(target=begin, args=(owner,)) for owner in ("alice", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [len(taken), len(refused)] == [1, 1]
    assert isinstance(refused[0], LeaseHeld)
    assert {row.owner for row in rows_of(database).values()} == {taken[0].owner}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(claimant(), node_id=NODE_ID[::-1]), "of node 0200"),
        (replace(claimant(), chain="mainnet"), "regtest, not of mainnet"),
    ],
)
def test_a_database_of_another_node_or_network_is_refused(
    database: Database, other: object, words: str
) -> None:
    take_over(database)
    before = rows_of(database)
    with pytest.raises(DatabaseRefused, match=words):
        take(database, other, SHARDS, 1, before)
    assert rows_of(database) == before


def test_a_newer_schema_refuses_the_lease_to_an_older_program(database: Database) -> None:
    take_over(database)
    run_sql(database, "UPDATE alembic_version SET version_num = '9999'")
    before = rows_of(database)
    with pytest.raises(DatabaseRefused, match="run a newer Squall"):
        take(database, claimant(), SHARDS, 1, before)
    assert rows_of(database) == before


async def test_a_refused_database_ends_the_wait_for_its_lease(database: Database) -> None:
    take_over(database)
    run_sql(
        database, "UPDATE alembic_version SET version_num = '9999'", "UPDATE lease SET owner=''"
    )
    with pytest.raises(DatabaseRefused):
        await asyncio.wait_for(acquire(database, claimant(), SHARDS), 10)


def test_a_database_of_another_program_is_refused_and_left_alone(database: Database) -> None:
    run_sql(database, "CREATE TABLE wallet (id INTEGER)")
    with pytest.raises(DatabaseRefused, match="not made by Squall"):
        take(database, claimant(), SHARDS, 1, {})
    with database.snapshot() as connection:
        assert inspect(connection).get_table_names() == ["wallet"]


# --- the heart ------------------------------------------------------------------------------------


@contextmanager
def beating(
    database: Database, held: Lease, lost: list[tuple[int, ...]], beat_s: float = 0.2
) -> Iterator[Heart]:
    heart = Heart(database, held, lost.append, beat_s=beat_s)
    heart.start()
    try:
        yield heart
    finally:
        heart.stop()


async def test_the_heart_beats_until_it_is_stopped(database: Database) -> None:
    lost: list[tuple[int, ...]] = []
    with beating(database, take_over(database), lost, 0.01):
        await until(lambda: rows_of(database)[0].beat > 2, "a few beats")
    last = rows_of(database)
    assert {row.beat for row in last.values()} == {last[0].beat}
    assert lost == []


async def test_the_heart_beats_only_for_its_own_epoch_and_tells_what_is_lost(
    database: Database,
) -> None:
    lost: list[tuple[int, ...]] = []
    held = take_over(database)
    take_over(database, "bob", (1, 2))
    with beating(database, held, lost) as heart:
        await until(lambda: rows_of(database)[0].beat > 2, "a few beats")
        assert lost == [(1, 2)]
        assert {rows_of(database)[shard].beat for shard in (1, 2)} == {0}
        take_over(database, "bob", (0,))
        await until(lambda: not heart.is_alive(), "the end of a heart without shards")
    assert lost == [(1, 2), (0,)]


async def test_a_store_hears_from_its_heart_that_another_took_its_shards(
    database_url: str, database: Database
) -> None:
    async with storing(database_url, shards=SHARDS) as store:
        lost: list[tuple[int, ...]] = []
        store.on_lost(lost.append)
        take_over(database, "bob")
        await until(lambda: lost, "the news of the loss, without a commit")
        assert lost == [SHARDS]
        with pytest.raises(LeaseLost):
            await store.committer.submit(0)
    assert {row.owner for row in rows_of(database).values()} == {"bob"}


async def test_who_asks_late_still_hears_what_was_lost(
    database_url: str, database: Database
) -> None:
    async with storing(database_url, shards=SHARDS) as store:
        take_over(database, "bob")
        with pytest.raises(LeaseLost):
            await store.committer.submit(1)
        lost: list[tuple[int, ...]] = []
        store.on_lost(lost.append)
        await until(lambda: sum(map(len, lost)) >= 1, "the news of the loss")
        assert 1 in lost[0]


async def test_a_second_back_takes_over_when_the_first_leaves(database_url: str) -> None:
    async with storing(database_url) as first:
        second = asyncio.create_task(_epoch_of_a_short_life(database_url))
        await first.committer.submit(0, [outbox.event("from the first", "{}", 1)])
        done, _ = await asyncio.wait([second], timeout=0.3)
        assert not done
    epoch, topics = await asyncio.wait_for(second, 20)
    assert epoch > first.lease.epoch
    assert topics == ["from the first"]


async def _epoch_of_a_short_life(url: str) -> tuple[int, list[str]]:
    async with storing(url, owner="bob") as store:
        events = await store.read(outbox.pending_events)
        return store.lease.epoch, [each.topic for each in events]


# --- the schema -----------------------------------------------------------------------------------


def test_the_migrated_schema_is_the_declared_one(database: Database) -> None:
    take_over(database)
    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrated = _definitions(connection)
        for table in [*metadata.sorted_tables, "alembic_version"]:
            connection.execute(text(f"DROP TABLE {table}"))
        metadata.create_all(connection)
        assert migrated == _definitions(connection)


def _definitions(connection: Connection) -> set[str]:
    """Everything that the database itself says of its tables and indexes."""
    if connection.dialect.name == "sqlite":
        query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        rows = connection.execute(text(query)).scalars()
        return {" ".join(sql.split()) for sql in rows if "alembic_version" not in sql}
    queries = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace",
        "SELECT table_name || column_name || data_type || is_nullable "
        "FROM information_schema.columns WHERE table_schema = 'public'",
    )
    rows = [sql for query in queries for sql in connection.execute(text(query)).scalars()]
    return {sql for sql in rows if "alembic_version" not in sql}


def test_a_schema_that_is_up_to_date_is_left_alone(database: Database) -> None:
    take_over(database)
    with database.transaction() as connection:
        assert migration.current_revision(connection) == migration.head_revision()
        before = _definitions(connection)
        migration.upgrade(connection)
        assert _definitions(connection) == before


# --- settings without which nothing of this holds -------------------------------------------------


def test_connections_are_set_up_as_ownership_needs_them(database: Database) -> None:
    if database.path is not None:
        assert database.path.stat().st_mode & 0o777 == 0o600
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 2000}
        with database.transaction() as connection:
            for name, value in wanted.items():
                assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
        return
    wanted = {
        "idle_in_transaction_session_timeout": "2s",
        "lock_timeout": "2s",
        "transaction_isolation": "read committed",
        "synchronous_commit": "on",
    }
    with database.transaction() as connection:
        for name, value in wanted.items():
            assert connection.exec_driver_sql(f"SHOW {name}").scalar() == value


def test_a_reader_cannot_write(database: Database) -> None:
    take_over(database)
    with pytest.raises(LightningError), database.snapshot() as connection:
        connection.execute(text("UPDATE lease SET epoch = 0"))


def test_this_process_is_alive_and_a_dead_one_is_not() -> None:
    assert not Process(this_process().host, 1 << 30, 1).is_alive()
