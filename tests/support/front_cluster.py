"""A front over the memory fabric, between scripted peers and a scripted back."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.front_in_test import port_of, running_front
from support.lightning_peer import LightningPeer
from support.scripted_back import ScriptedBack, ScriptedSession

from front.process import FrontProcess
from shared.fabric.memory import MemoryBroker, MemoryFabric

__all__ = ["Cluster", "cluster"]


@dataclass
class Cluster:
    """All parts of a test.

    Attributes:
        broker: carries, loses and cuts.
        front: the one under test.
        back: the owner of all shards.
    """

    broker: MemoryBroker
    front: FrontProcess
    back: ScriptedBack

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        return self.back.node_id

    @property
    def port(self) -> int:
        """Where peers connect."""
        return port_of(self.front)

    async def peer(self, **how: Any) -> LightningPeer:
        """Connect a peer that has finished BOLT 8."""
        return await LightningPeer.connect(self.node_id, "127.0.0.1", self.port, **how)

    @asynccontextmanager
    async def connected(self, **how: Any) -> AsyncIterator[tuple[LightningPeer, ScriptedSession]]:
        """Connect a peer that has finished `init`; yields it and its session at the back."""
        async with await self.peer(**how) as peer:
            await peer.init()
            yield peer, await self.back.next_session()

    async def another_back(self, **changes: Any) -> ScriptedBack:
        """Start another owner of all shards, with the same key and a higher epoch."""
        fabric = MemoryFabric(self.broker, "another")
        await fabric.start()
        back = ScriptedBack(fabric, self.back.private, epoch=self.back.epoch + 1)
        for name, value in changes.items():
            setattr(back, name, value)
        await back.start()
        return back

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric of the front, 0 if it was never counted."""
        found = self.front.metrics.registry.get_sample_value(f"squall_front_{name}", labels)
        return found or 0.0


@asynccontextmanager
async def cluster(
    *, with_back: bool = True, private: bytes | None = None, **changes: Any
) -> AsyncIterator[Cluster]:
    """Start back and front.

    Args:
        with_back: start the back; else it is only there to know the keys.
        private: the node's private key.
        changes: settings of the front.
    """
    broker = MemoryBroker()
    fabric = MemoryFabric(broker, "back")
    await fabric.start()
    back = ScriptedBack(fabric, private or secrets.token_bytes(32))
    if with_back:
        await back.start()
    try:
        async with running_front(MemoryFabric(broker, "front"), **changes) as front:
            yield Cluster(broker, front, back)
    finally:
        for client in tuple(broker.clients):
            await client.stop()
        await back.stop()
