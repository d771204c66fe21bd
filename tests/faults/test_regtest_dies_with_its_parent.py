"""No bitcoind outlives a killed demo or test run, and a missing one is explained."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import until

from back.chain import regtest
from shared.errors import CommandError

PARENT = """
import asyncio, sys
from pathlib import Path
from back.chain import regtest

async def main():
    async with regtest.running(Path(sys.argv[1]), fund=False) as node:
        print(node.process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_bitcoind_ends_with_the_process_that_started_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "bitcoind"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert _is_alive(pid)
    parent.send_signal(number)
    await parent.wait()
    await until(lambda: not _is_alive(pid), "the end of bitcoind")


async def test_a_bitcoind_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nonsense"):
        await regtest.start(tmp_path / "bitcoind", ["-nonsense=1"])


def test_without_bitcoind_and_apt_the_advice_is_to_install_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(regtest, "cache_folder", lambda: tmp_path)
    with pytest.raises(CommandError, match="install Bitcoin Core or Knots"):
        regtest.find_bitcoind()


def test_a_failing_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "path"
    fake.mkdir()
    (fake / "apt-get").write_text("#!/bin/sh\necho 'no network' >&2\nexit 100\n")
    (fake / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}{os.pathsep}{os.environ['PATH']}")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bitcoind" else which(name))
    monkeypatch.setattr(regtest, "cache_folder", lambda: tmp_path)
    with pytest.raises(CommandError, match="no network"):
        regtest.find_bitcoind()


def test_a_bitcoind_on_the_path_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "bitcoind"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert regtest.find_bitcoind() == mine
