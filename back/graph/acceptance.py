"""Whether an announcement that a front submits belongs into the routing table (BOLT 7). Pure.

In two steps, for the dear questions come last: `first_look` needs the table only, and says what is
still to be asked: the signatures, unless fronts are trusted, and for a channel its funding output.
`judge_channel` decides with the chain's answer.

Nothing that a front submits deletes or replaces a channel. An announcement of a known channel with
other node ids is refused: BOLT 7 suggests to blacklist all four nodes and to forget their channels,
but two keys of one leaked channel should not cut a whole node off the network. The first one stays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from back.transactions.scripts import funding_script_pubkey
from shared.errors import MalformedMessage
from shared.fabric.gossip import Outcome
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.rules import check
from shared.gossip.table import Entry, Table
from shared.gossip.view import ChannelView, NodeView, UpdateView, View, view

__all__ = [
    "ASK_AGAIN",
    "DEPTH",
    "Absent",
    "Decision",
    "Funding",
    "Funds",
    "Pending",
    "Situation",
    "change_of",
    "first_look",
    "funding_height",
    "judge_channel",
]

DEPTH = 6
"""Confirmations from which a channel may be announced."""
NEARLY = 3
"""Confirmations from which waiting is worth it: our bitcoind may lag behind a block or two."""
OURS = "only this node says so"
MAX_CHANNEL_BYTES, MAX_UPDATE_BYTES, MAX_NODE_BYTES = 2_000, 1_000, 4_000
"""Far more than any of today has: one channel must not buy megabytes of everybody's table."""

_ADDRESS_BYTES = {1: 7, 2: 19, 3: 13, 4: 38}
_HOST_NAME = 5
"""Whose descriptor has a type, a length, the name and a port."""


class Absent(StrEnum):
    """Why there is no funding output at a short_channel_id; the text is for people."""

    NO_BLOCK = "no such block"
    NO_OUTPUT = "no such P2WSH output"
    SPENT = "the funding output is spent"
    PRUNED = "bitcoind does not have that block any more"


class Funding(NamedTuple):
    """An unspent output on the chain.

    Attributes:
        txid: internal byte order.
    """

    txid: bytes
    amount_sat: int
    script_pubkey: bytes


