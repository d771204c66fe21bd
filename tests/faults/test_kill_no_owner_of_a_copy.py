"""A copied database names the owner of the original: that one must not be killed for it."""

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.databases import storing

from back.storage import outbox
from shared.errors import DatabaseRefused

OWNER = Path(__file__).parents[1] / "support" / "storage_owner.py"
DEADLINE_S = 30.0


@asynccontextmanager
async def owner_of(path: Path) -> AsyncIterator[Process]:
    """A process that owns a database."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, OWNER, f"sqlite:///{path}", "idle", stdin=PIPE, stdout=PIPE
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while (line := await child.stdout.readline()) and line.strip() != b"ready":
                pass
        yield child
    finally:
        child.kill()
        await child.wait()


def copied(path: Path) -> Path:
    """Copy a database in use, as a backup does."""
    copy = path.with_name("copy.db")
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    return copy


async def test_the_owner_of_the_original_lives_when_a_copy_is_opened(tmp_path: Path) -> None:
    async with owner_of(tmp_path / "squall.db") as child:
        copy = copied(tmp_path / "squall.db")
        async with asyncio.timeout(DEADLINE_S), storing(f"sqlite:///{copy}", poll_s=0.02) as store:
            topics = [each.topic for each in await store.read(outbox.pending_events)]
            assert topics == ["first"]
            assert child.returncode is None
        await asyncio.sleep(0)
        assert child.returncode is None


async def test_the_owner_lives_when_another_node_tries_its_database(tmp_path: Path) -> None:
    path = tmp_path / "squall.db"
    async with owner_of(path) as child:
        for wrong in ({"node_id": b"\x03" * 33}, {"chain": "signet"}):
            with pytest.raises(DatabaseRefused):
                async with storing(f"sqlite:///{path}", poll_s=0.02, **wrong):
                    pytest.fail("it was opened")
        assert child.returncode is None
