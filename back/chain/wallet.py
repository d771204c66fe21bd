"""The on-chain wallet: bitcoind's, used so that channels can rely on what it makes.

A funding transaction has segwit inputs only: its txid must not change once the commitments that
spend it are signed. Its inputs stay locked until it is published or rolled back. Locks are written
to the wallet's file, so that a restart of bitcoind cannot spend the inputs elsewhere; what a crash
of ours left behind is freed at the next start by :meth:`BitcoindWallet.free_locks`. So the wallet
is Squall's own: a lock made in it by hand does not outlive a start.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from back.chain import block
from back.chain.bitcoind import (
    Bitcoind,
    Call,
    hash_from_rpc,
    sat_from_btc,
    sat_to_btc,
)
from back.chain.feerates import sat_per_vb
from shared.chain import Outpoint
from shared.errors import BitcoindUnavailable, CommandError, RpcError

__all__ = ["Balance", "BitcoindWallet", "FundingTransaction", "WalletTransaction"]

log = structlog.get_logger()

RPC_WALLET_NOT_FOUND = -18
RPC_WALLET_ALREADY_LOADED = -35
RPC_WALLET_ERROR = -4
BEING_LOADED = "exclusive lock"
"""What bitcoind says of a wallet that it is loading already, or that another one has."""
CHANGE_TYPE = "bech32"


@dataclass(frozen=True, slots=True)
class Balance:
    """What the wallet holds, in satoshi; locked coins included.

    Attributes:
        confirmed_sat: in blocks, and not spent by anything of ours.
        unconfirmed_sat: on its way to us, our own change included.
    """

    confirmed_sat: int
    unconfirmed_sat: int


@dataclass(frozen=True, slots=True)
class FundingTransaction:
    """A signed transaction that is not published.

    Attributes:
        transaction: raw.
        output_index: of the output that pays the script asked for.
    """

    transaction: bytes = field(repr=False)
    output_index: int
    fee_sat: int

    @property
    def txid(self) -> bytes:
        """Internal order."""
        return block.txid(self.transaction)


@dataclass(frozen=True, slots=True)
class WalletTransaction:
    """One entry of the wallet's history.

    Attributes:
        amount_sat: what it changed, without the fee; negative if it went out.
        fee_sat: what we paid for it; 0 for received ones.
        block_hash: None while unconfirmed.
        confirmations: 0 while unconfirmed, negative if a conflicting one is confirmed.
        time_s: when the wallet saw it, unix seconds.
    """

    txid: bytes
    address: str
    amount_sat: int
    fee_sat: int
    block_hash: bytes | None
    confirmations: int
    time_s: int


class BitcoindWallet:
    """The wallet named in the settings.

    ``feerate_per_kw`` tells what to pay where the caller does not say.
    """

    def __init__(self, bitcoind: Bitcoind, feerate_per_kw: Callable[[], int]) -> None:
        self._bitcoind = bitcoind
        self._feerate_per_kw = feerate_per_kw
        # selecting coins, locking them and avoiding legacy ones is one act
        self._selecting = asyncio.Lock()
        self._locked_now: set[Outpoint] = set()
        """Locked since our start: their openings go on, whatever is stored."""

    async def open(self) -> None:
        """Load the wallet; make it if it does not exist.

        Raises:
            BitcoindUnavailable: no answer.
            RpcError: it exists but cannot be loaded.
        """
        name = self._bitcoind.settings.wallet
        if name in await self._bitcoind.call("listwallets"):
            return
        try:
            await self._bitcoind.call("loadwallet", name, True)
        except RpcError as error:
            if error.code == RPC_WALLET_ALREADY_LOADED:
                return
            if error.code == RPC_WALLET_ERROR and BEING_LOADED in str(error):
                # Asked before, without an answer in time: a large wallet takes its time.
                raise BitcoindUnavailable("the wallet is being loaded") from None
            if error.code != RPC_WALLET_NOT_FOUND:
                raise
            await self._bitcoind.call("createwallet", wallet_name=name, load_on_startup=True)
            log.info("wallet_created", wallet=name)

    # --- funding ---------------------------------------------------------------------------------

    async def fund(
        self, script_pubkey: bytes, amount_sat: int, feerate_per_kw: int | None = None
    ) -> FundingTransaction:
        """Make and sign a transaction that pays the script, and lock its inputs.

        Errors as :meth:`back.chain.interface.Wallet.fund`.
        """
        empty = _one_output(script_pubkey, amount_sat)
        feerate = feerate_per_kw or self._feerate_per_kw()
        # held until the locks are there: two openings must not choose the same coins
        async with self._selecting:
            made = await self._select_coins(empty, feerate)
            unsigned = bytes.fromhex(made["hex"])
            self._locked_now.update(block.inputs(unsigned))
            try:
                coins = [_rpc_form(outpoint) for outpoint in block.inputs(unsigned)]
                await self._bitcoind.wallet_call("lockunspent", False, coins, True)
                transaction = await self._sign(made["hex"])
                output_index = _find_output(transaction, script_pubkey, amount_sat)
            except BaseException:
                # shielded: a cancelled opening must not keep its inputs
                await asyncio.shield(self.rollback(unsigned))
                raise
        return FundingTransaction(transaction, output_index, sat_from_btc(made["fee"]))

    async def _select_coins(self, transaction: bytes, feerate_per_kw: int) -> Any:  # noqa: ANN401
        unspent = await self._bitcoind.wallet_call("listunspent", 0)
        legacy = [_rpc_outpoint(coin) for coin in unspent if not _is_segwit(coin)]
        if legacy:
            await self._bitcoind.wallet_call("lockunspent", False, legacy)
        options = {
            "fee_rate": sat_per_vb(feerate_per_kw),
            "change_type": CHANGE_TYPE,
            "replaceable": False,  # with its fee bumped it is another one: the channel is lost
        }
        try:
            return await self._bitcoind.wallet_call(
                "fundrawtransaction", transaction.hex(), options, False
            )
        finally:
            if legacy:
                await asyncio.shield(self._unlock(legacy))

    async def _sign(self, transaction_hex: str) -> bytes:
        signed = await self._bitcoind.wallet_call("signrawtransactionwithwallet", transaction_hex)
        if not signed["complete"]:
            raise CommandError("the wallet cannot sign all inputs of the funding transaction")
        transaction = bytes.fromhex(signed["hex"])
        if not block.is_all_segwit(transaction):
            raise CommandError("the wallet chose an input that is not segwit")
        return transaction

    async def rollback(self, transaction: bytes) -> None:
        """Free the inputs of a transaction that will never be published. Idempotent."""
        coins = block.inputs(transaction)
        await self._unlock([_rpc_form(outpoint) for outpoint in coins])
        self._locked_now.difference_update(coins)

    async def locked_outpoints(self) -> frozenset[Outpoint]:
        """Return every outpoint that is locked in the wallet."""
        coins = await self._bitcoind.wallet_call("listlockunspent")
        return frozenset(Outpoint(hash_from_rpc(c["txid"]), c["vout"]) for c in coins)

    async def free_locks(self, keep: frozenset[Outpoint] = frozenset()) -> frozenset[Outpoint]:
        """Free all locks but ``keep`` and those made since our start; return the freed.

        Once at each start: what an earlier run left behind, see the module.
        """
        async with self._selecting:
            lost = await self.locked_outpoints() - keep - self._locked_now
            await self._unlock([_rpc_form(outpoint) for outpoint in lost])
        if lost:
            log.info("lost_locks_freed", outpoints=[str(outpoint) for outpoint in lost])
        return lost

    async def _unlock(self, coins: Sequence[dict[str, object]]) -> None:
        # one call a coin: bitcoind refuses all of them where one is not locked
        calls: list[Call] = [("lockunspent", (True, [coin])) for coin in coins]
        await self._bitcoind.wallet_batch(calls)

    # --- everything else -----------------------------------------------------------------------

    async def balance(self) -> Balance:
        """Return what is in the wallet."""
        fresh, balances = await self._bitcoind.wallet_batch(
            [("listunspent", (0, 0)), ("getbalances", ())]
        )
        for answer in (fresh, balances):
            if isinstance(answer, RpcError):
                raise answer
        mine = balances["mine"]
        # bitcoind trusts our own change before it is confirmed
        change_sat = sum(sat_from_btc(coin["amount"]) for coin in fresh if coin["safe"])
        return Balance(
            confirmed_sat=sat_from_btc(mine["trusted"]) - change_sat,
            unconfirmed_sat=sat_from_btc(mine["untrusted_pending"]) + change_sat,
        )

    async def new_address(self) -> str:
        """Return a fresh P2WPKH address."""
        return str(await self._bitcoind.wallet_call("getnewaddress", "", CHANGE_TYPE))

    async def new_script_pubkey(self) -> bytes:
        """Return the scriptpubkey of a fresh P2WPKH address."""
        address = await self.new_address()
        known = await self._bitcoind.wallet_call("getaddressinfo", address)
        return bytes.fromhex(known["scriptPubKey"])

    async def send(self, address: str, amount_sat: int, feerate_per_kw: int | None = None) -> bytes:
        """Pay an address at once; return the txid."""
        if amount_sat <= 0:
            raise CommandError(f"{amount_sat} sat cannot be sent")
        options = {
            "fee_rate": sat_per_vb(feerate_per_kw or self._feerate_per_kw()),
            "change_type": CHANGE_TYPE,
        }
        async with self._selecting:
            sent = await self._bitcoind.wallet_call(
                "send", outputs={address: sat_to_btc(amount_sat)}, options=options
            )
        if not sent["complete"]:
            raise CommandError("the wallet cannot sign: it has no private keys")
        return hash_from_rpc(sent["txid"])

    async def transactions(self, count: int = 30, skip: int = 0) -> list[WalletTransaction]:
        """Return the wallet's transactions, newest first."""
        entries = await self._bitcoind.wallet_call("listtransactions", "*", count, skip)
        return [_entry(entry) for entry in reversed(entries)]


