"""Child processes that write to a log file and end with us, whatever ends us."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.children import die_with_parent
from shared.errors import CommandError

__all__ = ["Child", "program", "spawn"]

STOP_PATIENCE_S = 15.0


def program(name: str) -> str:
    """Return the path of a program installed beside this Python, or its plain name."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


@dataclass(slots=True)
class Child:
    """One process that we started.

    Attributes:
        name: for messages.
        log: its standard output and error.
    """

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def kill(self) -> None:
        """``kill -9``: as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send any signal."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def wait(self, timeout_s: float = STOP_PATIENCE_S) -> int:
        """Wait for its end and return its exit code.

        Raises:
            TimeoutError: it goes on.
        """
        return await asyncio.wait_for(self.process.wait(), timeout_s)

    async def stop(self) -> None:
        """Ask politely, then insist."""
        if self.process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            await self.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def tail(self, lines: int = 20) -> str:
        """Return the end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


async def spawn(
    name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Child:
    """Start a process; it dies with us.

    Raises:
        CommandError: the program is not there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SQUALL_")}
    with log.open("ab") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**clean, **environment},
                preexec_fn=die_with_parent(),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise CommandError(f"{command[0]} is not installed") from None
    return Child(name, process, log)
