"""Logs at their chattiest hold no key, preimage, payment secret or password."""

from pathlib import Path

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import ldk_node, needs_ldk
from support.squall import channel_of, open_to_ldk, pay, squall_node

from back.chain.regtest import Regtest
from back.signer.seed import load_seed
from back.signer.signer import Signer
from shared import bolt11

pytestmark = [needs_ldk, pytest.mark.timeout(180)]


async def test_the_logs_of_a_working_node_hold_no_secret(
    bitcoind: Regtest,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with (
        ldk_node(bitcoind, tmp_path / "ldk", anchors=True) as ldk,
        squall_node(bitcoind, tmp_path, fund_btc=1) as node,
    ):
        await open_to_ldk(bitcoind, node, ldk, pushMsat=200_000_000)
        theirs = await ldk("invoice", msat=5_000_000)
        sent = await pay(node, theirs["bolt11"])
        ours = await node.call("createinvoice", amountMsat=1_000_000, description="secret")
        assert (await ldk("pay", bolt11=ours["serialized"]))["status"] == "sent"
        received = await node.call("getreceivedinfo", paymentHash=ours["paymentHash"])
        seed_file = node.root / "data" / "seed"
        seed = load_seed(seed_file)
        signer = Signer(seed, 1)
        key_index = await _key_index(node)
        secrets = {
            "seed file": seed_file.read_text().strip(),
            "seed": seed.hex(),
            "node key": signer._node_secret.get_secret_value().hex(),
            "revocation secret": bytes(signer.release_secret(key_index, 0, current=1)).hex(),
            "API password": node.password,
            "bitcoind password": node.bitcoind.password,
            "preimage sent": sent["paymentPreimage"],
            "preimage received": received["paymentPreimage"],
            "payment secret": bolt11.decode(ours["serialized"]).payment_secret.hex(),
            "their payment secret": bolt11.decode(theirs["bolt11"]).payment_secret.hex(),
        }
        assert (await channel_of(node))["state"] == "NORMAL"
        logs = {path.name: path.read_text(errors="replace") for path in node.logs.iterdir()}
    assert "channel_phase_changed" in logs["back.log"]
    for name, log in logs.items():
        for what, secret in secrets.items():
            assert secret not in log, f"{what} is in {name}"


async def _key_index(node) -> int:
    """Read the channel's key index from its database, as no call shows it."""
    import sqlite3

    with sqlite3.connect(f"file:{node.root}/data/squall.db?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT key_index FROM channels").fetchone()[0])
