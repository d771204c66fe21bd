"""HTLCs that pay together (BOLT 4 § Basic Multi-Part Payments). Pure.

A set is all or nothing: it is complete, and then all of it is fulfilled, or it is given up, and
then all of it fails. What came in is never given away for less than the payer promised.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = [
    "MAX_OVERPAYMENT",
    "MAX_PARTS",
    "MAX_SURPLUS_MSAT",
    "MPP_TIMEOUT_S",
    "Abandoned",
    "Again",
    "Complete",
    "Held",
    "Part",
    "Set",
    "TooMuch",
    "Verdict",
    "join",
    "overdue",
    "without",
]

MPP_TIMEOUT_S = 60.0
"""After its first HTLC a set that is not complete is given up (BOLT 4: at least so long)."""
MAX_PARTS = 64
"""A set that is not complete with so many HTLCs is given up: they take slots of our channels."""
MAX_OVERPAYMENT = 2
"""Times what was asked for (BOLT 4)."""
MAX_SURPLUS_MSAT = 1_000_000
"""A payer may send more than it promised, for its route may have an htlc_minimum_msat above what
is left to send: up to so much, or up to twice the promise. More is a slip and not taken."""


class Part(NamedTuple):
    """One HTLC of a set.

    Attributes:
        key_index: of its channel.
        id: in that channel.
        amount_msat: that it brings.
        amt_to_forward_msat: that the payer meant it to bring, at most ``amount_msat``: what counts.
        cltv_expiry: of the HTLC.
    """

    key_index: int
    id: int
    amount_msat: int
    amt_to_forward_msat: int
    cltv_expiry: int

    @property
    def key(self) -> tuple[int, int]:
        """Which HTLC it is."""
        return self.key_index, self.id


@dataclass(frozen=True, slots=True)
class Set:
    """The HTLCs with one payment_hash that wait for each other; at least one.

    Attributes:
        total_msat: promised by each of them.
        began_s: when the first came, by a monotonic clock.
    """

    total_msat: int
    began_s: float
    parts: tuple[Part, ...]

    @property
    def received_msat(self) -> int:
        """What all of them bring."""
        return sum(part.amount_msat for part in self.parts)

    @property
    def forwarded_msat(self) -> int:
        """What counts of it."""
        return sum(part.amt_to_forward_msat for part in self.parts)

    @property
    def is_complete(self) -> bool:
        """Whether the promise is kept."""
        return self.forwarded_msat >= self.total_msat


@dataclass(frozen=True, slots=True)
class Held:
    """The HTLC waits for others."""

    set: Set


@dataclass(frozen=True, slots=True)
class Complete:
    """All of the set must be fulfilled, and nothing else for this payment_hash ever again."""

    set: Set


@dataclass(frozen=True, slots=True)
class Abandoned:
    """All of the set, the new HTLC with it, must fail.

    Attributes:
        has_timed_out: mpp_timeout tells it; else the payer contradicted itself.
    """

    set: Set
    has_timed_out: bool


@dataclass(frozen=True, slots=True)
class TooMuch:
    """The HTLC alone must fail: it brings far more than was promised."""


@dataclass(frozen=True, slots=True)
class Again:
    """The HTLC is in the set already: it was told again."""


Verdict: TypeAlias = Held | Complete | Abandoned | TooMuch | Again


def join(held: Set | None, part: Part, total_msat: int, now_s: float) -> Verdict:
    """Put an HTLC, which by itself is as it should be, to those with its payment_hash.

    Args:
        held: what waits already.
        part: the HTLC.
        total_msat: that it promises.
        now_s: by a monotonic clock.
    """
    if held is None:
        held = Set(total_msat, now_s, ())
    if part.key in {each.key for each in held.parts}:
        return Again()
    more = Set(held.total_msat, held.began_s, (*held.parts, part))
    if total_msat != held.total_msat:
        return Abandoned(more, has_timed_out=False)
    if more.forwarded_msat > _most_msat(total_msat):
        return TooMuch()
    if more.is_complete:
        return Complete(more)
    if len(more.parts) >= MAX_PARTS:
        return Abandoned(more, has_timed_out=True)
    return Held(more)


def _most_msat(total_msat: int) -> int:
    return max(MAX_OVERPAYMENT * total_msat, total_msat + MAX_SURPLUS_MSAT)


def overdue(
    held: Set, now_s: float, least_cltv_expiry: int, timeout_s: float = MPP_TIMEOUT_S
) -> str:
    """Say why a set must be given up; empty if it may go on.

    Args:
        held: what waits.
        now_s: by a monotonic clock.
        least_cltv_expiry: an HTLC that ends before it could not be claimed any more.
        timeout_s: how long a set may take.
    """
    if any(part.cltv_expiry < least_cltv_expiry for part in held.parts):
        return "an HTLC of it ends too soon"
    if not held.is_complete and now_s - held.began_s >= timeout_s:
        return "the rest of it did not come in time"
    return ""


def without(held: Set, keys: frozenset[tuple[int, int]]) -> Set | None:
    """Return what is left where HTLCs are out of our hands; None: nothing.

    Args:
        held: what waits.
        keys: of HTLCs whose channels are closed, so that nobody can fulfil them here.
    """
    left = tuple(part for part in held.parts if part.key not in keys)
    return Set(held.total_msat, held.began_s, left) if left else None
