"""A channel's values in columns, both ways.

Every field of :class:`Channel` is in exactly one of the groups below.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from sqlalchemy import Row

from back.channel.model import (
    Channel,
    ChannelParameters,
    ClosingNegotiation,
    Failed,
    FeeUpdate,
    Fulfilled,
    Funding,
    Htlc,
    HtlcState,
    LocalCommitment,
    Malformed,
    Phase,
    RemoteCommitment,
    Resolution,
    UnrevokedCommitment,
)

__all__ = [
    "DETAILS",
    "IDENTITY",
    "NOT_STORED",
    "OWN_TABLES",
    "STATE",
    "htlc_columns",
    "identity_columns",
    "local_columns",
    "progress_columns",
    "read_htlc",
    "read_identity",
    "read_local",
    "read_state",
    "read_unrevoked",
    "settled_columns",
    "state_columns",
    "unrevoked_columns",
]

IDENTITY = ("channel_id", "parameters", "phase")
"""In ``channels``, each in its column."""


@dataclass(frozen=True, slots=True)
class _Details:
    funding: Funding | None = None
    local_alias: int | None = None
    remote_alias: int | None = None
    is_channel_ready_sent: bool = False
    is_channel_ready_received: bool = False
    remote_announcement_signatures: bytes | None = None
    channel_announcement: bytes | None = None
    remote_channel_update: bytes | None = None
    local_shutdown_script: bytes | None = None
    remote_shutdown_script: bytes | None = None
    is_shutdown_sent: bool = False
    closing: ClosingNegotiation | None = None
    closing_feerate_range_per_kw: tuple[int, int, int] | None = None
    sent_error: bytes | None = None
    received_error: bytes | None = None
    local_force_close: bytes = b""
    published: tuple[bytes, ...] = ()


DETAILS = tuple(each.name for each in fields(_Details))
"""In ``channels.details``, as JSON."""
STATE = (
    "local_msat",
    "remote_msat",
    "next_local_htlc_id",
    "next_remote_htlc_id",
    "fees",
    "remote_commitment",
    "is_revoke_last",
)
"""In ``channel_states``, with the number of ``unrevoked``."""
OWN_TABLES = ("local_commitment", "unrevoked", "remote_secrets", "htlcs")
NOT_STORED = (
    "policy",
    "link",
    "features",
    "queue",
    "batch",
    "announcement_turn",
    "height",
    "feerate_per_kw",
)
"""Of a connection or of the world: given again after a start."""

_LENGTH_BYTES = 4
_SIGNATURE_BYTES = 64


_HEX = ConfigDict(
    ser_json_bytes="hex", val_json_bytes="hex", extra="forbid", hide_input_in_errors=True
)
_DETAILS = TypeAdapter(tuple[_Details], config=_HEX)
_PARAMETERS = TypeAdapter(tuple[ChannelParameters], config=_HEX)
_FEES = TypeAdapter(tuple[FeeUpdate, ...])


def identity_columns(channel: Channel) -> dict[str, object]:
    """Return the changing columns of ``channels``."""
    details = _Details(*(getattr(channel, name) for name in DETAILS))
    return {
        "key_index": channel.parameters.key_index,
        "channel_id": channel.channel_id,
        "phase": channel.phase.value,
        "is_over": channel.phase is Phase.CLOSED,
        "parameters": _PARAMETERS.dump_json((channel.parameters,)).decode(),
        "details": _DETAILS.dump_json((details,)).decode(),
    }


def read_identity(row: Row[Any]) -> dict[str, Any]:
    """Return the fields of a channel that are in ``channels``."""
    (details,) = _DETAILS.validate_json(row.details)
    return {
        "channel_id": row.channel_id,
        "parameters": _PARAMETERS.validate_json(row.parameters)[0],
        "phase": Phase(row.phase),
        **{name: getattr(details, name) for name in DETAILS},
    }


def state_columns(channel: Channel) -> dict[str, object]:
    """Return the columns of ``channel_states``."""
    remote = channel.remote_commitment
    return {
        "key_index": channel.parameters.key_index,
        "local_msat": channel.local_msat,
        "remote_msat": channel.remote_msat,
        "next_local_htlc_id": channel.next_local_htlc_id,
        "next_remote_htlc_id": channel.next_remote_htlc_id,
        "fees": _FEES.dump_json(channel.fees).decode(),
        "remote_number": remote.number,
        "remote_current_point": remote.current_point,
        "remote_next_point": remote.next_point,
        "unrevoked_number": channel.unrevoked.number if channel.unrevoked else None,
        "is_revoke_last": channel.is_revoke_last,
    }


def read_state(row: Row[Any]) -> dict[str, Any]:
    """Return the fields of a channel that are in ``channel_states``."""
    return {
        "local_msat": row.local_msat,
        "remote_msat": row.remote_msat,
        "next_local_htlc_id": row.next_local_htlc_id,
        "next_remote_htlc_id": row.next_remote_htlc_id,
        "fees": _FEES.validate_json(row.fees),
        "remote_commitment": RemoteCommitment(
            row.remote_number, row.remote_current_point, row.remote_next_point
        ),
        "is_revoke_last": row.is_revoke_last,
    }


def local_columns(local: LocalCommitment) -> dict[str, object]:
    """Return the columns of ``local_commitments``."""
    return {
        "number": local.number,
        "signature": local.signature,
        "htlc_signatures": b"".join(local.htlc_signatures),
        "current_point": local.current_point,
        "next_point": local.next_point,
    }


def read_local(row: Row[Any]) -> LocalCommitment:
    """Return our commitment."""
    joined: bytes = row.htlc_signatures
    signatures = tuple(
        joined[place : place + _SIGNATURE_BYTES]
        for place in range(0, len(joined), _SIGNATURE_BYTES)
    )
    return LocalCommitment(row.number, row.signature, signatures, row.current_point, row.next_point)


def unrevoked_columns(unrevoked: UnrevokedCommitment) -> dict[str, object]:
    """Return the columns of ``unrevoked_commitments``."""
    return {"number": unrevoked.number, "messages": _pack(unrevoked.messages)}


def read_unrevoked(row: Row[Any]) -> UnrevokedCommitment:
    """Return the batch that we signed last."""
    return UnrevokedCommitment(row.number, _unpack(row.messages))


def _pack(messages: Iterable[bytes]) -> bytes:
    return b"".join(len(m).to_bytes(_LENGTH_BYTES, "big") + m for m in messages)


def _unpack(data: bytes) -> tuple[bytes, ...]:
    messages = []
    place = 0
    while place < len(data):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(data[place:start], "big")
        messages.append(data[start:place])
    return tuple(messages)


def progress_columns(htlc: Htlc) -> dict[str, object]:
    """Return the columns of ``htlcs`` that change in an HTLC's life."""
    return {
        "state": htlc.state.value,
        "remote_first": htlc.remote_first,
        "remote_last": htlc.remote_last,
        "onion_routing_packet": htlc.onion_routing_packet,
        **_resolution_columns(htlc.resolution),
    }


