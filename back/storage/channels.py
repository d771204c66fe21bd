"""Channels as rows: the writes between two values, and the values at a start.

The cost of a step depends neither on how many HTLCs are pending nor on how many states are past: a
row is written only where something in it changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Table, or_, select

from back.channel.model import Channel, Htlc, HtlcKey, Phase
from back.channel.policy import ChannelPolicy
from back.storage.channel_rows import (
    DETAILS,
    IDENTITY,
    STATE,
    htlc_columns,
    identity_columns,
    local_columns,
    progress_columns,
    read_htlc,
    read_identity,
    read_local,
    read_state,
    read_unrevoked,
    settled_columns,
    state_columns,
    unrevoked_columns,
)
from back.storage.statements import Write, delete, insert, update, upsert
from back.storage.tables import (
    blocks,
    channel_states,
    channels,
    htlcs,
    local_commitments,
    settled_htlcs,
    shachains,
    unrevoked_commitments,
)
from shared.crypto.shachain import ShachainStore
from shared.fabric.subjects import shard as shard_of

__all__ = [
    "RevokedHtlc",
    "channel_writes",
    "load_channels",
    "load_closed_channels",
    "remote_commitment_htlcs",
]

_KEY = "key_index"


_INSERT_CHANNEL = insert(channels, _KEY)
_UPDATE_CHANNEL = update(
    channels,
    _KEY,
    [
        channels.c.channel_id,
        channels.c.phase,
        channels.c.is_over,
        channels.c.parameters,
        channels.c.details,
    ],
)
_PUT_STATE = upsert(channel_states, _KEY)
_PUT_LOCAL = upsert(local_commitments, _KEY)
_PUT_UNREVOKED = upsert(unrevoked_commitments, _KEY)
_PUT_SECRET = upsert(shachains, _KEY)
_ADD_HTLC = insert(htlcs, _KEY)
_CHANGE_HTLC = update(
    htlcs,
    _KEY,
    [
        htlcs.c.state,
        htlcs.c.remote_first,
        htlcs.c.remote_last,
        htlcs.c.resolution,
        htlcs.c.resolution_data,
        htlcs.c.failure_code,
        htlcs.c.onion_routing_packet,
    ],
)
_REMOVE_HTLC = delete(htlcs, _KEY, rows=1)
_SETTLE_HTLC = insert(settled_htlcs, _KEY)
_FORGET = [
    delete(table, _KEY, where=[table.c.key_index])
    for table in (
        channels,
        channel_states,
        local_commitments,
        unrevoked_commitments,
        shachains,
        htlcs,
        settled_htlcs,
    )
]


# --- from values to writes ------------------------------------------------------------------------


def channel_writes(
    before: Channel | None, after: Channel, removed: Sequence[Htlc] = ()
) -> list[Write]:
    """Return what must be written so that the stored ``before`` becomes ``after``.

    Nothing, if only what is not stored changed. A channel that is over and never had money leaves
    no row.

    Args:
        before: as stored; None: nothing is.
        after: as it is now.
        removed: ``Step.removed``: HTLCs for the history of revoked commitments.
    """
    key = after.parameters.key_index
    if _had_no_money(after):
        return [] if before is None else [statement.write(key_index=key) for statement in _FORGET]
    return [
        *_identity_writes(before, after),
        *_state_writes(before, after),
        *_secret_writes(before, after),
        *_htlc_writes(before, after),
        *(_SETTLE_HTLC.write(key_index=key, **settled_columns(htlc)) for htlc in removed),
    ]


def _had_no_money(channel: Channel) -> bool:
    """Over before its funding was seen or sent: peers could make such rows for nothing."""
    funding = channel.funding
    return channel.phase is Phase.CLOSED and (
        funding is None
        or not (funding.is_published or funding.confirmed_height or funding.spent_by)
    )


def _changed(names: Iterable[str], before: Channel, after: Channel) -> bool:
    for name in names:
        old, new = getattr(before, name), getattr(after, name)
        if old is not new and old != new:
            return True
    return False


def _identity_writes(before: Channel | None, after: Channel) -> list[Write]:
    if before is not None and not _changed((*IDENTITY, *DETAILS), before, after):
        return []
    values = identity_columns(after)
    if before is not None:
        return [Write(_UPDATE_CHANNEL, values)]
    parameters = after.parameters
    values["node_id"] = parameters.node_id
    values["shard"] = shard_of(parameters.node_id)
    values["created_height"] = parameters.created_height
    return [Write(_INSERT_CHANNEL, values)]


def _state_writes(before: Channel | None, after: Channel) -> list[Write]:
    writes = []
    key = after.parameters.key_index
    is_signed = before is None or _changed(("unrevoked",), before, after)
    if before is None or is_signed or _changed(STATE, before, after):
        writes.append(Write(_PUT_STATE, state_columns(after)))
    if before is None or _changed(("local_commitment",), before, after):
        writes.append(_PUT_LOCAL.write(key_index=key, **local_columns(after.local_commitment)))
    if is_signed and after.unrevoked is not None:
        writes.append(_PUT_UNREVOKED.write(key_index=key, **unrevoked_columns(after.unrevoked)))
    return writes


def _secret_writes(before: Channel | None, after: Channel) -> list[Write]:
    old = before.remote_secrets.entries if before is not None else {}
    new = after.remote_secrets.entries
    if old is new:
        return []
    key = after.parameters.key_index
    return [
        _PUT_SECRET.write(key_index=key, bucket=bucket, secret_index=entry[0], secret=entry[1])
        for bucket, entry in new.items()
        if old.get(bucket) != entry
    ]


def _htlc_writes(before: Channel | None, after: Channel) -> list[Write]:
    old: Mapping[HtlcKey, Htlc] = before.htlcs if before is not None else {}
    new = after.htlcs
    if old is new:
        return []
    key = after.parameters.key_index
    added, changed = [], []
    for htlc_key, htlc in new.items():
        known = old.get(htlc_key)
        if known is None:
            added.append(_ADD_HTLC.write(key_index=key, **htlc_columns(htlc)))
        elif known is not htlc and known != htlc:
            row = {"key_index": key, "offered": htlc.offered, "id": htlc.id}
            changed.append(Write(_CHANGE_HTLC, row | progress_columns(htlc)))
    gone = [
        _REMOVE_HTLC.write(key_index=key, offered=offered, id=number)
        for offered, number in old
        if (offered, number) not in new
    ]
    return [*added, *changed, *gone]


# --- from rows to values --------------------------------------------------------------------------


def load_channels(
    connection: Connection, shards: Sequence[int], policy: ChannelPolicy
) -> list[Channel]:
    """Return every channel of ``shards`` that is not over, as stored, offline.

    Updates that were in no commitment are still there: the caller applies ``Disconnected``. The
    height is that of the last stored block, 0 if there is none.
    """
    wanted = channels.c.shard.in_(shards) & ~channels.c.is_over
    return _load(connection, wanted, policy)


def load_closed_channels(
    connection: Connection, policy: ChannelPolicy, *, limit: int = 1000, skip: int = 0
) -> list[Channel]:
    """Return channels that are over, the newest first, for people."""
    keys = (
        select(channels.c.key_index)
        .where(channels.c.is_over)
        .order_by(channels.c.created_height.desc(), channels.c.key_index)
        .limit(limit)
        .offset(skip)
    )
    found = connection.execute(keys).scalars().all()
    return _load(connection, channels.c.key_index.in_(found), policy)


def _load(connection: Connection, wanted: Any, policy: ChannelPolicy) -> list[Channel]:  # noqa: ANN401 - any SQL condition
    height = connection.execute(
        select(blocks.c.height).order_by(blocks.c.height.desc()).limit(1)
    ).scalar()
    states = _by_key(connection, channel_states, wanted)
    locals_ = _by_key(connection, local_commitments, wanted)
    unrevoked = _by_key(connection, unrevoked_commitments, wanted)
    pending = _by_key(connection, htlcs, wanted)
    secrets = _by_key(connection, shachains, wanted)
    loaded = []
    newest_first = (channels.c.created_height.desc(), channels.c.key_index)
    for row in connection.execute(select(channels).where(wanted).order_by(*newest_first)):
        key = row.key_index
        (state,) = states[key]
        values = read_identity(row) | read_state(state)
        values["local_commitment"] = read_local(locals_[key][0])
        if state.unrevoked_number is not None:
            values["unrevoked"] = read_unrevoked(unrevoked[key][0])
        found = (read_htlc(each) for each in pending.get(key, ()))
        values["htlcs"] = MappingProxyType({htlc.key: htlc for htlc in found})
        entries = {s.bucket: (s.secret_index, s.secret) for s in secrets.get(key, ())}
        values["remote_secrets"] = ShachainStore(MappingProxyType(entries))
        loaded.append(Channel(policy=policy, height=height or 0, **values))
    return loaded


def _by_key(connection: Connection, table: Table, wanted: Any) -> dict[int, list[Any]]:  # noqa: ANN401 - any SQL condition
    query = (
        select(table)
        .join(channels, channels.c.key_index == table.c.key_index)
        .where(wanted)
        .order_by(*table.primary_key.columns)
    )
    rows: dict[int, list[Any]] = {}
    for row in connection.execute(query):
        rows.setdefault(row.key_index, []).append(row)
    return rows


@dataclass(frozen=True, slots=True)
class RevokedHtlc:
    """An HTLC as a remote commitment of the past shows it."""

    offered: bool
    """By us."""
    id: int
    amount_msat: int
    payment_hash: bytes
    cltv_expiry: int


def remote_commitment_htlcs(
    connection: Connection, key_index: int, number: int
) -> list[RevokedHtlc]:
    """Return the HTLCs that the remote commitment ``number`` holds or held."""
    names = ("offered", "id", "amount_msat", "payment_hash", "cltv_expiry")
    found = []
    ends = (
        (settled_htlcs, settled_htlcs.c.remote_last >= number),
        (htlcs, or_(htlcs.c.remote_last.is_(None), htlcs.c.remote_last >= number)),
    )
    for table, is_not_over in ends:
        query = (
            select(*(table.c[name] for name in names))
            .where(table.c.key_index == key_index, table.c.remote_first <= number)
            .where(is_not_over)
        )
        found += [RevokedHtlc(bool(row[0]), *row[1:]) for row in connection.execute(query)]
    return sorted(found, key=lambda htlc: (htlc.offered, htlc.id))
