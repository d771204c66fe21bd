"""How single values are laid out on the wire (BOLT 1 § Fundamental Types).

A codec turns one Python value into bytes and back. It never sees a socket, a model or a log. Range
checks belong to the model; a codec checks what only the bytes can show: length and minimal form.
``str(codec)`` is its BOLT name, for the reference page.

Raises:
    MalformedMessage: from every ``read`` on short or non-minimal input.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any, Protocol, TypeVar

from shared.errors import Action, MalformedMessage

__all__ = [
    "BIG_SIZE",
    "BigSize",
    "Bytes",
    "Codec",
    "Counted",
    "Fixed",
    "Flag",
    "NodeName",
    "Packed",
    "Reader",
    "Repeated",
    "Rest",
    "SInt",
    "Times",
    "Truncated",
    "UInt",
    "malformed",
]

T = TypeVar("T")

FUNDAMENTAL = "BOLT 1 § Fundamental Types"
_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}


def malformed(
    message: str, *, bolt: str = FUNDAMENTAL, action: Action = Action.DISCONNECT
) -> MalformedMessage:
    """Make the error of bytes that do not parse; BOLT 1 closes the connection for most."""
    return MalformedMessage(message, bolt=bolt, action=action)


class Reader:
    """A cursor over immutable bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        start = self._at
        end = start + size
        if end > len(self._data):
            raise malformed(f"wanted {size} bytes, {self.left} left")
        self._at = end
        return self._data[start:end]

    def rest(self) -> bytes:
        """Return everything not yet read."""
        return self.take(self.left)

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Return the next ``layout.size`` bytes as values."""
        start = self._at
        end = start + layout.size
        if end > len(self._data):
            raise malformed(f"wanted {layout.size} bytes, {self.left} left")
        self._at = end
        return layout.unpack_from(self._data, start)


class Codec(Protocol[T]):
    """How one value is laid out on the wire."""

    def write(self, value: T) -> bytes:
        """Encode ``value``."""

    def read(self, reader: Reader) -> T:
        """Decode one value and advance ``reader``."""


class Packed(Codec[T], Protocol[T]):
    """A codec of constant size, which :mod:`struct` can read together with its neighbours."""

    @property
    def format(self) -> str:
        """The struct code, without byte order."""


@dataclass(frozen=True, slots=True)
class UInt:
    """A big-endian unsigned integer of ``size`` bytes: 1, 2, 4 or 8."""

    size: int
    name: str = ""

    @property
    def format(self) -> str:
        """The struct code, without byte order."""
        return _UNSIGNED[self.size]

    def write(self, value: int) -> bytes:
        """Encode ``value``."""
        return value.to_bytes(self.size, "big")

    def read(self, reader: Reader) -> int:
        """Decode ``size`` bytes."""
        return int.from_bytes(reader.take(self.size), "big")

    def __str__(self) -> str:
        return self.name or f"u{self.size * 8}"


@dataclass(frozen=True, slots=True)
class SInt:
    """A big-endian two's complement integer of ``size`` bytes: 1, 2, 4 or 8."""

    size: int

    @property
    def format(self) -> str:
        """The struct code, without byte order."""
        return _UNSIGNED[self.size].lower()

    def write(self, value: int) -> bytes:
        """Encode ``value``."""
        return value.to_bytes(self.size, "big", signed=True)

    def read(self, reader: Reader) -> int:
        """Decode ``size`` bytes."""
        return int.from_bytes(reader.take(self.size), "big", signed=True)

    def __str__(self) -> str:
        return f"s{self.size * 8}"


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly ``size`` bytes."""

    size: int
    name: str = ""

    @property
    def format(self) -> str:
        """The struct code, without byte order."""
        return f"{self.size}s"

    def write(self, value: bytes) -> bytes:
        """Return ``value`` unchanged."""
        return value

    def read(self, reader: Reader) -> bytes:
        """Take ``size`` bytes."""
        return reader.take(self.size)

    def __str__(self) -> str:
        return self.name or f"{self.size}*byte"


@dataclass(frozen=True, slots=True)
class Bytes:
    """A ``u16`` length and that many bytes."""

    def write(self, value: bytes) -> bytes:
        """Encode ``value``; the model limits its length."""
        return len(value).to_bytes(2, "big") + value

    def read(self, reader: Reader) -> bytes:
        """Decode the length, then take that many bytes."""
        return reader.take(int.from_bytes(reader.take(2), "big"))

    def __str__(self) -> str:
        return "u16 len, len*byte"


@dataclass(frozen=True, slots=True)
class Rest:
    """All bytes that are left: the last field of a TLV record."""

    def write(self, value: bytes) -> bytes:
        """Return ``value`` unchanged."""
        return value

    def read(self, reader: Reader) -> bytes:
        """Take what is left."""
        return reader.rest()

    def __str__(self) -> str:
        return "...*byte"


@dataclass(frozen=True, slots=True)
class Flag:
    """A TLV record without a value: True when it is there."""

    def write(self, value: bool) -> bytes:
        """Return nothing; the caller leaves the record out when ``value`` is False."""
        return b""

    def read(self, reader: Reader) -> bool:
        """Return True: the record is there."""
        return True

    def __str__(self) -> str:
        return "present or not"


@dataclass(frozen=True, slots=True)
class Repeated:
    """``item`` again and again until nothing is left: the last field of a TLV record."""

    item: Codec[Any]

    def write(self, value: list[Any]) -> bytes:
        """Encode the items, without a count."""
        return b"".join(map(self.item.write, value))

    def read(self, reader: Reader) -> list[Any]:
        """Decode items up to the end."""
        items: list[Any] = []
        while reader.left:
            items.append(self.item.read(reader))
        return items

    def __str__(self) -> str:
        return f"...*{self.item}"


@dataclass(frozen=True, slots=True)
class Counted:
    """A count of ``size`` bytes and that many of ``item``."""

    item: Codec[Any]
    size: int = 2

    def write(self, value: list[Any]) -> bytes:
        """Encode the count and the items; the model limits their number."""
        return len(value).to_bytes(self.size, "big") + b"".join(map(self.item.write, value))

    def read(self, reader: Reader) -> list[Any]:
        """Decode the count, then that many items."""
        count = int.from_bytes(reader.take(self.size), "big")
        return [self.item.read(reader) for _ in range(count)]

    def __str__(self) -> str:
        return f"{UInt(self.size)} num, num*({self.item})"


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node by its id, or by a channel and its end there: ``sciddir_or_pubkey`` (BOLT 1)."""

    def write(self, value: bytes) -> bytes:
        """Return ``value`` unchanged; the model checks it."""
        return value

    def read(self, reader: Reader) -> bytes:
        """Take 9 or 33 bytes, as the first of them says."""
        first = reader.take(1)
        if first[0] > 3:
            raise malformed(f"sciddir_or_pubkey starts with {first.hex()}")
        return first + reader.take(8 if first[0] < 2 else 32)

    def __str__(self) -> str:
        return "sciddir_or_pubkey"


