"""What the back may ask of the chain; see :class:`back.chain.service.BitcoindChain`.

Nothing here blocks except what is ``async``; callbacks are plain functions, called in the event
loop, in chain order. A callback may come more than once with the same news (after a restart, a
reorg, or when the same watch is set again): it must be idempotent.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from back.chain.events import (
    BlockConnected,
    BlockDisconnected,
    BlockRef,
    ChainEvent,
    Confirmed,
    Spent,
    Unconfirmed,
    Watch,
    WatchConfirmed,
    WatchSpent,
)
from back.chain.feerates import Feerates
from back.chain.wallet import Balance, FundingTransaction, WalletTransaction
from shared.chain import Outpoint

__all__ = [
    "Balance",
    "BlockConnected",
    "BlockDisconnected",
    "BlockRef",
    "BlockStore",
    "Chain",
    "ChainEvent",
    "Confirmed",
    "ConfirmedCallback",
    "Feerates",
    "FundingTransaction",
    "Spent",
    "SpentCallback",
    "Unconfirmed",
    "Wallet",
    "WalletTransaction",
    "Watch",
    "WatchConfirmed",
    "WatchSpent",
]

ConfirmedCallback: TypeAlias = Callable[[int, int, bytes], None]
"""Height of the block, place in it, raw transaction."""
SpentCallback: TypeAlias = Callable[[bytes, int | None], None]
"""Raw spending transaction, and the height of its block; None while it is in the mempool."""


class BlockStore(Protocol):
    """Where the last processed blocks are kept over restarts."""

    async def load_blocks(self) -> Sequence[BlockRef]:
        """Return them, oldest first, without holes; none at the very first start."""

    async def store_blocks(self, fork_height: int, connected: Sequence[BlockRef]) -> None:
        """Forget every block above ``fork_height``, then add ``connected`` (oldest first).

        Called after the events of these blocks were delivered. May forget what is more than
        :data:`back.chain.tip.KEPT_BLOCKS` below the tip.
        """


class Wallet(Protocol):
    """The on-chain wallet: bitcoind's."""

    async def fund(
        self, script_pubkey: bytes, amount_sat: int, feerate_per_kw: int | None = None
    ) -> FundingTransaction:
        """Make and sign a transaction that pays ``amount_sat`` to the script; do not publish it.

        All inputs are segwit and locked until :meth:`rollback` or until it is published.

        Raises:
            CommandError: not enough money, or the wallet is locked; nothing is locked by us.
            BackendError: bitcoind is away.
        """

    async def rollback(self, transaction: bytes) -> None:
        """Free the inputs of a transaction that will never be published. Idempotent."""

    async def locked_outpoints(self) -> frozenset[Outpoint]:
        """Return every outpoint that is locked in the wallet."""

    async def free_locks(self, keep: frozenset[Outpoint] = frozenset()) -> frozenset[Outpoint]:
        """Free all locks but ``keep`` and those made since our start; return the freed.

        Once at each start: ``keep`` is what stored channels hold.
        """

    async def balance(self) -> Balance:
        """Return what is in the wallet, in satoshi."""

    async def new_address(self) -> str:
        """Return a fresh P2WPKH address."""

    async def new_script_pubkey(self) -> bytes:
        """Return the scriptpubkey of a fresh P2WPKH address."""

    async def send(self, address: str, amount_sat: int, feerate_per_kw: int | None = None) -> bytes:
        """Pay an address at once; return the txid (internal order).

        Raises:
            CommandError: a wrong address or amount, not enough money, or the wallet is locked.
        """

    async def transactions(self, count: int = 30, skip: int = 0) -> list[WalletTransaction]:
        """Return the wallet's transactions, newest first."""


class Chain(Protocol):
    """The chain, as channels, the API and the graph need it."""

    @property
    def wallet(self) -> Wallet:
        """The on-chain wallet."""

    @property
    def feerates(self) -> Feerates:
        """The present estimates."""

    @property
    def tip(self) -> BlockRef | None:
        """The last processed block; None before the first."""

    @property
    def is_synced(self) -> bool:
        """Whether bitcoind answers, follows the network, and we have processed its tip."""

    def publish(self, transaction: bytes, what: str) -> None:
        """Broadcast now and again at each block until it is confirmed. Idempotent."""

    def watch_confirmed(
        self,
        txid: bytes,
        script_pubkey: bytes,
        min_depth: int,
        since_height: int,
        told: ConfirmedCallback,
        untold: Callable[[], None] | None = None,
    ) -> WatchConfirmed:
        """Tell when ``txid`` has ``min_depth`` confirmations (1: it is in a block).

        Also if it has them already, in a block of ``since_height`` or later.
        ``script_pubkey`` is of one of its outputs: it finds an unspent one without reading blocks.
        ``untold``: after ``told``, a reorg took it out.
        """

    def watch_spent(
        self,
        outpoint: Outpoint,
        script_pubkey: bytes,
        since_height: int,
        told: SpentCallback,
        untold: Callable[[], None] | None = None,
    ) -> WatchSpent:
        """Tell every transaction that spends the outpoint: in the mempool, then in a block.

        Also if it is spent already, in a block of ``since_height`` or later.
        ``untold``: after ``told`` with a height, a reorg took it out.
        """

    def unwatch(self, watch: Watch, told: Callable[..., None] | None = None) -> None:
        """Forget a watch: for ``told`` alone, or for all. Nothing if it is not there."""

    def listen_feerates(self, listener: Callable[[Feerates], None]) -> Callable[[], None]:
        """Hear every change of the feerates; return what stops it."""

    def listen(self, listener: Callable[[ChainEvent], None]) -> Callable[[], None]:
        """Hear every event; return what stops it."""
