"""What one subject of the stream GRAPH holds, and how it is written there. Pure.

A value is a small header and the raw announcement. A header starts with its version, 1. A channel's
goes on with what its announcement does not say: capacity, the height of the block where its output
was spent, and the funding txid. That something is gone is a mark with the subject's own name. An
empty value says nothing, for whoever may ask the broker anything can have its answer, or a copy of
another value, sent to a subject of the stream: every value is of its subject alone.

Raises:
    FabricError: from `parse_change` and `parse_subject`: not what this program would have written.
"""

from collections.abc import Callable
from enum import StrEnum
from struct import Struct
from typing import NamedTuple

from shared.errors import FabricError, MalformedMessage
from shared.fabric import subjects
from shared.gossip.view import channel_view, direction_of, node_view, update_view

__all__ = [
    "GONE",
    "Change",
    "ChannelRecord",
    "Kind",
    "change_payload",
    "change_subject",
    "parse_change",
    "parse_subject",
]

_VERSION = 1
_PLAIN = bytes([_VERSION])
_HEADER = Struct(">BQI32s")
_PREFIX = "ln.graph."

GONE = b"\x01gone "
"""What the value of something that is gone starts with; its subject follows."""


class Kind(StrEnum):
    """The three kinds of announcements, by the token of their subjects."""

    CHANNEL = "channel"
    UPDATE = "update"
    NODE = "node"


class ChannelRecord(NamedTuple):
    """A channel of the table.

    Attributes:
        raw: its `channel_announcement`.
        capacity_sat: of the funding output.
        spent_height: of the block that spent it (or took it out); 0 while it is unspent.
        funding_txid: internal byte order.
    """

    raw: bytes
    capacity_sat: int
    spent_height: int
    funding_txid: bytes


class Change(NamedTuple):
    """A new value of one subject.

    Attributes:
        key: of a channel its short_channel_id, of an update `shared.gossip.view.update_key`, of a
            node its 33-byte id.
        value: a record, a raw announcement, or None: it is gone.
    """

    kind: Kind
    key: int | bytes
    value: ChannelRecord | bytes | None


def change_subject(change: Change) -> str:
    """Return the subject that holds it."""
    kind, key, _ = change
    if isinstance(key, bytes):
        return subjects.graph_node(key)
    if kind is Kind.CHANNEL:
        return subjects.graph_channel(key)
    return subjects.graph_update(key >> 1, key & 1)


def change_payload(change: Change) -> bytes:
    """Return what is published there."""
    value = change.value
    if value is None:
        return GONE + change_subject(change).encode()
    if isinstance(value, ChannelRecord):
        raw, capacity_sat, spent_height, funding_txid = value
        return _HEADER.pack(_VERSION, capacity_sat, spent_height, funding_txid) + raw
    return _PLAIN + value


def parse_change(subject: str, payload: bytes) -> Change:
    """Read a message of the stream, refusing an announcement that is not of its subject."""
    kind, key = parse_subject(subject)
    if payload.startswith(GONE):
        if payload != GONE + subject.encode():
            raise _refused(subject)
        return Change(kind, key, None)
    try:
        return Change(kind, key, _READERS[kind](key, payload))
    except (ValueError, MalformedMessage) as error:
        raise _refused(subject) from error


def parse_subject(subject: str) -> tuple[Kind, int | bytes]:
    """Return kind and key of what a subject of the stream holds."""
    if not subject.startswith(_PREFIX):
        raise _refused(subject)
    kind, _, token = subject[len(_PREFIX) :].partition(".")
    try:
        return _KINDS[kind], _KEYS[kind](token)
    except (KeyError, ValueError) as error:
        raise _refused(subject) from error


def _update_key(token: str) -> int:
    scid, _, direction = token.partition(".")
    if direction not in {"0", "1"}:
        raise ValueError("no such direction")
    return _number(scid) << 1 | int(direction)


def _node_key(token: str) -> bytes:
    key = bytes.fromhex(token)
    if len(key) != 33 or key.hex() != token:
        raise ValueError("not a node id of ours")
    return key


def _channel(key: int | bytes, payload: bytes) -> ChannelRecord:
    if len(payload) < _HEADER.size:
        raise ValueError("too short")
    version, capacity_sat, spent_height, funding_txid = _HEADER.unpack_from(payload)
    raw = payload[_HEADER.size :]
    if version != _VERSION or channel_view(raw).short_channel_id != key:
        raise ValueError("not of this subject")
    return ChannelRecord(raw, capacity_sat, spent_height, funding_txid)


def _update(key: int | bytes, payload: bytes) -> bytes:
    raw = payload[1:]
    update_view(raw)
    scid, direction = direction_of(raw)
    if payload[:1] != _PLAIN or scid << 1 | direction != key:
        raise ValueError("not of this subject")
    return raw


def _node(key: int | bytes, payload: bytes) -> bytes:
    raw = payload[1:]
    if payload[:1] != _PLAIN or node_view(raw).node_id != key:
        raise ValueError("not of this subject")
    return raw


def _number(token: str) -> int:
    """Read a number as `subjects` writes it, and in no other way."""
    number = int(token)
    if str(number) != token or not 0 <= number < 1 << 64:
        raise ValueError("not a number of ours")
    return number


def _refused(subject: str) -> FabricError:
    return FabricError(f"not a value of the routing table: {subject[:120]!r}")


_KINDS = {kind.value: kind for kind in Kind}
_KEYS: dict[str, Callable[[str], int | bytes]] = {
    "channel": _number,
    "update": _update_key,
    "node": _node_key,
}
_READERS: dict[Kind, Callable[[int | bytes, bytes], ChannelRecord | bytes]] = {
    Kind.CHANNEL: _channel,
    Kind.UPDATE: _update,
    Kind.NODE: _node,
}
