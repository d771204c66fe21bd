"""``squall-front``: read the settings, run until SIGTERM or SIGINT, drain, exit 0."""

import asyncio
import sys
from collections.abc import Sequence

from front.process import FrontProcess
from front.settings import FrontSettings
from shared import program
from shared.errors import CommandError
from shared.fabric.client import FabricClient

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one front; returns the exit code: 0 after a drain, 1 for what must be corrected."""
    return program.main("squall-front", __doc__, FrontSettings, run, arguments)


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
    bulk = FabricClient(
        settings.nats_urls, settings.credentials, role="front", name=f"front-{settings.name}.bulk"
    )
    front = FrontProcess(settings, fabric, bulk)
    try:
        await program.until_stopped(front.start(), asyncio.Event())
    except BaseException:
        await front.stop()
        raise
    await front.drain()


if __name__ == "__main__":
    sys.exit(main())
