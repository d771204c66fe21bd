"""Failure messages of payments (BOLT 4 § Failure Messages), declared once each."""

from dataclasses import dataclass
from typing import TypeAlias

from shared.wire.codec import BIG_SIZE

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

_CHANNEL_UPDATE = ("channel_update", 0)


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
    INVALID_ONION_VERSION: ("invalid_onion_version", (("sha256_of_onion", 32),)),
    INVALID_ONION_HMAC: ("invalid_onion_hmac", (("sha256_of_onion", 32),)),
    INVALID_ONION_KEY: ("invalid_onion_key", (("sha256_of_onion", 32),)),
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
    INVALID_ONION_PAYLOAD: ("invalid_onion_payload", (("type", -1), ("offset", 2))),
    23: ("mpp_timeout", ()),
    INVALID_ONION_BLINDING: ("invalid_onion_blinding", (("sha256_of_onion", 32),)),
}
"""Code → name and layout."""

CODES = {name: code for code, (name, _) in FAILURES.items()}
"""Name → code."""


def encode_failure(name: str, **values: int | bytes) -> bytes:
    """Return code and data of a failure; a channel_update that is not given is empty.

    Raises:
        KeyError: no such failure, or a field is missing.
    """
    code = CODES[name]
    parts = [code.to_bytes(2, "big")]
    for field, size in FAILURES[code][1]:
        if field == "channel_update":
            update = bytes(values.get(field, b""))  # type: ignore[arg-type]
            parts += [len(update).to_bytes(2, "big"), update]
        elif size == -1:
            parts.append(BIG_SIZE.write(int(values[field])))
        else:
            value = values[field]
            parts.append(value if isinstance(value, bytes) else value.to_bytes(size, "big"))
    return b"".join(parts)


def decode_failure(message: bytes) -> Failure:
    """Read a failure message leniently: whatever a faraway node sent must not stop us.

    Fields that are cut off are left out; an unknown code is ``unknown``.
    """
    code = int.from_bytes(message[:2], "big")
    name, layout = FAILURES.get(code, ("unknown", ()))
    fields: list[tuple[str, int | bytes]] = []
    rest = message[2:]
    for field, declared in layout:
        size = declared
        if field == "channel_update":
            size, rest = int.from_bytes(rest[:2], "big"), rest[2:]
        elif declared == -1:
            size = _bigsize_size(rest)
        if len(rest) < size:
            break
        value, rest = rest[:size], rest[size:]
        if declared == -1:
            fields.append((field, int.from_bytes(value[1:] if size > 1 else value, "big")))
        elif field in {"channel_update", "sha256_of_onion"}:
            fields.append((field, value))
        else:
            fields.append((field, int.from_bytes(value, "big")))
    return Failure(code, name, tuple(fields))


def _bigsize_size(data: bytes) -> int:
    return {0xFD: 3, 0xFE: 5, 0xFF: 9}.get(data[0], 1) if data else 1
