"""A regtest bitcoind of our own, for the demo and the tests; it dies with us.

Uses the ``bitcoind`` on PATH, else the one in ``.cache/bitcoind``, else fetches one there.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import hmac
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from back.chain.bitcoind import Bitcoind, ChainSettings
from shared.children import die_with_parent, free_ports
from shared.errors import BitcoindUnavailable, CommandError

__all__ = ["Regtest", "cache_folder", "find_bitcoind", "running"]

MINER = "miner"
"""The wallet that mines and pays."""
MATURE = 110
"""Blocks mined at the start: 10 of their coinbases may be spent."""
START_S = 30.0
STOP_S = 20.0
PORT_TRIES = 3


def cache_folder() -> Path:
    """Return where fetched programs are kept: the checkout's ``.cache``, else the user's."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".cache"
    return Path.home() / ".cache" / "squall"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let only one process of this machine work in ``folder`` at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def find_bitcoind() -> Path:
    """Return the path of a bitcoind, fetching one where there is none (20 s, 110 MB). Blocks.

    Raises:
        CommandError: there is none and it cannot be fetched; says what to do.
    """
    if on_path := shutil.which("bitcoind"):
        return Path(on_path)
    folder = cache_folder() / "bitcoind"
    program = folder / "bin" / "bitcoind"
    with locked(folder):
        if not _runs(program):
            _fetch(folder)
    return program


def _runs(program: Path) -> bool:
    if not program.exists():
        return False
    done = subprocess.run([program, "--version"], capture_output=True, check=False)  # noqa: S603
    return done.returncode == 0


