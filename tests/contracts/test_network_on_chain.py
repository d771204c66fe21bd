"""A synthetic network is true on a real chain: its places, its amounts, and its closings."""

from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.network import Shape, recently
from support.network_on_chain import (
    DEPTH,
    close_channel,
    funding_outpoint,
    funding_output,
    on_chain,
)

from back.chain.regtest import Regtest


async def test_every_channel_is_an_unspent_output_where_its_short_channel_id_says(
    bitcoind: Regtest,  # noqa: F811
) -> None:
    shape = Shape(channels=40, nodes=12, seed=5, transactions=7, transactions_per_block=3)
    network = await on_chain(bitcoind, shape, recently())
    assert len({scid >> 40 for scid in network.channels}) == 3
    for scid in network.channels:
        found = await funding_output(bitcoind, scid)
        expected = network.output(scid)
        assert expected is not None
        assert found["scriptPubKey"]["hex"] == expected.script_pubkey.hex()
        assert found["value"] * 100_000_000 == expected.amount_sat
        assert found["confirmations"] >= DEPTH


async def test_a_channel_can_be_closed(bitcoind: Regtest) -> None:  # noqa: F811
    network = await on_chain(bitcoind, Shape(channels=5, nodes=3, seed=6), recently())
    scid = list(network.channels)[3]
    name = await close_channel(bitcoind, network, scid)
    assert name in await bitcoind.mempool()
    await bitcoind.mine(1)
    outpoint = await funding_outpoint(bitcoind, scid)
    assert await bitcoind.call("gettxout", outpoint.rpc_txid, outpoint.index) is None
