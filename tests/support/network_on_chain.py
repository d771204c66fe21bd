"""Blocks in which a synthetic network is true: its funding outputs exist, unspent and deep enough.

::

    network = await on_chain(bitcoind, Shape(channels=3_000, nodes=1_000), recently())

The miner's wallet pays. One transaction splits the money, each of its outputs becomes one funding
transaction of up to 2,000 channels, and `generateblock` puts those where the shape wants them.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from support.network import Network, Shape, generate
from support.network_signing import funding_privates

from back.chain.regtest import Regtest
from back.transactions.scripts import funding_script
from back.transactions.transaction import Input, Output, legacy_bytes, segwit_digest
from back.transactions.witness import signed_funding_spend
from shared.chain import Outpoint
from shared.crypto.signature import public_key, sign_compact

__all__ = ["DEPTH", "close_channel", "funding_outpoint", "funding_output", "on_chain"]

DEPTH = 6
"""Confirmations of the last funding transaction (BOLT 7)."""
_FEE_SAT_PER_OUTPUT = 100
_FEE_SAT = 1_000
_FINAL = 0xFFFFFFFF


async def on_chain(bitcoind: Regtest, shape: Shape, newest: int) -> Network:
    """Make a network and mine its funding transactions.

    Args:
        bitcoind: nobody else may mine there meanwhile.
        shape: of the network.
        newest: unix time of the newest announcement.
    """
    first_block = await bitcoind.height() + 2
    network = await asyncio.to_thread(generate, shape, newest, first_block=first_block)
    groups = _transactions(network)
    funding = await _split(bitcoind, [sum(amounts) for amounts in _amounts(groups)])
    signed = [
        await _signed(bitcoind, *source, group)
        for source, group in zip(funding, groups, strict=True)
    ]
    address = await bitcoind.wallet_call("getnewaddress", "", "bech32")
    for first in range(0, len(signed), shape.transactions_per_block):
        block = signed[first : first + shape.transactions_per_block]
        await bitcoind.call("generateblock", address, block)
    await bitcoind.mine(DEPTH - 1)
    await _check(bitcoind, network)
    return network


def _transactions(network: Network) -> list[list[tuple[int, bytes]]]:
    """Amounts and scripts of the outputs, one list for each funding transaction."""
    grouped: dict[int, list[tuple[int, bytes]]] = {}
    for scid in network.channels:
        output = network.output(scid)
        assert output is not None
        grouped.setdefault(scid >> 16, []).append((output.amount_sat, output.script_pubkey))
    return list(grouped.values())


def _amounts(groups: Sequence[Sequence[tuple[int, bytes]]]) -> list[list[int]]:
    return [[_FEE_SAT, *(sat + _FEE_SAT_PER_OUTPUT for sat, _ in group)] for group in groups]


async def _split(bitcoind: Regtest, amounts_sat: Sequence[int]) -> list[tuple[str, int]]:
    """Make confirmed coins of these amounts; return their outpoints."""
    addresses = [await bitcoind.wallet_call("getnewaddress", "", "bech32") for _ in amounts_sat]
    outputs = [
        {address: f"{sat / 1e8:.8f}"} for address, sat in zip(addresses, amounts_sat, strict=True)
    ]
    options = {"change_type": "bech32", "fee_rate": 10, "change_position": len(outputs)}
    sent = await bitcoind.wallet_call("send", outputs, None, "unset", None, options)
    await bitcoind.mine(1)
    return [(sent["txid"], number) for number in range(len(outputs))]


async def _signed(
    bitcoind: Regtest, source_txid: str, source_output: int, group: Sequence[tuple[int, bytes]]
) -> str:
    source = Input(Outpoint(bytes.fromhex(source_txid)[::-1], source_output), _FINAL)
    unsigned = legacy_bytes((source,), tuple(Output(*output) for output in group), 0)
    done = await bitcoind.wallet_call("signrawtransactionwithwallet", unsigned.hex())
    assert done["complete"], done
    return str(done["hex"])


async def close_channel(bitcoind: Regtest, network: Network, scid: int) -> str:
    """Spend a channel's funding output to the miner, as its nodes would; returns the txid, unmined.

    Args:
        bitcoind: where it is open.
        network: as made, not a part of it.
        scid: of the channel.
    """
    seed, number = network.shape.seed, list(network.channels).index(scid)
    privates = funding_privates(seed, number)
    publics = [public_key(private) for private in privates]
    outpoint = await funding_outpoint(bitcoind, scid)
    source, capacity = Input(outpoint, _FINAL), network.capacities_sat[scid]
    address = await bitcoind.wallet_call("getnewaddress", "", "bech32")
    script = (await bitcoind.call("validateaddress", address))["scriptPubKey"]
    outputs = (Output(capacity - _FEE_SAT, bytes.fromhex(script)),)
    digest = segwit_digest(source, funding_script(*publics), capacity, outputs, 0)
    one, other = (
        (public, sign_compact(private, digest))
        for public, private in zip(publics, privates, strict=True)
    )
    signed = signed_funding_spend(legacy_bytes((source,), outputs, 0), one, other)
    return str(await bitcoind.call("sendrawtransaction", signed.hex()))


async def _check(bitcoind: Regtest, network: Network) -> None:
    """Look the first and the last channel up, as a node does with a short_channel_id."""
    for scid in (min(network.channels), max(network.channels)):
        found = await funding_output(bitcoind, scid)
        expected = network.output(scid)
        assert expected is not None
        assert found["scriptPubKey"]["hex"] == expected.script_pubkey.hex()
        assert round(found["value"] * 100_000_000) == expected.amount_sat
        assert found["confirmations"] >= DEPTH


async def funding_output(bitcoind: Regtest, scid: int) -> dict[str, Any]:
    """What `gettxout` says of a place."""
    outpoint = await funding_outpoint(bitcoind, scid)
    return dict(await bitcoind.call("gettxout", outpoint.rpc_txid, outpoint.index))


async def funding_outpoint(bitcoind: Regtest, scid: int) -> Outpoint:
    """The output at a place."""
    block = await bitcoind.call("getblock", await bitcoind.call("getblockhash", scid >> 40))
    name = block["tx"][scid >> 16 & 0xFFFFFF]
    return Outpoint(bytes.fromhex(name)[::-1], scid & 0xFFFF)
