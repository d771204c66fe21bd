"""What both sides of a session share: numbered messages, acknowledgements, repetition. Pure.

Read `session` first; this is the part of it in which front and back do not differ.
"""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from shared.errors import FabricError
from shared.fabric.envelope import (
    CONTROLS,
    NUMBERED_CONTROLS,
    Ack,
    Control,
    Envelope,
    Reason,
    Resend,
    decode_control,
    encode,
)
from shared.fabric.numbering import UNACKED_S, Arrived, Incoming, Numbered, Outgoing, Window
from shared.fabric.subjects import session_subject

__all__ = ["ACK", "Deliver", "Effect", "Ended", "Publish", "Reopen", "Session"]

ACK = Ack().to_bytes()


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
    """Front: open the session again with the owner of this epoch, then call ``opened``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; never followed by a `Deliver`."""

    reason: Reason
    detail: str


Effect: TypeAlias = Publish | Deliver | Reopen | Ended


class Session:
    """What both sides share; made as `FrontSession` or `BackSession`."""

    # Ten thousand idle peers have one each.
    __slots__ = (
        "_ended",
        "_finished",
        "_front",
        "_incoming",
        "_offline",
        "_outgoing",
        "_prefix",
        "epoch",
        "id",
    )

    HEARS: ClassVar[frozenset[str]]
    """The controls that this side may receive."""

    def __init__(self, session: bytes, prefix: str, front: str, epoch: int, window: Window) -> None:
        self.id = session
        self.epoch = epoch
        """Of the owner this session belongs to; 0 before it is opened."""
        self._prefix = prefix
        self._front = front
        self._outgoing = Outgoing(window)
        self._incoming = Incoming()
        self._offline = False
        self._ended = False
        self._finished = False

    @property
    def expects(self) -> int:
        """The next number of the other side that has not arrived: what we say in a resume."""
        return self._incoming.received + 1

    @property
    def writable(self) -> bool:
        """False while messages wait for the window: a front then stops reading BOLT 2."""
        return not self._outgoing.is_over_window

    def has_room(self, size: int) -> bool:
        """Whether a message that may as well be lost can go out now without delaying others.

        Args:
            size: bytes of the message on the wire.
        """
        return not self._offline and not self._ended and self._outgoing.has_room(size)

    @property
    def ended(self) -> bool:
        """`Ended` was returned."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Nothing is left to say either: forget the object."""
        return self._finished

    @property
    def resent(self) -> int:
        """How many messages were sent more than once, for metrics."""
        return self._outgoing.resent

    def send(
        self, name: str, channel: bytes | None, body: bytes, size: int, now: float
    ) -> list[Effect]:
        """Number and publish one message; over the window (or before `opened`) it waits in line.

        After the end, and at the back after `close`, it is dropped: the TCP connection is as good
        as closed.

        Args:
            name: BOLT message name, or ``connected``.
            channel: 32-byte channel id for the subject, or None.
            body: JSON of the message.
            size: bytes of the message on the wire; 0 for controls.
            now: monotonic seconds.
        """
        if self._ended:
            return []
        return self._emit(self._outgoing.add(name, channel, body, size, now))

    def receive(
        self, name: str, channel: bytes | None, envelope: Envelope, now: float
    ) -> list[Effect]:
        """Take one envelope of this session; name and channel are those of its subject.

        Raises:
            FabricError: it makes no sense; nothing changed. The other side is broken or of another
                version.
        """
        if self._finished:
            return []
        is_numbered = name not in CONTROLS or name in NUMBERED_CONTROLS
        if name in CONTROLS and name not in self.HEARS:
            raise FabricError(f"{name} goes the other way")
        if not is_numbered and envelope.seq:
            raise FabricError(f"{name} carries number {envelope.seq}")
        if is_numbered and not envelope.seq and name != "disconnected":
            raise FabricError(f"{name} has no number")
        if not self._is_current(envelope):
            return self._receive_foreign(envelope, is_numbered, now)
        if envelope.ack > self._outgoing.last:
            raise FabricError(f"{envelope.ack} acknowledged, {self._outgoing.last} sent")
        if envelope.seq:
            arrived = Arrived(envelope.seq, name, channel, envelope.body)
            effects = self._acknowledged(envelope.ack, now) + self._arrived(arrived, now)
        else:
            control = decode_control(name, envelope.body)
            effects = self._acknowledged(envelope.ack, now) + self._controlled(control, now)
        return effects + self._due(now)

    def poll(self, now: float) -> list[Effect]:
        """Do what is due: acks, retransmissions, ends."""
        return [] if self._finished else self._overdue(now) + self._due(now)

    def next_deadline(self) -> float | None:
        """When `poll` must be called next, or None."""
        if self._finished:
            return None
        times = [self._own_deadline()]
        if self._is_talking:
            times += (self._outgoing.deadline(), self._incoming.deadline())
        return min((time for time in times if time is not None), default=None)

    def fabric_lost(self) -> None:
        """The connection to the broker is gone: timers stop, messages wait."""
        self._offline = True

    def fabric_back(self, now: float) -> list[Effect]:
        """The connection to the broker is back: timers start afresh, what we expect is said."""
        raise NotImplementedError

    def resumed(self, expects: int, now: float) -> list[Effect]:
        """The other side said in a resume which number it expects next: it gets it."""
        if self._ended:
            return []
        # Less than what was acknowledged is an old answer that messages have overtaken.
        if expects > self._outgoing.last + 1:
            detail = f"expects {expects}, only {self._outgoing.last} sent"
            return self._end(Reason.INVALID, detail, now)
        return self._emit(self._outgoing.again(expects, None, now))

    # --- what the sides do differently ------------------------------------------------------------

    @property
    def _is_talking(self) -> bool:
        """Whether the stream's own timers run."""
        raise NotImplementedError

    def _is_current(self, envelope: Envelope) -> bool:
        raise NotImplementedError

    def _receive_foreign(self, envelope: Envelope, is_numbered: bool, now: float) -> list[Effect]:
        raise NotImplementedError

    def _arrived(self, arrived: Arrived, now: float) -> list[Effect]:
        raise NotImplementedError

    def _controlled(self, control: Control, now: float) -> list[Effect]:
        raise NotImplementedError

    def _overdue(self, now: float) -> list[Effect]:
        raise NotImplementedError

    def _own_deadline(self) -> float | None:
        raise NotImplementedError

    def _end(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        raise NotImplementedError

    # --- what they do alike -------------------------------------------------------------------

    def _broken(self, now: float) -> list[Effect]:
        """End a session whose stream stands still."""
        if self._outgoing.is_stalled(now):
            return self._end(Reason.UNACKED, f"nothing acked for {UNACKED_S:.0f} s", now)
        if self._incoming.is_stuck(now):
            detail = f"number {self.expects} did not come for {UNACKED_S:.0f} s"
            return self._end(Reason.INCOMPLETE, detail, now)
        return []

    def _acknowledged(self, ack: int, now: float) -> list[Effect]:
        return self._emit(self._outgoing.acknowledge(ack, now))

    def _due(self, now: float) -> list[Effect]:
        """Ask for what is missing, acknowledge what arrived, if it is time."""
        if not self._is_talking:
            return []
        effects: list[Effect] = []
        if gap := self._incoming.ask(now):
            effects.append(self._say("resend", Resend(from_seq=gap[0], to_seq=gap[1]).to_bytes()))
        if self._incoming.is_ack_due(now):
            effects.append(self._say("ack", ACK))
        return effects

    def _emit(self, messages: list[Numbered]) -> list[Effect]:
        if self._offline or not self.epoch:
            return []
        return [self._publish(m.name, m.channel, m.seq, m.body) for m in messages]

    def _say(self, name: str, body: bytes) -> Publish:
        return self._publish(name, None, 0, body)

    def _publish(self, name: str, channel: bytes | None, seq: int, body: bytes) -> Publish:
        envelope = Envelope(self.id, self.epoch, seq, self._incoming.say(), body, self._front)
        return Publish(session_subject(self._prefix, channel, name), encode(envelope))
