"""``squall demo`` as a user runs it: it does the main job, and leaves nothing behind."""

import asyncio
import re
import signal
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(240)

SQUALL = Path(sys.executable).with_name("squall")
LAST_LINE = re.compile(r"demo: ok payments=3 reconnect_s=\d+\.\d\d total_s=\d+\.\d")


async def start_demo(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start the demo with its temporary files in ``folder``."""
    return await asyncio.create_subprocess_exec(
        SQUALL, "demo", *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"TMPDIR": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin"},
    )  # fmt: skip


def left_over(folder: Path) -> list[str]:
    """Return the command lines of processes that still use ``folder``."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command + environment:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    """Read the demo's output until a line contains ``text``."""
    seen = ""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came:\n{seen}")


async def test_the_demo_does_the_main_job_and_leaves_nothing(tmp_path: Path) -> None:
    process = await start_demo(tmp_path)
    output, _ = await process.communicate()
    lines = output.decode().strip().splitlines()
    assert process.returncode == 0, output.decode()
    assert LAST_LINE.fullmatch(lines[-1]), lines[-1]
    assert left_over(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["start alice", "open a channel"])
async def test_ctrl_c_ends_everything(tmp_path: Path, moment: str) -> None:
    process = await start_demo(tmp_path)
    await read_until(process, moment)
    process.send_signal(signal.SIGINT)
    output, _ = await process.communicate()
    assert process.returncode == 1, output.decode()
    assert "interrupted" in output.decode()
    assert left_over(tmp_path) == []


async def test_a_killed_demo_takes_its_processes_with_it(tmp_path: Path) -> None:
    process = await start_demo(tmp_path)
    await read_until(process, "done: start alice")
    process.kill()
    await process.wait()
    deadline = time.monotonic() + 15
    while (remaining := left_over(tmp_path)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert remaining == []


async def test_a_kept_demo_prints_commands_that_work(tmp_path: Path) -> None:
    process = await start_demo(tmp_path, "--keep")
    seen = await read_until(process, "Logs:")
    calls = re.findall(r"squall (--api \S+ --password \S+) getinfo", seen)
    taps = re.findall(r"squall tap (--nats \S+ --certs \S+)", seen)
    assert len(calls) == len(taps) == 2
    call = await asyncio.create_subprocess_exec(
        SQUALL, *calls[0].split(), "getinfo", stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await call.communicate()
    assert b'"alias": "alice"' in answer
    tap = await asyncio.create_subprocess_exec(
        SQUALL, "tap", *taps[0].split(), "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    uri = re.findall(r"# bob: (\S+)", seen)[0]
    traffic = asyncio.ensure_future(read_until(tap, '"subject": "ln.'))
    while not traffic.done():
        for name, form in (
            ("disconnect", ["--nodeId", uri.split("@")[0]]),
            ("connect", ["--uri", uri]),
        ):
            again = await asyncio.create_subprocess_exec(
                SQUALL, *calls[0].split(), name, *form,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            await again.wait()
    assert "connected" in await traffic
    tap.terminate()
    await tap.wait()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0
    assert left_over(tmp_path) == []
