"""What the back counts, for Prometheus."""

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

if TYPE_CHECKING:
    from back.events.service import Events
    from back.gossip import Gossip
    from back.node import Node
    from back.storage.committer import CommitReport

__all__ = ["Metrics"]

COMMIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
GROUP_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


_JUDGING = {
    "ready": "1 once the routing table is loaded from GRAPH",
    "submissions_waiting": "Announcements that wait for a verdict",
    "submissions_dropped": "Submissions malformed, or dropped unread: a front sends too much",
    "channels_waiting": "Channels whose funding output is to be looked up",
    "blocks_fetched": "Blocks fetched to look up funding outputs",
    "channels_unverifiable": "Channels funded in blocks that a pruned bitcoind has no more",
    "blocks_behind": "Blocks whose spends are not in the routing table yet; -1: not known now",
    "channels_pruned": "Channels that were forgotten because nobody spoke of them",
    "values_waiting": "Values that are not surely in GRAPH yet",
    "values_repeated": "Values written again because nobody knew whether they had arrived",
    "values_refused": "Values that the broker did not take: GRAPH is full",
}
"""Figures of `back.gossip` that are counted elsewhere, without `squall_graph_`."""

_EVENTS = {
    "published": "Events published since the start",
    "waiting": "Events that are not surely in EVENTS yet, at the last look",
    "dropped": "Events that will never be in EVENTS: the broker was away for too long",
    "listeners": "Websockets that listen now",
    "listeners_cut": "Websockets that were cut off because they did not read",
}
"""Figures of `back.events` that are counted elsewhere, without `squall_events_`."""

_PATHS = {
    "found": "Requests for routes that were answered with some",
    "not_found": "Requests for routes where there are none",
    "failed": "Requests for routes without an answer: too many, too late, the worker died of them",
    "waiting": "Requests for routes that wait for an answer now",
    "deaths": "Times that the path-finding worker ended",
}
"""Figures of `back.graph.paths.service` that are counted there, without `squall_paths_`."""


