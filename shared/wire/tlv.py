"""TLV streams (BOLT 1 § Type-Length-Value Format): raw records in, raw records out.

Which records are known, and what is in them, is the business of :mod:`shared.wire.message`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared.wire.codec import BIG_SIZE, Reader, malformed

__all__ = ["TLV_BOLT", "Tlv", "read_records", "write_records"]

TLV_BOLT = "BOLT 1 § Type-Length-Value Format"


@dataclass(frozen=True, slots=True)
class Tlv:
    """Marks an optional field as the record ``type`` of its TLV stream."""

    type: int


def read_records(reader: Reader) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each record up to the end of ``reader``.

    Raises:
        MalformedMessage: a type or length is truncated or not minimal, a value is too short,
            types do not strictly increase.
    """
    last = -1
    while reader.left:
        number = BIG_SIZE.read(reader)
        if number <= last:
            raise malformed(f"tlv {number} after tlv {last}", bolt=TLV_BOLT)
        last = number
        yield number, reader.take(BIG_SIZE.read(reader))


def write_records(records: Iterable[tuple[int, bytes]]) -> bytes:
    """Encode ``records``, which are in order of strictly increasing type."""
    return b"".join(
        BIG_SIZE.write(number) + BIG_SIZE.write(len(value)) + value for number, value in records
    )
