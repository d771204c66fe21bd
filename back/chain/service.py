"""The chain as the back uses it: client, wallet, feerates, watcher and publisher as one."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import structlog

from back.chain.bitcoind import Bitcoind, ChainSettings, Unauthorized, hash_from_rpc
from back.chain.block import outputs
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
from back.chain.feerates import FeerateLimits, Feerates, FeerateSource
from back.chain.interface import BlockStore, ConfirmedCallback, SpentCallback
from back.chain.publisher import Publisher, Rejected
from back.chain.wallet import BitcoindWallet
from back.chain.watcher import ALARM_EVERY_S, FIRST_RETRY_S, LAST_RETRY_S, Watcher
from shared.chain import REGTEST, Chain, Outpoint
from shared.errors import BackendError, BitcoindUnavailable, ChainRefused

if TYPE_CHECKING:
    from back.chain import interface

__all__ = ["BitcoindChain"]

log = structlog.get_logger()
Listener = TypeVar("Listener", bound=Callable[..., None])
_Callbacks: TypeAlias = tuple[Callable[..., None], Callable[[], None] | None]
"""Told, and untold after a reorg."""

FEERATES_EVERY_S = 60.0
DEEP = 6
"""Confirmations after which a transaction of ours is not published again."""
LOOK_BACK_BLOCKS = 144
"""How far below the tip a transaction that we publish may already be in a block."""


class BitcoindChain:
    """Everything on chain, through one bitcoind.

    Use: ``await start()`` (or let :meth:`run` do it), ``run()`` as a task, at last ``close()``.
    Watches may be set and transactions published at any time, also before the start.

    Args:
        settings: how to reach bitcoind.
        network: what it must follow.
        store: the last processed blocks over restarts.
        limits: bounds of feerates.
    """

    def __init__(
        self,
        settings: ChainSettings,
        network: Chain,
        store: BlockStore,
        limits: FeerateLimits | None = None,
    ) -> None:
        self._settings = settings
        self._network = network
        self._store = store
        self.bitcoind = Bitcoind(settings)
        self._feerate_source = FeerateSource(
            self.bitcoind, limits, has_market=network is not REGTEST
        )
        self._wallet = BitcoindWallet(self.bitcoind, lambda: self.feerates.funding_per_kw)
        self._watcher = Watcher(
            self.bitcoind,
            store,
            self._emit,
            is_regtest=network is REGTEST,
            came_back=self._open_wallet,
        )
        self.publisher = Publisher(self.bitcoind, self._rejected)
        self._callbacks: dict[Watch, list[_Callbacks]] = {}
        self._listeners: list[Callable[[ChainEvent], None]] = []
        self._rejected_listeners: list[Callable[[Rejected], None]] = []
        self._publications: dict[bytes, tuple[WatchConfirmed, ConfirmedCallback]] = {}
        self._undated: dict[bytes, bytes] = {}
        """Published before the tip was known: txid and an output's script."""
        self._is_started = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Wait until bitcoind answers, check that it is ours, open the wallet, ask for feerates.

        Raises:
            ChainRefused: it follows another network, lacks blocks that we need, or refuses our
                password.
        """
        retry_s, began, alarmed = FIRST_RETRY_S, time.monotonic(), 0.0
        while True:
            try:
                await self._check()
                await self._open_wallet()
                await self._feerate_source.refresh()
            except BackendError as error:
                self._refuse_password(error)
                now = time.monotonic()
                if not alarmed or now - alarmed >= ALARM_EVERY_S:
                    seconds = round(now - began)
                    log.error("bitcoind_away", why=str(error), seconds=seconds)  # noqa: TRY400
                    alarmed = now
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, LAST_RETRY_S)
            else:
                self._is_started = True
                return

    async def run(self) -> None:
        """Follow the chain, publish and ask for feerates until cancelled.

        Raises:
            ChainRefused: see :meth:`start`; or bitcoind's chain never held our last block.
            LeaseLost: another back took over: what the store says when blocks are stored.
        """
        if not self._is_started:
            await self.start()
        await self._watcher.load()
        self._date_publications()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watcher.run(), name="chain watcher")
                group.create_task(self.publisher.run(), name="chain publisher")
                group.create_task(self._follow_feerates(), name="chain feerates")
        except ExceptionGroup as failed:
            raise _first(failed) from failed

    async def close(self) -> None:
        """End the connections to bitcoind."""
        await self.bitcoind.close()

    def _refuse_password(self, error: BackendError) -> None:
        # a cookie may be that of bitcoind's last run: it will be written anew
        if isinstance(error, Unauthorized) and self._settings.cookie_file is None:
            raise ChainRefused(f"{error}: check user and password") from error

    async def _check(self) -> None:
        info = await self.bitcoind.call("getblockchaininfo")
        genesis = hash_from_rpc(await self.bitcoind.call("getblockhash", 0))
        if info["chain"] != self._network.rpc_name or genesis != self._network.chain_hash:
            raise ChainRefused(
                f"bitcoind at {self._settings.rpc_url} follows {info['chain']}, "
                f"this node is for {self._network.name}"
            )
        stored = await self._store.load_blocks()
        lowest = info.get("pruneheight", 0)
        if stored and lowest > stored[-1].height + 1:
            raise ChainRefused(
                f"bitcoind is pruned below block {lowest}, and the last that this node processed "
                f"is {stored[-1].height}: give it a bitcoind that has the blocks between"
            )
        if info["pruned"]:
            log.warning("bitcoind_is_pruned", lowest_height=lowest)
        await self._check_zmq()

    async def _check_zmq(self) -> None:
        known = {entry["type"] for entry in await self.bitcoind.call("getzmqnotifications")}
        for topic, address in (
            ("hashblock", self._settings.zmq_block),
            ("rawtx", self._settings.zmq_tx),
        ):
            if address and f"pub{topic}" not in known:
                log.warning("zmq_not_published", topic=topic, instead="polling")

    async def _open_wallet(self) -> None:
        if self._settings.wallet:
            await self._wallet.open()

    async def _follow_feerates(self) -> None:
        while True:
            try:
                await self._feerate_source.refresh()
            except BitcoindUnavailable as error:
                log.debug("feerates_wait", why=str(error))
            await asyncio.sleep(FEERATES_EVERY_S)

    # --- what it knows -------------------------------------------------------------------------

    @property
    def wallet(self) -> BitcoindWallet:
        """The on-chain wallet."""
        return self._wallet

    @property
    def feerates(self) -> Feerates:
        """The present estimates."""
        return self._feerate_source.current

    @property
    def tip(self) -> BlockRef | None:
        """The last processed block; None before the first."""
        return self._watcher.branch.tip

    @property
    def is_synced(self) -> bool:
        """Whether bitcoind answers, follows the network, and we have processed its tip."""
        return self._watcher.is_synced

    # --- what it tells -------------------------------------------------------------------------

    def listen(self, listener: Callable[[ChainEvent], None]) -> Callable[[], None]:
        """Hear every event; return what stops it."""
        return _listen(self._listeners, listener)

    def listen_feerates(self, listener: Callable[[Feerates], None]) -> Callable[[], None]:
        """Hear every change of the feerates; return what stops it."""
        return _listen(self._feerate_source.listeners, listener)

    def listen_rejected(self, listener: Callable[[Rejected], None]) -> Callable[[], None]:
        """Hear why bitcoind refuses a transaction of ours; return what stops it."""
        return _listen(self._rejected_listeners, listener)

    def watch_confirmed(
        self,
        txid: bytes,
        script_pubkey: bytes,
        min_depth: int,
        since_height: int,
        told: ConfirmedCallback,
        untold: Callable[[], None] | None = None,
    ) -> WatchConfirmed:
        """Tell when ``txid`` is ``min_depth`` deep; see :class:`back.chain.interface.Chain`."""
        watch = WatchConfirmed(txid, script_pubkey, min_depth, since_height)
        self._set(watch, told, untold)
        return watch

    def watch_spent(
        self,
        outpoint: Outpoint,
        script_pubkey: bytes,
        since_height: int,
        told: SpentCallback,
        untold: Callable[[], None] | None = None,
    ) -> WatchSpent:
        """Tell what spends ``outpoint``; see :class:`back.chain.interface.Chain`."""
        watch = WatchSpent(outpoint, script_pubkey, since_height)
        self._set(watch, told, untold)
        return watch

    def _set(
        self, watch: Watch, told: Callable[..., None], untold: Callable[[], None] | None
    ) -> None:
        self._callbacks.setdefault(watch, []).append((told, untold))
        self._watcher.add(watch)

    def unwatch(self, watch: Watch, told: Callable[..., None] | None = None) -> None:
        """Forget a watch: for ``told`` alone, or for all. Nothing if it is not there."""
        left = [pair for pair in self._callbacks.get(watch, ()) if told not in {None, pair[0]}]
        if left:
            self._callbacks[watch] = left
        else:
            self._callbacks.pop(watch, None)
            self._watcher.remove(watch)

    def publish(self, transaction: bytes, what: str) -> None:
        """Broadcast now and again at each block until it is deep in the chain. Idempotent.

        Raises:
            ValueError: these bytes are no transaction.
        """
        txid = self.publisher.publish(transaction, what)
        if txid not in self._publications:
            self._undated[txid] = outputs(transaction)[0].script_pubkey
            self._date_publications()

    def _date_publications(self) -> None:
        """Watch what we publish, from a height that makes sense at the present tip."""
        if self.tip is None:
            return
        since_height = max(0, self.tip.height - LOOK_BACK_BLOCKS)
        while self._undated:
            txid, script_pubkey = self._undated.popitem()
            told = partial(self._is_deep, txid)
            # known before it is set: it may be told at once
            watch = WatchConfirmed(txid, script_pubkey, DEEP, since_height)
            self._publications[txid] = (watch, told)
            self._set(watch, told, None)

    def _is_deep(self, txid: bytes, *_: object) -> None:
        self.stop_publishing(txid)

    def stop_publishing(self, txid: bytes) -> None:
        """Publish it no more: nobody wants it, or it is deep in the chain."""
        self.publisher.forget(txid)
        self._undated.pop(txid, None)
        publication = self._publications.pop(txid, None)
        if publication is not None:
            self.unwatch(*publication)

    def _rejected(self, rejected: Rejected) -> None:
        if rejected.is_permanent:
            self.stop_publishing(rejected.txid)
        for listener in list(self._rejected_listeners):
            listener(rejected)

    def _emit(self, event: ChainEvent) -> None:
        for listener in list(self._listeners):
            listener(event)
        match event:
            case Confirmed(watch=watch):
                for told, _ in list(self._callbacks.get(watch, ())):
                    told(event.height, event.transaction_index, event.transaction)
            case Spent(watch=watch):
                for told, _ in list(self._callbacks.get(watch, ())):
                    told(event.transaction, event.height)
            case Unconfirmed(watch=watch):
                for _, untold in list(self._callbacks.get(watch, ())):
                    if untold is not None:
                        untold()
            case BlockConnected() | BlockDisconnected():
                self._date_publications()
                self.publisher.again()


def _listen(listeners: list[Listener], listener: Listener) -> Callable[[], None]:
    listeners.append(listener)

    def stop() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return stop


def _first(failed: ExceptionGroup[Exception]) -> Exception:
    """The first error within nested groups: the others are its followers."""
    error: Exception = failed
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _conforms(chain: BitcoindChain) -> "interface.Chain":
    return chain  # for the type checker