class Metrics:
    """Every metric of the back, declared once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.height = Gauge("squall_chain_height", "Last processed block", registry=registry)
        self.peers = Gauge("squall_peers", "Connected peers", registry=registry)
        self.sessions = Gauge("squall_sessions", "Sessions of peers", registry=registry)
        self.fronts = Gauge("squall_fronts", "Fronts heard lately", registry=registry)
        self.channels = Gauge("squall_channels", "Channels by state", ["state"], registry=registry)
        self.stopped = Gauge(
            "squall_channels_stopped", "Channels that a bug of ours stopped", registry=registry
        )
        self.alarms = Gauge(
            "squall_alarms", "Times that money was at risk, since the start", registry=registry
        )
        self.messages = Counter(
            "squall_messages_received", "BOLT messages by name", ["message"], registry=registry
        )
        self.payments = Counter(
            "squall_payments",
            "Payments by direction and outcome",
            ["direction", "outcome"],
            registry=registry,
        )
        self.forwards = Counter(
            "squall_forwards", "HTLCs forwarded by outcome", ["outcome"], registry=registry
        )
        self.limited = Counter(
            "squall_forwards_limited",
            "Times that a limit kept an HTLC out of a channel",
            ["limit"],
            registry=registry,
        )
        self.offer_requests = Counter(
            "squall_offer_requests",
            "Requests for invoices of our offers, and what became of them",
            ["outcome"],
            registry=registry,
        )
        self.onion_messages = Counter(
            "squall_onion_messages",
            "Onion messages, and what became of them",
            ["outcome"],
            registry=registry,
        )
        self.handshakes = Gauge(
            "squall_handshakes_answered", "Handshake steps answered", registry=registry
        )
        self.commit_seconds = Histogram(
            "squall_commit_seconds",
            "Duration of a commit",
            registry=registry,
            buckets=COMMIT_BUCKETS_S,
        )
        self.commit_items = Histogram(
            "squall_commit_items", "Steps in one commit", registry=registry, buckets=GROUP_BUCKETS
        )
        self.resends = Gauge("squall_resends", "Session messages sent again", registry=registry)
        self.table = Gauge(
            "squall_graph_table",
            "The routing table: channels, updates, nodes",
            ["kind"],
            registry=registry,
        )
        self.verdicts = Gauge(
            "squall_graph_verdicts",
            "Verdicts on what fronts submitted, since the start",
            ["kind", "outcome"],
            registry=registry,
        )
        self.events = {
            name: Gauge(f"squall_events_{name}", text, registry=registry)
            for name, text in _EVENTS.items()
        }
        self.paths = {
            name: Gauge(f"squall_paths_{name}", text, registry=registry)
            for name, text in _PATHS.items()
        }
        self.judging = {
            name: Gauge(f"squall_graph_{name}", text, registry=registry)
            for name, text in _JUDGING.items()
        }

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def received(self, name: str) -> None:
        """Count a message of a peer."""
        self.messages.labels(name).inc()

    def payment_ended(self, direction: str, outcome: str) -> None:
        """Count a payment, ``sent`` or ``received``, ``ok`` or ``failed``."""
        self.payments.labels(direction, outcome).inc()

    def forward_ended(self, outcome: str) -> None:
        """Count an HTLC that came in for another: ``fulfilled``, ``failed`` or ``refused``."""
        self.forwards.labels(outcome).inc()

    def forward_limited(self, limit: str) -> None:
        """Count an HTLC that a limit kept out of a channel; names are in `back.relay.limits`."""
        self.limited.labels(limit).inc()

    def offer_request(self, outcome: str) -> None:
        """Count a request on an offer: ``answered``, ``refused``, or why it was not looked at."""
        self.offer_requests.labels(outcome).inc()

    def onion_message(self, outcome: str) -> None:
        """Count an onion message: ``relayed``, ``delivered``, ``sent``, or why it was dropped."""
        self.onion_messages.labels(outcome).inc()

    def committed(self, report: "CommitReport") -> None:
        """Note one transaction; called in the committer's thread."""
        if report.is_committed:
            self.commit_seconds.observe(report.seconds)
            self.commit_items.observe(report.items)

    def refresh(self, node: "Node") -> None:
        """Set the gauges that are counted when they are asked for."""
        self.sessions.set(len(node.switchboard.sessions))
        self.peers.set(sum(peer.is_connected for peer in node.peers.known.values()))
        self.fronts.set(len(node.fronts.known))
        self.handshakes.set(node.handshakes.answered)
        self.resends.set(node.switchboard.resent)
        self.alarms.set(node.channels.alarms)
        self.stopped.set(sum(r.is_stopped for r in node.channels.runners.values()))
        self.channels.clear()
        for runner in node.channels.runners.values():
            self.channels.labels(runner.channel.phase.value).inc()
        self.refresh_graph(node.gossip)
        self.refresh_events(node.events)
        for name, gauge in self.paths.items():
            gauge.set(getattr(node.paths, name))

    def refresh_graph(self, gossip: "Gossip") -> None:
        """Set the gauges of the routing table."""
        graph, writer, spends = gossip.graph, gossip.writer, gossip.graph.spends
        table = graph.table
        for kind in ("channels", "updates", "nodes"):
            self.table.labels(kind).set(getattr(table, kind))
        for (kind, outcome), count in graph.judge.counts.items():
            self.verdicts.labels(kind, outcome).set(count)
        tip = spends.tip
        behind = max(0, spends.height - tip.height) if spends.height and tip is not None else -1
        figures = {
            "ready": graph.is_ready,
            "submissions_waiting": len(graph.judge.submissions),
            "submissions_dropped": graph.judge.refused,
            "channels_waiting": len(graph.judge.channels),
            "blocks_fetched": graph.lookup.fetched,
            "channels_unverifiable": graph.lookup.pruned,
            "blocks_behind": behind,
            "channels_pruned": graph.pruned,
            "values_waiting": writer.waiting,
            "values_repeated": writer.repeated,
            "values_refused": writer.refused,
        }
        for name, figure in figures.items():
            self.judging[name].set(figure)

    def refresh_events(self, events: "Events") -> None:
        """Set the gauges of events."""
        publisher, hub = events.publisher, events.hub
        figures = {
            "published": publisher.published,
            "waiting": publisher.waiting,
            "dropped": publisher.dropped,
            "listeners": len(hub),
            "listeners_cut": hub.cut,
        }
        for name, figure in figures.items():
            self.events[name].set(figure)
