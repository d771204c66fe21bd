"""The back's graph with its real neighbours: a bitcoind, a broker, and fronts that submit to it.

A front here is a connection that publishes submissions and keeps verdicts; how real fronts behave
is tested elsewhere.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.broker import client, running
from support.graph import QUICK, QUICK_WRITER, Sink
from support.network import Network
from support.waiting import until

from back.chain.regtest import Regtest
from back.graph.judge import JudgeRules
from back.graph.service import GraphRules, GraphService
from back.graph.spends import SpendRules
from back.graph.writer import GraphWriter
from shared.chain import REGTEST
from shared.fabric import subjects
from shared.fabric.client import FabricClient
from shared.fabric.gossip import Outcome, Verdicts, encode_submission
from shared.fabric.graph import GraphFollower
from shared.fabric.interface import Fabric, Received
from shared.fabric.requests import read
from shared.gossip.record import ChannelRecord, Kind
from shared.gossip.view import message_type

__all__ = ["RULES", "Front", "Scene", "fill", "graph_scene", "reorg"]

RULES = GraphRules(
    judge=JudgeRules(away_s=0.1),
    spends=SpendRules(poll_s=0.05, retry_s=0.1),
    prune_after_s=0.0,
    prune_every_s=0.05,
)
"""A graph that looks often."""
_KINDS = {256: "channel_announcement", 257: "node_announcement", 258: "channel_update"}


class Front:
    """Submits, and keeps what it is told.

    Attributes:
        told: verdicts by number.
        fabric: its connection.
        times: how many verdicts each number got.
    """

    def __init__(self, fabric: Fabric, name: str = "alone") -> None:
        self.told: dict[int, tuple[Outcome, str]] = {}
        self.times: Counter[int] = Counter()
        self.name = name
        self.fabric = fabric
        self._next = 1

    async def start(self) -> None:
        await self.fabric.subscribe(subjects.verdict(self.name), self._hear)

    def publish(self, *raws: bytes) -> list[int]:
        """Submit each by itself; returns their numbers."""
        numbers = []
        for raw in raws:
            subject = subjects.gossip(_KINDS.get(message_type(raw), "channel_update"))
            self.fabric.publish(subject, encode_submission(self.name, self._next, [raw]))
            numbers.append(self._next)
            self._next += 1
        return numbers

    async def submit(self, *raws: bytes, within_s: float = 15.0) -> list[Outcome]:
        """Submit, and wait for the verdicts."""
        numbers = self.publish(*raws)
        await until(lambda: all(n in self.told for n in numbers), "verdicts", within_s)
        return [self.told[n][0] for n in numbers]

    async def submit_until(self, raw: bytes, outcome: Outcome) -> None:
        """Submit again and again, as fronts do after LATER, until this is the verdict."""

        async def is_told() -> bool:
            (told,) = await self.submit(raw)
            assert told in {outcome, Outcome.LATER}
            return told is outcome

        await until(is_told, outcome.value)

    def _hear(self, received: Received) -> None:
        for verdict in read(Verdicts, received.payload).verdicts:
            for number in verdict.ids:
                self.told[number] = verdict.outcome, verdict.why
                self.times[number] += 1


@dataclass
class Scene:
    """A graph in service.

    Attributes:
        node: its bitcoind.
        sink: what the stream GRAPH holds, as a front sees it.
        admin: an operator's connection.
        later_s: how far the back's clock is ahead.
    """

    node: Regtest
    back: FabricClient
    admin: FabricClient
    front: Front
    sink: Sink
    rules: GraphRules = RULES
    trusts_fronts: bool = False
    later_s: float = 0.0
    graph: GraphService = field(init=False)
    writer: GraphWriter = field(init=False)

    async def start(self) -> None:
        """Start a back's graph; wait until it is loaded and follows the chain."""
        self.writer = GraphWriter(self.back, rules=QUICK_WRITER)
        self.graph = GraphService(
            self.back,
            self.writer,
            self.node.settings(),
            REGTEST.chain_hash,
            trusts_fronts=self.trusts_fronts,
            rules=self.rules,
            clock=lambda: time.time() + self.later_s,
            follow=lambda fabric, sink, refused: GraphFollower(
                fabric,
                sink,
                rules=QUICK,
                on_refused=refused,  # type: ignore[arg-type]
            ),
        )
        await self.graph.start()
        await until(lambda: self.graph.is_ready, "the table is loaded")

    async def stop(self) -> None:
        """End the back, in good order."""
        await self.graph.stop()

    async def die(self) -> None:
        """End the back at once: what is not in the stream is lost."""
        self.graph.mute()
        await self.graph.stop()

    async def synced(self) -> int:
        """Wait until all blocks are worked in, and that is in the stream; returns the height."""
        height = await self.node.height()
        name = bytes.fromhex(await self.node.call("getblockhash", height))[::-1]
        spends = self.graph.spends

        def is_there() -> bool:
            return (
                spends.tip is not None
                and spends.tip.hash == name
                and spends.height == height
                and not spends.outputs.doubtful
            )

        await until(is_there, f"block {height} is worked in")
        await self.writer.flushed()
        return height

    async def mine(self, blocks: int = 1) -> int:
        """Mine, and wait until it is worked in."""
        await self.node.mine(blocks)
        return await self.synced()

    def spent_height(self, scid: int) -> int:
        """As the table says."""
        entry = self.graph.table.channel(scid)
        assert entry is not None, "the channel is not in the table"
        return entry.spent_height

    def record(self, scid: int) -> ChannelRecord | None:
        """What fronts have of a channel."""
        value = self.sink.table.get((Kind.CHANNEL, scid))
        assert value is None or isinstance(value, ChannelRecord)
        return value

    async def in_stream(self, scid: int, spent_height: int) -> None:
        """Wait until fronts see a channel spent at this height (0: not)."""

        def is_so() -> bool:
            record = self.record(scid)
            return record is not None and record.spent_height == spent_height

        await until(is_so, f"in GRAPH the channel is spent at {spent_height}")


@asynccontextmanager
async def graph_scene(
    node: Regtest, folder: Path, *, rules: GraphRules = RULES, trusts_fronts: bool = False
) -> AsyncIterator[Scene]:
    """Run a graph with a broker of its own."""
    sink = Sink()
    async with (
        running(folder / "broker") as broker,
        client(broker, "back") as back,
        client(broker, "front") as fabric,
        client(broker, "admin") as admin,
    ):
        front = Front(fabric)
        await front.start()
        follower = GraphFollower(fabric, sink, rules=QUICK)
        follower.start()
        scene = Scene(node, back, admin, front, sink, rules, trusts_fronts)
        await scene.start()
        try:
            yield scene
        finally:
            await scene.stop()
            await follower.stop()


async def fill(scene: Scene, network: Network) -> None:
    """Have the whole network accepted."""
    for part in (network.channels, network.updates, network.nodes):
        told = await scene.front.submit(*part.values())
        assert told == [Outcome.ACCEPTED] * len(part)
    await scene.writer.flushed()


async def reorg(node: Regtest, depth: int, new: int) -> None:
    """Replace the last ``depth`` blocks by ``new`` blocks that are empty."""
    height = await node.height()
    await node.call("invalidateblock", await node.call("getblockhash", height - depth + 1))
    address = await node.wallet_call("getnewaddress")
    for _ in range(new):
        await node.call("generateblock", address, [])
