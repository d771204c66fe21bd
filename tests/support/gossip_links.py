"""Peers of gossip without any connection, announcements without signatures, and simulated time."""

from dataclasses import dataclass, field
from struct import pack

from shared.chain import REGTEST
from shared.errors import PeerError
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table
from shared.gossip.view import update_timestamp
from shared.wire import (
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)
from shared.wire.query import decode_short_ids, encode_short_ids, encode_timestamps

__all__ = [
    "CHAIN",
    "NOW_UNIX_S",
    "After",
    "FakeLink",
    "SyncedPeer",
    "channel_change",
    "node_change",
    "node_id",
    "range_reply",
    "run",
    "scid_of",
    "update_change",
]

CHAIN = REGTEST.chain_hash
NOW_UNIX_S = 1_700_000_000


def node_id(number: int) -> bytes:
    return b"\x02" + number.to_bytes(32, "big")


def scid_of(number: int) -> int:
    return (600_000 + number) << 40 | 1 << 16


@dataclass(eq=False)
class FakeLink:
    """What a `front.gossip.link.Link` is."""

    node_id: bytes
    is_outbound: bool = False
    networks: tuple[bytes, ...] = ()
    queries: bool = True
    queries_ex: bool = True
    has_channels: bool = False
    closing: bool = False
    unsent: int = 0
    sent: list[bytes] = field(default_factory=list)

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def offend(self, text: str, *, bolt: str, disconnect: bool) -> None:
        raise AssertionError(text)


def channel_change(number: int, first: int = 1, second: int = 2, *, spent_height: int = 0):
    """A channel; the ends are numbers of nodes."""
    scid = scid_of(number)
    low, high = sorted((node_id(first), node_id(second)))
    raw = b"\x01\x00" + bytes(256) + b"\0\0" + CHAIN + pack(">Q", scid)
    raw += low + high + node_id(1001) + node_id(1002)
    return Change(Kind.CHANNEL, scid, ChannelRecord(raw, 100_000, spent_height, bytes(32)))


def update_change(number: int, direction: int, timestamp: int = NOW_UNIX_S, fee: int = 1):
    scid = scid_of(number)
    raw = b"\x01\x02" + bytes(64) + CHAIN + pack(">QI", scid, timestamp)
    raw += pack(">BBHQIIQ", 1, direction, 40, 1, fee, 1, 10**9)
    return Change(Kind.UPDATE, scid << 1 | direction, raw)


def node_change(number: int, timestamp: int = NOW_UNIX_S):
    raw = b"\x01\x01" + bytes(64) + b"\0\0" + pack(">I", timestamp) + node_id(number)
    return Change(Kind.NODE, node_id(number), raw + bytes(3 + 32) + b"\0\0")


def range_reply(ids, *, first=0, blocks=0xFFFFFFFF, complete=1, timestamps=None, **fields):
    return ReplyChannelRange(
        chain_hash=fields.pop("chain_hash", CHAIN),
        first_blocknum=first,
        number_of_blocks=blocks,
        sync_complete=complete,
        encoded_short_ids=encode_short_ids(ids),
        timestamps_tlv=None if timestamps is None else encode_timestamps(timestamps),
        **fields,
    )


@dataclass(order=True)
class After:
    """An answer, and when it is given."""

    at: float
    message: object = field(compare=False)


class SyncedPeer:
    """A peer that has channels, and answers `Sync` as its manners are.

    Args:
        manners: "honest"; "silent"; "empty" (has nothing); "liar" (names what does not exist);
            "withholds" (names what exists, sends nothing); "drips" (a reply every 20 s, without
            end); "nonsense" (replies that break the rules); "leaves" (disconnects when asked).
        delay_s: until it answers.
    """

    def __init__(self, link: FakeLink, changes=(), *, manners="honest", delay_s=0.5) -> None:
        self.link = link
        self.manners = manners
        self.delay_s = delay_s
        self.has = {(change.kind, change.key): change for change in changes}
        self.asked: list[int] = []
        self.queries: list = []
        self.filters: list[GossipTimestampFilter] = []
        self.is_open = False
        self.violations: list[PeerError] = []
        self.answers: list[After] = []

    def ask(self, sync, message, now: float) -> None:
        if isinstance(message, GossipTimestampFilter):
            self.filters.append(message)
            return
        self.queries.append(message)
        assert not self.is_open, "two queries at a time"
        self.is_open = True
        if self.manners == "leaves":
            sync.left(self.link, now)
            return
        if isinstance(message, QueryChannelRange):
            answers = self._range()
        else:
            ids = decode_short_ids(message.encoded_short_ids)
            assert ids == sorted(set(ids))
            self.asked.extend(ids)
            answers = self._channels(message, ids)
        step = 20.0 if self.manners == "drips" else 0.0
        for number, answer in enumerate(answers, 1):
            self.answers.append(After(now + self.delay_s + step * number, answer))

    def _range(self) -> list:
        if self.manners == "silent":
            return []
        if self.manners == "empty":
            return [range_reply([])]
        if self.manners == "nonsense":
            return [range_reply([5, 5])]
        if self.manners == "drips":
            return [range_reply([], complete=0, blocks=number) for number in range(1, 1000)]
        if self.manners == "liar":
            ids = [scid_of(number) for number in range(10_000, 10_050)]
            return [range_reply(ids, timestamps=[(NOW_UNIX_S, NOW_UNIX_S)] * len(ids))]
        ids = sorted(key for kind, key in self.has if kind is Kind.CHANNEL)
        times = [tuple(self._timestamp(scid << 1 | side) for side in (0, 1)) for scid in ids]
        half = len(ids) // 2
        end = (ids[half] >> 40) if ids else 1
        return [
            range_reply(ids[:half], blocks=end, complete=0, timestamps=times[:half]),
            range_reply(ids[half:], first=end, timestamps=times[half:]),
        ]

    def _timestamp(self, key: int) -> int:
        change = self.has.get((Kind.UPDATE, key))
        return 0 if change is None else update_timestamp(change.value)

    def _channels(self, query: QueryShortChannelIds, ids: list[int]) -> list:
        end = ReplyShortChannelIdsEnd(chain_hash=CHAIN, full_information=1)
        if self.manners == "silent":
            return []
        if self.manners == "nonsense":
            return [ReplyShortChannelIdsEnd(chain_hash=bytes(32), full_information=1)]
        if self.manners == "drips":
            return [node_change(7)] * 1000
        if self.manners != "honest":
            return [end]
        found = []
        for scid in ids:
            keys = ((Kind.CHANNEL, scid), (Kind.UPDATE, scid << 1), (Kind.UPDATE, scid << 1 | 1))
            found += [self.has[key] for key in keys if key in self.has]
        return [*found, end]

    def answer(self, sync, table: Table, now: float) -> None:
        """Give the answers that are due."""
        while self.answers and self.answers[0].at <= now:
            message = self.answers.pop(0).message
            if isinstance(message, Change):
                sync.announced(self.link, now)
                table.apply(message)
                continue
            if not isinstance(message, ReplyChannelRange) or message.sync_complete:
                self.is_open = False
            try:
                sync.received(self.link, message, now)
            except PeerError as error:
                self.violations.append(error)


def run(sync, table: Table, peers, *, start=0.0, until=600.0, step=0.5, done=lambda: False):
    """Let time pass; return when it was done, or the end."""
    by_link = {peer.link: peer for peer in peers}
    now = start
    while now < until and not done():
        for ask in sync.due(now, NOW_UNIX_S + int(now)):
            by_link[ask.link].ask(sync, ask.message, now)
        now += step
        for peer in peers:
            peer.answer(sync, table, now)
    return now
