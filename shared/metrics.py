"""The small HTTP server that shows a process's figures (``/metrics``, ``/health``)."""

from collections.abc import Callable

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

__all__ = ["MetricsServer"]

log = structlog.get_logger()


class MetricsServer:
    """Serves the figures on a port of its own.

    Args:
        text: gives everything in Prometheus' text format.
        health: returns ``""`` while healthy, else why not; a balancer takes the process out then.
    """

    def __init__(self, text: Callable[[], bytes], health: Callable[[], str] = str) -> None:
        self._text = text
        self._health = health
        self._runner: web.AppRunner | None = None
        self.address: tuple[str, int] | None = None
        """Where it listens, once started."""

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be had.
        """
        app = web.Application()
        app.router.add_get("/metrics", self._show)
        app.router.add_get("/health", self._say)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound = self._runner.addresses[0]
        self.address = (bound[0], bound[1])
        log.info("metrics_served", host=bound[0], port=bound[1])

    async def stop(self) -> None:
        """Close; does nothing if it was not started."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(body=self._text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _say(self, _: web.Request) -> web.Response:
        why = self._health()
        return web.Response(text=(why or "ok") + "\n", status=503 if why else 200)
