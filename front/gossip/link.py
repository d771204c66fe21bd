"""What gossip may do with a connected peer; implemented by `front.peer.gossip.PeerLink`."""

from typing import Protocol

__all__ = ["Link"]


class Link(Protocol):
    """One connection after both inits; hashed by identity: a peer that comes back is another one.

    Attributes:
        node_id: 33 bytes, authenticated.
        is_outbound: we dialled.
        networks: chain hashes that the peer named in `init`; empty if it named none.
        queries: both offered gossip_queries.
        queries_ex: both offered gossip_queries_ex.
    """

    node_id: bytes
    is_outbound: bool
    networks: tuple[bytes, ...]
    queries: bool
    queries_ex: bool

    @property
    def has_channels(self) -> bool:
        """Whether it has channels with us: then gossip never ends its connection."""

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""

    @property
    def unsent(self) -> int:
        """Bytes that the peer's side has not taken yet."""

    def send(self, message: bytes) -> None:
        """Send one raw message, its type included."""

    def offend(self, text: str, *, bolt: str, disconnect: bool) -> None:
        """Tell the peer what it did wrong, rate-limited.

        Args:
            text: for the `warning`.
            bolt: the rule, for the metrics.
            disconnect: end the connection too, unless the peer has channels.
        """
