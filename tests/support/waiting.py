"""Waiting for a condition, with a deadline; never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["until"]


async def until(
    probe: Callable[[], Any] | Callable[[], Awaitable[Any]],
    what: str = "the condition",
    within_s: float = 15.0,
) -> Any:
    """Wait until ``probe`` (plain or async) returns something true, and return that.

    Raises:
        AssertionError: it did not in ``within_s`` seconds; names ``what``.
    """
    deadline = time.monotonic() + within_s
    while True:
        value = probe()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.005)
