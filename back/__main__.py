"""``squall-back``: read the settings, take the lease, run until SIGTERM or SIGINT."""

import sys
from collections.abc import Sequence

from back.node import Node
from back.settings import BackSettings
from shared import program

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one back; returns the exit code: 0 after a polite stop, 1 for what must be corrected."""
    return program.main("squall-back", __doc__, BackSettings, run, arguments)


async def run(settings: BackSettings) -> None:
    """Run until a signal or until the lease is lost.

    Raises:
        LightningError: what must be corrected, or LeaseLost.
    """
    node = Node.make(settings)
    try:
        await program.until_stopped(node.start(), node.stopping)
    finally:
        await node.stop()
    if node.failure is not None:
        raise node.failure


if __name__ == "__main__":
    sys.exit(main())
