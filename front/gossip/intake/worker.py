"""The process that checks signatures for a front: batches on standard input, answers on output.

A batch is its size (4 bytes) and items: a signer (33 bytes, zeros for none), a size (2 bytes), a
raw announcement. The answer is one byte for each item. It ends with its input, so with the front,
however that ends.
"""

import contextlib
import os
import signal
import sys
from struct import Struct
from typing import BinaryIO

from shared.errors import MalformedMessage
from shared.gossip.signed import verify, with_low_s

__all__ = ["HIGH_S", "RIGHT", "SIZE", "UNCHECKED", "WRONG", "Item", "pack", "serve"]

WRONG, RIGHT, HIGH_S, UNCHECKED = range(4)
"""Answers. HIGH_S: rightly signed, and changed by somebody on the way so that it is not for us."""
SIZE = Struct(">I")
_ITEM = Struct(">33sH")
_NO_SIGNER = bytes(33)
_NICE = 5

Item = tuple[bytes, bytes]
"""Raw announcement, and the node id that must have signed it if it is a `channel_update`."""


def pack(items: list[Item]) -> bytes:
    """Return a batch as it is written to a worker."""
    parts = [b""]
    for raw, signer in items:
        parts += (_ITEM.pack(signer or _NO_SIGNER, len(raw)), raw)
    parts[0] = SIZE.pack(sum(map(len, parts)))
    return b"".join(parts)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer batches until the input ends."""
    while len(head := source.read(SIZE.size)) == SIZE.size:
        size = SIZE.unpack(head)[0]
        batch = source.read(size)
        if len(batch) < size:
            return
        sink.write(bytes(_answers(batch)))
        sink.flush()


def _answers(batch: bytes) -> list[int]:
    answers, at = [], 0
    while at < len(batch):
        signer, size = _ITEM.unpack_from(batch, at)
        start = at + _ITEM.size
        at = start + size
        answers.append(_answer(batch[start:at], signer))
    return answers


def _answer(raw: bytes, signer: bytes) -> int:
    try:
        if verify(raw, signer):
            return RIGHT
        lower = with_low_s(raw)
        return HIGH_S if lower != raw and verify(lower, signer) else WRONG
    except MalformedMessage:
        return WRONG


if __name__ == "__main__":
    # Ctrl-C in a terminal is for the front: it ends us by closing our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The front's event loop, on the same CPUs, comes first.
    os.nice(_NICE)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
