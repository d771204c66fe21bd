"""Routes: which channels a payment takes, and what each HTLC on the way carries. Pure.

The unit of a route is a :class:`Hop`: one channel in one direction, with the terms of the node that
forwards into it. Our own channel comes first, without a fee.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "MAX_HOPS",
    "MAX_ROUTE_CLTV",
    "Edge",
    "Hop",
    "Lesson",
    "LocalChannel",
    "Route",
    "RouteRequest",
    "fee_msat",
]

MAX_HOPS = 20
"""An onion of payments holds about so many."""
MAX_ROUTE_CLTV = 2016
"""Blocks from now that an HTLC may be locked at most (BOLT 4 § max_htlc_cltv Selection)."""


class Hop(NamedTuple):
    """One channel of a route in one direction.

    Attributes:
        node_id: who forwards into the channel, 33 bytes.
        next_node_id: its other end.
        short_channel_id: real, or an alias that ``node_id`` knows.
        fee_base_msat: what ``node_id`` takes.
        fee_proportional_millionths: and of the amount that it forwards.
        cltv_expiry_delta: blocks that it wants between its two HTLCs.
    """

    node_id: bytes
    next_node_id: bytes
    short_channel_id: int
    fee_base_msat: int = 0
    fee_proportional_millionths: int = 0
    cltv_expiry_delta: int = 0


class Edge(NamedTuple):
    """A hop that the routing table does not know: a route hint, a blinded path, fresher terms.

    Attributes:
        hop: its terms.
        htlc_minimum_msat: the smallest HTLC that may go into it.
        htlc_maximum_msat: the largest.
    """

    hop: Hop
    htlc_minimum_msat: int
    htlc_maximum_msat: int


class LocalChannel(NamedTuple):
    """A channel of ours that can send now.

    Attributes:
        short_channel_id: our name for it.
        next_node_id: the peer.
        can_send_msat: the largest HTLC that it takes, less what is on its way into it.
        htlc_minimum_msat: the smallest that the peer takes.
    """

    short_channel_id: int
    next_node_id: bytes
    can_send_msat: int
    htlc_minimum_msat: int = 1


def fee_msat(hop: Hop, amount_msat: int) -> int:
    """Return what a hop takes for forwarding so much (BOLT 7 § HTLC Fees)."""
    return hop.fee_base_msat + amount_msat * hop.fee_proportional_millionths // 1_000_000


@dataclass(frozen=True, slots=True)
class Route:
    """A way of one part of a payment.

    Attributes:
        amount_msat: that the payee gets by it.
        hops: from us to the payee, at least one.
    """

    amount_msat: int
    hops: tuple[Hop, ...]

    @property
    def fee_msat(self) -> int:
        """What all hops together take."""
        return self.forwarded(0)[0][0] - self.amount_msat

    @property
    def cltv_expiry_delta(self) -> int:
        """Blocks that the hops want, without those of the payee."""
        return sum(hop.cltv_expiry_delta for hop in self.hops[1:])

    def forwarded(self, final_cltv_expiry: int) -> tuple[tuple[int, int], ...]:
        """Return (amount_msat, cltv_expiry) of the HTLC of each hop, the first is ours.

        Args:
            final_cltv_expiry: of the HTLC that the payee gets.
        """
        carried = [(self.amount_msat, final_cltv_expiry)]
        for hop in reversed(self.hops[1:]):
            amount_msat, cltv_expiry = carried[-1]
            # The terms are asked of the HTLC that comes in, for the one that goes out.
            before = amount_msat + fee_msat(hop, amount_msat), cltv_expiry + hop.cltv_expiry_delta
            carried.append(before)
        return tuple(reversed(carried))


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a way is looked for.

    Attributes:
        source: who pays.
        payee: who gets it.
        amount_msat: that all routes together bring to the payee.
        max_fee_msat: that all routes together may cost.
        max_cltv_expiry_delta: blocks of the hops of one route, the payee's own not counted.
        max_hops: of one route.
        local: channels of the source; None: those of the routing table.
        extra: edges besides the table's; one with the scid and direction of the table replaces it.
        ignored_nodes: not to pass through.
        ignored_channels: (scid, node that forwards into it).
        in_flight: (scid, node that forwards into it, msat) of other parts that are under way.
        max_parts: 1: a single route.
        min_part_msat: no smaller part, but for the last one.
        is_source_paid: what the source asks for its own channel counts as a cost and a fee, though
            the route does not carry it; for ``local`` it is in an edge of ``extra``.
        unix_s: now.
        seed: random: breaks ties.
    """

    source: bytes
    payee: bytes
    amount_msat: int
    max_fee_msat: int
    max_cltv_expiry_delta: int = MAX_ROUTE_CLTV
    max_hops: int = MAX_HOPS
    local: tuple[LocalChannel, ...] | None = None
    extra: tuple[Edge, ...] = ()
    ignored_nodes: frozenset[bytes] = frozenset()
    ignored_channels: frozenset[tuple[int, bytes]] = frozenset()
    in_flight: tuple[tuple[int, bytes, int], ...] = ()
    max_parts: int = 1
    min_part_msat: int = 1_000_000
    is_source_paid: bool = False
    unix_s: float = 0.0
    seed: int = field(default=0, repr=False)


class Lesson(NamedTuple):
    """What an attempt taught of a channel in one direction.

    Attributes:
        short_channel_id: of the channel.
        node_id: who forwards into it, or did not.
        amount_msat: of the HTLC.
        passed: whether it went through.
        unix_s: when.
        is_permanent: it will not pass at any other time either.
    """

    short_channel_id: int
    node_id: bytes
    amount_msat: int
    passed: bool
    unix_s: float
    is_permanent: bool = False
