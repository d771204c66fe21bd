"""``python -m tests.soak --minutes 5``: payments without end while parts are killed at random.

Two nodes, several channels, payments both ways; every few seconds a front, a back or a broker of
either node dies by kill -9 (or freezes for a moment) and comes back. At the end every payment must
be sent or failed on both sides alike, nothing may be pending, and both sides must agree on every
balance to the millisatoshi. The seed is printed: the same one kills in the same order.

With ``--relay`` a third node stands between the two, which earns the fees: they must add up too.
"""

import argparse
import asyncio
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from back.chain import regtest
from back.demo.cluster import Bitcoind, Cluster, until
from shared.errors import CommandError

CHANNELS = 4
FUNDING_SAT = 2_000_000
WORKERS = 6
PAUSE_S = (2.0, 6.0)


class Soak:
    """The nodes in a line, payers at both ends, and the killer."""

    def __init__(self, nodes: Sequence[Cluster], chance: random.Random) -> None:
        self.line = tuple(nodes)
        self.nodes = (nodes[0], nodes[-1])
        self.chance = chance
        self.earned_from_msat = 0
        self.hashes: list[tuple[Cluster, Cluster, str]] = []
        self.tally: Counter[str] = Counter()
        self.is_over = False

    async def pay(self, number: int) -> None:
        """Pay back and forth; a call that dies with its back is no failure."""
        payer, payee = self.nodes if number % 2 else tuple(reversed(self.nodes))
        while not self.is_over:
            try:
                invoice = await payee.call(
                    "createinvoice",
                    amountMsat=self.chance.randint(1_000, 3_000_000),
                    description="soak",
                )
                self.hashes.append((payer, payee, invoice["paymentHash"]))
                paid = await payer.call(
                    "payinvoice", invoice=invoice["serialized"], blocking="true"
                )
                self.tally[paid["type"]] += 1
            except (CommandError, OSError, TimeoutError, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    raise
                self.tally["call failed"] += 1
                await asyncio.sleep(0.1)
            except Exception as error:  # noqa: BLE001 - aiohttp has many ways to lose a server
                self.tally[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """Kill something and bring it back."""
        while not self.is_over:
            await asyncio.sleep(self.chance.uniform(*PAUSE_S))
            node = self.chance.choice(self.line)
            what = self.chance.choice(["front", "front", "back", "broker", "freeze back"])
            self.tally[f"killed {what}"] += 1
            print(f"{node.name}: {what}", flush=True)
            await self._kill(node, what)

    async def _kill(self, node: Cluster, what: str) -> None:
        if what == "front":
            name = self.chance.choice(sorted(node.fronts))
            front = node.fronts.pop(name)
            front.child.kill()
            await front.child.wait()
            await node.start_front(name, front.port)
        elif what == "back":
            assert node.back is not None
            node.back.kill()
            await node.back.wait()
            await node.start_back()
        elif what == "freeze back":
            assert node.back is not None
            node.back.signal(signal.SIGSTOP)
            await asyncio.sleep(self.chance.uniform(0.5, 3))
            node.back.signal(signal.SIGCONT)
        else:
            await node.restart_nats()

    async def settle(self) -> None:
        """Wait until nothing is pending, then compare both sides."""
        for node in self.line:
            await until(f"channels of {node.name}", partial(_all_normal, node), 90)
        fees_msat = 0
        for payer, payee, payment_hash in self.hashes:
            state = await until("a payment's end", partial(_state, payer, payment_hash), 90)
            got = await payee.call("getreceivedinfo", paymentHash=payment_hash)
            assert (state == "sent") == (got["status"]["type"] == "received"), payment_hash
            self.tally[f"finally {state}"] += 1
            if state == "sent":
                fees_msat += await _fees_msat(payer, payment_hash)
        for one, other in pairwise(self.line):
            await until("equal balances", partial(_balances_agree, one, other), 60)
        if len(self.line) > 2:
            middle = self.line[1]
            earned = await balance_msat(middle) - self.earned_from_msat
            relayed = (await middle.call("audit", to=int(time.time()) + 60))["relayed"]
            booked = sum(_sum(r["incoming"]) - _sum(r["outgoing"]) for r in relayed)
            assert earned == fees_msat == booked, (earned, fees_msat, booked)
            self.tally["fees_msat"] = earned


async def _balances_agree(one: Cluster, other: Cluster) -> bool:
    ours, theirs = [
        {c["channelId"]: _spec(c) for c in await node.call("channels") if c["nodeId"] == peer}
        for node, peer in ((one, other.node_id), (other, one.node_id))
    ]
    return len(ours) == CHANNELS and all(
        not spec["htlcs"]
        and not theirs[channel]["htlcs"]
        and spec["toLocal"] == theirs[channel]["toRemote"]
        for channel, spec in ours.items()
    )


async def balance_msat(node: Cluster) -> int:
    """What a node has, over all channels."""
    return sum(int(_spec(c)["toLocal"]) for c in await node.call("channels"))


async def _fees_msat(payer: Cluster, payment_hash: str) -> int:
    found = await payer.call("getsentinfo", paymentHash=payment_hash)
    statuses = [payment["status"] for payment in found]
    return sum(int(s["feesPaid"]) for s in statuses if s["type"] == "sent")


def _sum(parts: list[dict[str, Any]]) -> int:
    return sum(int(part["amount"]) for part in parts)


def _spec(channel: dict[str, Any]) -> dict[str, Any]:
    commitments = channel["data"]["commitments"]["active"][0]
    return dict(commitments["localCommit"]["spec"])


async def _all_normal(node: Cluster) -> bool:
    states = [channel["state"] for channel in await node.call("channels")]
    return set(states) == {"NORMAL"} and len(states) % CHANNELS == 0


async def _state(payer: Cluster, payment_hash: str) -> str:
    found = await payer.call("getsentinfo", paymentHash=payment_hash)
    states = {attempt["status"]["type"] for attempt in found}
    if "pending" in states:
        return ""
    return "sent" if "sent" in states else "failed"


async def open_channels(chain: regtest.Regtest, nodes: Sequence[Cluster]) -> None:
    """Open the channels between neighbours, half from each side."""
    for node in nodes:
        await chain.send_to(await node.call("getnewaddress"), 1)
    await chain.mine(1)
    for node in nodes:

        async def funded(node: Cluster = node) -> bool:
            return bool((await node.call("onchainbalance"))["confirmed"])

        await until("the wallets", funded)
    for one, other in pairwise(nodes):
        await one.call("connect", uri=other.uri())

        async def connected(one: Cluster = one, other: Cluster = other) -> bool:
            peers = await other.call("peers")
            return any(p["state"] == "CONNECTED" and p["nodeId"] == one.node_id for p in peers)

        await until("the connection at the other side", connected)
        for number in range(CHANNELS):
            opener, fundee = (one, other) if number % 2 else (other, one)
            await opener.call(
                "open",
                nodeId=fundee.node_id,
                fundingSatoshis=FUNDING_SAT,
                pushMsat=FUNDING_SAT * 500,
            )
            await chain.mine(1)
    await chain.mine(3)
    for node in nodes:
        await until("the channels", partial(_all_normal, node))


async def main() -> None:
    """Run the soak; raises where the two sides disagree."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--relay", action="store_true", help="a third node between the two")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="squall-soak-"))
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(regtest.running(folder / "bitcoind"))
        access = Bitcoind(chain.rpc_url, chain.user, chain.password, chain.zmq_block, chain.zmq_tx)
        nodes = []
        for name in ("alice", "middle", "bob") if given.relay else ("alice", "bob"):
            node = Cluster(name, folder / name, access)
            node.settings["SQUALL_BACK_MINIMUM_DEPTH"] = "3"
            stack.push_async_callback(node.stop)
            await node.start(2)
            nodes.append(node)
        await open_channels(chain, nodes)
        soak = Soak(nodes, random.Random(given.seed))  # noqa: S311 - no secret
        soak.earned_from_msat = await balance_msat(nodes[1])
        tasks = [asyncio.create_task(soak.pay(n)) for n in range(WORKERS)]
        killer = asyncio.create_task(soak.kill())
        await asyncio.sleep(given.minutes * 60)
        soak.is_over = True
        await asyncio.wait({killer, *tasks}, timeout=120)
        await soak.settle()
        print(dict(soak.tally))
        print(f"soak: ok payments={len(soak.hashes)} logs={folder}")


asyncio.run(main())
