"""Which of two TCP connections with one peer stays. Pure."""

from dataclasses import dataclass

__all__ = ["TIE_S", "Made", "replaces"]

TIE_S = 10.0
"""Connections made within this time of each other may have crossed."""


@dataclass(frozen=True, slots=True)
class Made:
    """How one TCP connection came to be.

    Attributes:
        at: when it was made, monotonic seconds of whoever compares.
        outbound: we dialled.
    """

    at: float
    outbound: bool


def replaces(old: Made, new: Made, local: bytes, remote: bytes) -> bool:
    """Say whether a peer's new connection replaces its old one, or must itself be refused.

    The newer one wins, except between two made within 10 s of each other in opposite directions:
    there the one dialled by the lower node id stays, so that both nodes keep the same one.

    Args:
        old: the connection that is there.
        new: the one that asks to come in.
        local: our 33-byte node id.
        remote: the peer's.
    """
    if old.outbound == new.outbound or abs(new.at - old.at) > TIE_S:
        return True
    return new.outbound == (local < remote)
