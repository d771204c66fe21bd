"""Onion messages of all peers: counted, then published for the owner; the rest is dropped (BOLT 4).

They are not numbered: nobody asks for one that is lost. A message that is over a budget is not even
decoded. A peer without channels that goes on and on is sent away; one with channels is not, because
they matter more.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.errors import Action, ProtocolViolation
from shared.fabric import subjects
from shared.fabric.envelope import Envelope, encode
from shared.onion_budget import OnionBudget, OnionLimits
from shared.wire import OnionMessage, decode, to_json

if TYPE_CHECKING:
    from front.metrics import Metrics
    from front.peer.gossip import PeerLink
    from shared.fabric.session import FrontSession

__all__ = ["ONION_MESSAGE", "OnionGate"]

ONION_MESSAGE = OnionMessage.TYPE.to_bytes(2, "big")
"""The first two bytes of one."""


class OnionGate:
    """The way of onion messages out of this front.

    Args:
        publish: hands bytes to the connection for bulk: a flood must not stand before BOLT 2.
        name: of this front.
        limits: of each peer, and of all.
        metrics: counts what passes and what does not.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], object],
        name: str,
        limits: OnionLimits,
        metrics: "Metrics",
    ) -> None:
        self._publish = publish
        self._name = name
        self._budget = OnionBudget(limits, 0.0)
        self._metrics = metrics

    def take(self, peer: "PeerLink", session: "FrontSession", data: bytes) -> None:
        """Pass one message of a peer on, or drop it.

        Args:
            peer: whose.
            session: its session.
            data: the message, its type included.

        Raises:
            MalformedMessage: it is none.
            ProtocolViolation: too many, for a peer without channels.
        """
        if peer.onion_drops is None:
            self._drop("not_negotiated")
            return
        now = asyncio.get_running_loop().time()
        over = self._budget.take(peer.node_id, len(data), has_channels=peer.has_channels, now=now)
        if over is not None:
            self._drop(over)
            if not peer.has_channels and not peer.onion_drops.take(now):
                raise ProtocolViolation(
                    "far too many onion messages",
                    bolt="BOLT 4 § Onion Messages",
                    action=Action.DISCONNECT,
                )
            return
        message = decode(data)
        if message is None or not session.epoch or session.ended:
            self._drop("no_owner")
            return
        body = to_json(message)
        envelope = Envelope(session.id, session.epoch, 0, 0, body, self._name)
        self._publish(subjects.onion(subjects.shard(peer.node_id)), encode(envelope))
        self._metrics.onion_messages.inc()

    def _drop(self, reason: str) -> None:
        self._metrics.dropped.labels(f"onion_{reason}").inc()
