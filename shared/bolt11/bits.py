"""Bech32 (BIP 173) for strings of any length, and 5-bit groups.

embit's own decoder obeys the 90 characters of addresses; an invoice is longer, so its checksum
functions are used directly.
"""

from collections.abc import Iterable

from embit import bech32

from shared.errors import MalformedMessage

__all__ = ["bech32_decode", "bech32_encode", "from_groups", "number", "to_groups", "to_number"]

BOLT = "BOLT 11 § Encoding Overview"
CHECKSUM = 6


def bech32_encode(prefix: str, groups: Iterable[int]) -> str:
    """Return ``prefix``, separator, data and checksum."""
    data = list(groups)
    checksum = bech32.bech32_create_checksum(bech32.Encoding.BECH32, prefix, data)
    return prefix + "1" + "".join(bech32.CHARSET[g] for g in [*data, *checksum])


def bech32_decode(text: str) -> tuple[str, list[int]]:
    """Return prefix and data of a bech32 string.

    Raises:
        MalformedMessage: mixed case, no separator, a foreign character or a wrong checksum.
    """
    if text not in {text.lower(), text.upper()}:
        raise MalformedMessage("mixed upper and lower case", bolt=BOLT)
    text = text.lower()
    prefix, separator, data = text.rpartition("1")
    if not separator or not prefix or len(data) < CHECKSUM:
        raise MalformedMessage("not a bech32 string", bolt=BOLT)
    groups = [bech32.CHARSET.find(character) for character in data]
    if -1 in groups or not prefix.isascii():
        raise MalformedMessage("a character that bech32 does not have", bolt=BOLT)
    if bech32.bech32_verify_checksum(prefix, groups) != bech32.Encoding.BECH32:
        raise MalformedMessage("bech32 checksum is wrong", bolt=BOLT)
    return prefix, groups[:-CHECKSUM]


def to_groups(data: bytes) -> list[int]:
    """Cut bytes into 5-bit groups, the last one padded with zeros."""
    size = -(-len(data) * 8 // 5)
    return number(int.from_bytes(data, "big") << (size * 5 - len(data) * 8), size)


def from_groups(groups: list[int]) -> bytes:
    """Join 5-bit groups to whole bytes; the bits that remain are dropped."""
    bits = len(groups) * 5
    return (to_number(groups) >> bits % 8).to_bytes(bits // 8, "big")


def number(value: int, size: int) -> list[int]:
    """Return a number in ``size`` big-endian groups."""
    return [value >> 5 * i & 31 for i in range(size - 1, -1, -1)]


def to_number(groups: list[int]) -> int:
    """Read big-endian groups."""
    value = 0
    for group in groups:
        value = value << 5 | group
    return value
