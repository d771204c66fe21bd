"""What a front counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

__all__ = ["Metrics"]


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
