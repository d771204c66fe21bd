"""A front in the test's own process, on a free port of the loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.lightning_peer import TIMEOUT_S

from front.process import FrontProcess
from front.settings import FrontSettings
from shared.fabric.interface import Fabric

__all__ = ["front_settings", "port_of", "running_front"]


def front_settings(**changes: Any) -> FrontSettings:
    """Settings of a front whose fabric is made by the test."""
    given: dict[str, Any] = {
        "name": "f1",
        "tls_cert": Path("unused.pem"),
        "tls_key": Path("unused.key"),
        "shared_certificate": True,
        "listen": ("127.0.0.1:0",),
        "metrics_listen": "none",
        "drain_timeout_s": 2.0,
    }
    return FrontSettings(**(given | changes))


@asynccontextmanager
async def running_front(fabric: Fabric, **changes: Any) -> AsyncIterator[FrontProcess]:
    """Start a front; drain it at the end."""
    front = FrontProcess(front_settings(**changes), fabric, fabric)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await front.start()
        yield front
    finally:
        if not front.draining:
            await front.drain()


def port_of(front: FrontProcess) -> int:
    """Return the port of the first listener."""
    return front.listener.addresses[0][1]
