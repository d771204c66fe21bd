"""The strings of BOLT 12 (§ Encoding): bech32 characters without a checksum, joined by ``+``."""

import re
from typing import Final

from embit import bech32

from shared.bolt11.bits import to_groups
from shared.errors import MalformedMessage

__all__ = ["INVOICE_PREFIX", "OFFER_PREFIX", "REQUEST_PREFIX", "decode_text", "encode_text"]

BOLT = "BOLT 12 § Encoding"
OFFER_PREFIX: Final = "lno"
REQUEST_PREFIX: Final = "lnr"
INVOICE_PREFIX: Final = "lni"
MAX_CHARACTERS = 110_000
"""More than the longest TLV stream that a message can carry."""

_JOINT = re.compile(r"(?<=[0-9A-Za-z])\+[ \t\r\n\f\v]*(?=[0-9A-Za-z])")
_CHARSET: str = bech32.CHARSET
_FIVE_BITS = str.maketrans(_CHARSET, "0123456789abcdefghijklmnopqrstuv")


def encode_text(prefix: str, data: bytes) -> str:
    """Return the string of a TLV stream, in lower case."""
    return prefix + "1" + "".join(_CHARSET[group] for group in to_groups(data))


def decode_text(text: str) -> tuple[str, bytes]:
    """Return prefix and TLV stream of a string.

    Raises:
        MalformedMessage: mixed case, a foreign character, a ``+`` that joins nothing, bits left
            over that are not padding.
    """
    # Before any change of case: a few characters outside of ASCII become ASCII letters by it.
    if not text.isascii() or len(text) > MAX_CHARACTERS:
        raise MalformedMessage("no string of BOLT 12", bolt=BOLT)
    joined = _JOINT.sub("", text)
    if joined not in {joined.lower(), joined.upper()}:
        raise MalformedMessage("mixed upper and lower case", bolt=BOLT)
    prefix, separator, data = joined.lower().partition("1")
    if not separator or not prefix.isalpha():
        raise MalformedMessage("no prefix", bolt=BOLT)
    if set(data) - set(_CHARSET):
        raise MalformedMessage("a character that bech32 does not have", bolt=BOLT)
    return prefix, _to_bytes(data)


def _to_bytes(data: str) -> bytes:
    spare = len(data) * 5 % 8
    # Base 32 is read in linear time; shifting would make a long string a heavy one.
    number = int(data.translate(_FIVE_BITS) or "0", 32)
    if spare >= 5 or number & ((1 << spare) - 1):
        raise MalformedMessage("bits left over that are not padding", bolt=BOLT)
    return (number >> spare).to_bytes(len(data) * 5 // 8, "big")
