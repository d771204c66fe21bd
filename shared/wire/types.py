"""The vocabulary of BOLT messages: one alias per concept, unit in the name.

Each alias is at once the Python type (mypy), the JSON shape and range (pydantic) and the wire
layout (codec). Amounts that move money obey the bound of 21 million BTC (BOLT 1 § Fundamental
Types); limits and reserves do not, because peers send the largest u64 for "no limit".
"""

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from shared.wire.codec import (
    BigSize,
    Bytes,
    Counted,
    Fixed,
    Flag,
    NodeName,
    Repeated,
    Rest,
    SInt,
    Times,
    Truncated,
    UInt,
)

__all__ = [
    "MAX_MONEY_MSAT",
    "MAX_MONEY_SAT",
    "S64",
    "TU16",
    "TU32",
    "TU64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Amount",
    "Blob",
    "BlockHash",
    "BlockHashes",
    "ChannelId",
    "HoldTimes",
    "MilliSatoshi",
    "NodeRef",
    "OnionPacket",
    "Point",
    "Presence",
    "Satoshi",
    "Scid",
    "Secret",
    "Sha256",
    "Signature",
    "Signatures",
    "Tail",
    "VarInt",
    "Witnesses",
]

MAX_MONEY_SAT = 21_000_000 * 100_000_000
"""Satoshi amounts are at most this (BOLT 1)."""
MAX_MONEY_MSAT = MAX_MONEY_SAT * 1000
"""Millisatoshi amounts are at most this (BOLT 1)."""

_U64 = Field(ge=0, lt=1 << 64)

U8: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 8), UInt(1, "byte")]
U16: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 16), UInt(2)]
U32: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 32), UInt(4)]
U64: TypeAlias = Annotated[int, _U64, UInt(8)]
S64: TypeAlias = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63), SInt(8)]
TU16: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 16), Truncated(2)]
TU32: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 32), Truncated(4)]
TU64: TypeAlias = Annotated[int, _U64, Truncated(8)]
VarInt: TypeAlias = Annotated[int, _U64, BigSize()]
"""A ``bigsize``."""

Satoshi: TypeAlias = Annotated[int, Field(ge=0, le=MAX_MONEY_SAT), UInt(8)]
"""Satoshis, at most 21 million BTC."""
MilliSatoshi: TypeAlias = Annotated[int, Field(ge=0, le=MAX_MONEY_MSAT), UInt(8)]
"""Millisatoshis, at most 21 million BTC."""
Amount: TypeAlias = U64
"""A limit or reserve, satoshis or millisatoshis as its name says; any u64."""

Scid: TypeAlias = Annotated[int, _U64, UInt(8, "short_channel_id")]
"""A ``short_channel_id`` as one integer; :class:`shared.units.ShortChannelId` takes it apart."""


def _compressed(value: bytes) -> bytes:
    if value[0] not in (2, 3):
        raise ValueError("a point starts with 02 or 03")
    return value


Point: TypeAlias = Annotated[
    bytes, Field(min_length=33, max_length=33), AfterValidator(_compressed), Fixed(33, "point")
]
"""A compressed point. Only length and first byte are checked; the curve is, where it is used."""


def _names_node(value: bytes) -> bytes:
    if len(value) != (9 if value[0] < 2 else 33) or value[0] > 3:
        raise ValueError("neither a point nor a short_channel_id and its side")
    return value


NodeRef: TypeAlias = Annotated[
    bytes, Field(min_length=9, max_length=33), AfterValidator(_names_node), NodeName()
]
"""``sciddir_or_pubkey``: 33 bytes, a node id; or 9, which end (00: node_id_1) of which channel."""
Signature: TypeAlias = Annotated[bytes, Field(min_length=64, max_length=64), Fixed(64, "signature")]
"""A compact signature, 32 bytes r and 32 bytes s."""
ChannelId: TypeAlias = Annotated[
    bytes, Field(min_length=32, max_length=32), Fixed(32, "channel_id")
]
BlockHash: TypeAlias = Annotated[
    bytes, Field(min_length=32, max_length=32), Fixed(32, "chain_hash")
]
"""A block hash in internal byte order."""
Sha256: TypeAlias = Annotated[bytes, Field(min_length=32, max_length=32), Fixed(32, "sha256")]
"""A hash or a txid, the latter in internal byte order."""
Secret: TypeAlias = Annotated[bytes, Field(min_length=32, max_length=32, repr=False), Fixed(32)]
"""A preimage or a per-commitment secret; it stays out of ``repr``."""
OnionPacket: TypeAlias = Annotated[
    bytes, Field(min_length=1366, max_length=1366, repr=False), Fixed(1366)
]
"""A Sphinx packet; it stays out of ``repr``."""

Blob: TypeAlias = Annotated[bytes, Field(max_length=0xFFFF), Bytes()]
"""Bytes with a length before them."""
Tail: TypeAlias = Annotated[bytes, Rest()]
"""Bytes up to the end of their TLV record."""
Presence: TypeAlias = Annotated[bool, Field(exclude_if=lambda value: not value), Flag()]
"""A TLV record without a value."""

Signatures: TypeAlias = Annotated[list[Signature], Counted(Fixed(64, "signature"))]
BlockHashes: TypeAlias = Annotated[list[BlockHash], Repeated(Fixed(32, "chain_hash"))]
Witnesses: TypeAlias = Annotated[list[Blob], Counted(Bytes())]
HoldTimes: TypeAlias = Annotated[list[U32], Field(min_length=20, max_length=20), Times(20, UInt(4))]
"""Twenty hold times, in units of 100 ms (BOLT 4 § attribution data)."""
