"""The stream GRAPH in tests: values that are cheap to make, a sink that keeps them, an admin."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from struct import pack
from typing import Any

from support.waiting import until

from back.graph.writer import GraphWriter, WriterRules
from shared.fabric.client import FabricClient
from shared.fabric.consumer import ConsumerRules
from shared.fabric.graph import FollowRules, GraphFollower
from shared.gossip.record import Change, ChannelRecord, Kind

__all__ = ["QUICK", "Sink", "ask", "channel", "following", "gone", "node", "update", "writing"]

POINT = b"\x02" + bytes(31) + b"\x01"
QUICK = FollowRules(
    check_s=0.3,
    absent_s=0.1,
    retry_s=0.05,
    consumer=ConsumerRules(heartbeat_s=0.5, silence_s=2.0, expires_s=2.0),
)
"""A follower that looks often."""
QUICK_WRITER = WriterRules(check_s=0.3, retry_s=0.1, answer_s=2.0)


def channel(number: int, *, spent_height: int = 0) -> Change:
    """Make a channel; nobody checks its signatures here."""
    raw = pack(">H256xH32xQ", 256, 0, number) + POINT * 4
    return Change(Kind.CHANNEL, number, ChannelRecord(raw, 1_000, spent_height, bytes(32)))


def update(number: int, direction: int = 0, timestamp: int = 1) -> Change:
    """Make an update of one direction."""
    raw = pack(
        ">H64x32xQIBBHQIIQ", 258, number, timestamp, 1, direction, 144, 1, 2, timestamp, 1_000
    )
    return Change(Kind.UPDATE, number << 1 | direction, raw)


def node(number: int, timestamp: int = 1) -> Change:
    """Make an announcement of a node."""
    node_id = b"\x02" + number.to_bytes(32, "big")
    raw = pack(">H64xHI33s3s32sH", 257, 0, timestamp, node_id, b"rgb", b"alias", 0)
    return Change(Kind.NODE, node_id, raw)


def gone(change: Change) -> Change:
    """The same, gone."""
    return change._replace(value=None)


class Sink:
    """Keeps what a follower brings.

    Attributes:
        table: the last value of each key, of the present stream.
        put_count: values in all.
        loads: how often a new table was begun.
        selves: what came for `node_self`.
        tips: what came for `tip`.
    """

    def __init__(self) -> None:
        self.table: dict[tuple[Kind, int | bytes], object] = {}
        self.next: dict[tuple[Kind, int | bytes], object] = {}
        self.put_count = 0
        self.loads = 0
        self.selves: list[bytes] = []
        self.tips: list[bytes] = []
        self._is_loading = False

    def loading(self) -> None:
        self.loads += 1
        self.next = {}
        self._is_loading = True

    def put(self, change: Change) -> None:
        self.put_count += 1
        into = self.next if self._is_loading else self.table
        if change.value is None:
            into.pop((change.kind, change.key), None)
        else:
            into[change.kind, change.key] = change.value

    def loaded(self) -> None:
        assert self._is_loading, "loaded comes once per loading"
        self._is_loading = False
        self.table = self.next

    def node_self(self, payload: bytes) -> None:
        self.selves.append(payload)

    def tip(self, payload: bytes) -> None:
        self.tips.append(payload)


def table_of(changes: Iterable[Change]) -> dict[tuple[Kind, int | bytes], object]:
    """Return what a sink holds after these."""
    sink = Sink()
    for change in changes:
        sink.put(change)
    return sink.table


@asynccontextmanager
async def following(
    fabric: FabricClient, sink: Any = None, rules: FollowRules = QUICK, **more: Any
) -> AsyncIterator[tuple[GraphFollower, Sink]]:
    """Follow for a while."""
    sink = sink or Sink()
    follower = GraphFollower(fabric, sink, rules=rules, **more)
    follower.start()
    try:
        yield follower, sink
    finally:
        await follower.stop()


@asynccontextmanager
async def writing(
    fabric: FabricClient, rules: WriterRules = QUICK_WRITER
) -> AsyncIterator[GraphWriter]:
    """Write for a while."""
    writer = GraphWriter(fabric, rules=rules)
    writer.start()
    try:
        await until(lambda: writer.is_open or not fabric.connected, "the writer is open")
        yield writer
    finally:
        await writer.stop()


async def ask(fabric: FabricClient, what: str, **body: Any) -> dict[str, Any]:
    """Ask the broker's stream API; fails with its error."""
    answer = await fabric.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout_s=5)
    read = json.loads(answer)
    assert "error" not in read, read["error"]
    return read
