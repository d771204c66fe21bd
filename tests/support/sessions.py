"""Both sides of one session over a simulated fabric that loses, duplicates and reorders."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from shared.fabric import subjects
from shared.fabric.envelope import Connected, Direction, Disconnected, Reason, decode
from shared.fabric.session import (
    BackSession,
    Deliver,
    Effect,
    Ended,
    FrontSession,
    Publish,
    Reopen,
    Session,
)
from shared.wire import Init

PEER = b"\x02" + b"\x11" * 32
SESSION = bytes(range(16))
FRONT = "f1"
EPOCH = 1_700_000_000
INIT = Init(globalfeatures=b"", features=b"\x01")
CONNECTED = Connected(
    front=FRONT,
    direction=Direction.INBOUND,
    address="192.0.2.1:9735",
    our_init=INIT,
    their_init=INIT,
).to_bytes()


@dataclass
class Fate:
    """What happens to one published message: how many copies arrive, each after how long."""

    delays: tuple[float, ...] = (0.001,)


@dataclass
class World:
    """A front session and a back session with a fabric between; time moves only here."""

    fate: Callable[[str, str], Fate] = lambda _side, _subject: Fate()
    has_channels: bool = True
    now: float = 0.0
    drains: bool = True
    """The peer's socket takes what is written."""
    front: FrontSession = field(init=False)
    back: BackSession = field(init=False)
    front_got: list[bytes] = field(default_factory=list)
    back_got: list[bytes] = field(default_factory=list)
    front_ended: Ended | None = None
    back_ended: Ended | None = None
    reopened: list[int] = field(default_factory=list)
    published: list[tuple[str, str, float]] = field(default_factory=list)
    unwritten: list[int] = field(default_factory=list)
    online: dict[str, bool] = field(default_factory=lambda: {"front": True, "back": True})
    _air: list[tuple[float, int, str, Publish]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def __post_init__(self) -> None:
        self.front = FrontSession(SESSION, FRONT, PEER)
        self.back = BackSession(SESSION, FRONT, PEER, EPOCH, self.has_channels)

    def connect(self) -> None:
        """The owner accepted, both inits are exchanged."""
        self.do("front", self.front.opened(EPOCH, self.has_channels, self.now))
        self.do("front", self.front.send("connected", None, CONNECTED, 0, self.now))

    def send(self, side: str, body: bytes, size: int = 100) -> None:
        """Send one message from a side; ``body`` is told apart on arrival."""
        session = self.side(side)
        self.do(side, session.send("update_fee", b"\x22" * 32, body, size, self.now))

    def side(self, side: str) -> Session:
        return self.front if side == "front" else self.back

    def do(self, side: str, effects: list[Effect]) -> None:
        """Carry out what a session returned, as the processes do."""
        for effect in effects:
            match effect:
                case Publish(subject):
                    assert self.online[side], "published without a connection"
                    self.published.append((side, subject.rpartition(".")[2], self.now))
                    for delay in self.fate(side, subject).delays:
                        at = self.now + delay
                        heapq.heappush(self._air, (at, next(self._order), side, effect))
                case Deliver(seq, name, _channel, body):
                    self._deliver(side, seq, name, body)
                case Ended():
                    self._end(side, effect)
                case Reopen(epoch):
                    self.reopened.append(epoch)

    def _deliver(self, side: str, seq: int, name: str, body: bytes) -> None:
        assert self.front_ended is None if side == "front" else self.back_ended is None
        if name in {"connected", "disconnected"}:
            return
        (self.front_got if side == "front" else self.back_got).append(body)
        if side == "front":
            self.unwritten.append(seq)
            self.write()

    def write(self) -> None:
        """The socket drains: what was delivered counts as written."""
        if self.drains and self.unwritten:
            seq = max(self.unwritten)
            self.unwritten.clear()
            self.do("front", self.front.written(seq, self.now))

    def _end(self, side: str, ended: Ended) -> None:
        if side == "front":
            assert self.front_ended is None, "ended twice"
            self.front_ended = ended
            self.do("front", self.front.disconnect(ended.reason, ended.detail, self.now))
        else:
            assert self.back_ended is None, "ended twice"
            self.back_ended = ended

    def lose_broker(self, *sides: str) -> None:
        """The connection of these sides breaks; what is under way is lost."""
        for side in sides or ("front", "back"):
            self.online[side] = False
            self.side(side).fabric_lost()
        self._air.clear()

    def find_broker(self, *sides: str) -> None:
        """It comes back; the front resumes."""
        for side in sides or ("front", "back"):
            self.online[side] = True
            self.do(side, self.side(side).fabric_back(self.now))
        if all(self.online.values()) and not self.front.ended:
            self.do("front", self.front.resumed(self.back.expects, self.now))
            self.do("back", self.back.resumed(self.front.expects, self.now))

    def run(self, seconds: float, *, steps: int = 100_000) -> None:
        """Let time pass: arrivals and deadlines in their order."""
        end = self.now + seconds
        for _ in range(steps):
            due = [
                t for t in (self.front.next_deadline(), self.back.next_deadline()) if t is not None
            ]
            if self._air:
                due.append(self._air[0][0])
            if not due or min(due) > end:
                self.now = end
                return
            self.now = max(self.now, min(due))
            self._step()
        raise AssertionError("a deadline that is never dealt with")

    def _step(self) -> None:
        while self._air and self._air[0][0] <= self.now:
            _, _, side, publish = heapq.heappop(self._air)
            receiver = "back" if side == "front" else "front"
            if not self.online[receiver]:
                continue
            parse = subjects.parse_inbound if side == "front" else subjects.parse_outbound
            parsed = parse(publish.subject)
            session = self.side(receiver)
            envelope = decode(publish.payload)
            self.do(receiver, session.receive(parsed.name, parsed.channel, envelope, self.now))
        for side in ("front", "back"):
            deadline = self.side(side).next_deadline()
            if deadline is not None and deadline <= self.now:
                self.do(side, self.side(side).poll(self.now))

    def count(self, side: str, name: str) -> int:
        """How often a side published a control or message."""
        return sum(1 for s, n, _ in self.published if (s, n) == (side, name))


def body(number: int) -> bytes:
    """Return a distinguishable message body."""
    return b'{"number":%d}' % number


def bodies(numbers: range) -> list[bytes]:
    """Return several."""
    return [body(n) for n in numbers]


def gone(reason: Reason = Reason.PEER_CLOSED) -> bytes:
    """Return the body of ``disconnected``."""
    return Disconnected(reason=reason).to_bytes()
