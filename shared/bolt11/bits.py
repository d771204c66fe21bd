"""Bech32 (BIP 173) for strings of any length, and 5-bit groups.

embit's own decoder obeys the 90 characters of addresses; an invoice is longer, so its checksum
functions are used directly.
"""

from collections.abc import Iterable, Sequence

from embit import bech32

from shared.errors import MalformedMessage

__all__ = [
    "bech32_decode",
    "bech32_encode",
    "from_groups",
    "minimal",
    "number",
    "padded_bytes",
    "to_groups",
    "to_number",
]

BOLT = "BOLT 11 § Encoding Overview"
CHECKSUM = 6
_BASE32 = "0123456789abcdefghijklmnopqrstuv"


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
    # Before any change of case: a few characters outside of ASCII become ASCII letters by it.
    if not text.isascii():
        raise MalformedMessage("a character that bech32 does not have", bolt=BOLT)
    if text not in {text.lower(), text.upper()}:
        raise MalformedMessage("mixed upper and lower case", bolt=BOLT)
    prefix, separator, data = text.lower().rpartition("1")
    if not separator or not prefix or len(data) < CHECKSUM:
        raise MalformedMessage("not a bech32 string", bolt=BOLT)
    groups = [bech32.CHARSET.find(character) for character in data]
    if -1 in groups:
        raise MalformedMessage("a character that bech32 does not have", bolt=BOLT)
    if bech32.bech32_verify_checksum(prefix, groups) != bech32.Encoding.BECH32:
        raise MalformedMessage("bech32 checksum is wrong", bolt=BOLT)
    return prefix, groups[:-CHECKSUM]


def to_groups(data: bytes) -> list[int]:
    """Cut bytes into 5-bit groups, the last one padded with zeros."""
    size = -(-len(data) * 8 // 5)
    return number(int.from_bytes(data, "big") << (size * 5 - len(data) * 8), size)


def from_groups(groups: Sequence[int]) -> bytes:
    """Join 5-bit groups to whole bytes; the bits that remain are dropped."""
    bits = len(groups) * 5
    return (to_number(groups) >> bits % 8).to_bytes(bits // 8, "big")


def padded_bytes(groups: Sequence[int]) -> bytes:
    """Join 5-bit groups to bytes, the last one padded with zeros."""
    padding = -len(groups) * 5 % 8
    return (to_number(groups) << padding).to_bytes((len(groups) * 5 + padding) // 8, "big")


def number(value: int, size: int) -> list[int]:
    """Return a number in ``size`` big-endian groups.

    Raises:
        ValueError: it does not fit.
    """
    if not 0 <= value < 1 << 5 * size:
        raise ValueError(f"{value} does not fit in {size} groups of 5 bits")
    return [value >> 5 * i & 31 for i in range(size - 1, -1, -1)]


def minimal(value: int) -> list[int]:
    """Return a number in as few groups as it needs: none for 0."""
    return number(value, -(-value.bit_length() // 5))


def to_number(groups: Sequence[int]) -> int:
    """Read big-endian groups."""
    # Base 32 is read in linear time; shifting would make a long string a heavy one.
    return int("".join(_BASE32[group] for group in groups) or "0", 32)
