"""One Squall node on one machine: its broker, its back and its fronts, each a real process."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from back.demo.process import Child, program, spawn
from shared.children import free_port
from shared.errors import CommandError
from shared.fabric import certificates, server

__all__ = ["Bitcoind", "Cluster", "Front", "until"]

READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Bitcoind:
    """How a back reaches bitcoind."""

    rpc_url: str
    user: str
    password: str = field(repr=False)
    zmq_block: str = ""
    zmq_tx: str = ""


@dataclass(slots=True)
class Front:
    """One front process."""

    name: str
    port: int
    metrics_port: int
    child: Child


async def until(
    what: str,
    probe: Callable[[], Awaitable[Any]],
    timeout_s: float = READY_S,
    every_s: float = 0.05,
) -> Any:  # noqa: ANN401 - whatever the probe returns
    """Poll until ``probe`` gives something true, and return it.

    Raises:
        CommandError: it never did; names ``what`` and the last error.
    """
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if value := await probe():
                return value
        except (CommandError, OSError, aiohttp.ClientError, TimeoutError) as error:
            last = error
        await asyncio.sleep(every_s)
    raise CommandError(f"{what}: not within {timeout_s:g} s" + (f" ({last})" if last else ""))


@dataclass(slots=True)
class Cluster:
    """A node: start it in pieces, kill it in pieces.

    Attributes:
        name: ``alice``; also the alias.
        root: a folder of its own: certificates, database, seed, logs.
        wallet: bitcoind's wallet for it.
    """

    name: str
    root: Path
    bitcoind: Bitcoind
    wallet: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    front_settings: dict[str, str] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    api_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    nats: "server.EmbeddedServer | None" = None
    back: Child | None = None
    fronts: dict[str, Front] = field(default_factory=dict)
    node_id: str = ""
    _http: aiohttp.ClientSession | None = None

    @property
    def certificates(self) -> Path:
        """Folder of the cluster's certificates."""
        return self.root / "certs"

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.root / "logs"

    # --- pieces -------------------------------------------------------------------------------

    async def start(self, fronts: int = 1) -> None:
        """Start everything and wait until it answers."""
        await self.start_nats()
        await self.start_back()
        await asyncio.gather(*(self.start_front(f"{self.name}-{i + 1}") for i in range(fronts)))

    async def start_nats(self) -> None:
        """Make certificates at the first start, then start the broker."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.certificates.exists():
            certificates.create(self.certificates)
        self.nats = await server.start(self.certificates, self.root / "nats")

    async def restart_nats(self) -> None:
        """Kill the broker and start it again at the same address."""
        if self.nats is None:
            raise CommandError("the broker is not started")
        port = self.nats.port
        await self.nats.kill()
        self.nats = await server.start(self.certificates, self.root / "nats", port=port)

    def fabric_environment(self, prefix: str, role: str) -> dict[str, str]:
        """Settings by which a process of ``role`` reaches the broker."""
        if self.nats is None:
            raise CommandError("the broker is not started")
        return {
            f"{prefix}NATS_URLS": self.nats.url,
            f"{prefix}TLS_CA": str(self.certificates / "ca.pem"),
            f"{prefix}TLS_CERT": str(self.certificates / f"{role}.pem"),
            f"{prefix}TLS_KEY": str(self.certificates / f"{role}.key"),
        }

    def back_environment(self) -> dict[str, str]:
        """All settings of the back."""
        return {
            **self.fabric_environment("SQUALL_BACK_", "back"),
            "SQUALL_BACK_CHAIN": "regtest",
            "SQUALL_BACK_ALIAS": self.name,
            "SQUALL_BACK_DATA_DIR": str(self.root / "data"),
            "SQUALL_BACK_API_LISTEN": f"127.0.0.1:{self.api_port}",
            "SQUALL_BACK_API_PASSWORD": self.password,
            "SQUALL_BACK_METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "SQUALL_BACK_BITCOIND_URL": self.bitcoind.rpc_url,
            "SQUALL_BACK_BITCOIND_USER": self.bitcoind.user,
            "SQUALL_BACK_BITCOIND_PASSWORD": self.bitcoind.password,
            "SQUALL_BACK_BITCOIND_WALLET": self.wallet or self.name,
            "SQUALL_BACK_BITCOIND_ZMQ_BLOCK": self.bitcoind.zmq_block,
            "SQUALL_BACK_BITCOIND_ZMQ_TX": self.bitcoind.zmq_tx,
            **self.settings,
        }

    async def start_back(self) -> None:
        """Start the back and wait for its API."""
        self.back = await spawn(
            f"{self.name} back",
            [program("squall-back")],
            self.back_environment(),
            self.logs / "back.log",
        )

        async def answers() -> bool:
            if self.back is not None and not self.back.is_running:
                raise CommandError(f"the back of {self.name} ended:\n{self.back.tail()}")
            self.node_id = (await self.call("getinfo"))["nodeId"]
            return True

        await until(f"the API of {self.name}", answers)

    async def start_front(self, name: str, port: int | None = None) -> Front:
        """Start one front and wait until it is healthy."""
        port, metrics_port = port or free_port(), free_port()
        child = await spawn(
            name,
            [program("squall-front")],
            {
                **self.fabric_environment("SQUALL_FRONT_", "front"),
                "SQUALL_FRONT_NAME": name,
                "SQUALL_FRONT_LISTEN": f"127.0.0.1:{port}",
                "SQUALL_FRONT_METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
                **self.front_settings,
            },
            self.logs / f"{name}.log",
        )
        front = Front(name, port, metrics_port, child)
        self.fronts[name] = front

        async def is_healthy() -> bool:
            if not child.is_running:
                raise CommandError(f"front {name} ended:\n{child.tail()}")
            url = f"http://127.0.0.1:{metrics_port}/health"
            async with self._session().get(url) as response:
                return response.status == 200

        await until(f"front {name}", is_healthy)
        return front

    async def stop(self) -> None:
        """Stop everything, fronts first."""
        await asyncio.gather(*(front.child.stop() for front in self.fronts.values()))
        if self.back is not None:
            await self.back.stop()
        if self.nats is not None:
            await self.nats.stop()
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- use ----------------------------------------------------------------------------------

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90))
        return self._http

    async def call(self, path: str, **form: object) -> Any:  # noqa: ANN401 - JSON
        """Call the API as eclair-cli does: POST with form parameters.

        Raises:
            CommandError: the API's error, in its words.
        """
        async with self._session().post(
            f"http://127.0.0.1:{self.api_port}/{path}",
            data={key: str(value) for key, value in form.items()},
            headers={"Authorization": aiohttp.encode_basic_auth("", self.password)},
        ) as response:
            text = await response.text()
            if response.status != 200:
                raise CommandError(f"{path}: {response.status} {text[:500]}")
            return json.loads(text)

    def uri(self, front: str | None = None) -> str:
        """Return ``nodeid@host:port`` of one front."""
        chosen = self.fronts[front] if front else next(iter(self.fronts.values()))
        return f"{self.node_id}@127.0.0.1:{chosen.port}"
