"""A peer as gossip sees it: the other side of `front.gossip.link.Link`."""

from typing import TYPE_CHECKING

from front.peer.handshake import combined
from shared.errors import Action, ProtocolViolation
from shared.fabric.envelope import Direction
from shared.features import Feature, FeatureSet

if TYPE_CHECKING:
    from front.peer.session import Peer
    from shared.wire import Init

__all__ = ["PeerLink"]


class PeerLink:
    """One connection; see `Link` for the attributes."""

    __slots__ = ("_peer", "is_outbound", "networks", "node_id", "queries", "queries_ex")

    def __init__(self, peer: "Peer", ours: "Init", theirs: "Init", direction: Direction) -> None:
        both = FeatureSet.negotiated(combined(ours), combined(theirs))
        self._peer = peer
        self.node_id = peer.node_id
        self.is_outbound = direction is Direction.OUTBOUND
        self.networks = tuple(theirs.networks or ())
        self.queries = Feature.gossip_queries in both
        self.queries_ex = Feature.gossip_queries_ex in both

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
