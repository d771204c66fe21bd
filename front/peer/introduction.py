"""How a connection came to be: what the owner is told before and when it takes the peer."""

from dataclasses import dataclass

from shared.fabric.envelope import Direction

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
