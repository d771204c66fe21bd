"""``squall demo``: two nodes, a channel, payments, a killed front, a cooperative close.

Every step is timed; the table at the end is what happened, not what should have. Whatever was
started is gone afterwards, unless ``keep``.
"""

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from back.chain import regtest
from back.demo.cluster import Bitcoind, Cluster, until
from shared.errors import LightningError

__all__ = ["play"]

FUNDING_SAT = 1_000_000
FUND_WALLET_BTC = 1
MINIMUM_DEPTH = 3
ALICE_FRONTS = 2
PAY_TO_BOB_MSAT = 100_000_000
PAY_TO_ALICE_MSAT = 25_000_000
PAY_AFTER_KILL_MSAT = 7_500_000


@dataclass(slots=True)
class Step:
    """One line of the table."""

    name: str
    seconds: float
    detail: str


@dataclass(slots=True)
class Show:
    """Progress on a terminal, plain lines elsewhere."""

    console: Console
    steps: list[Step] = field(default_factory=list)
    current: str = ""

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[list[str]]:
        """Time one step; what is appended to the list becomes its detail."""
        self.current = name
        notes: list[str] = []
        began = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"{name} …"):
                yield notes
        else:
            self.console.print(f"{name} ...", highlight=False)
            yield notes
        seconds = time.monotonic() - began
        self.steps.append(Step(name, seconds, "; ".join(notes)))
        mark = "[green]✓[/green] " if self.console.is_terminal else "  done: "
        self.console.print(
            f"{mark}{name}: {seconds:.2f} s" + (f" ({'; '.join(notes)})" if notes else ""),
            highlight=False,
        )

    def table(self) -> Table:
        """What happened."""
        table = Table("step", "seconds", "what happened", title="squall demo")
        table.columns[1].justify = "right"
        for step in self.steps:
            table.add_row(step.name, f"{step.seconds:.2f}", step.detail)
        return table


@dataclass(slots=True)
class Demo:
    """The two nodes and what they share."""

    show: Show
    root: Path
    chain: regtest.Regtest
    alice: Cluster
    bob: Cluster
    payments: int = 0
    reconnect_s: float = 0.0
    channel_id: str = ""

    async def run(self) -> None:
        """Play every step."""
        await self.start_nodes()
        await self.fund()
        await self.open_channel()
        await self.pay(self.alice, self.bob, PAY_TO_BOB_MSAT)
        await self.pay(self.bob, self.alice, PAY_TO_ALICE_MSAT)
        await self.kill_front()
        await self.pay(self.alice, self.bob, PAY_AFTER_KILL_MSAT)
        await self.close_channel()

    async def start_nodes(self) -> None:
        async with self.show.step("start alice (broker, back, 2 fronts) and bob") as notes:
            await asyncio.gather(self.alice.start(ALICE_FRONTS), self.bob.start(1))
            notes.append(f"alice {self.alice.node_id[:10]}… bob {self.bob.node_id[:10]}…")

    async def fund(self) -> None:
        async with self.show.step("fund the wallets") as notes:
            for node in (self.alice, self.bob):
                address = await node.call("getnewaddress")
                await self.chain.send_to(address, FUND_WALLET_BTC)
            await self.chain.mine(1)
            for node in (self.alice, self.bob):
                await until(f"the wallet of {node.name}", partial(self._funded, node))
            notes.append(f"{FUND_WALLET_BTC} BTC each")

    @staticmethod
    async def _funded(node: Cluster) -> bool:
        balance = await node.call("onchainbalance")
        return bool(balance["confirmed"] > 0)

    async def open_channel(self) -> None:
        async with self.show.step(f"open a channel of {FUNDING_SAT:,} sat") as notes:
            await self.bob.call("connect", uri=self.alice.uri())
            opened = await self.bob.call(
                "open",
                nodeId=self.alice.node_id,
                fundingSatoshis=FUNDING_SAT,
                pushMsat=FUNDING_SAT * 1000 // 2,
            )
            notes.append(str(opened))
            await until("the funding transaction", self.chain.mempool_is_not_empty)
            await self.chain.mine(MINIMUM_DEPTH)
            for node in (self.alice, self.bob):
                await until(f"the channel at {node.name}", partial(self._is_normal, node))
            channel = await self._channel(self.bob)
            self.channel_id = channel["channelId"]

    @staticmethod
    async def _channel(node: Cluster) -> Any:  # noqa: ANN401 - JSON
        channels = await node.call("channels")
        return channels[0] if channels else {}

    async def _is_normal(self, node: Cluster) -> bool:
        return bool((await self._channel(node)).get("state") == "NORMAL")

    async def pay(self, payer: Cluster, payee: Cluster, amount_msat: int) -> None:
        name = f"{payer.name} pays {payee.name} {amount_msat // 1000:,} sat"
        async with self.show.step(name) as notes:
            invoice = await payee.call(
                "createinvoice", amountMsat=amount_msat, description="squall demo"
            )
            began = time.monotonic()
            paid = await payer.call("payinvoice", invoice=invoice["serialized"], blocking="true")
            if paid["type"] != "payment-sent":
                raise LightningError(f"payment failed: {paid}")
            self.payments += 1
            notes.append(f"settled in {(time.monotonic() - began) * 1000:.0f} ms")

    async def kill_front(self) -> None:
        """Kill -9 the front that carries the channel; the peer must come back through the other."""
        name = await self._carrier()
        async with self.show.step(f"kill -9 front {name}, which carries the channel") as notes:
            began = time.monotonic()
            self.alice.fronts.pop(name).child.kill()
            # bob dialled an address: a balancer would send him to the other front, here he is told.
            other = next(iter(self.alice.fronts))

            async def back_again() -> bool:
                if await self._carrier() in {"", name}:
                    with contextlib.suppress(LightningError):
                        await self.bob.call("connect", uri=self.alice.uri(other))
                return await self._carrier() == other and all(
                    [await self._is_normal(node) for node in (self.alice, self.bob)]
                )

            await until("the peer through the other front", back_again)
            self.reconnect_s = time.monotonic() - began
            notes.append(f"back through {other} after {self.reconnect_s:.2f} s")

    async def _carrier(self) -> str:
        """The front of alice that carries bob's connection; empty while he is away."""
        for peer in await self.alice.call("peers"):
            if peer["nodeId"] == self.bob.node_id and peer["state"] == "CONNECTED":
                return str(peer["front"])
        return ""

    async def close_channel(self) -> None:
        async with self.show.step("close the channel cooperatively") as notes:
            await self.alice.call("close", channelId=self.channel_id)
            await until("the closing transaction", self.chain.mempool_is_not_empty)
            await self.chain.mine(6)
            for node in (self.alice, self.bob):
                await until(f"the close at {node.name}", partial(self._is_closed, node))
            for node in (self.alice, self.bob):
                balance = await node.call("onchainbalance")
                notes.append(f"{node.name} has {balance['confirmed']:,} sat on chain")

    async def _is_closed(self, node: Cluster) -> bool:
        return not await self._channel(node)

    def how_to_use(self) -> str:
        """Commands for a demo that goes on."""
        lines = ["The nodes go on; Ctrl-C ends them. Use them from another terminal:"]
        for node in (self.alice, self.bob):
            lines += [
                f"  # {node.name}: {node.uri()}",
                f"  squall --api http://127.0.0.1:{node.api_port}"
                f" --password {node.password} getinfo",
                f"  squall tap --nats {node.nats.url if node.nats else ''}"
                f" --certs {node.certificates}",
            ]
        cli = self.chain.program.with_name("bitcoin-cli")
        lines += [
            "  # mine a block:",
            f"  {cli} -regtest -rpcport={self.chain.rpc_port} -rpcuser={self.chain.user}"
            f" -rpcpassword={self.chain.password} -rpcwallet=miner -generate 1",
            f"Logs: {self.root}",
        ]
        return "\n".join(lines)


