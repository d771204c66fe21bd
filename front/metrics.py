"""What a front counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

__all__ = ["Metrics"]

_KINDS = {256: "channel_announcement", 257: "node_announcement", 258: "channel_update"}


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
        self.onion_messages = self._counter(
            "onion_messages", "Onion messages of peers passed on to their owners."
        )
        self.resends = self._counter("resends", "Messages sent to an owner more than once.")
        self._announcements = self._counter(
            "announcements",
            "Gossip announcements of peers, and what became of them.",
            "kind",
            "result",
        )
        self._announced: dict[tuple[int, str], Counter] = {}
        self.queries = self._counter("gossip_queries", "Questions of peers (BOLT 7).", "message")
        gossip = self._counter("gossip_bytes", "Bytes of gossip, without queries.", "direction")
        self.gossip_in = gossip.labels("in")
        self.gossip_out = gossip.labels("out")
        self.pending = self._gauge("announcements_pending", "Announcements not yet decided.")
        self.channels = self._gauge("table_channels", "Channels in the routing table.")
        self.updates = self._gauge("table_updates", "Channel updates in the routing table.")
        self.nodes = self._gauge("table_nodes", "Nodes in the routing table.")
        self.table_bytes = self._gauge("table_bytes", "Raw bytes of the routing table.")
        self.graph_lag = self._gauge("graph_lag", "Values of GRAPH that are not worked in yet.")
        self.graph_loads = self._gauge("graph_loads", "How often the table was loaded anew.")
        self.graph_refused = self._gauge("graph_refused", "Values of GRAPH that made no sense.")
        self.foreign = self._counter("fabric_errors", "Fabric messages that made no sense.")

    def announced(self, message_type: int, result: str, times: int = 1) -> None:
        """Count announcements of peers; looks labels up once."""
        counter = self._announced.get((message_type, result))
        if counter is None:
            kind = _KINDS[message_type]
            counter = self._announced[message_type, result] = self._announcements.labels(
                kind, result
            )
        counter.inc(times)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"squall_front_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"squall_front_{name}", text, registry=self.registry)