def htlc_columns(htlc: Htlc) -> dict[str, object]:
    """Return all columns of ``htlcs`` but the channel's key."""
    return {
        "offered": htlc.offered,
        "id": htlc.id,
        "amount_msat": htlc.amount_msat,
        "payment_hash": htlc.payment_hash,
        "cltv_expiry": htlc.cltv_expiry,
        "origin": htlc.origin,
        "path_key": htlc.path_key,
        **progress_columns(htlc),
    }


def read_htlc(row: Row[Any]) -> Htlc:
    """Return an HTLC."""
    return Htlc(
        offered=bool(row.offered),
        id=row.id,
        amount_msat=row.amount_msat,
        payment_hash=row.payment_hash,
        cltv_expiry=row.cltv_expiry,
        state=HtlcState(row.state),
        onion_routing_packet=row.onion_routing_packet,
        path_key=row.path_key,
        origin=row.origin,
        resolution=_resolution(row),
        remote_first=row.remote_first,
        remote_last=row.remote_last,
    )


def settled_columns(htlc: Htlc) -> dict[str, object]:
    """Return all columns of ``settled_htlcs`` but the channel's key."""
    return {
        "offered": htlc.offered,
        "id": htlc.id,
        "amount_msat": htlc.amount_msat,
        "payment_hash": htlc.payment_hash,
        "cltv_expiry": htlc.cltv_expiry,
        "remote_first": htlc.remote_first,
        "remote_last": htlc.remote_last,
    }


def _resolution_columns(resolution: Resolution | None) -> dict[str, object]:
    match resolution:
        case Fulfilled(payment_preimage=preimage):
            return _resolved("fulfilled", preimage)
        case Failed(reason=reason):
            return _resolved("failed", reason)
        case Malformed(sha256_of_onion=digest, failure_code=code):
            return _resolved("malformed", digest, code)
        case None:
            return _resolved(None, None)


def _resolved(kind: str | None, data: bytes | None, code: int | None = None) -> dict[str, object]:
    return {"resolution": kind, "resolution_data": data, "failure_code": code}


def _resolution(row: Row[Any]) -> Resolution | None:
    match row.resolution:
        case "fulfilled":
            return Fulfilled(row.resolution_data)
        case "failed":
            return Failed(row.resolution_data)
        case "malformed":
            return Malformed(row.resolution_data, row.failure_code)
        case _:
            return None
