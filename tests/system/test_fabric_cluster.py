"""Three brokers as one: messages cross, clients survive the loss of one, no one else joins."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.broker import until

from shared.fabric import certificates, server
from shared.fabric.client import FabricClient
from shared.fabric.configuration import cluster_conf, server_conf
from shared.fabric.interface import Received

NUMBER = 3


class Trio:
    """Three servers on three pairs of ports, with the repository's configuration.

    Routes have host names: the server compares them with the names in the other's certificate.
    """

    def __init__(self, folder: Path, certs: Path, ports: list[int]) -> None:
        self.certs = certs
        self.urls = [f"tls://127.0.0.1:{port}" for port in ports[:NUMBER]]
        self.routes = tuple(f"localhost:{port}" for port in ports[NUMBER:])
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()
        for number in range(NUMBER):
            home = folder / f"nats-{number}"
            home.mkdir()
            users = os.path.relpath(certs / "users.conf", home)
            base = server_conf(listen=f"127.0.0.1:{ports[number]}", certs=str(certs), users=users)
            listen = f"127.0.0.1:{ports[NUMBER + number]}"
            cluster = cluster_conf(certs=str(certs), listen=listen, routes=self.routes)
            (home / "nats-server.conf").write_text(base)
            (home / "cluster.conf").write_text(cluster)
            self.processes.append(self.launch(home, "cluster.conf", f"nats-{number}"))

    def launch(self, home: Path, config: str, name: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((home / "log").open("wb"))
        return subprocess.Popen(
            [server.find_nats_server(), "-c", config],
            cwd=home,
            env={"SQUALL_NATS_NAME": name},
            stderr=log,
        )

    async def ready(self) -> None:
        """Wait until every server accepts connections."""
        for url in self.urls:

            async def answers(port: int = int(url.rpartition(":")[2])) -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    return False
                writer.close()
                await writer.wait_closed()
                return True

            await until(answers)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self._stack.close()

    def client(self, user: str, first: int) -> FabricClient:
        urls = self.urls[first:] + self.urls[:first]
        credentials = certificates.credentials(self.certs, user)
        return FabricClient(urls, credentials, role=user, name=f"{user}-{first}")


@pytest.fixture
def trio(tmp_path: Path, unused_tcp_port_factory) -> Iterator[Trio]:
    certs = tmp_path / "certs"
    certificates.create(certs)
    found = Trio(tmp_path, certs, [unused_tcp_port_factory() for _ in range(2 * NUMBER)])
    try:
        yield found
    finally:
        found.stop()


async def crosses(sender: FabricClient, receiver: list[Received]) -> None:
    """Wait until a message of one broker arrives through another."""
    receiver.clear()

    def arrived() -> bool:
        sender.publish("ln.out.f1.a.b.c", b"x")
        return bool(receiver)

    await until(arrived, 15)


async def test_messages_cross_and_a_client_moves_when_its_broker_dies_or_freezes(
    trio: Trio,
) -> None:
    await trio.ready()
    back, front = trio.client("back", 0), trio.client("front", 1)
    await asyncio.gather(back.start(timeout_s=10), front.start(timeout_s=10))
    heard: list[Received] = []
    await front.subscribe("ln.out.f1.>", heard.append)
    await crosses(back, heard)

    trio.processes[1].kill()
    await until(lambda: not front.connected, 20)
    await until(lambda: front.connected, 20)
    await crosses(back, heard)

    trio.processes[0].send_signal(signal.SIGSTOP)
    await until(lambda: not back.connected, 20)
    await until(lambda: back.connected, 20)
    await crosses(back, heard)
    await asyncio.gather(back.stop(), front.stop())


async def test_a_front_cannot_join_the_cluster_as_a_broker(trio: Trio, tmp_path: Path) -> None:
    """Its certificate is of the same CA, but names no host of the cluster."""
    home = tmp_path / "intruder"
    home.mkdir()
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    for theirs, ours in (("front", "server"), ("ca", "ca")):
        (stolen / f"{ours}.pem").write_bytes((trio.certs / f"{theirs}.pem").read_bytes())
    (stolen / "server.key").write_bytes((trio.certs / "front.key").read_bytes())
    (stolen / "users.conf").write_bytes((trio.certs / "users.conf").read_bytes())
    base = server_conf(listen="127.0.0.1:-1", certs=str(stolen), users="../stolen/users.conf")
    (home / "nats-server.conf").write_text(base)
    (home / "cluster.conf").write_text(
        cluster_conf(certs=str(stolen), listen="127.0.0.1:-1", routes=trio.routes[:1])
    )
    await trio.ready()
    intruder = trio.launch(home, "cluster.conf", "intruder")
    trio.processes.append(intruder)

    def refused() -> bool:
        log = (tmp_path / "nats-0" / "log").read_text()
        return "Router connection closed: Authentication Failure" in log

    await until(refused, 10)
    assert "Registered" not in (home / "log").read_text()
