"""Two cores, any interleaving, any cut, any kill: in the end both hold the same announcement.

Confirmations come to each side when they like, between payments, disconnections and restarts; a
reorg may move the funding. No side ever finds fault with the other.
"""

from dataclasses import dataclass, replace

from hypothesis import given, settings, strategies as st
from support.channels import End, deliver_all, messages_named, opened, settle, wired
from support.openings import funded

from back.channel.effects import ChannelAnnounced, CloseConnection, Publish
from back.channel.events import FundingConfirmed, FundingDeep
from back.channel.model import Phase
from shared.gossip.signed import verify
from shared.gossip.view import channel_view
from shared.units import ShortChannelId
from shared.wire import AnnouncementSignatures

FIRST, MOVED = (100, 1), (102, 7)
PLACES = (FIRST, MOVED)


@dataclass(frozen=True)
class Told:
    """A side hears that the funding is confirmed, or deep."""

    side: int
    is_deep: bool


@dataclass(frozen=True)
class Deliver:
    side: int
    count: int


@dataclass(frozen=True)
class Kill:
    """The next step of a side dies after its commit and so many of its effects."""

    side: int
    after: int


@dataclass(frozen=True)
class Pay:
    side: int


@dataclass(frozen=True)
class Restart:
    side: int


@dataclass(frozen=True)
class Reorg:
    """The funding is in another block from now on."""


@dataclass(frozen=True)
class Cut:
    pass


@dataclass(frozen=True)
class Connect:
    pass


sides = st.integers(0, 1)
actions = st.one_of(
    st.builds(Told, sides, st.booleans()),
    st.builds(Told, sides, st.booleans()),
    st.builds(Deliver, sides, st.integers(1, 3)),
    st.builds(Deliver, sides, st.just(1_000)),
    st.builds(Kill, sides, st.integers(0, 4)),
    st.builds(Pay, sides),
    st.builds(Restart, sides),
    st.builds(Reorg),
    st.builds(Cut),
    st.builds(Connect),
)


class Story:
    """Two ends and the chain that they see."""

    def __init__(self, *, is_opened: bool) -> None:
        if is_opened:
            first, second = opened(announce=True)
            transaction = b""
            self.ends = wired((confirmed(first), confirmed(second)))
        else:
            opener, fundee, transaction = funded(announce=True)
            self.ends = opener, fundee
        self.transaction = transaction
        self.place = FIRST
        self.payments = 0
        for end in self.ends:
            end.on_commit = check

    def tell(self, side: int, *, is_deep: bool) -> None:
        end = self.ends[side]
        if is_deep:
            end.do(FundingDeep(*self.place))
        elif self.transaction:
            end.do(FundingConfirmed(*self.place, self.transaction))

    def run(self, action: object) -> None:
        ends = self.ends
        match action:
            case Told(side=side, is_deep=is_deep):
                self.tell(side, is_deep=is_deep)
            case Deliver(side=side, count=count):
                ends[side].receive(count)
            case Kill(side=side, after=after):
                ends[side].crash_after = after
            case Pay(side=side):
                self.pay(ends[side])
            case Restart(side=side):
                ends[side].restart()
            case Reorg():
                self.place = MOVED if self.transaction else FIRST
            case Cut():
                ends[0].cut()
            case Connect():
                self.connect()

    def connect(self) -> None:
        if not self.ends[0].is_connected:
            self.ends[0].connect()

    def pay(self, end: End) -> None:
        if end.channel.phase is Phase.NORMAL:
            self.payments += 1
            end.offer(f"p-{self.payments}", 20_000_000)

    def end_well(self) -> None:
        """The chain comes to rest, both hear of it, and nothing is cut any more."""
        for end in self.ends:
            end.crash_after = None
        for side in (0, 1):
            self.tell(side, is_deep=False)
            self.tell(side, is_deep=True)
        settle(*self.ends)


def confirmed(channel):
    funding = replace(channel.funding, short_channel_id=ShortChannelId(*FIRST, 0).pack())
    return replace(channel, funding=funding)


def check(end: End) -> None:
    """What is complete is right, and only of a funding that is deep where we think it is."""
    raw = end.channel.channel_announcement
    if raw is None:
        return
    funding = end.channel.funding
    assert funding is not None
    assert verify(raw)
    assert channel_view(raw).short_channel_id == funding.short_channel_id


@given(st.booleans(), st.lists(actions, min_size=4, max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_interleaving_any_cut_any_kill(is_opened: bool, actions: list[object]) -> None:
    story = Story(is_opened=is_opened)
    for action in actions:
        story.run(action)
    story.end_well()

    first, second = story.ends
    raw = first.channel.channel_announcement
    assert raw is not None
    assert raw == second.channel.channel_announcement
    assert channel_view(raw).short_channel_id == ShortChannelId(*story.place, 0).pack()
    for end in story.ends:
        assert not end.took(Publish) or end.keys.name == "opener"
        assert not end.took(CloseConnection)
        halves = [m for m in end.sent if isinstance(m, AnnouncementSignatures)]
        by_place = {}
        for half in halves:
            assert by_place.setdefault(half.short_channel_id, half) == half, "one place, one half"

    # It is said once: another connection between two that have it brings nothing.
    before = [messages_named(end.sent).count("announcement_signatures") for end in story.ends]
    told = [len(end.took(ChannelAnnounced)) for end in story.ends]
    first.cut()
    first.connect()
    deliver_all(*story.ends)
    assert before == [
        messages_named(end.sent).count("announcement_signatures") for end in story.ends
    ]
    assert told == [len(end.took(ChannelAnnounced)) for end in story.ends]
