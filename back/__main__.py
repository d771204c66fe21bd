"""``squall-back``: read the settings, take the lease, run until SIGTERM or SIGINT."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop

from back.node import Node
from back.settings import BackSettings
from shared import log as logs
from shared.errors import LightningError

__all__ = ["main"]

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one back; returns the exit code: 0 after a polite stop, 1 for what must be corrected."""
    parser = argparse.ArgumentParser(prog="squall-back", description=__doc__)
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    given = parser.parse_args(arguments)
    try:
        settings = BackSettings.load(given.config)
        logs.configure(level=settings.log_level)
        uvloop.run(run(settings))
    except (LightningError, OSError) as error:
        print(f"squall-back: {error}", file=sys.stderr)  # noqa: T201 - for people, before logs
        return 1
    return 0


async def run(settings: BackSettings) -> None:
    """Run until a signal or until the lease is lost.

    Raises:
        LightningError: what must be corrected, or LeaseLost.
    """
    node = Node.make(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stopping.set)
    starting = loop.create_task(node.start())
    waiting = loop.create_task(node.stopping.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is not None:
        waiting.cancel()
        await node.stop()
        starting.result()
    await waiting
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await node.stop()
    if node.failure is not None:
        raise node.failure


if __name__ == "__main__":
    sys.exit(main())
