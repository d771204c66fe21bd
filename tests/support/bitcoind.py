"""A real bitcoind on regtest for tests.

``bitcoind`` is one process for the whole run: its chain is shared, so a test makes its own wallets
and mines what it needs. ``own_bitcoind`` is of a single test: for reorgs, restarts and absence.
"""

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from back.chain import regtest
from back.chain.regtest import Regtest

_shared: list[Regtest] = []


def _shared_bitcoind() -> Regtest:
    """Start the run's bitcoind at the first use: each importing module has a fixture of its own."""
    if not _shared:
        folder = Path(tempfile.mkdtemp(prefix="squall-test-bitcoind-"))
        node = asyncio.run(regtest.start(folder))
        _shared.append(node)
        atexit.register(_end, node)
    return _shared[0]


def _end(node: Regtest) -> None:
    node.kill()
    shutil.rmtree(node.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bitcoind() -> Regtest:
    """The run's bitcoind, with a miner's wallet that has coins."""
    return _shared_bitcoind()


@pytest.fixture(scope="session")
def funded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a stopped bitcoind whose miner has coins: copied, it spares the mining."""
    folder = tmp_path_factory.mktemp("bitcoind") / "funded"

    async def make() -> None:
        async with regtest.running(folder):
            pass

    asyncio.run(make())
    return folder


@pytest.fixture
async def own_bitcoind(funded_folder: Path, tmp_path: Path) -> AsyncIterator[Regtest]:
    """A bitcoind of this test alone. Import ``funded_folder`` with it."""
    shutil.copytree(funded_folder, tmp_path / "bitcoind")
    async with regtest.running(tmp_path / "bitcoind") as node:
        yield node
