"""The chain service against a real bitcoind: blocks, confirmations, spends, reorgs, absences."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.bitcoind import funded_folder, own_bitcoind  # noqa: F401 - fixtures
from support.chain import Heard, MemoryBlockStore, following, running
from support.waiting import until

from back.chain import block
from back.chain.bitcoind import hash_from_rpc, hash_to_rpc
from back.chain.events import (
    BlockConnected,
    BlockDisconnected,
    BlockRef,
    Confirmed,
    Spent,
    Unconfirmed,
)
from back.chain.publisher import Rejected  # noqa: TC001 - says what is in a list
from back.chain.regtest import Regtest
from back.chain.service import BitcoindChain
from shared.chain import TESTNET, Outpoint
from shared.errors import BitcoindUnavailable, ChainRefused, LeaseLost, StorageUnavailable

NO_ZMQ = {"zmq_block": "", "zmq_tx": ""}
ZMQ_ONLY = {"poll_interval_s": 60.0}


class Coin:
    """A transaction that pays a script of the miner, and what spends that output."""

    def __init__(self, node: Regtest, raw: bytes, index: int) -> None:
        self.node = node
        self.raw = raw
        self.txid = block.txid(raw)
        self.outpoint = Outpoint(self.txid, index)
        self.script_pubkey = block.outputs(raw)[index].script_pubkey
        self.amount_sat = block.outputs(raw)[index].amount_sat

    @classmethod
    async def make(cls, node: Regtest) -> "Coin":
        """Broadcast one, unconfirmed."""
        address = await node.wallet_call("getnewaddress", "", "bech32")
        txid = await node.send_to(address, 0.5)
        raw = bytes.fromhex((await node.wallet_call("gettransaction", txid))["hex"])
        amounts = [output.amount_sat for output in block.outputs(raw)]
        return cls(node, raw, amounts.index(50_000_000))

    async def spend(self, fee_sat: int = 2_000) -> bytes:
        """Make, sign and return a transaction that spends it; not broadcast."""
        address = await self.node.wallet_call("getnewaddress", "", "bech32")
        coins = [{"txid": self.outpoint.rpc_txid, "vout": self.outpoint.index}]
        amount = f"{(self.amount_sat - fee_sat) / 1e8:.8f}"
        made = await self.node.call("createrawtransaction", coins, {address: amount})
        signed = await self.node.wallet_call("signrawtransactionwithwallet", made)
        assert signed["complete"]
        return bytes.fromhex(signed["hex"])


async def _broadcast(node: Regtest, raw: bytes) -> None:
    await node.call("sendrawtransaction", raw.hex())


async def _restart_without_mempool(node: Regtest) -> None:
    await node.stop()
    (node.folder / "regtest" / "mempool.dat").unlink()
    node.options = ("-walletbroadcast=0",)  # a loaded wallet would fill the mempool again
    await node.start()
    await node.create_wallet("miner")


async def _reorg(node: Regtest, depth: int, new: int) -> None:
    """Replace the last ``depth`` blocks by ``new`` blocks that are empty."""
    height = await node.height()
    await node.call("invalidateblock", await node.call("getblockhash", height - depth + 1))
    address = await node.wallet_call("getnewaddress")
    for _ in range(new):
        await node.call("generateblock", address, [])


def _watch_confirmed(heard: Heard, coin: Coin, depth: int, since: int = 1) -> None:
    heard.chain.watch_confirmed(coin.txid, coin.script_pubkey, depth, since, lambda *_: None)


def _watch_spent(heard: Heard, coin: Coin, since: int = 1) -> None:
    heard.chain.watch_spent(coin.outpoint, coin.script_pubkey, since, lambda *_: None)


# --- blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [NO_ZMQ, ZMQ_ONLY], ids=["polling", "zmq"])
async def test_each_block_is_told_once_and_in_order(
    own_bitcoind: Regtest, settings: dict[str, object]  # noqa: F811
) -> None:  # fmt: skip
    async with following(own_bitcoind, **settings) as heard:
        began = heard.heights()[0]
        for blocks in (1, 2, 7):
            await heard.mine(blocks)
        assert heard.heights() == list(range(began, began + 11))
        last = heard.all(BlockConnected)[-1]
        known = await own_bitcoind.call("getblockheader", hash_to_rpc(last.hash))
        assert last.time == known["time"]


async def test_a_silent_zmq_is_made_up_for_by_polling(own_bitcoind: Regtest) -> None:  # noqa: F811
    silent = {
        "zmq_block": "tcp://127.0.0.1:9",
        "zmq_tx": "tcp://127.0.0.1:9",
        "poll_interval_s": 0.1,
    }
    async with following(own_bitcoind, **silent) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        _watch_spent(heard, coin)
        await _broadcast(own_bitcoind, await coin.spend())
        assert (await heard.first(Spent)).height is None


async def test_missed_blocks_are_caught_up_at_the_start(own_bitcoind: Regtest) -> None:  # noqa: F811
    store = MemoryBlockStore()
    async with following(own_bitcoind, store) as heard:
        height = await heard.mine()
    coin = await Coin.make(own_bitcoind)
    await own_bitcoind.mine(2)
    spend = await coin.spend()
    await _broadcast(own_bitcoind, spend)
    await own_bitcoind.mine(50)
    async with running(own_bitcoind, store) as heard:
        _watch_confirmed(heard, coin, 3, height)
        _watch_spent(heard, coin, height)
        await heard.synced()
        assert heard.heights() == list(range(height + 1, height + 53))
        confirmed, spent = await heard.first(Confirmed), await heard.first(Spent)
        assert (confirmed.height, confirmed.transaction) == (height + 1, coin.raw)
        assert (spent.height, spent.transaction) == (height + 3, spend)
        # told as its depth was reached, not after everything was read
        order = [e for e in heard.events if isinstance(e, BlockConnected | Confirmed)]
        assert order.index(confirmed) < order.index(heard.all(BlockConnected)[-1])
    assert store.blocks[-1].height == height + 52


async def test_a_reorg_is_told_from_the_top_and_the_new_blocks_after_it(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    store = MemoryBlockStore()
    async with following(own_bitcoind, store) as heard:
        height = await heard.mine(3)
        old = [hash_from_rpc(await own_bitcoind.call("getblockhash", height - i)) for i in (0, 1)]
        heard.events.clear()
        await _reorg(own_bitcoind, 2, 3)
        await heard.synced()
        gone = heard.all(BlockDisconnected)
        assert [(b.height, b.hash) for b in gone] == [(height, old[0]), (height - 1, old[1])]
        assert heard.heights() == [height - 1, height, height + 1]
        best = hash_from_rpc(await own_bitcoind.call("getbestblockhash"))
        # A block is stored once it was told.
        await until(lambda: store.blocks[-1] == BlockRef(height + 1, best), "it is stored")


async def test_a_reorg_while_away_is_followed_even_below_the_kept_blocks(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        height = await heard.mine(6)
        tip = heard.chain.tip
    assert tip is not None
    await _reorg(own_bitcoind, 5, 6)
    async with following(own_bitcoind, MemoryBlockStore([tip])) as heard:
        assert [b.height for b in heard.all(BlockDisconnected)] == [height - i for i in range(5)]
        assert heard.heights() == list(range(height - 4, height + 2))


async def test_a_database_of_another_chain_is_refused(own_bitcoind: Regtest) -> None:  # noqa: F811
    store = MemoryBlockStore([BlockRef(50, bytes(32))])
    async with running(own_bitcoind, store) as heard:
        failure = await heard.failure()
        assert isinstance(failure, ChainRefused)
        assert "never seen our block" in str(failure)


async def test_a_bitcoind_that_lost_its_last_blocks_is_followed_back(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        height = await heard.mine(2)
        await own_bitcoind.call("invalidateblock", await own_bitcoind.call("getblockhash", height))
        assert await heard.synced() == height - 1
        assert heard.all(BlockDisconnected)[-1].height == height


# --- confirmations -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
async def test_a_confirmation_is_told_once_it_is_deep_enough(
    own_bitcoind: Regtest, depth: int  # noqa: F811
) -> None:  # fmt: skip
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        _watch_confirmed(heard, coin, depth)
        if depth > 1:
            await heard.mine(depth - 1)
            assert not heard.all(Confirmed)
        height = await heard.mine()
        await heard.mine(2)
        [confirmed] = heard.all(Confirmed)
        assert confirmed.height == height - depth + 1
        assert confirmed.transaction == coin.raw
        known = await own_bitcoind.call("getblock", hash_to_rpc(confirmed.block_hash))
        assert known["height"] == confirmed.height
        assert known["tx"][confirmed.transaction_index] == coin.outpoint.rpc_txid


@pytest.mark.parametrize("is_spent", [False, True])
async def test_a_transaction_that_is_deep_already_is_told_at_once(
    own_bitcoind: Regtest, is_spent: bool  # noqa: F811
) -> None:  # fmt: skip
    coin = await Coin.make(own_bitcoind)
    await own_bitcoind.mine(1)
    height = await own_bitcoind.height()
    if is_spent:  # all its outputs: only the blocks know it
        for index in range(len(block.outputs(coin.raw))):
            await _broadcast(own_bitcoind, await Coin(own_bitcoind, coin.raw, index).spend())
        await own_bitcoind.mine(1)
    await own_bitcoind.mine(40)
    async with following(own_bitcoind) as heard:
        _watch_confirmed(heard, coin, 6, height)
        confirmed = await heard.first(Confirmed)
        assert (confirmed.height, confirmed.transaction) == (height, coin.raw)


async def test_a_transaction_below_since_height_is_not_looked_for(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    coin, marker = await Coin.make(own_bitcoind), await Coin.make(own_bitcoind)
    for one in (coin, marker):
        for index in range(len(block.outputs(one.raw))):
            await _broadcast(own_bitcoind, await Coin(own_bitcoind, one.raw, index).spend())
    await own_bitcoind.mine(1)
    height = await own_bitcoind.height()
    await own_bitcoind.mine(5)
    async with following(own_bitcoind) as heard:
        _watch_confirmed(heard, coin, 1, height + 1)
        await asyncio.sleep(0)
        _watch_confirmed(heard, marker, 1, height)
        assert (await heard.first(Confirmed)).watch.txid == marker.txid
        await heard.mine()
        assert len(heard.all(Confirmed)) == 1


async def test_a_confirmation_that_is_reorganised_out_is_taken_back_and_told_again(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        taken_back: list[int] = []
        heard.chain.watch_confirmed(
            coin.txid, coin.script_pubkey, 1, 1, lambda *_: None, lambda: taken_back.append(1)
        )
        first = await heard.mine()
        await _reorg(own_bitcoind, 1, 2)
        await heard.first(Unconfirmed)
        await heard.synced()
        assert len(heard.all(Confirmed)) == 1
        again = await heard.mine()
        assert [event.height for event in heard.all(Confirmed)] == [first, again]
        assert taken_back == [1]


async def test_a_shallow_reorg_above_a_deep_confirmation_takes_nothing_back(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        _watch_confirmed(heard, coin, 3)
        await heard.mine(3)
        await _reorg(own_bitcoind, 2, 4)
        await heard.synced()
        assert len(heard.all(BlockDisconnected)) == 2
        assert len(heard.all(Confirmed)) == 1
        assert not heard.all(Unconfirmed)


async def test_a_watch_that_is_set_again_is_told_again(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        _watch_confirmed(heard, coin, 1)
        await heard.mine()
        told: list[tuple[int, int, bytes]] = []
        heard.chain.watch_confirmed(
            coin.txid, coin.script_pubkey, 1, 1, lambda *values: told.append(values)
        )
        [(height, _, raw)] = told
        assert (height, raw) == (heard.all(Confirmed)[0].height, coin.raw)


async def test_an_ended_watch_says_no_more(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        told: list[object] = []
        watch = heard.chain.watch_confirmed(
            coin.txid, coin.script_pubkey, 1, 1, lambda *values: told.append(values)
        )
        other = heard.chain.watch_spent(
            coin.outpoint, coin.script_pubkey, 1, lambda *values: told.append(values)
        )
        for _ in range(2):
            heard.chain.unwatch(watch)
            heard.chain.unwatch(other)
        await _broadcast(own_bitcoind, await coin.spend())
        await heard.mine()
        assert not told
        assert not heard.all(Confirmed)
        assert not heard.all(Spent)


# --- spends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{**NO_ZMQ, "poll_interval_s": 0.05}, ZMQ_ONLY],
                         ids=["polling", "zmq"])  # fmt: skip
async def test_a_spend_is_told_in_the_mempool_and_again_in_its_block(
    own_bitcoind: Regtest, settings: dict[str, object]  # noqa: F811
) -> None:  # fmt: skip
    async with following(own_bitcoind, **settings) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        _watch_spent(heard, coin)
        await asyncio.sleep(0.2)
        assert not heard.all(Spent)
        spend = await coin.spend()
        await _broadcast(own_bitcoind, spend)
        assert (await heard.first(Spent)).height is None
        height = await heard.mine()
        assert [(s.height, s.transaction) for s in heard.all(Spent)] == [
            (None, spend),
            (height, spend),
        ]


async def test_a_replaced_spend_is_told_too(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        _watch_spent(heard, coin)
        first, second = await coin.spend(), await coin.spend(fee_sat=40_000)
        await _broadcast(own_bitcoind, first)
        await heard.first(Spent)
        await _broadcast(own_bitcoind, second)
        await until(lambda: len(heard.all(Spent)) == 2, "the replacement")
        height = await heard.mine()
        assert [(s.height, s.transaction) for s in heard.all(Spent)] == [
            (None, first),
            (None, second),
            (height, second),
        ]


async def test_an_output_is_watched_before_its_transaction_is_known(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        _watch_spent(heard, coin)
        await heard.mine()
        await _broadcast(own_bitcoind, await coin.spend())
        await heard.first(Spent)


async def test_an_output_that_is_spent_already_is_told_at_once(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    coin, other = await Coin.make(own_bitcoind), await Coin.make(own_bitcoind)
    await own_bitcoind.mine(2)
    spend, unconfirmed = await coin.spend(), await other.spend()
    await _broadcast(own_bitcoind, spend)
    await own_bitcoind.mine(1)
    height = await own_bitcoind.height()
    await own_bitcoind.mine(60)
    await _broadcast(own_bitcoind, unconfirmed)
    async with following(own_bitcoind) as heard:
        _watch_spent(heard, coin, height - 2)
        _watch_spent(heard, other, height - 2)
        await until(lambda: len(heard.all(Spent)) == 2, "both spends")
        told = {event.transaction: event.height for event in heard.all(Spent)}
        assert told == {spend: height, unconfirmed: None}


async def test_a_spend_that_is_reorganised_out_is_taken_back_and_another_told(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine(2)
        _watch_spent(heard, coin)
        first, second = await coin.spend(), await coin.spend(fee_sat=50_000)
        await _broadcast(own_bitcoind, first)
        await heard.mine()
        # the rival goes into the new branch instead
        height = await own_bitcoind.height()
        await own_bitcoind.call("invalidateblock", await own_bitcoind.call("getblockhash", height))
        address = await own_bitcoind.wallet_call("getnewaddress")
        await own_bitcoind.call("generateblock", address, [second.hex()])
        await own_bitcoind.call("generateblock", address, [])
        await heard.synced()
        await heard.first(Unconfirmed)
        await until(lambda: heard.all(Spent)[-1].transaction == second, "the rival")
        assert heard.all(Spent)[-1].height == height


# --- bitcoind comes and goes ---------------------------------------------------------------------


async def test_bitcoind_away_at_the_start_is_waited_for(own_bitcoind: Regtest) -> None:  # noqa: F811
    await own_bitcoind.stop()
    async with running(own_bitcoind) as heard:
        coin_seen: list[object] = []
        heard.chain.watch_spent(Outpoint(bytes(32), 0), b"", 1, lambda *v: coin_seen.append(v))
        await asyncio.sleep(0.3)
        assert not heard.chain.is_synced
        assert heard.chain.tip is None
        await own_bitcoind.start()
        await heard.synced()
        assert (await heard.chain.wallet.balance()).confirmed_sat == 0


async def test_a_restart_of_bitcoind_loses_no_event(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        _watch_spent(heard, coin)
        await own_bitcoind.stop()
        await until(lambda: not heard.chain.is_synced, "the alarm")
        await own_bitcoind.start()
        await own_bitcoind.create_wallet("miner")
        spend = await coin.spend()
        await _broadcast(own_bitcoind, spend)
        height = await heard.mine()
        assert (heard.all(Spent)[-1].height, heard.all(Spent)[-1].transaction) == (height, spend)
        await heard.chain.wallet.new_address()


async def test_a_new_cookie_is_read_again(own_bitcoind: Regtest) -> None:  # noqa: F811
    cookie = {"cookie_file": own_bitcoind.cookie_file, "user": "", "password": ""}
    async with following(own_bitcoind, **cookie) as heard:
        before = own_bitcoind.cookie_file.read_text()
        await own_bitcoind.stop()
        await own_bitcoind.start()
        assert own_bitcoind.cookie_file.read_text() != before
        await own_bitcoind.create_wallet("miner")
        await heard.mine()


async def test_a_wrong_password_is_refused(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with running(own_bitcoind, password="wrong") as heard:
        failure = await heard.failure()
        assert isinstance(failure, ChainRefused)
        assert "check user and password" in str(failure)


async def test_another_network_is_refused(tmp_path: Path, own_bitcoind: Regtest) -> None:  # noqa: F811
    async with BitcoindChain(own_bitcoind.settings(), TESTNET, MemoryBlockStore()) as chain:
        with pytest.raises(ChainRefused, match="follows regtest, this node is for testnet"):
            await chain.start()


async def test_a_frozen_bitcoind_is_noticed_and_its_return_too(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind, timeout_s=0.5) as heard:
        assert own_bitcoind.process is not None
        own_bitcoind.process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: not heard.chain.is_synced, "the alarm")
            with pytest.raises(BitcoindUnavailable):
                await heard.chain.wallet.balance()
        finally:
            own_bitcoind.process.send_signal(signal.SIGCONT)
        await until(lambda: heard.chain.is_synced, "its return")
        await heard.mine()


class _AbsentStore(MemoryBlockStore):
    """A store whose database is away, or whose lease is lost, while ``failure`` is set."""

    failure: Exception | None = None

    async def store_blocks(self, fork_height: int, connected: Sequence[BlockRef]) -> None:
        if self.failure is not None:
            raise self.failure
        await super().store_blocks(fork_height, connected)


async def test_blocks_that_could_not_be_stored_are_stored_when_the_database_is_back(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    store = _AbsentStore()
    async with following(own_bitcoind, store) as heard:
        height = await heard.mine(2)
        await until(lambda: store.blocks[-1].height == height, "the stored tip")
        store.failure = StorageUnavailable("away")
        await own_bitcoind.mine(2)
        await until(lambda: heard.heights()[-1] == height + 2, "blocks are told all the same")
        await _reorg(own_bitcoind, 3, 5)
        await until(lambda: heard.heights()[-1] == height + 4, "the reorg too")
        assert store.blocks[-1].height == height
        store.failure = None
        await until(lambda: store.blocks[-1] == heard.chain.tip, "the stored tip")
    for block_ref in store.blocks[-6:]:
        name = await own_bitcoind.call("getblockhash", block_ref.height)
        assert hash_from_rpc(name) == block_ref.hash


async def test_a_lost_lease_ends_the_service(own_bitcoind: Regtest) -> None:  # noqa: F811
    store = _AbsentStore()
    async with following(own_bitcoind, store) as heard:
        store.failure = LeaseLost((64,))
        await own_bitcoind.mine(1)
        assert await heard.failure() is store.failure


async def test_a_stopped_service_leaves_no_task_behind(own_bitcoind: Regtest) -> None:  # noqa: F811
    before = asyncio.all_tasks()
    async with following(own_bitcoind) as heard:
        heard.chain.publish((await Coin.make(own_bitcoind)).raw, "funding")
        await heard.mine()
    assert asyncio.all_tasks() == before


# --- publishing ----------------------------------------------------------------------------------


async def test_a_transaction_is_published_until_it_is_deep(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        spend = await coin.spend()
        for _ in range(2):
            heard.chain.publish(spend, "closing")
        await until(own_bitcoind.mempool_is_not_empty, "the transaction")
        await heard.mine(5)
        assert heard.chain.publisher.pending == {block.txid(spend)}
        await heard.mine()
        assert not heard.chain.publisher.pending


async def test_the_end_of_a_publication_ends_nobody_elses_watch(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        heard.chain.publish(coin.raw, "closing")
        [(watch, _)] = heard.chain._publications.values()
        told: list[int] = []
        heard.chain.watch_confirmed(
            watch.txid, watch.script_pubkey, watch.min_depth, watch.since_height,
            lambda height, *_: told.append(height),
        )  # fmt: skip
        heard.chain.stop_publishing(coin.txid)
        assert not heard.chain.publisher.pending
        height = await heard.mine(6)
        assert told == [height - 5]


async def test_a_transaction_that_a_reorg_and_a_restart_lost_is_published_again(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        spend = await coin.spend()
        heard.chain.publish(spend, "closing")
        await until(own_bitcoind.mempool_is_not_empty, "the transaction")
        await _restart_without_mempool(own_bitcoind)
        assert not await own_bitcoind.mempool()
        await own_bitcoind.call(
            "generateblock", await own_bitcoind.wallet_call("getnewaddress"), []
        )
        await until(own_bitcoind.mempool_is_not_empty, "the transaction again")


async def test_what_waits_for_its_parent_or_a_rival_is_reported_and_tried_again(
    own_bitcoind: Regtest,  # noqa: F811
) -> None:
    async with following(own_bitcoind) as heard:
        rejected: list[Rejected] = []
        heard.chain.listen_rejected(rejected.append)
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        parent = await coin.spend()
        await _broadcast(own_bitcoind, parent)
        child = await Coin(own_bitcoind, parent, 0).spend()
        await _restart_without_mempool(own_bitcoind)
        heard.chain.publish(child, "claim")
        await until(lambda: rejected, "the refusal")
        assert not rejected[0].is_permanent
        assert "missingorspent" in rejected[0].reason
        await _broadcast(own_bitcoind, parent)
        await heard.mine()
        await until(own_bitcoind.mempool_is_not_empty, "the child")
        assert len(rejected) == 1


async def test_an_invalid_transaction_is_reported_for_good(own_bitcoind: Regtest) -> None:  # noqa: F811
    async with following(own_bitcoind) as heard:
        rejected: list[Rejected] = []
        heard.chain.listen_rejected(rejected.append)
        coin = await Coin.make(own_bitcoind)
        await heard.mine()
        spend = await coin.spend()
        signature_at = spend.index(b"\x30\x44")
        wrong = spend[: signature_at + 20] + bytes([spend[signature_at + 20] ^ 1])
        wrong += spend[signature_at + 21 :]
        heard.chain.publish(wrong, "closing")
        await until(lambda: rejected, "the refusal")
        assert rejected[0].is_permanent
        assert not heard.chain.publisher.pending
