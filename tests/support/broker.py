"""Real brokers with certificates, for tests."""

import atexit
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from support import waiting

from shared.fabric import certificates, server
from shared.fabric.client import FabricClient
from shared.fabric.server import EmbeddedServer


def _temporary(prefix: str) -> Path:
    folder = Path(mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def cluster() -> Path:
    """Return a folder of certificates, made once per run and never changed."""
    folder = _temporary("squall-certs-")
    certificates.create(folder)
    certificates.add_front(folder, "alone")
    return folder


@cache
def shared_cluster() -> Path:
    """The same in the mode of one shared certificate."""
    folder = _temporary("squall-shared-")
    certificates.create_shared(folder)
    return folder


@asynccontextmanager
async def running(
    folder: Path, certs: Path | None = None, *, host: str = "127.0.0.1", port: int = -1
) -> AsyncIterator[EmbeddedServer]:
    """Run a broker for a while."""
    broker = await server.start(certs or cluster(), folder, host=host, port=port)
    try:
        yield broker
    finally:
        await broker.stop()


@asynccontextmanager
async def client(
    broker: EmbeddedServer, user: str, *, certs: Path | None = None, start: bool = True
) -> AsyncIterator[FabricClient]:
    """Connect as a user of `cluster`."""
    credentials = certificates.credentials(certs or cluster(), user)
    fabric = FabricClient(
        [broker.url], credentials, role=user.partition("-")[0], name=f"test-{user}"
    )
    if start:
        await fabric.start(timeout_s=10)
    try:
        yield fabric
    finally:
        await fabric.stop()


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 10.0) -> float:
    """Wait for a condition; return how many seconds it took, or fail."""
    start = time.monotonic()
    await waiting.until(condition, within_s=within_s)
    return time.monotonic() - start
