"""The wallet against a real bitcoind: what it makes may carry a channel, and no lock is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture

from back.chain import block
from back.chain.bitcoind import Bitcoind, hash_from_rpc, hash_to_rpc
from back.chain.regtest import Regtest
from back.chain.wallet import BitcoindWallet
from shared.errors import CommandError

SCRIPT = bytes.fromhex("0020") + bytes(range(32))
FEERATE = 1_250


@pytest.fixture
async def client(bitcoind: Regtest, request: pytest.FixtureRequest) -> AsyncIterator[Bitcoind]:  # noqa: F811
    async with Bitcoind(bitcoind.settings(f"w-{request.node.name}")) as client:
        yield client


@pytest.fixture
async def wallet(client: Bitcoind) -> BitcoindWallet:
    wallet = BitcoindWallet(client, lambda: FEERATE)
    await wallet.open()
    return wallet


async def _fund(node: Regtest, wallet: BitcoindWallet, *amounts: float) -> None:
    for amount in amounts:
        await node.send_to(await wallet.new_address(), amount)
    await node.mine(1)


async def test_a_wallet_is_made_once_and_opened_again(
    client: Bitcoind, wallet: BitcoindWallet
) -> None:
    await wallet.open()
    await client.call("unloadwallet", client.settings.wallet)
    await wallet.open()
    assert (await wallet.balance()).confirmed_sat == 0


async def test_a_funding_transaction_is_final_segwit_and_unpublished(
    bitcoind: Regtest, client: Bitcoind, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01, 0.02)
    made = await wallet.fund(SCRIPT, 2_500_000)
    assert block.outputs(made.transaction)[made.output_index] == block.Output(2_500_000, SCRIPT)
    [verdict] = await client.call("testmempoolaccept", [made.transaction.hex()])
    assert verdict["allowed"], verdict
    assert hash_from_rpc(verdict["txid"]) == made.txid
    assert made.fee_sat >= FEERATE * 4 * verdict["vsize"] // 4000
    assert hash_to_rpc(made.txid) not in await bitcoind.mempool()
    decoded = await client.call("decoderawtransaction", made.transaction.hex())
    assert {o["scriptPubKey"]["type"] for o in decoded["vout"]} <= {
        "witness_v0_keyhash",
        "witness_v0_scripthash",
    }
    assert all(i["sequence"] >= 0xFFFFFFFE for i in decoded["vin"])


async def test_legacy_coins_are_never_spent_by_a_funding_transaction(
    bitcoind: Regtest, client: Bitcoind, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    legacy = await client.wallet_call("getnewaddress", "", "legacy")
    nested = await client.wallet_call("getnewaddress", "", "p2sh-segwit")
    await bitcoind.send_to(legacy, 1)
    await bitcoind.send_to(nested, 0.01)
    await _fund(bitcoind, wallet, 0.01)
    with pytest.raises(CommandError, match="Insufficient funds"):
        await wallet.fund(SCRIPT, 50_000_000)
    made = await wallet.fund(SCRIPT, 1_500_000)
    assert block.is_all_segwit(made.transaction)
    assert len(block.inputs(made.transaction)) == 2
    # the legacy coin was put aside for a moment only
    assert await wallet.locked_outpoints() == frozenset(block.inputs(made.transaction))
    await wallet.send(await wallet.new_address(), 80_000_000)


async def test_inputs_stay_locked_until_rolled_back(
    bitcoind: Regtest, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    made = await wallet.fund(SCRIPT, 500_000)
    with pytest.raises(CommandError, match="Insufficient funds"):
        await wallet.fund(SCRIPT, 500_000)
    assert await wallet.locked_outpoints() == frozenset(block.inputs(made.transaction))
    await wallet.rollback(made.transaction)
    await wallet.rollback(made.transaction)
    assert not await wallet.locked_outpoints()
    await wallet.fund(SCRIPT, 500_000)


async def test_two_openings_at_once_never_share_a_coin(
    bitcoind: Regtest, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, *[0.01] * 10)
    made = await asyncio.gather(*(wallet.fund(SCRIPT, 900_000) for _ in range(4)))
    spent = [outpoint for one in made for outpoint in block.inputs(one.transaction)]
    assert len(set(spent)) == len(spent) >= 4


async def test_locks_of_forgotten_channels_are_freed_at_the_start_and_others_kept(
    bitcoind: Regtest, client: Bitcoind, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    kept = await wallet.fund(SCRIPT, 900_000)
    await _fund(bitcoind, wallet, 0.01)
    lost = await wallet.fund(SCRIPT, 900_000)
    await client.call("unloadwallet", client.settings.wallet)
    wallet = BitcoindWallet(client, lambda: FEERATE)  # the next run
    await wallet.open()
    keep = frozenset(block.inputs(kept.transaction))
    assert await wallet.locked_outpoints() == keep | frozenset(block.inputs(lost.transaction))
    assert await wallet.free_locks(keep) == frozenset(block.inputs(lost.transaction))
    assert await wallet.locked_outpoints() == keep


async def test_locks_of_openings_under_way_survive_the_clearing_at_the_start(
    bitcoind: Regtest, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    made = await wallet.fund(SCRIPT, 900_000)
    assert not await wallet.free_locks()
    assert await wallet.locked_outpoints() == frozenset(block.inputs(made.transaction))


async def test_a_published_funding_transaction_leaves_no_lock(
    bitcoind: Regtest, client: Bitcoind, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    made = await wallet.fund(SCRIPT, 500_000)
    await client.call("sendrawtransaction", made.transaction.hex())
    assert not await wallet.locked_outpoints()


@pytest.mark.parametrize("amount_sat", [100, 10**15])
async def test_what_cannot_be_funded_is_refused_and_locks_nothing(
    bitcoind: Regtest, wallet: BitcoindWallet, amount_sat: int  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    with pytest.raises(CommandError):
        await wallet.fund(SCRIPT, amount_sat)
    assert not await wallet.locked_outpoints()


async def test_a_cancelled_opening_keeps_no_coin(
    bitcoind: Regtest, wallet: BitcoindWallet, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    signing = asyncio.Event()

    async def never(_: str) -> bytes:
        signing.set()
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(wallet, "_sign", never)
    opening = asyncio.create_task(wallet.fund(SCRIPT, 500_000))
    await signing.wait()
    assert await wallet.locked_outpoints()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not await wallet.locked_outpoints()


async def test_balance_counts_confirmed_and_unconfirmed_coins(
    bitcoind: Regtest, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.5)
    await bitcoind.send_to(await wallet.new_address(), 0.25)
    balance = await wallet.balance()
    assert (balance.confirmed_sat, balance.unconfirmed_sat) == (50_000_000, 25_000_000)
    await wallet.send(await wallet.new_address(), 10_000_000)
    balance = await wallet.balance()
    assert balance.confirmed_sat == 0
    assert 74_000_000 < balance.unconfirmed_sat < 75_000_000
    await bitcoind.mine(1)
    balance = await wallet.balance()
    assert balance.unconfirmed_sat == 0
    assert 74_000_000 < balance.confirmed_sat < 75_000_000


async def test_a_send_is_seen_in_the_history_with_its_fee(
    bitcoind: Regtest, wallet: BitcoindWallet  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.5)
    address = await bitcoind.wallet_call("getnewaddress")
    txid = await wallet.send(address, 1_234_567, 2_500)
    newest, oldest = await wallet.transactions()
    assert (newest.txid, newest.address, newest.amount_sat) == (txid, address, -1_234_567)
    assert (newest.confirmations, newest.block_hash) == (0, None)
    assert newest.fee_sat in range(1_400, 1_450)
    assert (oldest.amount_sat, oldest.fee_sat, oldest.confirmations) == (50_000_000, 0, 1)


@pytest.mark.parametrize(
    ("address", "amount_sat"), [("nonsense", 1000), ("", 1000), (None, 0), (None, 1)]
)
async def test_a_send_that_cannot_be_is_refused(
    bitcoind: Regtest, wallet: BitcoindWallet, address: str | None, amount_sat: int  # noqa: F811
) -> None:  # fmt: skip
    await _fund(bitcoind, wallet, 0.01)
    with pytest.raises(CommandError):
        await wallet.send(await wallet.new_address() if address is None else address, amount_sat)


async def test_script_pubkeys_for_closing_are_p2wpkh_of_the_wallet(
    client: Bitcoind, wallet: BitcoindWallet
) -> None:
    script = await wallet.new_script_pubkey()
    assert len(script) == 22
    assert script[:2] == b"\x00\x14"
    assert script != await wallet.new_script_pubkey()
    known = await client.call("decodescript", script.hex())
    info = await client.wallet_call("getaddressinfo", known["address"])
    assert info["ismine"]
