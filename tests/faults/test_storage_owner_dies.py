"""The owner is killed or frozen at the worst moment: another takes over, and nothing is lost."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.databases import storing

from back.storage import outbox
from back.storage.database import open_database
from back.storage.standby import UNCHANGED_POLLS, OwnerLock
from back.storage.store import Store

OWNER = Path(__file__).parents[1] / "support" / "storage_owner.py"
DEADLINE_S = 30.0
POLL_S = 0.1


@asynccontextmanager
async def owner(url: str, mode: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, OWNER, url, mode, stdin=PIPE, stdout=PIPE
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def heard(child: Process, word: str) -> None:
    """Wait until the child says ``word``; logs go by."""
    assert child.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while line := await child.stdout.readline():
            if line.decode().strip() == word:
                return
    pytest.fail(f"the owner ended without saying {word!r}")


async def topics(store: Store) -> list[str]:
    return [each.topic for each in await store.read(outbox.pending_events)]


async def test_what_was_committed_is_there_though_its_owner_died_before_the_answer(
    database_url: str,
) -> None:
    async with owner(database_url, "die before the answer") as child:
        assert await child.wait() == -signal.SIGKILL
        # The dead process is known to be dead: nobody waits for its beats.
        async with asyncio.timeout(DEADLINE_S), storing(database_url, poll_s=60) as store:
            assert await topics(store) == ["first", "second"]
            assert store.committer.commit_no(0) == 2
            await store.committer.submit(0, [outbox.event("third", "{}", 1)])
            assert store.committer.commit_no(0) == 3


async def test_what_was_not_committed_is_gone_with_its_owner(database_url: str) -> None:
    async with owner(database_url, "stop inside") as child:
        await heard(child, "inside")
        child.kill()
        await child.wait()
        async with asyncio.timeout(DEADLINE_S), storing(database_url, poll_s=POLL_S) as store:
            assert await topics(store) == ["first"]
            assert store.committer.commit_no(0) == 1
            await store.committer.submit(0, [outbox.event("third", "{}", 1)])


async def test_a_living_owner_is_waited_for(database_url: str) -> None:
    async with owner(database_url, "idle") as child:
        await heard(child, "ready")
        opening = asyncio.create_task(_open_and_close(database_url, 0.3))
        done, _ = await asyncio.wait([opening], timeout=0.3 * (UNCHANGED_POLLS + 3))
        assert not done, "the lease of a living owner was taken"
        assert child.returncode is None
        child.kill()
        await child.wait()
        assert await asyncio.wait_for(opening, DEADLINE_S) == ["first"]


async def _open_and_close(url: str, poll_s: float) -> list[str]:
    async with storing(url, poll_s=poll_s) as store:
        return await topics(store)


async def test_an_owner_frozen_inside_a_transaction_is_overcome_and_stays_silent(
    database_url: str,
) -> None:
    """SQLite: it is killed, or its lock would stay. PostgreSQL: the server ends its session."""
    async with owner(database_url, "stop inside") as child:
        await heard(child, "inside")
        child.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S), storing(database_url, poll_s=POLL_S) as store:
            assert await topics(store) == ["first"]
            await store.committer.submit(0, [outbox.event("ours", "{}", 1)])
            if store.database.is_sqlite:
                assert await child.wait() == -signal.SIGKILL
            else:
                child.send_signal(signal.SIGCONT)
                assert child.stdin is not None
                child.stdin.write(b"\n")
                await heard(child, "LeaseLost")
            await store.committer.submit(0, [outbox.event("ours too", "{}", 1)])
            assert await topics(store) == ["first", "ours", "ours too"]


async def test_a_frozen_owner_out_of_reach_keeps_its_sqlite_file(tmp_path: Path) -> None:
    """In another container its process cannot be seen: as long as the file lock is held, wait."""
    url = f"sqlite:///{tmp_path / 'squall.db'}"
    async with owner(url, "idle") as child:
        await heard(child, "ready")
        database = open_database(url)
        with database.transaction() as connection:
            connection.exec_driver_sql("UPDATE lease SET host = 'another container'")
        child.send_signal(signal.SIGSTOP)
        opening = asyncio.create_task(_open_and_close(url, 0.02))
        done, _ = await asyncio.wait([opening], timeout=0.02 * UNCHANGED_POLLS * 10)
        assert not done, "the lease was taken from an owner that may wake up"
        child.kill()
        await child.wait()
        assert await asyncio.wait_for(opening, DEADLINE_S) == ["first"]
        database.close()


async def test_a_child_that_inherited_the_file_lock_does_not_keep_the_database(
    tmp_path: Path,
) -> None:
    path = tmp_path / "squall.db"
    async with owner(f"sqlite:///{path}", "idle") as child:
        await heard(child, "ready")
        child.kill()
        await child.wait()
    lock = OwnerLock(path)
    assert lock.acquire()
    opened = await asyncio.wait_for(_open_and_close(f"sqlite:///{path}", 0.02), DEADLINE_S)
    assert opened == ["first"]
    lock.release()


def test_only_one_holds_the_file_lock_and_death_frees_it(tmp_path: Path) -> None:
    first, second = OwnerLock(tmp_path / "squall.db"), OwnerLock(tmp_path / "squall.db")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert os.listdir(tmp_path) == ["squall.db.lock"]
