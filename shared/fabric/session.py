"""One TCP connection of a peer as a session over the fabric: ordered, complete, or ended. Pure.

The fabric may lose, duplicate and reorder; BOLT 2 forbids all three. Each side of a session is one
object here:
`FrontSession` beside the socket, `BackSession` at the owner of the peer's shard. Time is an
argument (seconds, monotonic); what must happen comes back as values, in the order in which it must
be done:

* `Publish`  hand these bytes to the fabric client, now;
* `Deliver`  the next message of the other side, exactly once and in order;
* `Reopen`   (front) ask ``ln.session.<shard>.open`` again, with the same id: there is a new owner
             and nothing to lose;
* `Ended`    the session is over. Front: close the TCP connection, then call
             `FrontSession.disconnect`.
             Back: treat the peer as disconnected; a later `channel_reestablish` settles what was in
                 flight.

Call `poll` when `next_deadline` has come. A session may publish after it ended (to tell the other
side); drop the object when `finished` is true.
"""

from typing import Final

from pydantic import ValidationError

from shared.errors import FabricError
from shared.fabric.envelope import (
    Close,
    Control,
    Disconnected,
    Envelope,
    Reason,
    Resend,
    Reset,
    encode,
)
from shared.fabric.numbering import NARROW, UNACKED_S, WIDE, Arrived, Incoming, Outgoing
from shared.fabric.stream import ACK, Deliver, Effect, Ended, Publish, Reopen, Session
from shared.fabric.subjects import inbound_prefix, outbound_prefix, session_subject
from shared.fabric.ties import Made, replaces

__all__ = [
    "OVER_WINDOW_S",
    "BackSession",
    "Deliver",
    "Effect",
    "Ended",
    "FrontSession",
    "Made",
    "Publish",
    "Reopen",
    "Session",
    "gone_for_unknown",
    "replaces",
    "reset_for_unknown",
]

OVER_WINDOW_S: Final = 5.0
"""How long a front may stop reading a socket: pings share it."""
LEAVING_S: Final = 60.0
"""How long a front tries to tell the back that a connection is closed."""


