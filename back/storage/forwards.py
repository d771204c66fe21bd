"""The ledger of forwards: which incoming HTLC is paired with which outgoing one, and its outcome.

A row is written by the commit that holds the outgoing add, and belongs to the outgoing channel's
shard. It is *noted* once the owner of the incoming channel has made the outcome durable; a failed
one is then deleted, a fulfilled one stays for the books.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from sqlalchemy import Connection, select

from back.relay.handoff import ForwardId
from back.storage.statements import Write, delete, insert, update
from back.storage.tables import channels, forwards

__all__ = [
    "ForwardState",
    "OpenForward",
    "StoredForward",
    "add_forward",
    "failed_forward_noted",
    "find_preimage",
    "forward_failed",
    "forward_fulfilled",
    "fulfilled_forward_noted",
    "load_forwards",
]


class ForwardState(Enum):
    """Where a forward stands."""

    PENDING = "pending"
    FULFILLED = "fulfilled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoredForward:
    """A forward whose outgoing HTLC was offered.

    Attributes:
        out_key_index: of the outgoing channel.
        out_htlc_id: in that channel.
        created_at_ms: unix milliseconds: when the incoming HTLC was irrevocable.
        preimage: once fulfilled.
        reason: once failed: the error onion of update_fail_htlc, or sha256_of_onion of
            update_fail_malformed_htlc; None: it never went out, or ended on chain.
        failure_code: of update_fail_malformed_htlc.
        completed_at_ms: unix milliseconds.
    """

    id: ForwardId
    out_key_index: int
    out_htlc_id: int
    payment_hash: bytes
    in_amount_msat: int
    out_amount_msat: int
    created_at_ms: int
    state: ForwardState = ForwardState.PENDING
    preimage: bytes | None = field(default=None, repr=False)
    reason: bytes | None = None
    failure_code: int | None = None
    completed_at_ms: int | None = None


class OpenForward(NamedTuple):
    """A forward whose outcome is not noted, and between whom.

    Attributes:
        in_node_id: the incoming peer.
        out_node_id: the outgoing peer.
    """

    forward: StoredForward
    in_node_id: bytes
    out_node_id: bytes


_ORDER = "in_key_index"
_PENDING = "state = 'pending'"
_ADD = insert(forwards, _ORDER)
# A fact may come again, from a channel that repeats it at a start: the first one stays.
_FULFILLED = update(
    forwards,
    _ORDER,
    [forwards.c.state, forwards.c.preimage, forwards.c.completed_at_ms],
    only=_PENDING,
    rows=None,
)
_FAILED = update(
    forwards,
    _ORDER,
    [
        forwards.c.state,
        forwards.c.reason,
        forwards.c.failure_code,
        forwards.c.completed_at_ms,
    ],
    only=_PENDING,
    rows=None,
)
_NOTED = update(forwards, _ORDER, [forwards.c.is_noted], rows=None)
_FORGET = delete(forwards, _ORDER, rows=None)


def add_forward(forward: StoredForward) -> Write:
    """Return the write of a new pairing; refused if its incoming HTLC has one already."""
    return _ADD.write(
        in_key_index=forward.id.key_index,
        in_htlc_id=forward.id.htlc_id,
        out_key_index=forward.out_key_index,
        out_htlc_id=forward.out_htlc_id,
        payment_hash=forward.payment_hash,
        in_amount_msat=forward.in_amount_msat,
        out_amount_msat=forward.out_amount_msat,
        created_at_ms=forward.created_at_ms,
        state=forward.state.value,
        preimage=forward.preimage,
        reason=forward.reason,
        failure_code=forward.failure_code,
        completed_at_ms=forward.completed_at_ms,
        is_noted=False,
    )


def forward_fulfilled(forward_id: ForwardId, preimage: bytes, completed_at_ms: int) -> Write:
    """Return the write of a preimage; nothing if the forward has ended."""
    return _FULFILLED.write(
        in_key_index=forward_id.key_index,
        in_htlc_id=forward_id.htlc_id,
        state=ForwardState.FULFILLED.value,
        preimage=preimage,
        completed_at_ms=completed_at_ms,
    )


def forward_failed(
    forward_id: ForwardId, reason: bytes | None, failure_code: int | None, completed_at_ms: int
) -> Write:
    """Return the write of a failure; nothing if the forward has ended."""
    return _FAILED.write(
        in_key_index=forward_id.key_index,
        in_htlc_id=forward_id.htlc_id,
        state=ForwardState.FAILED.value,
        reason=reason,
        failure_code=failure_code,
        completed_at_ms=completed_at_ms,
    )


def fulfilled_forward_noted(forward_id: ForwardId) -> Write:
    """Return the write that says that the incoming HTLC's settlement is durable."""
    return _NOTED.write(
        in_key_index=forward_id.key_index, in_htlc_id=forward_id.htlc_id, is_noted=True
    )


def failed_forward_noted(forward_id: ForwardId) -> Write:
    """Return the write that forgets a forward whose failure is durable upstream."""
    return _FORGET.write(in_key_index=forward_id.key_index, in_htlc_id=forward_id.htlc_id)


def find_preimage(connection: Connection, forward_id: ForwardId) -> bytes | None:
    """Return the preimage of a forward that was fulfilled."""
    query = select(forwards.c.preimage).where(
        forwards.c.in_key_index == forward_id.key_index, forwards.c.in_htlc_id == forward_id.htlc_id
    )
    found: bytes | None = connection.execute(query).scalar()
    return found


def load_forwards(connection: Connection, shards: Sequence[int]) -> list[OpenForward]:
    """Return forwards that are not noted, and have either channel in ``shards``."""
    incoming, outgoing = channels.alias(), channels.alias()
    columns = [column for column in forwards.columns if column is not forwards.c.is_noted]
    query = (
        select(
            *columns,
            incoming.c.node_id.label("in_node_id"),
            outgoing.c.node_id.label("out_node_id"),
        )
        .join(incoming, incoming.c.key_index == forwards.c.in_key_index)
        .join(outgoing, outgoing.c.key_index == forwards.c.out_key_index)
        .where(~forwards.c.is_noted)
        .where(incoming.c.shard.in_(shards) | outgoing.c.shard.in_(shards))
        .order_by(forwards.c.in_key_index, forwards.c.in_htlc_id)
    )
    found = []
    for row in connection.execute(query):
        values = row._asdict()
        key = ForwardId(values.pop("in_key_index"), values.pop("in_htlc_id"))
        peers = values.pop("in_node_id"), values.pop("out_node_id")
        values["state"] = ForwardState(row.state)
        found.append(OpenForward(StoredForward(id=key, **values), *peers))
    return found
