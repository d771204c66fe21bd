"""The two halves of a session's stream: out is numbered and kept, in is put in order. Pure.

Neither half knows envelopes or subjects; `session` joins them. Times are monotonic seconds.
"""

from collections import deque
from dataclasses import dataclass

__all__ = [
    "ACK_AFTER_MESSAGES",
    "ACK_AFTER_S",
    "NARROW",
    "RESEND_AFTER_S",
    "UNACKED_S",
    "WIDE",
    "Arrived",
    "Incoming",
    "Numbered",
    "Outgoing",
    "Window",
]

ACK_AFTER_MESSAGES = 64
ACK_AFTER_S = 0.05
RESEND_AFTER_S = 1.0
RESEND_AT_MOST_EVERY_S = 4.0
ASK_AGAIN_S = 0.5
UNACKED_S = 10.0
BUFFERED_MESSAGES = 256
BUFFERED_BYTES = 4 << 20
LOSSY_SHARE = 8
"""What may as well be lost is sent only where less than this part of the window is under way."""


@dataclass(frozen=True, slots=True)
class Window:
    """How much may be under way without an acknowledgement."""

    messages: int
    size: int
    """Bytes on the wire of BOLT 8, not of JSON."""


WIDE = Window(256, 1 << 20)
"""For a peer with channels."""
NARROW = Window(16, 64 << 10)
"""For a peer without: it costs nothing to connect, so it may not cost much."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An outgoing message that has its number and is kept until it is acknowledged."""

    seq: int
    name: str
    channel: bytes | None
    body: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """An incoming numbered message."""

    seq: int
    name: str
    channel: bytes | None
    body: bytes


