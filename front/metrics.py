"""What a front counts, and the small HTTP server that shows it (`/metrics`, `/health`)."""

from collections.abc import Callable

import structlog
from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)

__all__ = ["Metrics", "MetricsServer"]

log = structlog.get_logger()


class Metrics:
    """The figures of one front; a registry of its own, so that a test may run several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = self._gauge("connections", "TCP connections that peers made.")
        self.peers = self._gauge("peers", "Peers that finished BOLT 8 and init.")
        self.sessions = self._gauge("sessions", "Sessions with owners, ending ones included.")
        self.handshakes = self._counter("handshakes", "BOLT 8 handshakes.", "result", "reason")
        self.refused = self._counter("refused", "Connections not let in.", "reason")
        self.ended = self._counter("ended", "Authenticated connections that ended.", "reason")
        self.violations = self._counter(
            "violations", "Rules that peers broke after the handshake.", "rule"
        )
        self.dials = self._counter("dials", "Connections ordered by the back.", "result")
        messages = self._counter("messages", "Lightning messages.", "direction")
        self.messages_in = messages.labels("in")
        self.messages_out = messages.labels("out")
        traffic = self._counter("bytes", "Bytes on the peers' sockets.", "direction")
        self.bytes_in = traffic.labels("in")
        self.bytes_out = traffic.labels("out")
        self.dropped = self._counter("dropped", "Messages of peers not passed on.", "reason")
        self.resends = self._counter("resends", "Messages sent to an owner more than once.")
        self.foreign = self._counter("fabric_errors", "Fabric messages that made no sense.")

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"squall_front_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"squall_front_{name}", text, registry=self.registry)


class MetricsServer:
    """Serves the figures on a port of its own.

    Args:
        metrics: what to show.
        health: returns ``""`` while healthy, else why not; a balancer takes the front out then.
    """

    def __init__(self, metrics: Metrics, health: Callable[[], str]) -> None:
        self._metrics = metrics
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
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _say(self, _: web.Request) -> web.Response:
        why = self._health()
        return web.Response(text=(why or "ok") + "\n", status=503 if why else 200)
