"""PROXY protocol v2: the header in which a load balancer says who connected. Pure.

The format is HAProxy's: 12 bytes of signature, version and command, family, length, addresses,
extensions. Only what stands in front of everything else on the connection is read, and only from
sources that the settings trust.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from shared.errors import HandshakeFailed

__all__ = ["MAX_HEADER", "ProxyHeader", "read_header"]

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16
MAX_HEADER = 2048
"""Longest header that is read, in bytes; extensions of a balancer seldom need 200."""
_BOLT = "PROXY protocol v2"
_LOCAL, _PROXY = 0x20, 0x21


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What the balancer said.

    Attributes:
        size: bytes of the header; what follows is the peer's.
        source: host and port of the peer; None when the balancer speaks for itself (a health check)
            or does not know.
    """

    size: int
    source: tuple[str, int] | None


def read_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the start of ``data``; None while it is not complete.

    Raises:
        HandshakeFailed: it is no such header, or one that this program does not accept.
    """
    if data[: len(_SIGNATURE)] != _SIGNATURE[: len(data)]:
        raise HandshakeFailed("a trusted proxy sent no PROXY v2 header", bolt=_BOLT)
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = _FIXED + int.from_bytes(data[14:16], "big")
    if command not in {_LOCAL, _PROXY}:
        raise HandshakeFailed(
            f"version and command {command:#04x}, expected 0x20 or 0x21", bolt=_BOLT
        )
    if size > MAX_HEADER:
        raise HandshakeFailed(f"header of {size} bytes, at most {MAX_HEADER}", bolt=_BOLT)
    if len(data) < size:
        return None
    return ProxyHeader(size, None if command == _LOCAL else _source(family, data[_FIXED:size]))


def _source(family: int, addresses: bytes) -> tuple[str, int] | None:
    """Source host and port; None for families that have none (AF_UNSPEC, AF_UNIX)."""
    match family:
        case 0x11:
            width = 4
        case 0x21:
            width = 16
        case _:
            return None
    if len(addresses) < 2 * width + 4:
        raise HandshakeFailed(
            f"{len(addresses)} bytes of addresses, expected {2 * width + 4}", bolt=_BOLT
        )
    raw = addresses[:width]
    host = str(IPv4Address(raw)) if width == 4 else str(IPv6Address(raw))
    return host, int.from_bytes(addresses[2 * width : 2 * width + 2], "big")