@dataclass(frozen=True, slots=True)
class Times:
    """Exactly ``count`` of ``item``."""

    count: int
    item: Codec[Any]

    def write(self, value: list[Any]) -> bytes:
        """Encode the items; the model has already checked their number."""
        return b"".join(map(self.item.write, value))

    def read(self, reader: Reader) -> list[Any]:
        """Decode ``count`` items."""
        return [self.item.read(reader) for _ in range(self.count)]

    def __str__(self) -> str:
        return f"{self.count}*{self.item}"


@dataclass(frozen=True, slots=True)
class Truncated:
    """An unsigned integer of at most ``size`` bytes without leading zeros (``tu16`` to ``tu64``).

    It has no length of its own, so it can only be the last field of a TLV record.
    """

    size: int

    def write(self, value: int) -> bytes:
        """Encode ``value`` in as few bytes as it needs; zero needs none."""
        return value.to_bytes((value.bit_length() + 7) // 8, "big")

    def read(self, reader: Reader) -> int:
        """Decode what is left, refusing a leading zero."""
        data = reader.rest()
        if len(data) > self.size:
            raise malformed(f"{self} of {len(data)} bytes")
        if data[:1] == b"\0":
            raise malformed(f"{self} with a leading zero")
        return int.from_bytes(data, "big")

    def __str__(self) -> str:
        return f"tu{self.size * 8}"


_BIG_SIZES = {0xFD: (2, 0xFD), 0xFE: (4, 1 << 16), 0xFF: (8, 1 << 32)}
"""First byte → size of what follows, least value that may be written so."""


@dataclass(frozen=True, slots=True)
class BigSize:
    """The variable-length integer of TLV types and lengths (BOLT 1 § Appendix A)."""

    def write(self, value: int) -> bytes:
        """Encode ``value`` in its one minimal form."""
        if value < 0xFD:
            return value.to_bytes(1, "big")
        if value < 1 << 16:
            return b"\xfd" + value.to_bytes(2, "big")
        if value < 1 << 32:
            return b"\xfe" + value.to_bytes(4, "big")
        return b"\xff" + value.to_bytes(8, "big")

    def read(self, reader: Reader) -> int:
        """Decode, rejecting encodings that are not minimal."""
        first = reader.take(1)[0]
        if first < 0xFD:
            return first
        size, least = _BIG_SIZES[first]
        value = int.from_bytes(reader.take(size), "big")
        if value < least:
            raise malformed(f"bigsize {value} is not minimal", bolt="BOLT 1 § BigSize")
        return value

    def __str__(self) -> str:
        return "bigsize"


BIG_SIZE = BigSize()
