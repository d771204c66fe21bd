"""A real LDK node as the other side, with its HTTP control API (tests/peers/ldk).

``async with ldk_node(bitcoind, tmp_path / "ldk") as ldk: await ldk("invoice", msat=1000)``
"""

import asyncio
import hashlib
import itertools
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.waiting import until

from back.chain.regtest import Regtest, cache_folder, locked
from shared.children import die_with_parent, free_port

SOURCE = Path(__file__).parent.parent / "peers" / "ldk"
FUNDS_BTC = 5
START_S = 60.0
CALL_S = 60.0
_names = itertools.count(1)

needs_ldk = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None,
    reason="the LDK peer needs Node.js 20 and npm on PATH",
)
"""Mark of every test with an LDK peer."""


class LdkError(Exception):
    """The peer answered with an error."""


def installed() -> Path:
    """Return the folder with the peer's program, installing it at the first use (npm ci)."""
    folder = cache_folder() / "ldk"
    stamp = folder / ".installed"
    with locked(folder):
        version = _digest()
        if not stamp.exists() or stamp.read_text() != version:
            for source in SOURCE.iterdir():
                shutil.copyfile(source, folder / source.name)
            done = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--cache", folder / ".npm-cache"],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise LdkError(f"npm ci in {folder}: {done.stderr[-1000:]}")
            stamp.write_text(version)
    return folder


def _digest() -> str:
    parts = (path.read_bytes() for path in sorted(SOURCE.iterdir()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


class Ldk:
    """One LDK process. Calling it calls its API: ``await ldk("invoice", msat=1000)``.

    Attributes:
        node_id: hex.
        port: where it listens for peers.
        log: what it says; with ``log_level="trace"`` every message.
    """

    def __init__(
        self, bitcoind: Regtest, folder: Path, *, log_level: str = "debug", **options: Any
    ) -> None:
        self.bitcoind = bitcoind
        self.folder = folder
        self.port = free_port()
        self.rpc_port = free_port()
        self.seed = secrets.token_hex(32)
        self.wallet = f"ldk-{next(_names)}-{secrets.token_hex(2)}"
        self.options = {
            "log-level": log_level,
            **{k.replace("_", "-"): v for k, v in options.items()},
        }
        self.node_id = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "ldk.log"
        self._http: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """As node_id@host:port."""
        return f"{self.node_id}@127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the process (again, with its data) and wait until it is ready."""
        program = await asyncio.to_thread(installed)
        await self.bitcoind.create_wallet(self.wallet)
        self.folder.mkdir(parents=True, exist_ok=True)
        ready = self.folder / "ready"
        self._spawn(program, ready)
        deadline = time.monotonic() + START_S
        while not (lines := [x for x in ready.read_text().splitlines() if x.startswith("{")]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LdkError(f"LDK did not start: {self.tail()}")
            await asyncio.sleep(0.02)
        self.node_id = json.loads(lines[0])["node_id"]
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=CALL_S)
            self._http = aiohttp.ClientSession(timeout=timeout)

    def _spawn(self, program: Path, ready: Path) -> None:
        with ready.open("wb") as output, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(program), stdin=subprocess.DEVNULL, stdout=output, stderr=log,
                preexec_fn=die_with_parent(), start_new_session=True,  # noqa: PLW1509 - one call
            )  # fmt: skip

    def _command(self, program: Path) -> list[str]:
        values = {
            "seed-hex": self.seed, "port": self.port, "rpc-port": self.rpc_port,
            "bitcoind": self.bitcoind.login_url, "wallet": self.wallet,
            "datadir": self.folder / "data", "alias": self.wallet, **self.options,
        }  # fmt: skip
        command = ["node", str(program / "ldk_peer.mjs")]
        for name, value in values.items():
            if value is not False:
                command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return command

    async def __call__(self, call: str, **body: Any) -> Any:
        """Call its API; see tests/peers/ldk. Raises LdkError where it answers with an error."""
        assert self._http is not None
        url = f"http://127.0.0.1:{self.rpc_port}/{call}"
        async with self._http.post(url, data=json.dumps(body)) as response:
            answer = json.loads(await response.read())
            if response.status != 200:
                raise LdkError(f"{call}: {answer.get('error', answer)}")
            return answer

    async def fund(self, amount_btc: float = FUNDS_BTC) -> None:
        """Give its wallet confirmed coins: in several outputs, for several channels."""
        for _ in range(5):
            address = (await self("newaddress"))["address"]
            await self.bitcoind.send_to(address, round(amount_btc / 5, 8))
        await self.bitcoind.mine(1)
        await self("sync")

    async def mine(self, blocks: int = 1) -> None:
        """Mine, and wait until LDK has seen it."""
        await self.bitcoind.mine(blocks)
        await self("sync")

    async def usable_channels(self, count: int = 1, timeout_s: float = 20) -> list[dict[str, Any]]:
        """Wait for ``count`` channels that may carry payments, and return them."""

        async def usable() -> list[dict[str, Any]]:
            channels = [c for c in await self("channels") if c["is_usable"]]
            return channels if len(channels) >= count else []

        return await until(usable, f"{count} usable channels of LDK", timeout_s)

    def kill(self) -> None:
        """``kill -9``, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def stop(self) -> None:
        """End it in good order."""
        if self._http is not None:
            await self._http.close()
            self._http = None
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, 10)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self, lines: int = 30) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@asynccontextmanager
async def ldk_node(
    bitcoind: Regtest, folder: Path, *, fund: bool = True, log_level: str = "debug", **options: Any
) -> AsyncIterator[Ldk]:
    """Run an LDK node; ``options`` are its command line's: ``anchors=True``, ``min_depth=1``."""
    node = Ldk(bitcoind, folder, log_level=log_level, **options)
    try:
        await node.start()
        if fund:
            await node.fund()
        yield node
    finally:
        await node.stop()