def _entry(entry: Any) -> WalletTransaction:  # noqa: ANN401
    return WalletTransaction(
        txid=hash_from_rpc(entry["txid"]),
        address=entry.get("address", ""),
        amount_sat=sat_from_btc(entry["amount"]),
        fee_sat=-sat_from_btc(entry.get("fee", 0)),
        block_hash=hash_from_rpc(entry["blockhash"]) if "blockhash" in entry else None,
        confirmations=entry["confirmations"],
        time_s=entry["time"],
    )


def _one_output(script_pubkey: bytes, amount_sat: int) -> bytes:
    """Return a raw transaction without inputs; the script is always shorter than 253 bytes."""
    output = struct.pack("<QB", amount_sat, len(script_pubkey)) + script_pubkey
    return struct.pack("<IBB", 2, 0, 1) + output + bytes(4)


def _find_output(transaction: bytes, script_pubkey: bytes, amount_sat: int) -> int:
    try:
        return block.outputs(transaction).index(block.Output(amount_sat, script_pubkey))
    except ValueError:
        raise CommandError("the wallet changed the output it was asked for") from None


def _is_segwit(coin: Any) -> bool:  # noqa: ANN401
    """Whether spending the coin needs a witness: a witness program, or one nested in P2SH."""
    script = bytes.fromhex(coin["scriptPubKey"])
    is_program = 4 <= len(script) <= 42 and (script[0] == 0 or 0x51 <= script[0] <= 0x60)
    if is_program and script[1] == len(script) - 2:
        return True
    return str(coin.get("desc", "")).startswith("sh(wpkh(")


def _rpc_outpoint(coin: Any) -> dict[str, object]:  # noqa: ANN401
    return {"txid": coin["txid"], "vout": coin["vout"]}


def _rpc_form(outpoint: Outpoint) -> dict[str, object]:
    return {"txid": outpoint.rpc_txid, "vout": outpoint.index}