Funds: TypeAlias = Funding | Absent


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision depends on besides the table.

    Attributes:
        chain_hash: of our chain.
        unix_s: our clock.
        height: of bitcoind's tip; 0 while it is not known.
        is_awaited: whether a channel that is not in the table is being looked up.
        is_own: whether a key is of something that this node itself says; nobody else may.
    """

    chain_hash: bytes
    unix_s: int
    height: int
    is_awaited: Callable[[int], bool] = lambda _short_channel_id: False
    is_own: Callable[[int | bytes], bool] = lambda _key: False


class Decision(NamedTuple):
    """What becomes of an announcement; ``why`` is empty, or for people."""

    outcome: Outcome
    why: str = ""


class Pending(NamedTuple):
    """An announcement that nothing in the table speaks against.

    Attributes:
        raw: as submitted.
        seen: its fields.
        signer: whose signature an update bears; empty for the other kinds.
    """

    raw: bytes
    seen: View
    signer: bytes


KNOWN = Decision(Outcome.KNOWN)
ACCEPTED = Decision(Outcome.ACCEPTED)
INVALID = Decision(Outcome.INVALID, "a wrong signature")
ASK_AGAIN = Decision(Outcome.LATER, "the chain is not known yet")


def funding_height(short_channel_id: int) -> int:
    """Return the height of the block that a short_channel_id names."""
    return short_channel_id >> 40


def first_look(table: Table, raw: bytes, situation: Situation) -> Decision | Pending:
    """Decide by what the table says, or say what else is to be asked."""
    try:
        seen = view(raw)
    except MalformedMessage as error:
        return Decision(Outcome.REFUSED, str(error))
    if (rejection := check(seen, situation.chain_hash, situation.unix_s)) is not None:
        return _refused(rejection.value)
    if isinstance(seen, UpdateView):
        found = _known_update(table, raw, seen, situation)
    elif isinstance(seen, ChannelView):
        found = _known_channel(table, raw, seen, situation)
    else:
        found = _known_node(table, raw, seen, situation)
    return found if isinstance(found, Decision) else Pending(raw, seen, found)


def _known_channel(
    table: Table, raw: bytes, seen: ChannelView, situation: Situation
) -> Decision | bytes:
    entry = table.channel(seen.short_channel_id)
    if entry is not None:
        return _announced_again(entry, seen)
    if len(raw) > MAX_CHANNEL_BYTES:
        return _refused("too long")
    if not situation.height:
        return ASK_AGAIN
    depth = situation.height - funding_height(seen.short_channel_id) + 1
    if depth < DEPTH:
        outcome = Outcome.LATER if depth >= NEARLY else Outcome.REFUSED
        return Decision(outcome, "fewer than 6 confirmations")
    return b""


def _announced_again(entry: Entry, seen: ChannelView) -> Decision:
    if entry.spent_height:
        return _refused(Absent.SPENT.value)
    if entry.nodes == (seen.node_id_1, seen.node_id_2):
        return KNOWN
    return _refused("another announcement of this channel names other nodes")


def _known_update(
    table: Table, raw: bytes, seen: UpdateView, situation: Situation
) -> Decision | bytes:
    scid = seen.short_channel_id
    entry = table.channel(scid)
    if entry is None:
        if situation.is_awaited(scid):
            return Decision(Outcome.LATER, "its channel is being looked up")
        return _refused("unknown channel")
    if seen.timestamp <= table.update_timestamp(scid, seen.direction):
        return KNOWN
    if situation.is_own(seen.key):
        return _refused(OURS)
    why = _against_update(entry, raw, seen)
    return _refused(why) if why else entry.nodes[seen.direction]


def _against_update(entry: Entry, raw: bytes, seen: UpdateView) -> str:
    if entry.spent_height and not seen.is_disabled:
        return Absent.SPENT.value
    if seen.htlc_maximum_msat > entry.capacity_sat * 1000:
        return "htlc_maximum_msat is above the capacity"
    return "too long" if len(raw) > MAX_UPDATE_BYTES else ""


def _known_node(table: Table, raw: bytes, seen: NodeView, situation: Situation) -> Decision | bytes:
    if not table.has_channels(seen.node_id):
        return _refused("a node without a known channel")
    if seen.timestamp <= table.node_timestamp(seen.node_id):
        return KNOWN
    if situation.is_own(seen.node_id):
        return _refused(OURS)
    if len(raw) > MAX_NODE_BYTES:
        return _refused("too long")
    names = _host_names(seen.addresses)
    if names < 0:
        return _refused("an address is truncated")
    return _refused("more than one host name") if names > 1 else b""


def _host_names(addresses: bytes) -> int:
    """Count the DNS names among address descriptors; -1: one does not fit."""
    at, end, names = 0, len(addresses), 0
    while at < end:
        kind = addresses[at]
        size = _ADDRESS_BYTES.get(kind)
        if size is None:
            if kind != _HOST_NAME:
                break
            names += 1
            size = 4 + (addresses[at + 1] if at + 1 < end else 0)
        at += size
    return names if at <= end else -1


def judge_channel(seen: ChannelView, funds: Funds) -> Decision:
    """Decide on a channel that `first_look` left pending, by what the chain says."""
    if isinstance(funds, Absent):
        is_pruned = funds is Absent.PRUNED
        return Decision(Outcome.UNVERIFIABLE if is_pruned else Outcome.REFUSED, funds.value)
    if funds.script_pubkey != funding_script_pubkey(seen.bitcoin_key_1, seen.bitcoin_key_2):
        return _refused("the funding output is not of the two bitcoin keys")
    return ACCEPTED


def change_of(pending: Pending, funding: Funding | None = None) -> Change:
    """Return what an accepted announcement changes.

    Args:
        pending: as `first_look` left it.
        funding: of a channel.
    """
    seen = pending.seen
    if isinstance(seen, UpdateView):
        return Change(Kind.UPDATE, seen.key, pending.raw)
    if isinstance(seen, ChannelView):
        if funding is None:
            raise ValueError("a channel needs its funding output")
        record = ChannelRecord(pending.raw, funding.amount_sat, 0, funding.txid)
        return Change(Kind.CHANNEL, seen.short_channel_id, record)
    return Change(Kind.NODE, seen.node_id, pending.raw)


def _refused(why: str) -> Decision:
    return Decision(Outcome.REFUSED, why)
