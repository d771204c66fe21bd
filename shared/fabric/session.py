"""One TCP connection of a peer as a session over the fabric: ordered, complete, or ended. Pure.

The fabric may lose, duplicate and reorder; BOLT 2 forbids all three. Each side of a session is one object here:
`FrontSession` beside the socket, `BackSession` at the owner of the peer's shard. Time is an argument (seconds,
monotonic); what must happen comes back as values, in the order in which it must be done:

* `Publish`  hand these bytes to the fabric client, now;
* `Deliver`  the next message of the other side, exactly once and in order;
* `Reopen`   (front) ask ``ln.session.<shard>.open`` again, with the same id: there is a new owner and nothing to lose;
* `Ended`    the session is over. Front: close the TCP connection, then call `FrontSession.disconnect`.
             Back: treat the peer as disconnected; a later `channel_reestablish` settles what was in flight.

Call `poll` when `next_deadline` has come. A session may publish after it ended (to tell the other side); drop the object
when `finished` is true.
"""

from dataclasses import dataclass
from typing import TypeAlias

from shared.fabric.envelope import Envelope, Reason

__all__ = ["BackSession", "Deliver", "Effect", "Ended", "FrontSession", "Made", "Publish", "Reopen", "replaces"]


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish ``payload`` on ``subject``."""

    subject: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message of the other side, its next in order.

    Attributes:
        seq: its number; the front calls ``written(seq)`` when it is in a socket that drains.
        name: a BOLT message, or ``connected`` / ``disconnected`` (back only).
        channel: 32-byte channel id of the subject, or None.
        body: JSON, for `envelope.decode_body`.
    """

    seq: int
    name: str
    channel: bytes | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Reopen:
    """Front: open the session again with the owner of this epoch, then call `FrontSession.opened`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; never followed by a `Deliver`."""

    reason: Reason
    detail: str


Effect: TypeAlias = Publish | Deliver | Reopen | Ended


class Session:
    """What both sides share."""

    epoch: int
    """Of the owner this session belongs to; 0 before it is opened."""

    def send(self, name: str, channel: bytes | None, body: bytes, size: int, now: float) -> list[Effect]:
        """Number and publish one message; over the window (or before `opened`) it waits in line.

        Args:
            name: BOLT message name, or ``connected``.
            channel: 32-byte channel id for the subject, or None.
            body: JSON of the message.
            size: bytes of the message on the wire; 0 for controls.
            now: monotonic seconds.
        """
        raise NotImplementedError

    def receive(self, name: str, channel: bytes | None, envelope: Envelope, now: float) -> list[Effect]:
        """Take one envelope of this session from the fabric; name and channel are those of its subject."""
        raise NotImplementedError

    def poll(self, now: float) -> list[Effect]:
        """Do what is due: acks, retransmissions, ends."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When `poll` must be called next, or None."""
        raise NotImplementedError

    def fabric_lost(self, now: float) -> None:
        """The connection to the broker is gone: timers stop, messages wait."""
        raise NotImplementedError

    def fabric_back(self, now: float) -> list[Effect]:
        """The connection to the broker is back: timers start afresh, what is unacked goes out again."""
        raise NotImplementedError

    def resumed(self, expects: int, now: float) -> list[Effect]:
        """The other side said (`ResumeRequest`, `ResumeReply`) which number it expects next."""
        raise NotImplementedError

    @property
    def expects(self) -> int:
        """The next number of the other side that has not arrived: what we say in a resume."""
        raise NotImplementedError

    @property
    def writable(self) -> bool:
        """False while messages wait for the window; a front then stops reading BOLT 2 from its socket."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """`Ended` was returned."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Nothing is left to say either: forget the object."""
        raise NotImplementedError


class FrontSession(Session):
    """The front's side; made with the TCP connection.

    Args:
        session: 16 random bytes.
        peer: 33-byte node id.
        now: monotonic seconds.
    """

    def __init__(self, session: bytes, peer: bytes, now: float) -> None:
        raise NotImplementedError

    def opened(self, epoch: int, has_channels: bool, now: float) -> list[Effect]:
        """The owner accepted `open`; what was queued goes out, numbered from 1."""
        raise NotImplementedError

    def written(self, seq: int, now: float) -> list[Effect]:
        """Everything delivered up to ``seq`` is written to a socket that drains: it may be acked."""
        raise NotImplementedError

    def dropped(self) -> None:
        """A message of the peer that belongs to the session was dropped: the session cannot move to a new owner."""
        raise NotImplementedError

    def hello(self, epoch: int, now: float) -> list[Effect]:
        """An owner with this epoch holds the shard (call it when the epoch is higher than before)."""
        raise NotImplementedError

    def owner_silent(self, now: float) -> list[Effect]:
        """No hello for the shard for 30 s (`owners.Owners` tells when)."""
        raise NotImplementedError

    def disconnect(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        """The TCP connection is closed: tell the back, after everything that came before."""
        raise NotImplementedError


class BackSession(Session):
    """The owner's side; made when `open` is accepted.

    Args:
        session: 16 bytes, from the front.
        front: the front's name.
        peer: 33-byte node id.
        epoch: of our lease.
        has_channels: whether the peer has channels (the wide window).
        now: monotonic seconds.
    """

    def __init__(self, session: bytes, front: str, peer: bytes, epoch: int, has_channels: bool, now: float) -> None:
        raise NotImplementedError

    def close(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        """Ask the front to write everything sent so far and close the TCP connection."""
        raise NotImplementedError

    def reset(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        """End the session at once, whatever is in flight, and have the front close the TCP connection."""
        raise NotImplementedError


def reset_for_unknown(front: str, peer: bytes, envelope: Envelope, epoch: int) -> Publish:
    """Back: answer a message of a session that does not exist here."""
    raise NotImplementedError


def gone_for_unknown(peer: bytes, envelope: Envelope) -> Publish:
    """Front: answer a message for a session that does not exist here (`disconnected`, seq 0)."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Made:
    """One TCP connection with a peer, for `replaces`.

    Attributes:
        at: when it was made, monotonic seconds of whoever compares.
        outbound: we dialled.
    """

    at: float
    outbound: bool


def replaces(old: Made, new: Made, local: bytes, remote: bytes) -> bool:
    """Say whether a peer's new connection replaces its old one, or must itself be refused.

    The newer one wins, except between two made within 10 s of each other in opposite directions: there the one
    dialled by the lower node id stays, so that both nodes keep the same one.

    Args:
        old: the connection that is there.
        new: the one that asks to come in.
        local: our 33-byte node id.
        remote: the peer's.
    """
    raise NotImplementedError
