"""Values of the routing table at any short_channel_id, without signatures."""

from struct import pack

from support.gossip_links import CHAIN, NOW_UNIX_S, FakeLink, node_change, node_id

from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table

__all__ = [
    "CHAIN",
    "NOW_UNIX_S",
    "Reading",
    "channel",
    "gone",
    "node",
    "scid_at",
    "table",
    "update",
]


def scid_at(block: int, transaction: int = 1, output: int = 0) -> int:
    return block << 40 | transaction << 16 | output


def channel(
    scid: int, first: int = 1, second: int = 2, *, spent_height: int = 0, capacity_sat: int = 1000
) -> Change:
    """A channel; the ends are numbers of nodes."""
    low, high = sorted((node_id(first), node_id(second)))
    raw = b"\x01\x00" + bytes(256) + b"\0\0" + CHAIN + pack(">Q", scid)
    raw += low + high + node_id(1001) + node_id(1002)
    return Change(Kind.CHANNEL, scid, ChannelRecord(raw, capacity_sat, spent_height, bytes(32)))


def update(
    scid: int, direction: int, timestamp: int = NOW_UNIX_S, *, fee: int = 1, more: bytes = b""
) -> Change:
    raw = b"\x01\x02" + bytes(64) + CHAIN + pack(">QI", scid, timestamp)
    raw += pack(">BBHQIIQ", 1, direction, 40, 1, fee, 1, 10**9) + more
    return Change(Kind.UPDATE, scid << 1 | direction, raw)


def node(number: int, timestamp: int = NOW_UNIX_S) -> Change:
    return node_change(number, timestamp)


def gone(change: Change) -> Change:
    return change._replace(value=None)


def table(*changes: Change) -> Table:
    made = Table()
    for change in changes:
        made.apply(change)
    return made


class Reading(FakeLink):
    """A peer that reads only what it is told to, and whose offences are kept."""

    def __init__(self, number: int = 1) -> None:
        super().__init__(node_id(number))
        self.offences: list[tuple[str, bool]] = []

    def send(self, message: bytes) -> None:
        super().send(message)
        self.unsent += len(message)

    def read(self, size: int = 1 << 60) -> None:
        self.unsent = max(0, self.unsent - size)

    def offend(self, text: str, *, bolt: str, disconnect: bool) -> None:
        self.offences.append((text, disconnect))
