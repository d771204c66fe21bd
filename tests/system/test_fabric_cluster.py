"""Three brokers as one: messages cross, clients survive the loss of one, no one else joins."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import until
from support.trio import Trio, running_trio

from shared.fabric.client import FabricClient
from shared.fabric.configuration import cluster_conf, server_conf
from shared.fabric.interface import Received


@pytest.fixture
def trio(tmp_path: Path, unused_tcp_port_factory) -> Iterator[Trio]:
    with running_trio(tmp_path, unused_tcp_port_factory) as found:
        yield found


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
