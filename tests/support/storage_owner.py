"""A process that owns a database, for tests that kill or freeze it.

Usage: python storage_owner.py URL MODE. Prints a word once it is where the test wants it.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from support.databases import HookedDriver, Hooks, storing  # noqa: E402

from back.storage import outbox  # noqa: E402
from back.storage.committer import Committer  # noqa: E402
from back.storage.database import Database  # noqa: E402
from shared.errors import LightningError  # noqa: E402


def say(word: str) -> None:
    print(word, flush=True)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still(step: str) -> None:
    """Before the committer's COMMIT: say so, and go on once a line comes."""
    if step == "commit" and threading.current_thread().name == "committer":
        say("inside")
        sys.stdin.readline()


async def main(url: str, mode: str) -> None:
    hooks = Hooks()
    connect = Database.connect
    Database.connect = lambda self: HookedDriver(connect(self), hooks)  # type: ignore[method-assign]
    async with storing(url, owner="child") as store:
        await store.committer.submit(0, [outbox.event("first", "{}", 1)])
        match mode:
            case "idle":
                say("ready")
                await asyncio.Event().wait()
            case "die before the answer":
                Committer._call_soon = die  # type: ignore[method-assign]
            case "stop inside":
                hooks.before = stand_still
        try:
            await store.committer.submit(0, [outbox.event("second", "{}", 1)])
            say("committed")
        except LightningError as error:
            say(type(error).__name__)


asyncio.run(main(*sys.argv[1:]))
