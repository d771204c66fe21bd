"""Who may come in, and how fast: pure bookkeeping of inbound connections.

Every connection holds a `Ticket` from accept to close. The rules protect the node key (each
handshake costs the back one ECDH) and memory, and no single address may use them up for everybody
else.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

__all__ = ["Admission", "Limits", "Network", "Refusal", "Ticket", "TokenBucket", "contains"]

Network: TypeAlias = IPv4Network | IPv6Network

_REMEMBERED_ADDRESSES = 1 << 16
"""How many addresses' rates are remembered; the least recently seen is forgotten first."""


class Refusal(StrEnum):
    """Why a connection was not let in; the reason in the metrics."""

    CONNECTIONS = "connection_limit"
    """As many peers as this front may hold."""
    HANDSHAKES = "handshake_limit"
    """Too many unfinished handshakes."""
    ADDRESS = "address_limit"
    """Too many connections of this address."""
    RATE = "address_rate"
    """This address connects too often."""


class TokenBucket:
    """A rate with a burst: `take` succeeds while tokens are left.

    Args:
        rate: tokens per second that come back.
        burst: most tokens that wait.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Use ``tokens`` if they are there; say whether they were."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one front.

    Attributes:
        connections: peers in all, unfinished handshakes included.
        handshakes: unfinished handshakes.
        per_address: connections of one address (an IPv6 /64 counts as one).
        rate_per_address: handshakes a second of one address.
        burst_per_address: handshakes of one address at once.
        exempt: sources to which the two per-address rules do not apply.
    """

    connections: int
    handshakes: int
    per_address: int
    rate_per_address: float
    burst_per_address: float
    exempt: tuple[Network, ...] = ()


@dataclass(slots=True, eq=False)
class Ticket:
    """One connection's place; given back by `Admission.leave`."""

    in_handshake: bool = True
    address: str | None = field(default=None)
    """The key under which the connection is counted; None if it is exempt or not known yet."""


class Admission:
    """Counts connections and says who may come in."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tickets: set[Ticket] = set()
        self._in_handshake = 0
        self._per_address: dict[str, int] = {}
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()

    @property
    def connections(self) -> int:
        """How many tickets are out."""
        return len(self._tickets)

    @property
    def in_handshake(self) -> int:
        """How many of them have not finished their handshake."""
        return self._in_handshake

    def enter(self) -> Ticket | Refusal:
        """A connection was accepted; its address may not be known yet (PROXY protocol)."""
        if len(self._tickets) >= self._limits.connections:
            return Refusal.CONNECTIONS
        if self._in_handshake >= self._limits.handshakes:
            return Refusal.HANDSHAKES
        ticket = Ticket()
        self._tickets.add(ticket)
        self._in_handshake += 1
        return ticket

    def identify(self, ticket: Ticket, host: str, now: float) -> Refusal | None:
        """The connection's address is known: refuse it, or count it.

        Args:
            ticket: from `enter`; still to be given back when this refuses.
            host: IP address of the peer.
            now: monotonic seconds.
        """
        if contains(self._limits.exempt, host):
            return None
        key = _key(host)
        if self._per_address.get(key, 0) >= self._limits.per_address:
            return Refusal.ADDRESS
        if not self._rate(key, now).take(now):
            return Refusal.RATE
        ticket.address = key
        self._per_address[key] = self._per_address.get(key, 0) + 1
        return None

    def authenticated(self, ticket: Ticket) -> None:
        """The handshake is finished."""
        if ticket in self._tickets and ticket.in_handshake:
            ticket.in_handshake = False
            self._in_handshake -= 1

    def leave(self, ticket: Ticket) -> None:
        """The connection is closed; a second call does nothing."""
        if ticket not in self._tickets:
            return
        self._tickets.remove(ticket)
        if ticket.in_handshake:
            self._in_handshake -= 1
        if ticket.address is not None:
            self._per_address[ticket.address] -= 1
            if not self._per_address[ticket.address]:
                del self._per_address[ticket.address]

    def _rate(self, key: str, now: float) -> TokenBucket:
        bucket = self._rates.pop(key, None) or TokenBucket(
            self._limits.rate_per_address, self._limits.burst_per_address, now
        )
        self._rates[key] = bucket
        if len(self._rates) > _REMEMBERED_ADDRESSES:
            self._rates.popitem(last=False)
        return bucket


def contains(networks: Iterable[Network], host: str) -> bool:
    """Whether ``host`` is an IP address in one of ``networks``."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _key(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 customer gets."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)