class Outgoing:
    """Numbers, keeps and repeats.

    The clock of the oldest unacknowledged message starts when it becomes the oldest: a slow reader
    that makes progress is not a lost message, and a lost one stops all progress because
    acknowledgements are cumulative.
    """

    __slots__ = (
        "_retry_after",
        "_retry_at",
        "_size",
        "_stalled_since",
        "_unacked",
        "_waiting",
        "acked",
        "last",
        "patience_s",
        "resent",
        "window",
    )

    def __init__(self, window: Window) -> None:
        self.window = window
        self.last = 0
        """Highest number given."""
        self.acked = 0
        self.patience_s = UNACKED_S
        self.resent = 0
        """Messages sent more than once, for metrics."""
        self._unacked: deque[Numbered] = deque()
        self._waiting: deque[Numbered] = deque()
        self._size = 0
        self._stalled_since: float | None = None
        self._retry_at: float | None = None
        self._retry_after = RESEND_AFTER_S

    @property
    def is_over_window(self) -> bool:
        """Messages wait for room."""
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Everything given a number is acknowledged."""
        return not self._unacked and not self._waiting

    def has_room(self, size: int) -> bool:
        """Whether a message that may as well be lost leaves nearly all of the window to others."""
        if self._waiting:
            return False
        if not self._unacked:
            return True
        few = len(self._unacked) < max(1, self.window.messages // LOSSY_SHARE)
        return few and self._size + size <= self.window.size // LOSSY_SHARE

    def add(
        self, name: str, channel: bytes | None, body: bytes, size: int, now: float
    ) -> list[Numbered]:
        """Give a message the next number; return what may now be sent."""
        self.last += 1
        self._waiting.append(Numbered(self.last, name, channel, body, size))
        return self._release(now)

    def acknowledge(self, ack: int, now: float) -> list[Numbered]:
        """Forget everything up to ``ack``; return what may now be sent."""
        if ack <= self.acked:
            return []
        while self._unacked and self._unacked[0].seq <= ack:
            self._size -= self._unacked.popleft().size
        self.acked = ack
        self._restart(now)
        return self._release(now)

    def widen(self, window: Window, now: float) -> list[Numbered]:
        """Change the window; return what may now be sent."""
        self.window = window
        return self._release(now)

    def again(self, from_seq: int, to_seq: int | None, now: float) -> list[Numbered]:
        """Return what is unacknowledged in this range, to be sent again."""
        end = self.last if to_seq is None else to_seq
        found = [m for m in self._unacked if from_seq <= m.seq <= end]
        if found:
            self.resent += len(found)
            self._retry_at = now + self._retry_after
        return found

    def overdue(self, now: float) -> list[Numbered]:
        """Return the oldest unacknowledged message if it is time to send it again."""
        if self._retry_at is None or now < self._retry_at:
            return []
        self._retry_after = min(self._retry_after * 2, RESEND_AT_MOST_EVERY_S)
        self._retry_at = now + self._retry_after
        self.resent += 1
        return [self._unacked[0]]

    def is_stalled(self, now: float) -> bool:
        """Nothing was acknowledged for ``patience_s`` although something should have been."""
        return self._stalled_since is not None and now >= self._stalled_since + self.patience_s

    def restart(self, now: float) -> list[Numbered]:
        """Start the clocks afresh; return everything unacknowledged."""
        self._restart(now)
        return list(self._unacked)

    def deadline(self) -> float | None:
        """When `overdue` or `is_stalled` next has something to say."""
        if self._retry_at is None or self._stalled_since is None:
            return None
        return min(self._retry_at, self._stalled_since + self.patience_s)

    def _restart(self, now: float) -> None:
        self._retry_after = RESEND_AFTER_S
        self._stalled_since = now if self._unacked else None
        self._retry_at = now + RESEND_AFTER_S if self._unacked else None

    def _release(self, now: float) -> list[Numbered]:
        was_idle = not self._unacked
        released: list[Numbered] = []
        while self._waiting and self._fits(self._waiting[0].size):
            message = self._waiting.popleft()
            self._unacked.append(message)
            self._size += message.size
            released.append(message)
        if was_idle and released:
            self._restart(now)
        return released

    def _fits(self, size: int) -> bool:
        if not self._unacked:
            return True
        return len(self._unacked) < self.window.messages and self._size + size <= self.window.size


class Incoming:
    """Delivers in order, once; knows what to ask for and what to acknowledge."""

    __slots__ = (
        "_ack_at",
        "_ackable",
        "_ask_at",
        "_asked_to",
        "_gap_since",
        "_held",
        "_held_bytes",
        "_known_last",
        "_said",
        "received",
    )

    def __init__(self) -> None:
        self.received = 0
        """Highest number up to which everything arrived."""
        self._held: dict[int, Arrived] = {}
        self._held_bytes = 0
        self._known_last = 0
        self._asked_to: int | None = None
        self._ask_at: float | None = None
        self._gap_since: float | None = None
        self._ackable = 0
        self._said = 0
        self._ack_at: float | None = None

    def take(self, message: Arrived, now: float) -> list[Arrived]:
        """Take one numbered message; return what is deliverable now, in order."""
        if message.seq <= self.received:
            # Sent again, so our acknowledgement was lost or is late.
            self._ack_by(now + ACK_AFTER_S)
            return []
        if message.seq != self.received + 1:
            self._hold(message, now)
            return []
        ready = [message]
        self.received += 1
        while (held := self._held.pop(self.received + 1, None)) is not None:
            self._held_bytes -= len(held.body)
            self.received += 1
            ready.append(held)
        self._reconsider(now)
        return ready

    def expect(self, last: int, now: float) -> None:
        """Learn that numbers up to ``last`` exist; what is missing of them will be asked for."""
        self._known_last = max(self._known_last, last)
        if last > self.received:
            self._notice_gap(now)

    def ask(self, now: float) -> tuple[int, int] | None:
        """Return the range of numbers to ask for now; one request is outstanding at a time."""
        if self._ask_at is None or now < self._ask_at:
            return None
        last = min(self._held) - 1 if self._held else self._known_last
        if last <= self.received:
            self._ask_at = self._asked_to = self._gap_since = None
            return None
        self._asked_to, self._ask_at = last, now + ASK_AGAIN_S
        return self.received + 1, last

    def is_stuck(self, now: float) -> bool:
        """What is missing did not come for ten seconds although it was asked for."""
        return self._gap_since is not None and now >= self._gap_since + UNACKED_S

    def restart(self, now: float) -> None:
        """Start the clock of a gap afresh."""
        if self._gap_since is not None:
            self._gap_since = now

    def permit(self, seq: int, now: float) -> None:
        """Everything up to ``seq`` may be acknowledged."""
        if seq <= self._ackable:
            return
        self._ackable = min(seq, self.received)
        full = self._ackable - self._said >= ACK_AFTER_MESSAGES
        self._ack_by(now if full else now + ACK_AFTER_S)

    @property
    def permitted(self) -> int:
        """What may be acknowledged."""
        return self._ackable

    def say(self) -> int:
        """Return the acknowledgement for an envelope that goes out now."""
        self._said, self._ack_at = self._ackable, None
        return self._ackable

    def is_ack_due(self, now: float) -> bool:
        """A bare acknowledgement must go out."""
        return self._ack_at is not None and now >= self._ack_at

    def deadline(self) -> float | None:
        """When `ask` or `is_ack_due` next has something to say."""
        if self._ack_at is None:
            return self._ask_at
        return self._ack_at if self._ask_at is None else min(self._ack_at, self._ask_at)

    def _hold(self, message: Arrived, now: float) -> None:
        self._notice_gap(now)
        size = len(message.body)
        too_far = message.seq > self.received + BUFFERED_MESSAGES
        if message.seq in self._held or too_far or self._held_bytes + size > BUFFERED_BYTES:
            return
        self._held[message.seq] = message
        self._held_bytes += size

    def _reconsider(self, now: float) -> None:
        """After progress: the request is answered, or another gap is the first one now."""
        if self._ask_at is None:
            return
        self._gap_since = now
        if self._asked_to is not None and self.received < self._asked_to:
            return
        self._asked_to = None
        if not self._held and self._known_last <= self.received:
            self._ask_at = self._gap_since = None
        else:
            self._ask_at = now

    def _notice_gap(self, now: float) -> None:
        if self._ask_at is None:
            self._ask_at = self._gap_since = now

    def _ack_by(self, at: float) -> None:
        self._ack_at = at if self._ack_at is None else min(self._ack_at, at)
