"""Gets our transactions into the chain: published now and again at each block until they are deep.

Publishing is idempotent: what is in the mempool or the chain already is fine. What bitcoind
refuses is tried again too, because the reason may go away (a parent arrives, a rival is reorganised
out, the mempool empties); each new reason is reported once.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog

from back.chain.bitcoind import Bitcoind, hash_to_rpc
from back.chain.block import txid
from shared.errors import BackendError, RpcError

__all__ = ["Publisher", "Rejected", "Verdict", "judge"]

log = structlog.get_logger()

RPC_VERIFY_ERROR = -25
RPC_VERIFY_REJECTED = -26
RPC_VERIFY_ALREADY_IN_CHAIN = -27
RPC_DESERIALIZATION_ERROR = -22
GIVE_UP_BLOCKS = 2016
"""After so many refusals in a row, a block each: whoever asked for it has moved on."""
RETRY_S = 1.0

_KNOWN = ("txn-already-in-mempool", "txn-already-known", "txn-same-nonwitness-data-in-mempool")
_INVALID = (
    "mandatory-script-verify-flag-failed",
    "mempool-script-verify-flag-failed",
    "bad-txns-in-belowout",
    "bad-txns-vin-empty",
    "bad-txns-vout-",
    "bad-txns-inputs-duplicate",
    "bad-txns-oversize",
    "bad-txns-prevout-null",
)


class Verdict(Enum):
    """What became of one try."""

    ACCEPTED = auto()
    """bitcoind has it, and tells its peers."""
    KNOWN = auto()
    """It is in the chain or the mempool already."""
    WAIT = auto()
    """Not now: a parent is missing, a rival is there, or the fee is too low at present."""
    REJECTED = auto()
    """Never: the transaction itself is wrong."""


def judge(code: int, reason: str) -> Verdict:
    """Judge bitcoind's refusal of ``sendrawtransaction``."""
    if code == RPC_VERIFY_ALREADY_IN_CHAIN or reason.startswith(_KNOWN):
        return Verdict.KNOWN
    if code == RPC_DESERIALIZATION_ERROR:
        return Verdict.REJECTED
    if code in {RPC_VERIFY_ERROR, RPC_VERIFY_REJECTED} and reason.startswith(_INVALID):
        return Verdict.REJECTED
    return Verdict.WAIT


@dataclass(frozen=True, slots=True)
class Rejected:
    """bitcoind refuses a transaction of ours.

    Attributes:
        is_permanent: the transaction itself is wrong; it is not tried again.
    """

    txid: bytes
    what: str
    reason: str
    is_permanent: bool


@dataclass(slots=True)
class _Pending:
    transaction: bytes = field(repr=False)
    what: str
    is_due: bool = True
    refusals: int = 0
    reason: str = ""


class Publisher:
    """All transactions of ours that are not deep in the chain.

    Args:
        report: called with each new reason for which bitcoind refuses one.
    """

    def __init__(self, bitcoind: Bitcoind, report: Callable[[Rejected], None]) -> None:
        self._bitcoind = bitcoind
        self._report = report
        self._pending: dict[bytes, _Pending] = {}
        self._wake = asyncio.Event()

    @property
    def pending(self) -> frozenset[bytes]:
        """Txids that are not deep in the chain yet."""
        return frozenset(self._pending)

    def publish(self, transaction: bytes, what: str) -> bytes:
        """Publish it now, and again at each block; return its txid. Idempotent.

        Raises:
            ValueError: these bytes are no transaction.
        """
        name = txid(transaction)
        pending = self._pending.setdefault(name, _Pending(transaction, what))
        pending.is_due = True
        self._wake.set()
        return name

    def forget(self, name: bytes) -> None:
        """Stop publishing it: it is deep enough, or nobody wants it any more."""
        self._pending.pop(name, None)

    def again(self) -> None:
        """A block came or went: publish everything again."""
        for pending in self._pending.values():
            pending.is_due = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled. While bitcoind is away it keeps what it has."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._publish_due()
            except BackendError as error:
                log.warning("publishing_waits", why=str(error), transactions=len(self._pending))
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _publish_due(self) -> None:
        # in the order they came: a parent before its child
        for name, pending in list(self._pending.items()):
            if not pending.is_due or name not in self._pending:
                continue
            verdict, reason = await self._try(pending.transaction)
            pending.is_due = False
            self._note(name, pending, verdict, reason)

    async def _try(self, transaction: bytes) -> tuple[Verdict, str]:
        try:
            # 0: no fee is too high for it; what a commitment pays was settled with the peer
            await self._bitcoind.call("sendrawtransaction", transaction.hex(), 0)
        except RpcError as error:
            return judge(error.code, error.reason), error.reason
        return Verdict.ACCEPTED, ""

    def _note(self, name: bytes, pending: _Pending, verdict: Verdict, reason: str) -> None:
        if verdict in {Verdict.ACCEPTED, Verdict.KNOWN}:
            if pending.refusals or not pending.reason:
                log.info("transaction_published", txid=hash_to_rpc(name), what=pending.what)
            pending.refusals, pending.reason = 0, verdict.name
            return
        pending.refusals += 1
        is_permanent = verdict is Verdict.REJECTED or pending.refusals >= GIVE_UP_BLOCKS
        if is_permanent:
            self.forget(name)
        if reason != pending.reason or is_permanent:
            pending.reason = reason
            log.warning(
                "transaction_refused",
                txid=hash_to_rpc(name),
                what=pending.what,
                why=reason,
                is_permanent=is_permanent,
            )
            self._report(Rejected(name, pending.what, reason, is_permanent))
