"""The database itself fails: crashed, full, locked, damaged. Nothing is lost or done twice."""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs
from support import postgres
from support.databases import SHARDS, claimant, committing, opened, storing, take_over
from support.waiting import until

from back.storage import outbox
from back.storage.database import Database, open_database
from back.storage.driver import SqliteDriver
from back.storage.lease import Process
from back.storage.standby import acquire
from back.storage.store import Store
from shared.errors import DatabaseRefused, StorageUnavailable


@pytest.fixture
def own_server() -> Iterator[postgres.PostgresServer]:
    server = postgres.new_server()
    yield server
    postgres.remove(server)


async def persist(store: Store, shard: int, name: str) -> int:
    """What a channel does: submit until it is durable. Returns how often the database was away."""
    failures = 0
    while True:
        try:
            await store.committer.submit(shard, [outbox.event(name, "{}", 1)])
        except StorageUnavailable:
            failures += 1
            await asyncio.sleep(0.02)
        else:
            return failures


async def test_a_server_that_crashes_under_load_loses_nothing_and_nothing_happens_twice(
    own_server: postgres.PostgresServer,
) -> None:
    with capture_logs() as logs:
        await _work_through_two_crashes(own_server, logs)


async def _work_through_two_crashes(
    own_server: postgres.PostgresServer, logs: Sequence[Mapping[str, object]]
) -> None:
    async with storing(own_server.new_database()) as store:

        async def work(worker: int) -> int:
            return sum([await persist(store, worker, f"{worker}.{n}") for n in range(150)])

        working = asyncio.gather(*(work(worker) for worker in range(8)))
        for crash in range(2):
            await until(lambda crash=crash: store.committer.commit_no(0) > 20 * (crash + 1), "work")
            await asyncio.to_thread(own_server.stop)
            await asyncio.to_thread(own_server.start)
        failures = sum(await working)
        # Nobody hears of a commit that the server did finish: its outcome is looked up.
        in_doubt = sum(line["event"] == "commit_outcome_unknown" for line in logs)
        assert failures + in_doubt > 0, "the server's crash was not noticed"
        events = await store.read(lambda c: outbox.pending_events(c, 10_000))
        names = [event.topic for event in events]
        assert sorted(names) == sorted(f"{w}.{n}" for w in range(8) for n in range(150))
        for worker in range(8):
            mine = [name for name in names if name.startswith(f"{worker}.")]
            assert mine == [f"{worker}.{n}" for n in range(150)]


async def test_an_owner_frozen_in_the_middle_of_a_pipeline_is_overcome(
    own_server: postgres.PostgresServer,
) -> None:
    with opened(own_server.new_database()) as database:
        take_over(database)
        frozen = database.writer.raw_connection()
        connection = frozen.driver_connection
        pipeline = connection.pipeline()
        pipeline.__enter__()
        row = connection.execute("UPDATE lease SET beat = beat + 1 RETURNING shard").fetchone()
        assert row is not None  # executed on the server, which now waits for more
        bob = claimant("bob", Process("another machine", 1, 1))
        held = await asyncio.wait_for(acquire(database, bob, SHARDS, poll_s=0.3), 30)
        assert held.owner == "bob"
        with pytest.raises(psycopg.OperationalError):
            pipeline.__exit__(None, None, None)
        frozen.invalidate()


async def test_a_standby_waits_for_a_server_that_is_away(
    own_server: postgres.PostgresServer,
) -> None:
    url = own_server.new_database()
    own_server.stop()
    with opened(url) as database:
        waiting = asyncio.create_task(acquire(database, claimant(), SHARDS, poll_s=0.05))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        own_server.start()
        held = await asyncio.wait_for(waiting, 30)
        assert held.owner == "alice"


async def test_a_sqlite_file_that_another_has_locked_is_unavailable_not_refused(
    tmp_path: Path,
) -> None:
    with opened(f"sqlite:///{tmp_path / 'squall.db'}") as database:
        async with committing(database, take_over(database)) as committer:
            other = sqlite3.connect(tmp_path / "squall.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable, match="locked"):
                await committer.submit(0, [outbox.event("a", "{}", 1)])
            other.close()
            await committer.submit(0, [outbox.event("a", "{}", 1)])
            assert committer.commit_no(0) == 1


async def test_a_full_disk_is_unavailable_not_refused_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers: list[SqliteDriver] = []
    connect = Database.connect

    def connected(self: Database) -> SqliteDriver:
        drivers.append(connect(self))
        return drivers[-1]

    with opened(f"sqlite:///{tmp_path / 'squall.db'}") as database:
        held = take_over(database)
        monkeypatch.setattr(Database, "connect", connected)
        async with committing(database, held) as committer:
            await committer.submit(0)
            pages = drivers[0].select("PRAGMA page_count", {})[0][0]
            drivers[0].select(f"PRAGMA max_page_count = {pages}", {})
            with pytest.raises(StorageUnavailable, match="full"):
                await committer.submit(0, [outbox.event("a", "x" * 100_000, 1)])
            # The connection was thrown away with its limit, as if the operator had made room.
            await committer.submit(0, [outbox.event("a", "x" * 100_000, 1)])
            assert committer.commit_no(0) == 2


async def test_a_damaged_file_is_told_of_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "squall.db"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(DatabaseRefused, match="not a database"):
        async with asyncio.timeout(30), storing(f"sqlite:///{path}"):
            pass
    assert path.read_bytes() == b"this is no database" * 1000


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/squall",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/squall.db?mode=ro",
        "no address",
    ],
)
def test_an_address_that_cannot_be_owned_is_refused(url: str) -> None:
    with pytest.raises(DatabaseRefused):
        open_database(url)


def test_a_password_is_in_no_error_and_no_repr() -> None:
    database = open_database("postgresql://squall:hunter2@127.0.0.1:1/squall")
    assert "hunter2" not in repr(database)
    with pytest.raises(StorageUnavailable) as error:
        database.connect()
    assert "hunter2" not in str(error.value)
