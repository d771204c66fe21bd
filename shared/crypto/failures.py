"""Failure messages of payments (BOLT 4 § Failure Messages), declared once each."""

from dataclasses import dataclass
from typing import TypeAlias

from shared.errors import MalformedMessage
from shared.wire.codec import BIG_SIZE, Reader

__all__ = [
    "BADONION",
    "FAILURES",
    "NODE",
    "PERM",
    "UPDATE",
    "Failure",
    "decode_failure",
    "encode_failure",
]

BADONION = 0x8000
PERM = 0x4000
NODE = 0x2000
UPDATE = 0x1000

INVALID_ONION_VERSION = BADONION | PERM | 4
INVALID_ONION_HMAC = BADONION | PERM | 5
INVALID_ONION_KEY = BADONION | PERM | 6
INVALID_ONION_PAYLOAD = PERM | 22
INVALID_ONION_BLINDING = BADONION | PERM | 24

Layout: TypeAlias = tuple[tuple[str, int], ...]
"""Fields: name, size in bytes; ``channel_update`` has a 2-byte length of its own."""

_BIG_SIZE = -1
"""The size of a field that is a bigsize."""
_CHANNEL_UPDATE = ("channel_update", 0)
_ONION_HASH = ("sha256_of_onion", 32)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure message.

    Attributes:
        code: with its flag bits.
        name: as in BOLT 4; ``unknown`` for a code that is not there.
        fields: the numbers and bytes of its data, in order, as ``(name, value)``.
    """

    code: int
    name: str
    fields: tuple[tuple[str, int | bytes], ...] = ()

    @property
    def is_permanent(self) -> bool:
        """PERM: trying the same again is of no use."""
        return bool(self.code & PERM)

    @property
    def is_node(self) -> bool:
        """NODE: it concerns the whole node."""
        return bool(self.code & NODE)

    @property
    def is_bad_onion(self) -> bool:
        """BADONION: the onion could not be read."""
        return bool(self.code & BADONION)

    def __str__(self) -> str:
        return self.name


FAILURES: dict[int, tuple[str, Layout]] = {
    NODE | 2: ("temporary_node_failure", ()),
    PERM | NODE | 2: ("permanent_node_failure", ()),
    PERM | NODE | 3: ("required_node_feature_missing", ()),
    INVALID_ONION_VERSION: ("invalid_onion_version", (_ONION_HASH,)),
    INVALID_ONION_HMAC: ("invalid_onion_hmac", (_ONION_HASH,)),
    INVALID_ONION_KEY: ("invalid_onion_key", (_ONION_HASH,)),
    UPDATE | 7: ("temporary_channel_failure", (_CHANNEL_UPDATE,)),
    PERM | 8: ("permanent_channel_failure", ()),
    PERM | 9: ("required_channel_feature_missing", ()),
    PERM | 10: ("unknown_next_peer", ()),
    UPDATE | 11: ("amount_below_minimum", (("htlc_msat", 8), _CHANNEL_UPDATE)),
    UPDATE | 12: ("fee_insufficient", (("htlc_msat", 8), _CHANNEL_UPDATE)),
    UPDATE | 13: ("incorrect_cltv_expiry", (("cltv_expiry", 4), _CHANNEL_UPDATE)),
    UPDATE | 14: ("expiry_too_soon", (_CHANNEL_UPDATE,)),
    PERM | 15: ("incorrect_or_unknown_payment_details", (("htlc_msat", 8), ("height", 4))),
    18: ("final_incorrect_cltv_expiry", (("cltv_expiry", 4),)),
    19: ("final_incorrect_htlc_amount", (("incoming_htlc_amt", 8),)),
    UPDATE | 20: ("channel_disabled", (("disabled_flags", 2), _CHANNEL_UPDATE)),
    21: ("expiry_too_far", ()),
    INVALID_ONION_PAYLOAD: ("invalid_onion_payload", (("type", _BIG_SIZE), ("offset", 2))),
    23: ("mpp_timeout", ()),
    INVALID_ONION_BLINDING: ("invalid_onion_blinding", (_ONION_HASH,)),
}
"""Code → name and layout."""

CODES = {name: code for code, (name, _) in FAILURES.items()}
"""Name → code."""


def encode_failure(name: str, **values: int | bytes) -> bytes:
    """Return code and data of a failure; a channel_update that is not given is empty.

    Raises:
        KeyError: no such failure, or a field is missing.
        ValueError: a field that the failure does not have, or one of a wrong size.
    """
    code = CODES[name]
    layout = FAILURES[code][1]
    if foreign := values.keys() - dict(layout).keys():
        raise ValueError(f"{name} has no {', '.join(sorted(foreign))}")
    parts = [code.to_bytes(2, "big")]
    parts += [_encode_field(field, size, values) for field, size in layout]
    return b"".join(parts)


def _encode_field(field: str, size: int, values: dict[str, int | bytes]) -> bytes:
    value = values.get(field, b"") if field == _CHANNEL_UPDATE[0] else values[field]
    if isinstance(value, int):
        return BIG_SIZE.write(value) if size == _BIG_SIZE else value.to_bytes(size, "big")
    if field == _CHANNEL_UPDATE[0]:
        return len(value).to_bytes(2, "big") + value
    if len(value) != size:
        raise ValueError(f"{field} has {size} bytes, got {len(value)}")
    return value


def decode_failure(message: bytes) -> Failure:
    """Read a failure message leniently: whatever a faraway node sent must not stop us.

    Fields that are cut off are left out; an unknown code is ``unknown``.
    """
    code = int.from_bytes(message[:2], "big")
    name, layout = FAILURES.get(code, ("unknown", ()))
    fields: list[tuple[str, int | bytes]] = []
    reader = Reader(message[2:])
    for field, size in layout:
        try:
            fields.append((field, _decode_field(field, size, reader)))
        except MalformedMessage:
            break
    return Failure(code, name, tuple(fields))


def _decode_field(field: str, size: int, reader: Reader) -> int | bytes:
    if size == _BIG_SIZE:
        return BIG_SIZE.read(reader)
    if field == _CHANNEL_UPDATE[0]:
        return reader.take(int.from_bytes(reader.take(2), "big"))
    value = reader.take(size)
    return value if field == _ONION_HASH[0] else int.from_bytes(value, "big")
