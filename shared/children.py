"""What every process that we start has: it ends with us, and listens on a port of its own."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable

__all__ = ["die_with_parent", "free_port", "free_ports"]

PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """Return what a child runs before its program (``preexec_fn``), so that it ends with us.

    The kernel means the *thread* that started it: start children from one that lives as long.

    Args:
        number: the signal that the child gets when we are gone.

    Returns:
        None where the system has no such thing.
    """
    if sys.platform != "linux":
        return None
    # Loaded here: between fork and exec nothing may be imported.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # we were gone before we were asked
            os._exit(1)

    return ask


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return TCP ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that was free a moment ago."""
    return free_ports(1, host)[0]
