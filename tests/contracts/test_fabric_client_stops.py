"""A connection to the broker ends when it is told to, also while it is being made."""

import asyncio
from pathlib import Path
from typing import Any

import nats.aio.client
import pytest
from support.broker import client, running

from shared.fabric.client import FabricClient

DEADLINE_S = 10.0


async def test_a_stop_while_connecting_ends_the_connection_that_was_made_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11's wait_for, deep in nats-py, forgets a cancellation that comes with a result."""
    really = nats.aio.client.Client.connect
    is_connecting = asyncio.Event()

    async def connect(nc: Any, *given: Any, **named: Any) -> None:
        connecting = asyncio.ensure_future(really(nc, *given, **named))
        is_connecting.set()
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            await connecting

    async with running(tmp_path) as broker, client(broker, "back") as other:
        monkeypatch.setattr(nats.aio.client.Client, "connect", connect)
        stopped = FabricClient(other._urls, other._credentials, role="back", name="stopped")
        starting = asyncio.create_task(stopped.start())
        await is_connecting.wait()
        async with asyncio.timeout(DEADLINE_S):
            await stopped.stop()
        assert stopped.connection is None
        assert not stopped.connected
        starting.cancel()
        await asyncio.wait({starting})
        # And it may be used again.
        await stopped.start()
        assert stopped.connected
        await stopped.stop()
