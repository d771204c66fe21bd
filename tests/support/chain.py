"""The chain service under test: a store in memory, and everything that was told, in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from support.waiting import until

from back.chain.events import BlockConnected, BlockRef, ChainEvent
from back.chain.regtest import Regtest
from back.chain.service import BitcoindChain
from shared.chain import REGTEST

E = TypeVar("E")


class MemoryBlockStore:
    """The last processed blocks, over restarts of the service in one test."""

    def __init__(self, blocks: Sequence[BlockRef] = ()) -> None:
        self.blocks = list(blocks)

    async def load_blocks(self) -> Sequence[BlockRef]:
        return list(self.blocks)

    async def store_blocks(self, fork_height: int, connected: Sequence[BlockRef]) -> None:
        kept = [block for block in self.blocks if block.height <= fork_height]
        self.blocks = [*kept, *connected]
        heights = [block.height for block in self.blocks]
        assert heights == list(range(heights[0], heights[0] + len(heights)))


class Heard:
    """A running chain service and its events; ``task`` is its life."""

    task: "asyncio.Task[None]"
    is_failure_known = False

    def __init__(self, chain: BitcoindChain, node: Regtest) -> None:
        self.chain = chain
        self.node = node
        self.events: list[ChainEvent] = []
        chain.listen(self.events.append)

    def all(self, kind: type[E]) -> list[E]:
        """All events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    async def failure(self) -> BaseException | None:
        """Wait until the service gave up, and return why."""
        await asyncio.wait({self.task}, timeout=15)
        assert self.task.done()
        self.is_failure_known = True
        return self.task.exception()

    async def first(self, kind: type[E], timeout_s: float = 15.0) -> E:
        """Wait for the first event of a class."""
        await until(lambda: self.all(kind), kind.__name__, timeout_s)
        return self.all(kind)[0]

    async def synced(self) -> int:
        """Wait until the service is at bitcoind's tip; return the height."""
        height = await self.node.height()
        name = bytes.fromhex(await self.node.call("getblockhash", height))[::-1]
        await until(
            lambda: self.chain.is_synced and self.chain.tip == BlockRef(height, name),
            f"tip {height}",
        )
        return height

    async def mine(self, blocks: int = 1) -> int:
        """Mine, and wait until it is processed."""
        await self.node.mine(blocks)
        return await self.synced()

    def heights(self) -> list[int]:
        """Heights of the connected blocks, in order."""
        return [event.height for event in self.all(BlockConnected)]


@asynccontextmanager
async def following(
    node: Regtest, store: MemoryBlockStore | None = None, **settings: Any
) -> AsyncIterator[Heard]:
    """Run the chain service against ``node`` for the length of a block, synced at its beginning."""
    async with running(node, store, **settings) as heard:
        await heard.synced()
        yield heard


@asynccontextmanager
async def running(
    node: Regtest, store: MemoryBlockStore | None = None, **settings: Any
) -> AsyncIterator[Heard]:
    """Like :func:`following`, without waiting for anything: bitcoind may be away."""
    chain = BitcoindChain(
        node.settings(**{"wallet": "chain-test", **settings}),
        REGTEST,
        MemoryBlockStore() if store is None else store,
    )
    async with chain:
        heard = Heard(chain, node)
        heard.task = asyncio.create_task(chain.run())
        try:
            yield heard
        finally:
            heard.task.cancel()
            await asyncio.wait({heard.task})
            if not heard.is_failure_known:
                with contextlib.suppress(asyncio.CancelledError):
                    heard.task.result()
