"""Whole Squall nodes for tests: real broker, back and fronts, one folder each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.ldk import Ldk

from back.chain.regtest import Regtest
from back.demo.cluster import Bitcoind, Cluster, until
from shared.errors import CommandError

__all__ = [
    "balances_agree",
    "channel_of",
    "normal",
    "open_from_ldk",
    "open_to_ldk",
    "pay",
    "squall_node",
]

MINIMUM_DEPTH = 3


@asynccontextmanager
async def squall_node(
    bitcoind: Regtest,
    folder: Path,
    name: str = "alice",
    *,
    fronts: int = 1,
    settings: dict[str, str] | None = None,
    front_settings: dict[str, str] | None = None,
    fund_btc: float = 0,
) -> AsyncIterator[Cluster]:
    """Run a node; everything of it is gone afterwards."""
    access = Bitcoind(
        bitcoind.rpc_url, bitcoind.user, bitcoind.password, bitcoind.zmq_block, bitcoind.zmq_tx
    )
    # Wallets of one shared bitcoind: the folder makes the name unique.
    node = Cluster(
        name,
        folder / name,
        access,
        wallet=f"{name}-{folder.name}-{id(folder):x}",
        settings={
            "SQUALL_BACK_MINIMUM_DEPTH": str(MINIMUM_DEPTH),
            "SQUALL_BACK_BITCOIND_POLL_S": "0.5",
            "SQUALL_BACK_LOG_LEVEL": "DEBUG",
            **(settings or {}),
        },
        front_settings={"SQUALL_FRONT_LOG_LEVEL": "DEBUG", **(front_settings or {})},
    )
    try:
        await node.start(fronts)
        if fund_btc:
            await fund(bitcoind, node, fund_btc)
        yield node
    finally:
        await node.stop()


async def fund(bitcoind: Regtest, node: Cluster, amount_btc: float) -> None:
    """Give the wallet confirmed coins."""
    await bitcoind.send_to(await node.call("getnewaddress"), amount_btc)
    await bitcoind.mine(1)

    async def funded() -> bool:
        return bool((await node.call("onchainbalance"))["confirmed"] > 0)

    await until(f"the wallet of {node.name}", funded)


async def channel_of(node: Cluster, peer: str | None = None) -> dict[str, Any]:
    """Return the node's channel (with a peer); empty if there is none."""
    for channel in await node.call("channels"):
        if peer is None or channel["nodeId"] == peer:
            return dict(channel)
    return {}


async def normal(node: Cluster, peer: str | None = None) -> dict[str, Any]:
    """Wait until the channel may carry payments."""

    async def ready() -> dict[str, Any]:
        channel = await channel_of(node, peer)
        return channel if channel.get("state") == "NORMAL" else {}

    return dict(await until(f"a channel of {node.name}", ready))


async def open_to_ldk(
    bitcoind: Regtest, node: Cluster, ldk: Ldk, sat: int = 1_000_000, **options: object
) -> dict[str, Any]:
    """Have Squall open a channel to LDK; return it once both may use it."""
    await node.call("connect", uri=ldk.address)
    await node.call("open", nodeId=ldk.node_id, fundingSatoshis=sat, **options)
    await until("the funding transaction", bitcoind.mempool_is_not_empty)
    await ldk.mine(6)
    channel = await normal(node, ldk.node_id)
    await ldk.usable_channels(1)
    return channel


async def open_from_ldk(
    bitcoind: Regtest, node: Cluster, ldk: Ldk, sat: int = 1_000_000, **options: Any
) -> dict[str, Any]:
    """Have LDK open a channel to Squall; return it once both may use it."""
    front = next(iter(node.fronts.values()))
    await ldk("connect", node_id=node.node_id, host="127.0.0.1", port=front.port)
    await ldk("open", node_id=node.node_id, sats=sat, **options)
    await until("the funding transaction", bitcoind.mempool_is_not_empty)
    await ldk.mine(6)
    channel = await normal(node, ldk.node_id)
    await ldk.usable_channels(1)
    return channel


async def pay(node: Cluster, bolt11: str) -> dict[str, Any]:
    """Pay an invoice and wait for the outcome."""
    return dict(await node.call("payinvoice", invoice=bolt11, blocking="true"))


async def balances_agree(node: Cluster, ldk: Ldk) -> None:
    """Wait until both sides say the same of their channel, and nothing is pending in it."""
    last: tuple[int, int] = (0, 0)

    async def agree() -> bool:
        nonlocal last
        channel = await channel_of(node, ldk.node_id)
        theirs = next(c for c in await ldk("channels") if c["peer"] == node.node_id)
        spec = channel["data"]["commitments"]["active"][0]["localCommit"]["spec"]
        last = (int(spec["toLocal"]), squall_msat(theirs))
        return not spec["htlcs"] and last[0] == last[1]

    try:
        await until("equal balances", agree, 60)
    except CommandError as error:
        raise AssertionError(f"Squall says {last[0]} msat, LDK says {last[1]}") from error


def squall_msat(theirs: dict[str, Any]) -> int:
    """Return Squall's balance as LDK knows it: the capacity less LDK's own.

    LDK's outbound capacity is its balance less the reserve that we ask of it, 1 %.
    """
    capacity_msat = int(theirs["sats"]) * 1000
    return capacity_msat - (int(theirs["outbound_msat"]) + capacity_msat // 100)
