"""How a process of ours lives: settings, logs, start, a signal, the end."""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import uvloop

from shared import log as logs
from shared.errors import LightningError

__all__ = ["main", "until_stopped"]


class _ProgramSettings(Protocol):
    """What the settings of any process have."""

    @property
    def log_level(self) -> str:
        """How much is logged."""

    @classmethod
    def load(cls, config: Path | None = None) -> Self:
        """Read environment and file."""


S = TypeVar("S", bound=_ProgramSettings)


def main(
    name: str,
    description: str | None,
    settings: type[S],
    run: Callable[[S], Coroutine[Any, Any, None]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a process to its end.

    Args:
        name: of the program, for people.
        description: for ``--help``.
        settings: the class of its settings.
        run: does everything.
        arguments: of the command line; by default those that we were started with.

    Returns:
        The exit code: 0 after a polite stop, 1 for what must be corrected.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    given = parser.parse_args(arguments)
    try:
        read = settings.load(given.config)
        logs.configure(level=read.log_level)
        _collect_rarely()
        uvloop.run(run(read))
    except (LightningError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201 - for people, beside the log
        return 1
    return 0


def _collect_rarely() -> None:
    """Have the garbage collector look through what lives long less often.

    Hundreds of thousands of objects of the routing table live for weeks; by default a tenth of the
    time of a process that reads gossip goes into looking at them again.
    """
    gc.freeze()
    gc.set_threshold(10_000, 5, 100)


async def until_stopped(start: Coroutine[Any, Any, None], stopping: asyncio.Event) -> None:
    """Start a process and return when it is to stop; a start that is under way is cancelled then.

    Args:
        start: what starts it; whatever it raises is raised here.
        stopping: set by SIGTERM, by SIGINT, and by whoever else wants the end.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    starting = loop.create_task(start)
    waiting = loop.create_task(stopping.wait())
    try:
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        await waiting
    finally:
        starting.cancel()
        waiting.cancel()
        await asyncio.gather(starting, waiting, return_exceptions=True)
