"""When to ping, when a peer is gone, how much pinging is too much (BOLT 1). Pure.

Time is an argument, in monotonic seconds. Everything heard from a peer proves that it lives; a
`ping` goes out only after an idle interval, and the connection ends when nothing at all follows it
in time.
"""

from dataclasses import dataclass

from front.admission import TokenBucket
from shared.errors import ProtocolViolation
from shared.wire import Ping, Pong

__all__ = ["NO_PONG", "Keepalive", "Timing"]

NO_PONG = 65532
"""From this ``num_pong_bytes`` on a `ping` wants no answer (BOLT 1)."""
_BOLT = "BOLT 1 § ping and pong"


@dataclass(frozen=True, slots=True)
class Timing:
    """How a front keeps its connections alive.

    Attributes:
        interval_s: idle seconds before a `ping`.
        timeout_s: seconds without anything heard after a `ping` before the peer counts as gone.
        pings_per_s: pings a peer may send in the long run.
        ping_burst: pings a peer may send at once.
    """

    interval_s: float = 30.0
    timeout_s: float = 20.0
    pings_per_s: float = 1.0
    ping_burst: float = 30.0


class Keepalive:
    """The state of one connection.

    Args:
        timing: intervals and limits.
        now: monotonic seconds.
        stagger: 0 to 1; spreads the first pings of connections that were made together.
    """

    __slots__ = ("_expected", "_heard", "_interval_s", "_pinged", "_pings", "_timing")

    def __init__(self, timing: Timing, now: float, stagger: float = 1.0) -> None:
        self._timing = timing
        self._interval_s = timing.interval_s * (0.5 + 0.5 * stagger)
        self._heard = now
        self._pinged: float | None = None
        self._expected = 0
        self._pings: TokenBucket | None = None

    def heard(self, now: float) -> None:
        """Anything arrived."""
        self._heard = now

    def ping_received(self, ping: Ping, now: float) -> Pong | None:
        """Return the answer to a `ping`, if it wants one.

        Raises:
            ProtocolViolation: the peer floods us.
        """
        if self._pings is None:
            self._pings = TokenBucket(self._timing.pings_per_s, self._timing.ping_burst, now)
        if not self._pings.take(now):
            raise ProtocolViolation(
                f"more than {self._timing.ping_burst:.0f} pings at once and"
                f" {self._timing.pings_per_s:g} a second",
                bolt=_BOLT,
            )
        if ping.num_pong_bytes >= NO_PONG:
            return None
        return Pong(ignored=bytes(ping.num_pong_bytes))

    def pong_received(self, pong: Pong) -> None:
        """Match a `pong` with our `ping`.

        Raises:
            ProtocolViolation: we asked for no pong, or for one of another size.
        """
        if self._pinged is None:
            raise ProtocolViolation("pong without a ping", bolt=_BOLT)
        if len(pong.ignored) != self._expected:
            raise ProtocolViolation(
                f"pong of {len(pong.ignored)} bytes, asked for {self._expected}", bolt=_BOLT
            )
        self._pinged = None

    def next_deadline(self) -> float:
        """When `due` must be called; it moves when something is heard."""
        if self._pinged is not None:
            return max(self._heard, self._pinged) + self._timing.timeout_s
        return self._heard + self._interval_s

    def due(self, now: float, num_pong_bytes: int) -> Ping | None:
        """Do what is due: return a `ping` to send, or nothing.

        Args:
            now: monotonic seconds.
            num_pong_bytes: size of the answer to ask for, below `NO_PONG`.

        Raises:
            ProtocolViolation: the peer has been silent for too long.
        """
        if now < self.next_deadline():
            return None
        if self._pinged is not None:
            raise ProtocolViolation(
                f"nothing heard for {now - self._heard:.0f} s, nor an answer to our ping",
                bolt=_BOLT,
            )
        self._interval_s = self._timing.interval_s
        self._pinged = now
        self._expected = num_pong_bytes
        return Ping(num_pong_bytes=num_pong_bytes, ignored=b"")
