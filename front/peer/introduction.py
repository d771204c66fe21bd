"""How a connection came to be: what the owner is told before and when it takes the peer."""

from dataclasses import dataclass

from shared.fabric.envelope import Connected, Direction
from shared.fabric.requests import OpenRequest
from shared.wire import Init

__all__ = ["Introduction"]


@dataclass(frozen=True, slots=True)
class Introduction:
    """One TCP connection.

    Attributes:
        session: 16 random bytes, its id on the fabric.
        node_id: ours, with which BOLT 8 was spoken.
        direction: who connected.
        address: ``host:port`` of the peer.
        made_at: monotonic seconds.
        dial_id: of the back's order, if we dialled.
        act_one: as received, if the peer dialled.
    """

    session: bytes
    node_id: bytes
    direction: Direction
    address: str
    made_at: float
    dial_id: bytes | None = None
    act_one: bytes | None = None

    def open_request(self, front: str, instance: bytes, peer: bytes, now: float) -> OpenRequest:
        """Return the question whether this peer may come in."""
        return OpenRequest(
            session=self.session,
            front=front,
            instance=instance,
            peer=peer,
            node_id=self.node_id,
            direction=self.direction,
            address=self.address,
            made_ms=max(0, int((now - self.made_at) * 1000)),
            dial_id=self.dial_id,
            act_one=self.act_one,
        )

    def connected(self, front: str, ours: Init, theirs: Init) -> Connected:
        """Return the session's first message."""
        return Connected(
            front=front,
            direction=self.direction,
            address=self.address,
            our_init=ours,
            their_init=theirs,
            dial_id=self.dial_id,
        )
