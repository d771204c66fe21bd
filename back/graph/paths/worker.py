"""The process that finds paths: changes, lessons and requests on standard input, answers on output.

A frame is its size in 4 bytes and a pickled tuple; both ends are this program. It ends with its
input, so with the back, however that ends.
"""

import contextlib
import gc
import os
import pickle
import signal
import sys
from struct import Struct
from typing import Any, BinaryIO

from back.graph.paths.experience import Experience
from back.graph.paths.network import Network
from back.graph.paths.question import Question
from back.graph.paths.split import find_routes
from back.payment.route import RouteRequest
from shared.errors import CommandError

__all__ = ["SIZE", "Finder", "pack", "serve"]

SIZE = Struct(">I")
_NICE = 5


def pack(*frame: Any) -> bytes:  # noqa: ANN401 - whatever the other end understands
    """Return a frame as it is written."""
    body = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
    return SIZE.pack(len(body)) + body


class Finder:
    """The graph, what was learned, and the answers.

    Attributes:
        network: in which ways are looked for.
        experience: of past attempts.
    """

    def __init__(self) -> None:
        self.network = Network()
        self.experience = Experience()
        self._next = Network()
        """Told from the start, while the other one still serves."""

    def take(self, frame: tuple[Any, ...]) -> bytes:
        """Take a frame; return the answer, empty if it wants none."""
        match frame:
            case ("changes", changes):
                for change in changes:
                    self.network.apply(change)
            case ("table", changes):
                for change in changes:
                    self._next.apply(change)
            case ("swap",):
                self._swap()
            case ("learn", lessons):
                self.experience.learn(lessons, self._key)
            case ("find", number, request):
                return self._find(number, request)
        return b""

    def _swap(self) -> None:
        self.network, self._next = self._next, Network()
        # Looking through a hundred thousand edges for cycles, time and again, costs searches dear.
        gc.collect()
        gc.freeze()

    def _key(self, short_channel_id: int, node_id: bytes) -> int | tuple[int, bytes]:
        key = self.network.key(short_channel_id, node_id)
        return (short_channel_id, node_id) if key is None else key

    def _find(self, number: int, request: RouteRequest) -> bytes:
        try:
            question = Question(self.network, self.experience, request)
            return pack(number, find_routes(question), "")
        except CommandError as error:
            return pack(number, (), str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours: the others shall be found
            return pack(number, (), f"the search failed: {error!r}")


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Take frames until the input ends."""
    finder = Finder()
    while len(head := source.read(SIZE.size)) == SIZE.size:
        size = SIZE.unpack(head)[0]
        body = source.read(size)
        if len(body) < size:
            return
        answer = finder.take(pickle.loads(body))  # noqa: S301 - written by our own parent
        if answer:
            sink.write(answer)
            sink.flush()


if __name__ == "__main__":
    # Ctrl-C in a terminal is for the back: it ends us by closing our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The back's event loop, on the same CPUs, comes first.
    os.nice(_NICE)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
