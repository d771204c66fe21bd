"""The README's way to separate servers, its commands run as written: a peer comes in.

Changed are only names that belong to an operator's network: the broker's host, ports, and bitcoind.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from support.bitcoind import bitcoind
from support.lightning_peer import LightningPeer

from back.chain.regtest import Regtest
from back.demo.cluster import until
from back.demo.process import Child, spawn
from shared.children import free_ports

__all__ = ["bitcoind"]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_S = 30.0


def blocks(section: str) -> list[str]:
    """Return the indented blocks of a section; an empty line does not end one."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^ {4}.*\n(?:\n? {4}.*\n)*", text, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip() for block in found]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands run: a home of their own, ports that are free."""

    home: Path
    changes: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What a shell there starts with."""
        here = {"HOME": str(self.home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        listen = {
            "SQUALL_BACK_API_LISTEN": "127.0.0.1:8080",
            "SQUALL_BACK_METRICS_LISTEN": "127.0.0.1:9090",
            "SQUALL_FRONT_METRICS_LISTEN": "127.0.0.1:9091",
        }
        return {**here, **{name: self.changed(value) for name, value in listen.items()}}

    def changed(self, text: str) -> str:
        """Put this place's names and ports into a command."""
        # In one go: a new port may contain an old one.
        either = "|".join(map(re.escape, sorted(self.changes, key=len, reverse=True)))
        return re.sub(either, lambda found: self.changes[found[0]], text)

    async def start(self, name: str, script: str) -> Child:
        """Run a block in ``~/squall``; its last line stays."""
        lines = self.changed(script).splitlines()
        lines[-1] = f"exec {lines[-1]}"
        text = "\n".join(["cd ~/squall", *lines])
        return await spawn(name, ["bash", "-ec", text], self.environment, self.home / f"{name}.log")

    async def run(self, script: str, folder: str = "~/squall") -> str:
        """Run a block to its end and return what it says."""
        text = f"cd {folder}\n{self.changed(script)}"
        process = await asyncio.create_subprocess_exec(
            "bash", "-ec", text, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), COMMAND_S)
        assert process.returncode == 0, f"{script}: {output.decode()}"
        return output.decode()


@pytest.fixture
def place(tmp_path: Path, bitcoind: Regtest) -> Place:
    ports = ("4222", "8080", "9090", "9091", "9735")
    free = free_ports(len(ports))
    return Place(
        tmp_path,
        {
            "nats.example.com": "localhost",
            "$HOME/.bitcoin/regtest/.cookie": str(bitcoind.cookie_file),
            "tcp://127.0.0.1:28332": bitcoind.zmq_block,
            "tcp://127.0.0.1:28333": bitcoind.zmq_tx,
            "http://127.0.0.1:18443": bitcoind.rpc_url,
            **{f":{port}": f":{new}" for port, new in zip(ports, free, strict=True)},
        },
    )


@pytest.fixture
async def servers(place: Place) -> AsyncIterator[Place]:
    """Everything of the section, started."""
    setup, certificates, broker, *back, front = blocks("Fronts and back on separate servers")
    copying = setup.splitlines()[-1]
    assert setup.splitlines()[0] == "make install"
    await place.run(copying, str(ROOT))
    configuration = place.home / "squall" / "nats-server.conf"
    configuration.write_text(place.changed(configuration.read_text()))
    await place.run(certificates)
    _, settings = "\n\n".join(back).split("\n\n", 1)  # bitcoind runs already
    async with AsyncExitStack() as stack:
        for name, script in (("broker", broker), ("back", settings), ("front", front)):
            child = await place.start(name, script)
            stack.push_async_callback(child.stop)

        async def is_healthy() -> bool:
            url = place.changed("http://127.0.0.1:9091/health")
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status == 200

        await until("the front", is_healthy)
        yield place


async def test_a_peer_comes_in_and_the_readmes_commands_show_it(servers: Place) -> None:
    exports = next(line for line in blocks("Use it")[0].splitlines() if "SQUALL_API" in line)
    node = json.loads(await servers.run(f"{exports}\nsquall getinfo"))
    watching = await servers.start("tap", blocks("Watch it")[0].splitlines()[0])
    try:
        await until("the tap", lambda: heard(watching, "fabric_connected"))
        node_id = bytes.fromhex(node["nodeId"])
        port = int(servers.changed(":9735")[1:])
        async with await LightningPeer.connect(node_id, "127.0.0.1", port) as peer:
            await peer.init()
            (known,) = json.loads(await servers.run(f"{exports}\nsquall peers"))
            assert (known["state"], known["front"]) == ("CONNECTED", "paris")
            await until("the peer in the tap", lambda: heard(watching, "connected     "))
    finally:
        await watching.stop()


async def heard(child: Child, what: str) -> bool:
    """Whether a program said something."""
    return what in child.log.read_text()
