"""Where a node can be reached: address descriptors (BOLT 7 § `node_announcement`).

The messages keep descriptors as they came, because they are signed; this module reads and writes
them.
"""

import re
from base64 import b32decode, b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from shared.errors import Action, MalformedMessage
from shared.wire.codec import Reader, malformed

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "AddressKind",
    "Addresses",
    "pack_addresses",
    "parse_addresses",
]

DEFAULT_PORT = 9735
_BOLT = "BOLT 7 § node_announcement"
_HOST_PORT = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]\s]+))(?::(?P<port>\d{1,5}))?", re.ASCII
)


class AddressKind(IntEnum):
    """The first byte of a descriptor."""

    IPV4 = 1
    IPV6 = 2
    TOR_V2 = 3
    """Deprecated: read past, never used."""
    TOR_V3 = 4
    DNS = 5


_KINDS = frozenset(kind.value for kind in AddressKind)
_HOST_SIZES = {
    AddressKind.IPV4: 4,
    AddressKind.IPV6: 16,
    AddressKind.TOR_V2: 10,
    AddressKind.TOR_V3: 35,
}


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a node.

    Attributes:
        kind: what ``host`` is.
        host: an IP address in its usual form, a name ending in ``.onion``, or an ASCII host name.
        port: 0 to 65535.
    """

    kind: AddressKind
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> "Address":
        """Read ``host:port``, ``host`` or ``[ipv6]:port``.

        Raises:
            ValueError: another form, a bad IP address or onion name, a port of 0 or over 65535.
        """
        match = _HOST_PORT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not host:port")
        port = int(match["port"] or default_port)
        if not 0 < port < 1 << 16:
            raise ValueError(f"port {port} is not between 1 and 65535")
        address = cls(*_recognize(match["six"] or match["host"]), port)
        address.pack()
        return address

    def pack(self) -> bytes:
        """Return the descriptor.

        Raises:
            ValueError: ``host`` or ``port`` do not fit ``kind``.
        """
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port {self.port} is not 2 bytes")
        return bytes([self.kind]) + _pack_host(self.kind, self.host) + self.port.to_bytes(2, "big")

    @property
    def is_usable(self) -> bool:
        """Whether it can be dialled: not port 0, not Tor v2 (BOLT 7)."""
        return self.port > 0 and self.host != "" and self.kind is not AddressKind.TOR_V2

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.kind is AddressKind.IPV6 else self.host
        return f"{host}:{self.port}"


class Addresses(NamedTuple):
    """Parsed descriptors.

    Attributes:
        known: those of known types, in order.
        unknown: the first of an unknown type and all after it, whose limits cannot be known.
    """

    known: tuple[Address, ...]
    unknown: bytes


def parse_addresses(data: bytes) -> Addresses:
    """Read the descriptors of a `node_announcement`, or the one of `init`'s ``remote_addr``.

    Raises:
        MalformedMessage: a descriptor of a known type is truncated, or a host name is not ASCII.
    """
    reader = Reader(data)
    known: list[Address] = []
    while reader.left:
        first = reader.take(1)
        if first[0] not in _KINDS:
            return Addresses(tuple(known), first + reader.rest())
        kind = AddressKind(first[0])
        size = _HOST_SIZES.get(kind)
        if reader.left < (size or 1) + 2:
            raise _bad(f"{kind.name} address of {reader.left} bytes")
        if size is None:
            size = reader.take(1)[0]
            if reader.left < size + 2:
                raise _bad(f"host name of {reader.left - 2} bytes, {size} announced")
        host = _host(kind, reader.take(size))
        known.append(Address(kind, host, int.from_bytes(reader.take(2), "big")))
    return Addresses(tuple(known), b"")


def pack_addresses(addresses: Iterable[Address]) -> bytes:
    """Return the descriptors in ascending order of their types (BOLT 7).

    Raises:
        ValueError: an address is invalid, or there is more than one host name.
    """
    ordered = sorted(addresses, key=lambda address: address.kind)
    if sum(address.kind is AddressKind.DNS for address in ordered) > 1:
        raise ValueError("more than one DNS host name")
    return b"".join(address.pack() for address in ordered)


def _recognize(host: str) -> tuple[AddressKind, str]:
    try:
        ip = ip_address(host)
    except ValueError:
        if host.lower().endswith(".onion"):
            return AddressKind.TOR_V3, host.lower()
        return AddressKind.DNS, host
    return (AddressKind.IPV4 if ip.version == 4 else AddressKind.IPV6), str(ip)


def _pack_host(kind: AddressKind, host: str) -> bytes:
    match kind:
        case AddressKind.IPV4:
            return IPv4Address(host).packed
        case AddressKind.IPV6:
            return IPv6Address(host).packed
        case AddressKind.DNS:
            name = host.encode("ascii")
            if len(name) > 255:
                raise ValueError(f"host name of {len(name)} bytes, at most 255")
            return bytes([len(name)]) + name
        case AddressKind.TOR_V2 | AddressKind.TOR_V3:
            key = b32decode(host.removesuffix(".onion"), casefold=True)
            if len(key) != _HOST_SIZES[kind]:
                raise ValueError(f"{host!r} is no {kind.name} name")
            return key


def _host(kind: AddressKind, data: bytes) -> str:
    match kind:
        case AddressKind.IPV4:
            return str(IPv4Address(data))
        case AddressKind.IPV6:
            return str(IPv6Address(data))
        case AddressKind.DNS:
            if not data.isascii() or not data.decode("ascii").isprintable():
                raise _bad("host name that is not printable ASCII")
            return data.decode("ascii")
        case AddressKind.TOR_V2 | AddressKind.TOR_V3:
            return b32encode(data).decode("ascii").lower() + ".onion"


def _bad(message: str) -> MalformedMessage:
    return malformed(message, bolt=_BOLT, action=Action.WARN)
