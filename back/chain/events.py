"""What is watched on the chain, and what is told about it. Values only.

Hashes and txids are in internal byte order, transactions raw.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from shared.chain import Outpoint

__all__ = [
    "BlockConnected",
    "BlockDisconnected",
    "BlockRef",
    "ChainEvent",
    "Confirmed",
    "Spent",
    "Unconfirmed",
    "Watch",
    "WatchConfirmed",
    "WatchSpent",
]


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block by place and name."""

    height: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.height} {self.hash[::-1].hex()}"


@dataclass(frozen=True, slots=True)
class WatchConfirmed:
    """Tell when ``txid`` has ``min_depth`` confirmations; 1 is in the tip.

    Attributes:
        script_pubkey: of one of its outputs; finds a confirmed one without reading blocks.
        since_height: it is not in a block below.
    """

    txid: bytes
    script_pubkey: bytes
    min_depth: int
    since_height: int


@dataclass(frozen=True, slots=True)
class WatchSpent:
    """Tell what spends ``outpoint``, in the mempool and in a block.

    Attributes:
        since_height: it is not spent in a block below.
    """

    outpoint: Outpoint
    script_pubkey: bytes
    since_height: int


Watch: TypeAlias = WatchConfirmed | WatchSpent


@dataclass(frozen=True, slots=True)
class BlockConnected:
    """The chain is at ``height`` now.

    Attributes:
        time: of the block's header, in unix seconds.
    """

    height: int
    hash: bytes
    time: int


@dataclass(frozen=True, slots=True)
class BlockDisconnected:
    """A reorg took this block out; the tip is its parent."""

    height: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The watched transaction is ``watch.min_depth`` deep.

    Attributes:
        height: of its block.
        transaction_index: its place in the block.
    """

    watch: WatchConfirmed
    height: int
    block_hash: bytes
    transaction_index: int
    transaction: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spent:
    """``transaction`` spends the watched outpoint.

    Attributes:
        height: of its block; None while it is in the mempool.
    """

    watch: WatchSpent
    transaction: bytes = field(repr=False)
    height: int | None


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What was told by Confirmed, or by Spent with a height, was taken out by a reorg."""

    watch: Watch


ChainEvent: TypeAlias = BlockConnected | BlockDisconnected | Confirmed | Spent | Unconfirmed
