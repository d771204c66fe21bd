"""What one peer has asked for and not been sent yet: a little at a time, when it reads.

A peer's socket never has more than a little gossip before it, so that pings and BOLT 2 pass at once
also in the middle of a big answer; answers are made as they are sent, so one that nobody reads
costs nothing; and each peer gets only so many bytes in the long run, whatever it asks for.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from shared.errors import Action, ProtocolViolation

if TYPE_CHECKING:
    from front.gossip.link import Link

__all__ = ["Outbox", "OutboxRules"]

_BOLT = "BOLT 7 § Query Messages"
_PAUSE_BYTES = 2_000
"""What an empty step counts, or a query: the time it takes, in which so much could be sent."""


@dataclass(frozen=True, slots=True)
class OutboxRules:
    """Limits of what one peer is sent.

    Attributes:
        low_water: bytes on the socket, unsent, above which nothing is added.
        slice: bytes written in one turn of the event loop.
        slice_s: time that one turn may take.
        answers: queries that wait to be answered.
        bytes_per_s: in the long run.
        burst: at once: three whole tables.
        read_within_s: who has an answer waiting reads something within that time.
    """

    low_water: int = 64 << 10
    slice: int = 32 << 10
    slice_s: float = 0.002
    answers: int = 4
    bytes_per_s: float = 200_000.0
    burst: float = 150_000_000.0
    read_within_s: float = 120.0


class Outbox:
    """Sends what iterators yield: first what changed, then answers in order, then history.

    Args:
        link: the peer.
        rules: limits.
    """

    __slots__ = (
        "_answers",
        "_has_sent",
        "_history",
        "_link",
        "_news",
        "_rules",
        "_seen",
        "_since",
        "_tokens",
    )

    def __init__(self, link: "Link", rules: OutboxRules = OutboxRules()) -> None:
        self._link = link
        self._rules = rules
        self._news: deque[Iterator[bytes]] = deque()
        self._answers: deque[Iterator[bytes]] = deque()
        self._history: Iterator[bytes] | None = None
        self._tokens = rules.burst
        self._since = 0.0
        """When the peer was last seen to read, or had nothing to; 0: look now."""
        self._seen = 0
        self._has_sent = False
        """Since it was last looked: so the peer had read what came before."""

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._news or self._answers) or self._history is not None

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, and all of its budget."""
        return not self.waits and self._tokens >= self._rules.burst

    def tell(self, messages: Iterator[bytes]) -> None:
        """Send what changed."""
        self._news.append(messages)

    def asked(self, *, replaces: bool) -> None:
        """The peer asks something: to be called before that is even looked at.

        Args:
            replaces: what is asked for replaces what it asked for before, see `dump`.

        Raises:
            ProtocolViolation: too many queries wait; this one is not to be answered.
        """
        self._tokens -= _PAUSE_BYTES
        if not replaces and len(self._answers) >= self._rules.answers:
            raise ProtocolViolation(
                "a query before the earlier ones were answered", bolt=_BOLT, action=Action.WARN
            )

    def answer(self, messages: Iterator[bytes]) -> None:
        """Send an answer, after those to earlier queries."""
        self._answers.append(messages)

    def dump(self, messages: Iterator[bytes]) -> None:
        """Send history instead of what is left of the history before."""
        self._history = messages

    def clear(self) -> None:
        """Drop everything."""
        self._news.clear()
        self._answers.clear()
        self._history = None

    def flow(self) -> bool:
        """Write a slice; True if more can be written at once, in another turn of the loop."""
        link, rules = self._link, self._rules
        left, until = rules.slice, perf_counter() + rules.slice_s
        while (source := self._source()) is not None:
            if link.closing or link.unsent >= rules.low_water:
                return False
            if left <= 0 or perf_counter() >= until:
                return True
            raw = next(source, None)
            if raw is None:
                self._end(source)
                continue
            size = len(raw) or _PAUSE_BYTES
            left -= size
            self._tokens -= size
            if raw:
                self._has_sent = True
                link.send(raw)
        return False

    def check(self, now: float, elapsed_s: float) -> None:
        """Refill the budget; give up on a peer that has not read for long. Called now and then.

        Args:
            now: monotonic seconds.
            elapsed_s: since the last call.
        """
        rules = self._rules
        self._tokens = min(rules.burst, self._tokens + rules.bytes_per_s * elapsed_s)
        unsent = self._link.unsent
        # More unsent than before says nothing: pongs are added, too.
        reads = self._has_sent or unsent < self._seen or unsent < rules.low_water
        self._seen, self._has_sent = unsent, False
        if reads or not self.waits or not self._since:
            self._since = now
        elif now - self._since > rules.read_within_s:
            self.clear()
            text = f"nothing read for {rules.read_within_s:g} s, with answers waiting"
            self._link.offend(text, bolt=_BOLT, disconnect=True)

    def _source(self) -> Iterator[bytes] | None:
        if self._news:
            return self._news[0]
        if self._tokens <= 0:
            return None
        return self._answers[0] if self._answers else self._history

    def _end(self, source: Iterator[bytes]) -> None:
        for queue in (self._news, self._answers):
            if queue and queue[0] is source:
                queue.popleft()
                return
        if self._history is source:
            self._history = None
