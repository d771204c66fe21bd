"""A cluster of three brokers with the repository's configuration."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.broker import until

from shared.fabric import certificates, server
from shared.fabric.client import FabricClient
from shared.fabric.configuration import cluster_conf, server_conf

__all__ = ["Trio", "running_trio"]

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


@contextmanager
def running_trio(folder: Path, free_port: Callable[[], int]) -> Iterator[Trio]:
    """Run three brokers for a while."""
    certs = folder / "certs"
    certificates.create(certs)
    found = Trio(folder, certs, [free_port() for _ in range(2 * NUMBER)])
    try:
        yield found
    finally:
        found.stop()
