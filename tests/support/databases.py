"""Databases for contract tests: every test that takes ``database_url`` runs on each kind."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from support import postgres

from back.channel.policy import ChannelPolicy
from back.storage.committer import Committer
from back.storage.database import Database, open_database
from back.storage.driver import Driver
from back.storage.lease import Claimant, Lease, Process, read_rows, take
from back.storage.store import Store
from shared.errors import BackendError

NODE_ID = b"\x02" + bytes(range(32))
POLICY = ChannelPolicy(chain_hash=bytes(32))
SHARDS = (0, 1, 2)
NOWHERE = Process("a machine that is not this one", 1, 1)
DEADLINE_S = 15.0


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'squall.db'}"
    return postgres.shared_server().new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database, open."""
    with opened(database_url) as database:
        yield database


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Open a database for a while."""
    database = open_database(url)
    try:
        yield database
    finally:
        database.close()


def claimant(owner: str = "alice", process: Process = NOWHERE) -> Claimant:
    """A back that asks for the lease."""
    return Claimant(owner, NODE_ID, "regtest", process)


def take_over(
    database: Database, owner: str = "alice", shards: tuple[int, ...] = SHARDS, unix_s: int = 1
) -> Lease:
    """Take the lease whoever has it, as a standby does that has waited long enough."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with database.snapshot() as connection:
                rows = read_rows(connection, shards)
            return take(database, claimant(owner), shards, unix_s, rows)
        except BackendError:  # the owner moved meanwhile, or holds the lock: try again
            if time.monotonic() > deadline:
                raise


@asynccontextmanager
async def committing(database: Database, held: Lease) -> AsyncIterator[Committer]:
    """Run a committer for a while."""
    committer = Committer(database, held)
    committer.start()
    try:
        yield committer
    finally:
        await committer.stop()


@asynccontextmanager
async def storing(url: str, **options: object) -> AsyncIterator[Store]:
    """Run a whole store for a while."""
    names = {"owner": "alice", "node_id": NODE_ID, "chain": "regtest", "poll_s": 0.05}
    store = await Store.open(url, policy=POLICY, **{**names, **options})
    try:
        yield store
    finally:
        await store.close()


def database_files_mode(path: Path) -> int:
    """The permissions of a file."""
    return os.stat(path).st_mode & 0o777


class Hooks:
    """Points at which a test may stop or break a writer's connection.

    Attributes:
        before: called with the name of a step (begin, run, commit) before it happens.
        after: the same after it happened.
    """

    def __init__(self) -> None:
        self.before: Callable[[str], None] = lambda _step: None
        self.after: Callable[[str], None] = lambda _step: None


class HookedDriver:
    """A driver that tells a test of each step."""

    def __init__(self, driver: Driver, hooks: Hooks) -> None:
        self._driver = driver
        self._hooks = hooks

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._driver, name)
        if name not in {"begin", "run", "commit"}:
            return attribute

        def step(*arguments: object) -> object:
            self._hooks.before(name)
            result = attribute(*arguments)
            self._hooks.after(name)
            return result

        return step


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """Hooks into every connection that is made by :meth:`Database.connect` from now on."""
    hooks = Hooks()
    connect = Database.connect
    monkeypatch.setattr(Database, "connect", lambda self: HookedDriver(connect(self), hooks))
    return hooks


class Gate:
    """Stops a thread at a point until a test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """The thread: stand here until opened."""
        self._reached.set()
        assert self._open.wait(DEADLINE_S), "the gate was never opened"

    async def reached(self) -> None:
        """The test: wait until the thread stands here."""
        assert await asyncio.to_thread(self._reached.wait, DEADLINE_S), "nobody came to the gate"

    def open(self) -> None:
        """Let the thread go on, and everybody after it."""
        self._open.set()