def _fetch(folder: Path) -> None:
    advice = "install Bitcoin Core or Knots and put bitcoind on PATH"
    bash = shutil.which("bash")
    if shutil.which("apt-get") is None or bash is None:
        raise CommandError(f"there is no bitcoind, and no apt-get to fetch one: {advice}")
    script = Path(__file__).with_name("get-bitcoind.sh")
    done = subprocess.run(  # noqa: S603 - our own script
        [bash, script, folder], capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode != 0 or not _runs(folder / "bin" / "bitcoind"):
        raise CommandError(
            f"there is no bitcoind and fetching one failed ({done.stderr.strip()[-500:]}): {advice}"
        )


@dataclass(slots=True)
class Regtest:
    """One bitcoind process on regtest.

    Attributes:
        folder: its data directory.
        version: as ``/Satoshi:29.4.3/…``.
        cookie_file: the other way in, beside user and password.
        zmq_block: where it publishes hashblock, rawblock and sequence.
        zmq_tx: where it publishes rawtx.
    """

    folder: Path
    program: Path
    rpc_port: int
    zmq_port: int
    options: Sequence[str] = ()
    user: str = "squall"
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    version: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    _mining_address: str = ""

    @property
    def rpc_url(self) -> str:
        """Without user and password."""
        return f"http://127.0.0.1:{self.rpc_port}"

    @property
    def login_url(self) -> str:
        """With user and password, as other programs want it."""
        return f"http://{self.user}:{self.password}@127.0.0.1:{self.rpc_port}"

    @property
    def cookie_file(self) -> Path:
        """Made by bitcoind at its start where no password was given; see ``with_cookie``."""
        return self.folder / "regtest" / ".cookie"

    @property
    def zmq_block(self) -> str:
        """Address of hashblock, rawblock and sequence."""
        return f"tcp://127.0.0.1:{self.zmq_port}"

    @property
    def zmq_tx(self) -> str:
        """Address of rawtx."""
        return self.zmq_block

    def settings(self, wallet: str = MINER, **changes: Any) -> ChainSettings:  # noqa: ANN401
        """Settings by which a back reaches this bitcoind; ``changes`` are fields of them."""
        values: dict[str, Any] = {
            "rpc_url": self.rpc_url,
            "user": self.user,
            "password": self.password,
            "wallet": wallet,
            "zmq_block": self.zmq_block,
            "zmq_tx": self.zmq_tx,
            "poll_interval_s": 0.5,
        }
        return ChainSettings(**{**values, **changes})

    # --- process ------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process (again) and wait until it answers.

        Raises:
            CommandError: it ended or does not answer; with the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._spawn()
        deadline = time.monotonic() + START_S
        while not self.version:
            try:
                self.version = (await self.call("getnetworkinfo"))["subversion"]
            except BitcoindUnavailable as error:
                if not self.is_running or time.monotonic() > deadline:
                    self.kill()
                    raise CommandError(f"bitcoind did not start: {error}\n{self.tail()}") from None
                await asyncio.sleep(0.02)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process is not None and self.process.poll() is None

    def _spawn(self) -> None:
        # not asyncio's subprocess: the process may outlive the event loop that started it
        self.version = ""
        with (self.folder / "output.log").open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own program and options
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one system call, loaded before
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        zmq = [
            f"-zmqpub{topic}={self.zmq_block}"
            for topic in ("hashblock", "rawblock", "rawtx", "sequence")
        ]
        return [
            str(self.program),
            "-regtest",
            f"-datadir={self.folder.absolute()}",
            f"-rpcport={self.rpc_port}",
            f"-rpcauth={_rpcauth(self.user, self.password)}",
            "-server",
            "-listen=0",
            "-dnsseed=0",
            "-connect=0",
            "-rpcworkqueue=256",
            "-fallbackfee=0.0001",
            "-dbcache=16",
            "-par=1",
            *zmq,
            *self.options,
        ]

    async def stop(self) -> None:
        """End the process in good order; it keeps its data."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """``kill -9``, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def tail(self, lines: int = 10) -> str:
        """Return the end of what it printed."""
        with contextlib.suppress(OSError):
            text = (self.folder / "output.log").read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    # --- what one does with it ----------------------------------------------------------

    async def call(self, method: str, *params: object) -> Any:  # noqa: ANN401
        """Call an RPC that belongs to no wallet."""
        async with Bitcoind(self.settings()) as client:
            return await client.call(method, *params)

    async def wallet_call(self, method: str, *params: object, wallet: str = MINER) -> Any:  # noqa: ANN401
        """Call an RPC of a wallet."""
        async with Bitcoind(self.settings(wallet)) as client:
            return await client.wallet_call(method, *params)

    async def mine(self, blocks: int = 1) -> list[str]:
        """Mine blocks to the miner's wallet; return their hashes, oldest first."""
        if not self._mining_address:
            self._mining_address = await self.wallet_call("getnewaddress", "", "bech32")
        hashes: list[str] = await self.call("generatetoaddress", blocks, self._mining_address)
        return hashes

    async def height(self) -> int:
        """Height of the tip."""
        return int(await self.call("getblockcount"))

    async def send_to(self, address: str, amount_btc: float | str) -> str:
        """Pay from the miner's wallet (not mined yet); return the txid."""
        options = {"change_type": "bech32", "fee_rate": 10}
        outputs = {address: f"{float(amount_btc):.8f}"}
        sent = await self.wallet_call("send", outputs, None, "unset", None, options)
        # other wallets hear of the mempool a moment later
        await self.call("syncwithvalidationinterfacequeue")
        return str(sent["txid"])

    async def mempool(self) -> list[str]:
        """Txids that wait for a block."""
        txids: list[str] = await self.call("getrawmempool")
        return txids

    async def mempool_is_not_empty(self) -> bool:
        """Whether something waits for a block."""
        return bool(await self.mempool())

    async def create_wallet(self, name: str) -> None:
        """Make a wallet, or load it; nothing if it is loaded."""
        if name in await self.call("listwallets"):
            return
        known = {w["name"] for w in (await self.call("listwalletdir"))["wallets"]}
        await self.call("loadwallet" if name in known else "createwallet", name)

    async def fund(self) -> None:
        """Make the miner's wallet and mine until it has coins."""
        await self.create_wallet(MINER)
        missing = MATURE - await self.height()
        if missing > 0:
            await self.mine(missing)


def _rpcauth(user: str, password: str) -> str:
    """Return bitcoind's salted form, so that the cookie works too and `ps` shows no password."""
    salt = secrets.token_hex(16)
    digest = hmac.new(salt.encode(), password.encode(), hashlib.sha256).hexdigest()
    return f"{user}:{salt}${digest}"


async def start(folder: Path, options: Sequence[str] = (), *, fund: bool = True) -> Regtest:
    """Start a bitcoind in ``folder``, with a miner's wallet that has coins.

    Raises:
        CommandError: there is no bitcoind, or it does not start.
    """
    program = await asyncio.to_thread(find_bitcoind)
    for attempt in range(PORT_TRIES):
        rpc_port, zmq_port = free_ports(2)
        node = Regtest(folder, program, rpc_port, zmq_port, tuple(options))
        try:
            await node.start()
            if fund:
                await node.fund()
        except CommandError as error:
            node.kill()
            # someone else took a port in between
            if "bind" in str(error).lower() and attempt + 1 < PORT_TRIES:
                continue
            raise
        except BaseException:
            node.kill()
            raise
        return node
    raise AssertionError("unreachable")


@asynccontextmanager
async def running(
    folder: Path, options: Sequence[str] = (), *, fund: bool = True
) -> AsyncIterator[Regtest]:
    """Run a bitcoind for the length of a block; see :func:`start`."""
    node = await start(folder, options, fund=fund)
    try:
        yield node
    finally:
        await node.stop()
