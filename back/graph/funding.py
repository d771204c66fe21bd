"""Funding outputs on the chain: from a short_channel_id to an unspent output, through bitcoind.

A short_channel_id names a block, a transaction by its place, an output. Only the block tells which
transaction that is. Blocks are fetched raw and walked in a thread that pauses again and again, and
of each only its P2WSH outputs are kept, for other channels of the same block. Whether an output is
unspent is asked for many at once.

A pruned bitcoind lacks old blocks: their channels are `Absent.PRUNED`, counted, and one line in the
log says what to do.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import structlog

from back.chain.bitcoind import Bitcoind, hash_from_rpc, sat_from_btc
from back.chain.block import Output, p2wsh_outputs
from back.graph.acceptance import Absent, Funding, Funds, funding_height
from shared.chain import Outpoint
from shared.errors import BitcoindUnavailable, RpcError

__all__ = ["Coin", "FundingLookup", "FundingRules"]

RPC_OUT_OF_RANGE = -8
LAST_OUTPUT = 0xFFFF
"""That a short_channel_id can name."""
PAUSE_EVERY = 64
"""Transactions between two pauses of the thread that walks a block."""
PAUSE_S = 0.0001

log = structlog.get_logger()

_Outputs: TypeAlias = dict[int, tuple[bytes, Output]]
"""Of one block, by place (the lower 40 bits of a short_channel_id): txid and output."""


class Coin(NamedTuple):
    """An unspent output.

    Attributes:
        confirmations: 1 is in the tip.
    """

    confirmations: int
    amount_sat: int


@dataclass(frozen=True, slots=True)
class FundingRules:
    """Limits of look-ups.

    Attributes:
        parallel_blocks: fetched at once.
        cached_blocks: kept at most.
        cached_outputs: of all kept blocks together; some 200 bytes each.
    """

    parallel_blocks: int = 2
    cached_blocks: int = 1_000
    cached_outputs: int = 100_000


class FundingLookup:
    """Looks funding outputs up.

    Args:
        bitcoind: a client of its own: look-ups must not hold up what channels ask.
        executor: walks blocks.
        rules: limits.

    Attributes:
        fetched: blocks fetched.
        pruned: channels that could not be looked up because bitcoind has pruned their block.
    """

    def __init__(
        self, bitcoind: Bitcoind, executor: Executor, rules: FundingRules = FundingRules()
    ) -> None:
        self.fetched = 0
        self.pruned = 0
        self._bitcoind = bitcoind
        self._executor = executor
        self._rules = rules
        self._fetching = asyncio.Semaphore(rules.parallel_blocks)
        self._blocks: OrderedDict[bytes, _Outputs] = OrderedDict()
        self._cached_outputs = 0

    async def locate(self, short_channel_ids: Collection[int]) -> dict[int, Funds]:
        """Find the outputs at these places, spent or not, or say why there is none.

        One block is fetched once, in the order of the chain.

        Raises:
            BitcoindUnavailable: it is away; what was fetched is kept for the next attempt.
        """
        heights = sorted({funding_height(scid) for scid in short_channel_ids})
        hashes = await self._hashes(heights)
        found = await asyncio.gather(
            *(self._outputs(block_hash) for block_hash in hashes), return_exceptions=True
        )
        blocks: dict[int, _Outputs | Absent] = {}
        for height, outputs in zip(heights, found, strict=True):
            if isinstance(outputs, BaseException):
                raise outputs
            blocks[height] = outputs
        funds = {scid: _at(blocks[funding_height(scid)], scid) for scid in short_channel_ids}
        self.pruned += sum(one is Absent.PRUNED for one in funds.values())
        return funds

    async def unspent(self, outpoints: Sequence[Outpoint]) -> list[Coin | None]:
        """Return the coin at each outpoint as of bitcoind's tip, None where it is spent.

        Raises:
            BitcoindUnavailable: it is away.
        """
        calls = [("gettxout", (outpoint.rpc_txid, outpoint.index, False)) for outpoint in outpoints]
        return [_coin(answer) for answer in await self._bitcoind.batch(calls)]

    async def _hashes(self, heights: Sequence[int]) -> list[bytes | None]:
        answers = await self._bitcoind.batch([("getblockhash", (height,)) for height in heights])
        return [_hash(answer) for answer in answers]

    async def _outputs(self, block_hash: bytes | None) -> _Outputs | Absent:
        if block_hash is None:
            return Absent.NO_BLOCK
        async with self._fetching:
            if (known := self._blocks.get(block_hash)) is not None:
                self._blocks.move_to_end(block_hash)
                return known
            try:
                block = await self._bitcoind.raw_block(block_hash)
            except RpcError as error:
                self._say_pruned(error)
                return Absent.PRUNED
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._executor, _walked, block)
        self.fetched += 1
        self._keep(block_hash, outputs)
        return outputs

    def _keep(self, block_hash: bytes, outputs: _Outputs) -> None:
        self._blocks[block_hash] = outputs
        self._cached_outputs += len(outputs)
        while len(self._blocks) > 1 and (
            len(self._blocks) > self._rules.cached_blocks
            or self._cached_outputs > self._rules.cached_outputs
        ):
            _, old = self._blocks.popitem(last=False)
            self._cached_outputs -= len(old)

    def _say_pruned(self, error: RpcError) -> None:
        if not self.pruned:
            log.warning(
                "gossip_unverifiable",
                why=error.reason,
                advice="bitcoind is pruned: channels funded in blocks that it dropped are ignored; "
                "for the whole routing table give the back a bitcoind that keeps all blocks",
            )


def _walked(block: bytes) -> _Outputs:
    """Take the P2WSH outputs out of a block; runs in a thread."""
    found: _Outputs = {}
    try:
        for place, (txid, outputs) in enumerate(p2wsh_outputs(block)):
            for index, output in outputs:
                if index <= LAST_OUTPUT:
                    found[place << 16 | index] = txid, output
            if place % PAUSE_EVERY == PAUSE_EVERY - 1:
                # Let the event loop have the interpreter at once, not when its lock expires.
                time.sleep(PAUSE_S)
    except ValueError as error:
        raise BitcoindUnavailable(f"bitcoind's answer to getblock: {error}") from None
    return found


def _at(block: _Outputs | Absent, short_channel_id: int) -> Funds:
    if isinstance(block, Absent):
        return block
    if (found := block.get(short_channel_id & 0xFF_FFFF_FFFF)) is None:
        return Absent.NO_OUTPUT
    txid, output = found
    return Funding(txid, output.amount_sat, output.script_pubkey)


def _hash(answer: object) -> bytes | None:
    if isinstance(answer, str):
        return hash_from_rpc(answer)
    if isinstance(answer, RpcError) and answer.code == RPC_OUT_OF_RANGE:
        return None
    raise BitcoindUnavailable(f"bitcoind's answer to getblockhash: {answer!r:.200}")


def _coin(answer: object) -> Coin | None:
    if answer is None:
        return None
    if not isinstance(answer, dict):
        raise BitcoindUnavailable(f"bitcoind's answer to gettxout: {answer!r:.200}")
    return Coin(int(answer["confirmations"]), sat_from_btc(answer["value"]))
