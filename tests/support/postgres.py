"""A private PostgreSQL for tests: one server for the run, a fresh database for each test.

It listens on a Unix socket in a folder of its own, so it meets no other server and needs no port.
"""

import atexit
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
START_S = 30.0
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",  # no test cuts the machine's power
    "max_connections": "200",
    "jit": "off",
    "logging_collector": "off",
    "log_min_messages": "fatal",
}

_names = itertools.count(1)


def _as_nobody() -> Mapping[str, object]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@cache
def _programs() -> Path:
    """Return the folder of initdb and postgres; unpacked once per machine where not installed."""
    folder = Path("/var/cache/squall-tests") if os.getuid() == 0 else ROOT / ".cache"
    script = ROOT / "tools" / "get-postgresql.sh"
    done = subprocess.run(
        [script, folder / "postgresql"], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no PostgreSQL: {done.stderr.strip()}")
    return Path(done.stdout.strip())


class PostgresServer:
    """A running server.

    Attributes:
        folder: data, log and socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the cluster and start it."""
        initdb = [_programs() / "initdb", "-D", self.folder / "data", "-U", "squall"]
        subprocess.run(
            [*initdb, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **_as_nobody(),
        )
        self.start()

    def start(self) -> None:
        """Start the server on its data, and wait until it answers."""
        postgres = [_programs() / "postgres", "-D", self.folder / "data", "-k", self.folder]
        settings = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*postgres, *settings],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **_as_nobody(),
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.execute("SELECT 1")
                break
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop at once, as a crash does: connections break, nothing that was committed is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_S)
            self._process = None

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement in a session of its own."""
        target = {"host": str(self.folder), "user": "squall", "dbname": database}
        with psycopg.connect(**target, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"test_{next(_names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"postgresql+psycopg://squall@/{name}?host={self.folder}"


def new_server() -> PostgresServer:
    """Make a server; the caller stops it and removes its folder."""
    folder = Path(tempfile.mkdtemp(prefix="squall-pg-"))
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    server = PostgresServer(folder)
    server.create()
    return server


def remove(server: PostgresServer) -> None:
    """Stop a server and delete what it wrote."""
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@cache
def shared_server() -> PostgresServer:
    """The run's server, started at the first use."""
    server = new_server()
    atexit.register(remove, server)
    return server
