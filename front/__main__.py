"""``squall-front``: read the settings, run until SIGTERM or SIGINT, drain, exit 0."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop

from front.process import FrontProcess
from front.settings import FrontSettings
from shared import log as logs
from shared.errors import CommandError
from shared.fabric.client import FabricClient

__all__ = ["main"]

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one front; returns the exit code: 0 after a drain, 1 for what must be corrected."""
    parser = argparse.ArgumentParser(prog="squall-front", description=__doc__)
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    given = parser.parse_args(arguments)
    try:
        settings = FrontSettings.load(given.config)
        logs.configure(level=settings.log_level)
        uvloop.run(run(settings))
    except (CommandError, OSError) as error:
        print(f"squall-front: {error}", file=sys.stderr)  # noqa: T201 - for people, before logs
        return 1
    return 0


async def run(settings: FrontSettings) -> None:
    """Run until a signal, then drain.

    Raises:
        CommandError: certificates or keys that cannot be used.
        OSError: an address that cannot be had.
    """
    fabric = FabricClient(
        settings.nats_urls, settings.credentials, role="front", name=f"front-{settings.name}"
    )
    own = fabric.identity.name
    if own and own != settings.name:
        raise CommandError(f"the certificate is for front {own}, the settings say {settings.name}")
    front = FrontProcess(settings, fabric)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    starting = loop.create_task(front.start())
    waiting = loop.create_task(stopping.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is not None:
        waiting.cancel()
        await front.stop()
        starting.result()
    await waiting
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await front.drain()


if __name__ == "__main__":
    sys.exit(main())
