"""A peer as gossip and onion messages see it: it is a `front.gossip.link.Link`."""

from typing import TYPE_CHECKING

from front.peer.complaint import Budget
from front.peer.handshake import combined
from shared.errors import Action, ProtocolViolation
from shared.fabric.envelope import Direction
from shared.features import Feature, FeatureSet

if TYPE_CHECKING:
    from front.peer.session import Peer
    from shared.wire import Init

__all__ = ["PeerLink"]

ONION_DROPS_PER_S, ONION_DROP_BURST = 20.0, 500.0
"""A peer without channels more of whose onion messages must be dropped is sent away."""


class PeerLink:
    """One connection; see `Link` for the attributes."""

    __slots__ = (
        "_peer",
        "is_outbound",
        "networks",
        "node_id",
        "onion_drops",
        "queries",
        "queries_ex",
    )

    def __init__(self, peer: "Peer", ours: "Init", theirs: "Init", direction: Direction) -> None:
        both = FeatureSet.negotiated(combined(ours), combined(theirs))
        self._peer = peer
        self.node_id = peer.node_id
        self.is_outbound = direction is Direction.OUTBOUND
        self.networks = tuple(theirs.networks or ())
        self.queries = Feature.gossip_queries in both
        self.queries_ex = Feature.gossip_queries_ex in both
        self.onion_drops: Budget | None = None
        """How many of its onion messages may be dropped until it is sent away; None: both must
        offer option_onion_messages, and did not."""
        if Feature.option_onion_messages in both:
            self.onion_drops = Budget(ONION_DROPS_PER_S, ONION_DROP_BURST)

    @property
    def has_channels(self) -> bool:
        """Whether it has channels with us."""
        return self._peer.has_channels

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._peer.closing

    @property
    def unsent(self) -> int:
        """Bytes that the peer's side has not taken yet."""
        return self._peer.unsent

    def send(self, message: bytes) -> None:
        """Send one raw message."""
        self._peer.send_gossip(message)

    def offend(self, text: str, *, bolt: str, disconnect: bool) -> None:
        """Warn; end the connection too if asked and the peer has no channels."""
        ends = disconnect and not self.has_channels
        action = Action.DISCONNECT if ends else Action.WARN
        error = ProtocolViolation(text, bolt=bolt, action=action)
        self._peer.violated(error, str(error))
