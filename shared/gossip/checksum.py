"""The checksum by which peers compare what a `channel_update` says (BOLT 7). Pure."""

from crc32c import crc32c

__all__ = ["checksum"]

_SIGNED, _TIMESTAMP, _FLAGS = 66, 106, 110


def checksum(raw: bytes) -> int:
    """Return the CRC32C of a raw `channel_update` without type, signature and timestamp."""
    return crc32c(raw[_FLAGS:], crc32c(raw[_SIGNED:_TIMESTAMP]))