class FrontSession(Session):
    """The front's side; made with the TCP connection.

    Args:
        session: 16 random bytes.
        front: this front's name.
        peer: 33-byte node id.
    """

    __slots__ = (
        "_carried",
        "_close_by",
        "_closing",
        "_connected",
        "_ended_by",
        "_highest_epoch",
        "_leaving",
        "_over_window_since",
    )

    HEARS = frozenset({"ack", "resend", "close", "reset"})
    _NOBODY_TO_TELL = frozenset({Reason.UNKNOWN_SESSION, Reason.NEW_EPOCH, Reason.OWNER_SILENT})

    def __init__(self, session: bytes, front: str, peer: bytes) -> None:
        super().__init__(session, inbound_prefix(peer), front, 0, NARROW)
        self._highest_epoch = 0
        self._connected: bytes | None = None
        self._carried = False
        self._closing: Close | None = None
        self._close_by: float | None = None
        self._over_window_since: float | None = None
        self._ended_by: Reason | None = None
        self._leaving = False

    @property
    def may_move(self) -> bool:
        """Nothing but ``connected`` ever passed: a new owner can take the session over silently."""
        return not self._carried

    def opened(self, epoch: int, has_channels: bool, now: float) -> list[Effect]:
        """The owner accepted `open`; what was queued goes out, numbered from 1."""
        if self._ended or epoch == self.epoch:
            return []
        if epoch < self._highest_epoch:
            return [Reopen(self._highest_epoch)]
        self.epoch = self._highest_epoch = epoch
        self._outgoing.widen(WIDE if has_channels else NARROW, now)
        self._watch_window(now)
        return self._emit(self._outgoing.restart(now))

    def send(
        self, name: str, channel: bytes | None, body: bytes, size: int, now: float
    ) -> list[Effect]:
        """Number and publish one message of the peer; see `Session.send`."""
        if name == "connected":
            self._connected = body
        else:
            self._carried = True
        effects = super().send(name, channel, body, size, now)
        self._watch_window(now)
        return effects

    def dropped(self) -> None:
        """A message of the peer for this session was dropped: it cannot move to a new owner."""
        self._carried = True

    def has_channels_now(self, now: float) -> list[Effect]:
        """The peer's first channel exists: its window becomes the wide one."""
        effects = self._emit(self._outgoing.widen(WIDE, now))
        self._watch_window(now)
        return effects

    def written(self, seq: int, now: float) -> list[Effect]:
        """Everything delivered up to ``seq`` is in a socket that drains: it may be acked."""
        if self._finished:
            return []
        self._incoming.permit(seq, now)
        return self._due(now) + self._close_if_written(now)

    def hello(self, epoch: int, now: float) -> list[Effect]:
        """An owner with this epoch holds the shard (call it when the epoch has risen)."""
        if epoch <= self._highest_epoch:
            return []
        self._highest_epoch = epoch
        if self._leaving:
            self._finished = True
            return []
        if self._ended or not self.epoch:
            return []
        if self._carried:
            return self._end(Reason.NEW_EPOCH, f"epoch {self.epoch} became {epoch}", now)
        self.epoch = 0
        self._outgoing, self._incoming = Outgoing(self._outgoing.window), Incoming()
        if self._connected is not None:
            self._outgoing.add("connected", None, self._connected, 0, now)
        return [Reopen(epoch)]

    def owner_silent(self, now: float) -> list[Effect]:
        """No hello for the shard for 30 s (`owners.Owners` tells when)."""
        if self._ended or not self._carried:
            return []
        return self._end(Reason.OWNER_SILENT, "no owner of the shard was heard", now)

    def disconnect(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        """The TCP connection is closed: tell the back, after everything that came before."""
        if self._leaving or self._finished:
            return []
        self._ended = self._leaving = True
        self._over_window_since = None
        if not self.epoch or self._ended_by in self._NOBODY_TO_TELL:
            self._finished = True
            return []
        body = Disconnected(reason=reason, detail=detail).to_bytes()
        effects = self._emit(self._outgoing.add("disconnected", None, body, 0, now))
        self._outgoing.patience_s = LEAVING_S
        self._outgoing.restart(now)
        return effects

    def fabric_back(self, now: float) -> list[Effect]:
        """The connection to the broker is back; ask ``resume``, its answer is for `resumed`."""
        self._offline = False
        self._outgoing.restart(now)
        self._incoming.restart(now)
        return [] if self._finished else self._due(now)

    @property
    def _is_talking(self) -> bool:
        return not (self._offline or not self.epoch or self._finished) and (
            self._leaving or not self._ended
        )

    def _is_current(self, envelope: Envelope) -> bool:
        return envelope.epoch == self.epoch

    def _receive_foreign(self, envelope: Envelope, is_numbered: bool, now: float) -> list[Effect]:
        # An owner spoke on this session, if only to be ignored.
        self._carried = self._carried or is_numbered
        return self.hello(envelope.epoch, now) if self.epoch else []

    def _arrived(self, arrived: Arrived, now: float) -> list[Effect]:
        self._carried = True
        if self._ended:
            return []
        ready = self._incoming.take(arrived, now)
        return [Deliver(m.seq, m.name, m.channel, m.body) for m in ready]

    def _acknowledged(self, ack: int, now: float) -> list[Effect]:
        effects = super()._acknowledged(ack, now)
        self._watch_window(now)
        if self._leaving and self._outgoing.is_empty:
            self._finished = True
        return effects

    def _controlled(self, control: Control, now: float) -> list[Effect]:
        if isinstance(control, Resend):
            return self._emit(self._outgoing.again(control.from_seq, control.to_seq, now))
        if isinstance(control, Reset):
            self._finished = self._finished or self._leaving
            detail = f"{control.reason}: {control.detail}"
            return self._end(Reason.UNKNOWN_SESSION, detail, now)
        if isinstance(control, Close) and self._closing is None:
            self._closing, self._close_by = control, now + UNACKED_S
            self._incoming.expect(control.last_seq, now)
            return self._close_if_written(now)
        return []

    def _close_if_written(self, now: float) -> list[Effect]:
        if self._closing is None or self._incoming.permitted < self._closing.last_seq:
            return []
        return self._end(self._closing.reason, self._closing.detail, now)

    def _overdue(self, now: float) -> list[Effect]:
        if not self._ended:
            if self._close_by is not None and self._closing is not None and now >= self._close_by:
                return self._end(self._closing.reason, self._closing.detail, now)
            if (
                self._over_window_since is not None
                and now >= self._over_window_since + OVER_WINDOW_S
            ):
                return self._end(Reason.OVER_WINDOW, f"for {OVER_WINDOW_S:.0f} s", now)
        if not self._is_talking:
            return []
        if self._leaving and self._outgoing.is_stalled(now):
            self._finished = True
            return []
        if not self._ended and (broken := self._broken(now)):
            return broken
        return self._emit(self._outgoing.overdue(now))

    def _own_deadline(self) -> float | None:
        if self._ended:
            return None
        over = self._over_window_since
        times = (self._close_by, None if over is None else over + OVER_WINDOW_S)
        return min((time for time in times if time is not None), default=None)

    def _watch_window(self, now: float) -> None:
        if not self._outgoing.is_over_window:
            self._over_window_since = None
        elif self._over_window_since is None:
            self._over_window_since = now

    def _end(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        if self._ended:
            return []
        self._ended, self._ended_by = True, reason
        return [Ended(reason, detail)]


class BackSession(Session):
    """The owner's side; made when `open` is accepted.

    Args:
        session: 16 bytes, from the front.
        front: the front's name.
        peer: 33-byte node id.
        epoch: of our lease.
        has_channels: whether the peer has channels (the wide window).
    """

    __slots__ = (
        "_last_word",
        "_repeat_after",
        "_repeat_at",
        "_repeat_until",
        "front",
        "peer",
    )

    HEARS = frozenset({"connected", "disconnected", "ack", "resend"})
    _REPEAT_AFTER_S = 1.0

    def __init__(
        self,
        session: bytes,
        front: str,
        peer: bytes,
        epoch: int,
        has_channels: bool,
    ) -> None:
        window = WIDE if has_channels else NARROW
        super().__init__(session, outbound_prefix(front, peer), "", epoch, window)
        self.front = front
        self.peer = peer
        self._last_word: tuple[str, bytes] | None = None
        """``close`` or ``reset``, repeated until the front says ``disconnected``."""
        self._repeat_at = 0.0
        self._repeat_after = self._REPEAT_AFTER_S
        self._repeat_until = 0.0

    @property
    def is_closing(self) -> bool:
        """`close` was asked or the session has ended."""
        return self._last_word is not None or self._ended

    def send(
        self, name: str, channel: bytes | None, body: bytes, size: int, now: float
    ) -> list[Effect]:
        """Number and publish one message to the peer; see `Session.send`."""
        return [] if self.is_closing else super().send(name, channel, body, size, now)

    def has_channels_now(self, now: float) -> list[Effect]:
        """The peer's first channel exists: its window becomes the wide one."""
        return self._emit(self._outgoing.widen(WIDE, now))

    def close(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        """Ask the front to write everything sent so far and close the TCP connection.

        `Ended` follows when the front says that it did, or after 10 s.
        """
        if self.is_closing:
            return []
        word = Close(last_seq=self._outgoing.last, reason=reason, detail=detail)
        return self._speak_last("close", word.to_bytes(), now)

    def reset(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        """End the session at once, whatever is in flight; the front closes the TCP connection."""
        if self._ended:
            return []
        self._ended = True
        word = Reset(reason=reason, detail=detail).to_bytes()
        return [*self._speak_last("reset", word, now), Ended(reason, detail)]

    def fabric_back(self, now: float) -> list[Effect]:
        """The connection to the broker is back: say what we expect, send again what is unacked."""
        self._offline = False
        if self._ended:
            return []
        self._incoming.restart(now)
        ask = self._say("resend", Resend(from_seq=self.expects).to_bytes())
        return [ask, *self._emit(self._outgoing.restart(now)), *self._due(now)]

    @property
    def _is_talking(self) -> bool:
        return not (self._offline or self._ended)

    def _is_current(self, envelope: Envelope) -> bool:
        if envelope.front != self.front:
            raise FabricError(f"session of front {self.front} used by {envelope.front!r}")
        return envelope.epoch == self.epoch

    def _receive_foreign(self, envelope: Envelope, is_numbered: bool, now: float) -> list[Effect]:
        return []

    def _arrived(self, arrived: Arrived, now: float) -> list[Effect]:
        if self._ended:
            return self._arrived_after_end(arrived)
        effects: list[Effect] = []
        for message in self._incoming.take(arrived, now):
            if not _is_in_place(message):
                return effects + self.reset(
                    Reason.INVALID, f"{message.name} as number {message.seq}", now
                )
            effects.append(Deliver(message.seq, message.name, message.channel, message.body))
            self._incoming.permit(message.seq, now)
            if message.name == "disconnected":
                return effects + self._departed(message.body)
        return effects

    def _arrived_after_end(self, arrived: Arrived) -> list[Effect]:
        """The front has not heard of the end yet."""
        if arrived.name == "disconnected":
            self._finished = True
            return []
        return self._repeat()

    def _departed(self, body: bytes) -> list[Effect]:
        effects: list[Effect] = [] if self._offline else [self._say("ack", ACK)]
        self._ended = self._finished = True
        try:
            left = Disconnected.model_validate_json(body)
        except ValidationError:
            # The connection is gone, whatever the reason was.
            return [*effects, Ended(Reason.PEER_CLOSED, "no reason that this version understands")]
        return [*effects, Ended(left.reason, left.detail)]

    def _controlled(self, control: Control, now: float) -> list[Effect]:
        if isinstance(control, Disconnected):
            self._finished = True
            return self._end_quietly(control)
        if self._ended:
            return self._repeat()
        if isinstance(control, Resend):
            return self._emit(self._outgoing.again(control.from_seq, control.to_seq, now))
        return []

    def _end_quietly(self, left: Disconnected) -> list[Effect]:
        if self._ended:
            return []
        self._ended = True
        return [Ended(left.reason, left.detail)]

    def _overdue(self, now: float) -> list[Effect]:
        if self._last_word is not None and now >= self._repeat_until:
            self._finished = self._ended
            return self.reset(Reason.CLOSED_BY_OWNER, "the front did not confirm", now)
        effects: list[Effect] = []
        if self._last_word is not None and now >= self._repeat_at:
            self._repeat_after *= 2
            self._repeat_at = now + self._repeat_after
            effects = self._repeat()
        if not self._is_talking:
            return effects
        return effects + (self._broken(now) or self._emit(self._outgoing.overdue(now)))

    def _own_deadline(self) -> float | None:
        return None if self._last_word is None else min(self._repeat_at, self._repeat_until)

    def _speak_last(self, name: str, body: bytes, now: float) -> list[Effect]:
        self._last_word = name, body
        self._repeat_after = self._REPEAT_AFTER_S
        self._repeat_at, self._repeat_until = now + self._repeat_after, now + UNACKED_S
        return self._repeat()

    def _repeat(self) -> list[Effect]:
        if self._offline or self._last_word is None:
            return []
        return [self._say(*self._last_word)]

    def _end(self, reason: Reason, detail: str, now: float) -> list[Effect]:
        return self.reset(reason, detail, now)


def _is_in_place(message: Arrived) -> bool:
    """``connected`` comes first and only first; a connection may also end before it."""
    return (message.name == "connected") == (message.seq == 1) or message.name == "disconnected"


def reset_for_unknown(peer: bytes, name: str, envelope: Envelope, epoch: int) -> Publish | None:
    """Back: answer a message of a session that does not exist here; None if that is useless."""
    if not envelope.front or (name == "disconnected" and not envelope.seq):
        return None
    body = Reset(reason=Reason.UNKNOWN_SESSION).to_bytes()
    subject = session_subject(outbound_prefix(envelope.front, peer), None, "reset")
    return Publish(subject, encode(Envelope(envelope.session, epoch, 0, 0, body)))


def gone_for_unknown(front: str, peer: bytes, name: str, envelope: Envelope) -> Publish | None:
    """Front: answer a message for a session that does not exist here; None if that is useless."""
    if name == "reset":
        return None
    body = Disconnected(reason=Reason.UNKNOWN_SESSION).to_bytes()
    subject = session_subject(inbound_prefix(peer), None, "disconnected")
    return Publish(subject, encode(Envelope(envelope.session, envelope.epoch, 0, 0, body, front)))
