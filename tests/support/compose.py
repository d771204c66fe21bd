"""The compose stack, run for real in the lab of tests/compose: a Docker that needs no registry.

``with lab(log) as it: Stack(it).compose("up", "-d")``. What a container publishes is reached inside
``with it.network():``.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from back.chain.regtest import Regtest, cache_folder, locked

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tests" / "compose" / "lab.sh"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
IMAGE_PYTHON = "3.11"
"""Python of the lab's stand-in for python:3.11-slim."""
WITHOUT_WHEELS = ("embit",)
"""Dependencies that are published as source only."""
COMMAND_S = 400
END_S = 60
CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _fails(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def _why_not() -> str:
    """Return why there can be no Docker here, or ``""``."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "compose is run in a Docker of its own, which needs root on Linux"
    if shutil.which("apt-get") is None or not KEYRING.exists():
        return "compose is run in a Docker of its own, made of Debian's packages: this is no Debian"
    probe = ["unshare", "--net", "--mount", "--pid", "--cgroup", "--fork", "true"]
    if shutil.which("unshare") is None or _fails(probe):
        return "compose is run in a Docker of its own, but no namespaces may be made here"
    return ""


_reason = _why_not()
needs_docker = pytest.mark.skipif(bool(_reason), reason=_reason)
"""Mark of every test in the lab."""


class LabError(Exception):
    """A command in the lab failed."""


def _run(command: list[str], what: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise LabError(f"{what}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    return [
        *project["project"]["dependencies"],
        *extras["aws"],
        *extras["embedded"],
        *project["build-system"]["requires"],
    ]


def wheels() -> Path:
    """Return the folder with what the image build installs, downloading it at the first use."""
    requirements = _requirements()
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    folder = cache_folder() / "wheels"
    with locked(folder):
        found = folder / digest
        if not found.exists():
            for old in folder.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            partial = folder / "partial"
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
            source = [r for r in requirements if r.startswith(WITHOUT_WHEELS)]
            _run([*pip, "wheel", "--no-deps", "-w", str(partial), *source], "pip wheel")
            target = ["--only-binary=:all:", "--python-version", IMAGE_PYTHON, "-d", str(partial)]
            links = ["--find-links", str(partial)]
            _run([*pip, "download", *target, *links, *requirements], "pip download")
            partial.rename(found)
    return found


def bitcoind_files() -> Path:
    """Return what tools/get-bitcoind.sh made, calling it at the first use."""
    folder = cache_folder() / "bitcoind"
    with locked(folder):
        _run([str(ROOT / "tools" / "get-bitcoind.sh"), str(folder)], "get-bitcoind.sh")
    return folder


@dataclass(frozen=True, slots=True)
class Lab:
    """A running dockerd.

    Attributes:
        pid: of dockerd; its network namespace has all published ports.
        path: PATH with the lab's ``docker`` and ``docker-compose``.
    """

    pid: int
    path: str

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Put this thread, and what it starts, into the lab's network."""
        with Path("/proc/thread-self/ns/net").open() as own:
            with Path(f"/proc/{self.pid}/ns/net").open() as theirs:
                _enter(theirs.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def lab(log: Path) -> Iterator[Lab]:
    """Run the lab; another run on the same cache waits for its turn."""
    command = [
        "bash", str(LAB), str(cache_folder() / "compose"), "--wheels", str(wheels()),
        "--bitcoind", str(bitcoind_files()), "--",
        # ends when we end, however we do: then its input is closed
        "sh", "-c", 'printf "%s\\n%s\\n" "$LAB_PID" "$PATH"; exec cat',
    ]  # fmt: skip
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, start_new_session=True,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            pid, path = process.stdout.readline().strip(), process.stdout.readline().strip()
            if not path:
                raise LabError(f"the lab did not start: {log.read_text()[-3000:]}")
            yield Lab(int(pid), path)
        finally:
            process.stdin.close()
            process.wait(END_S)


@dataclass(slots=True)
class Stack:
    """The project's compose.yaml as one run of it.

    Attributes:
        name: of the project: part of every container's, volume's and network's name.
        api_password: of the back's API.
    """

    lab: Lab
    name: str = field(default_factory=lambda: f"squall{secrets.token_hex(3)}")
    api_password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    bitcoind_password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What compose.yaml reads."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SQUALL_", "COMPOSE_"))}
        return {
            **clean,
            "PATH": self.lab.path,
            "LAB_PID": str(self.lab.pid),
            "COMPOSE_PROJECT_NAME": self.name,
            "SQUALL_API_PASSWORD": self.api_password,
            "BITCOIND_PASSWORD": self.bitcoind_password,
        }

    def compose(self, *arguments: str, timeout_s: float = COMMAND_S) -> str:
        """Run ``docker-compose``; raises LabError where it fails."""
        return self._command("docker-compose", *arguments, timeout_s=timeout_s)

    def docker(self, *arguments: str) -> str:
        """Run ``docker``; raises LabError where it fails."""
        return self._command("docker", *arguments, timeout_s=COMMAND_S)

    def _command(self, *command: str, timeout_s: float) -> str:
        return _run(
            list(command), " ".join(command[:4]), cwd=ROOT, env=self.environment, timeout=timeout_s
        )

    @contextlib.contextmanager
    def background(self, output: Path, *command: str) -> Iterator[None]:
        """Run a command that writes to a file for the length of a block."""
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=file
            )
        with process:
            try:
                yield
            finally:
                process.terminate()

    def containers(self, service: str, *, ended: bool = False) -> list[dict[str, Any]]:
        """Return what ``docker inspect`` says of each running container of a service."""
        filters = [f"label=com.docker.compose.{k}={v}" for k, v in
                   (("project", self.name), ("service", service))]  # fmt: skip
        arguments = [part for f in filters for part in ("--filter", f)]
        if ids := self.docker("ps", "-q", *(["-a"] if ended else []), *arguments).split():
            return list(json.loads(self.docker("inspect", *ids)))
        return []

    def address(self, container: dict[str, Any]) -> str:
        """Return a container's IP address."""
        return str(self._network(container)["IPAddress"])

    def gateway(self, container: dict[str, Any]) -> str:
        """Return the address from which the machine itself speaks to a container."""
        return str(self._network(container)["Gateway"])

    def _network(self, container: dict[str, Any]) -> dict[str, Any]:
        return dict(container["NetworkSettings"]["Networks"][f"{self.name}_default"])

    def inside(self, container: dict[str, Any], *command: str) -> str:
        """Run a command in a container."""
        return self.docker("exec", container["Id"], *command)

    def logs(self, container: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the JSON lines that a container logged."""
        text = subprocess.run(
            ["docker", "logs", container["Id"]], env=self.environment, text=True, check=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ).stdout  # fmt: skip
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def copy_out(self, service: str, folder: str, to: Path) -> None:
        """Copy a folder out of a container, running or ended; its files are ours then."""
        container = self.containers(service, ended=True)[0]["Id"]
        packed = subprocess.run(
            ["docker", "cp", f"{container}:{folder}", "-"], cwd=ROOT, env=self.environment,
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(to, filter="data")

    def left(self) -> str:
        """Return what of the project is there, running or not."""
        mine = ["--filter", f"label=com.docker.compose.project={self.name}", "-q"]
        return "".join(
            self.docker(*command, *mine)
            for command in (["ps", "-a"], ["volume", "ls"], ["network", "ls"])
        )


@dataclass(slots=True)
class StackBitcoind(Regtest):
    """The stack's bitcoind, used from the lab's network."""

    host: str = ""

    @property
    def rpc_url(self) -> str:
        """Without user and password."""
        return f"http://{self.host}:{self.rpc_port}"

    @property
    def login_url(self) -> str:
        """With user and password."""
        return f"http://{self.user}:{self.password}@{self.host}:{self.rpc_port}"


def bitcoind_of(stack: Stack, folder: Path) -> StackBitcoind:
    """Return the bitcoind that the stack runs."""
    host = stack.address(stack.containers("bitcoind")[0])
    password = stack.bitcoind_password
    return StackBitcoind(folder, Path("/nowhere"), 18443, 28332, (), "squall", password, host=host)
