"""Gossip between fronts and the back: announcements one way, verdicts the other. Pure.

A submission is a batch of raw announcements of one kind, in binary: a front passes on hundreds of
thousands, and each costs the back microseconds. After a version come the front's name, a number and
the announcements; the one at place i has the number plus i, by which its verdict names it. Nothing
is guaranteed to arrive: a front submits again what has neither a verdict nor an echo in GRAPH.

Raises:
    FabricError: from `decode_submission` and `shared.fabric.requests.read`: malformed.
"""

import struct
from collections.abc import Sequence
from enum import StrEnum
from struct import Struct
from typing import Annotated, NamedTuple

from pydantic import Field

from shared.errors import FabricError
from shared.fabric.envelope import Count, FabricModel
from shared.fabric.requests import Versioned
from shared.fabric.subjects import front_token

__all__ = [
    "MAX_BYTES",
    "MAX_ITEMS",
    "GraphTip",
    "Outcome",
    "Submission",
    "Verdict",
    "Verdicts",
    "decode_submission",
    "encode_submission",
]

MAX_ITEMS = 100
"""Announcements of one submission."""
MAX_BYTES = 128 << 10
"""Of a submission, as long as it has more than one announcement: well below `max_payload`."""
MAX_VERDICTS = 1_000

_VERSION = 1
_HEAD = Struct(">BB")
_FIRST = Struct(">Q")
_SIZE = Struct(">H")


class Submission(NamedTuple):
    """Announcements that a front holds for new and rightly signed.

    Attributes:
        front: who wants the verdicts.
        first_id: number of the first; the others follow. Below 2^53: verdicts are JSON.
        items: raw announcements of one kind.
    """

    front: str
    first_id: int
    items: tuple[bytes, ...]


def encode_submission(front: str, first_id: int, items: Sequence[bytes]) -> bytes:
    """Return the payload for ``ln.gossip.<kind>``; keep to `MAX_ITEMS` and `MAX_BYTES`."""
    name = front.encode()
    parts = [_HEAD.pack(_VERSION, len(name)), name, _FIRST.pack(first_id)]
    for raw in items:
        parts += (_SIZE.pack(len(raw)), raw)
    return b"".join(parts)


def decode_submission(payload: bytes) -> Submission:
    """Read what a front submitted."""
    try:
        version, size = _HEAD.unpack_from(payload)
        at = _HEAD.size + size
        front = front_token(payload[_HEAD.size : at].decode())
        first_id = _FIRST.unpack_from(payload, at)[0]
        items = _items(payload, at + _FIRST.size)
    except (struct.error, ValueError) as error:
        raise FabricError(f"not a submission: {error}") from None
    if version != _VERSION or not 0 < len(items) <= MAX_ITEMS or first_id >> 53:
        raise FabricError(f"not a submission: version {version}, {len(items)} announcements")
    return Submission(front, first_id, tuple(items))


def _items(payload: bytes, at: int) -> list[bytes]:
    items = []
    end = len(payload)
    while at < end:
        start = at + 2
        at = start + _SIZE.unpack_from(payload, at)[0]
        items.append(payload[start:at])
    if at != end:
        raise ValueError("truncated")
    return items


class Outcome(StrEnum):
    """What became of an announcement."""

    ACCEPTED = "accepted"
    """It is in GRAPH, or will be in a moment."""
    KNOWN = "known"
    """GRAPH has it, or something newer."""
    REFUSED = "refused"
    """It is not for the table now; not the sender's fault."""
    UNVERIFIABLE = "unverifiable"
    """The chain that the back sees is pruned: nobody can say whether there is such a channel."""
    INVALID = "invalid"
    """A signature is wrong: that counts against its sender."""
    LATER = "later"
    """Not looked at: submit it again."""


class Verdict(FabricModel):
    """What became of announcements with successive numbers: mostly of whole submissions."""

    id: Count
    count: Annotated[int, Field(ge=1, le=MAX_VERDICTS)] = 1
    outcome: Outcome
    why: str = ""

    @property
    def ids(self) -> range:
        """Their numbers."""
        return range(self.id, self.id + self.count)


class Verdicts(Versioned):
    """Back to one front (``ln.verdict.<front>``)."""

    verdicts: Annotated[tuple[Verdict, ...], Field(max_length=MAX_VERDICTS)]


class GraphTip(Versioned):
    """Up to which block spends of funding outputs stand in GRAPH (``ln.graph.tip``)."""

    height: Count
    hash: Annotated[bytes, Field(min_length=32, max_length=32)]
    """Internal byte order."""