async def play(*, keep: bool = False, root: Path | None = None) -> int:
    """Run the demo; return the exit code."""
    show = Show(Console(soft_wrap=True))
    began = time.monotonic()
    folder = root or Path(tempfile.mkdtemp(prefix="squall-demo-"))
    demo: Demo | None = None
    stopped = _stop_on_signals()
    async with AsyncExitStack() as stack:
        run = asyncio.create_task(_play(show, folder, stack, keep=keep, stopped=stopped))
        stop = asyncio.create_task(stopped.wait())
        await asyncio.wait({run, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not run.done():
            run.cancel()
        try:
            demo = await run
        except asyncio.CancelledError:
            show.console.print(f"demo: interrupted at: {show.current}")
        except (LightningError, OSError, TimeoutError) as error:
            show.console.print(f"demo: failed at: {show.current}\n  why: {error}", markup=False)
            show.console.print(f"  logs: {folder}", markup=False)
    if demo is None:
        return 1
    show.console.print(show.table())
    total = time.monotonic() - began
    show.console.print(
        f"demo: ok payments={demo.payments} reconnect_s={demo.reconnect_s:.2f} total_s={total:.1f}",
        highlight=False,
    )
    if root is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _play(
    show: Show, folder: Path, stack: AsyncExitStack, *, keep: bool, stopped: asyncio.Event
) -> Demo:
    async with show.step("start bitcoind (regtest)") as notes:
        chain = await stack.enter_async_context(regtest.running(folder / "bitcoind"))
        notes.append(chain.version)
    bitcoind = Bitcoind(chain.rpc_url, chain.user, chain.password, chain.zmq_block, chain.zmq_tx)
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": str(MINIMUM_DEPTH)}
    alice = Cluster("alice", folder / "alice", bitcoind, settings=settings)
    bob = Cluster("bob", folder / "bob", bitcoind, settings=settings)
    for node in (alice, bob):
        stack.push_async_callback(node.stop)
    demo = Demo(show, folder, chain, alice, bob)
    await demo.run()
    if keep:
        show.console.print(demo.how_to_use(), markup=False)
        await stopped.wait()
    return demo


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    return stopped


if __name__ == "__main__":
    sys.exit(asyncio.run(play()))
