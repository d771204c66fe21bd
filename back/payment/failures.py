"""What a failed attempt teaches (BOLT 4 § Returning Errors, § Receiving Failure Codes). Pure.

A `channel_update` that comes in an error serves the retries of that payment only: its sender may
have made it for us alone, to find out who pays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from back.channel.model import Failed, Malformed, Resolution
from back.payment.recipient import STAND_IN
from back.payment.route import Edge, Hop, Lesson
from shared.crypto import sphinx
from shared.crypto.failures import FAILURES, NODE, PERM, UPDATE, Failure, decode_failure
from shared.errors import MalformedMessage
from shared.gossip.signed import verify
from shared.gossip.view import UpdateView, update_view
from shared.units import ShortChannelId

__all__ = ["Tried", "Verdict", "judge", "local_failure", "passed", "route_summary"]

CHANNEL_UPDATE_TYPE = (258).to_bytes(2, "big")
POLICY = {UPDATE | 11, UPDATE | 12, UPDATE | 13}
"""Codes that say that we did not meet the terms: fresher ones may do."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One HTLC of a payment and its way.

    Attributes:
        hops: our own channel first.
        carried: amount_msat of each hop's HTLC.
        shared_secrets: of its onion.
    """

    hops: tuple[Hop, ...]
    carried: tuple[int, ...]
    shared_secrets: tuple[bytes, ...]

    @property
    def is_blinded(self) -> bool:
        """Whether its last hop stands for a whole blinded path."""
        return self.hops[-1].next_node_id == STAND_IN

    @property
    def channels(self) -> tuple[tuple[Hop, int], ...]:
        """Hops of which something can be learned, and what they carried.

        Not our own channel, which needs no lesson, and no blinded path: it has the number of its
        place in one invoice, which means nothing in the next.
        """
        pairs = tuple(zip(self.hops, self.carried, strict=True))
        return pairs[1:-1] if self.is_blinded else pairs[1:]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed attempt means.

    Attributes:
        may_retry: another way may do better.
        summary: for people, with the fields of Eclair's failures.
        lessons: for path-finding.
        ignored_nodes: not to be tried again by this payment.
        ignored_channels: likewise, (scid, node that forwards into it).
        extra: fresher terms of a channel, for this payment only.
    """

    may_retry: bool
    summary: dict[str, Any]
    lessons: tuple[Lesson, ...] = ()
    ignored_nodes: frozenset[bytes] = frozenset()
    ignored_channels: frozenset[tuple[int, bytes]] = frozenset()
    extra: tuple[Edge, ...] = ()


def route_summary(hops: Sequence[Hop]) -> list[dict[str, str]]:
    """Return a route for people."""
    return [
        {
            "nodeId": hop.node_id.hex(),
            "nextNodeId": hop.next_node_id.hex(),
            "shortChannelId": str(ShortChannelId.unpack(hop.short_channel_id)),
        }
        for hop in hops
    ]


def local_failure(reason: str, hops: Sequence[Hop] = ()) -> dict[str, Any]:
    """Describe what kept an HTLC from going out at all."""
    return {
        "failureType": "Local",
        "failureMessage": reason,
        "failedRoute": route_summary(hops),
    }


def judge(
    resolution: Resolution | None,
    tried: Tried,
    chain_hash: bytes,
    unix_s: float,
) -> Verdict:
    """Read how an HTLC of ours failed.

    Args:
        resolution: as the peer gave it; None: it never went out, or ended on chain.
        tried: the way it took.
        chain_hash: of our network.
        unix_s: now.
    """
    case = _Case(tried, chain_hash, unix_s)
    if isinstance(resolution, Malformed):
        return case.malformed(resolution.failure_code)
    if not isinstance(resolution, Failed):
        summary = local_failure("the HTLC ended without an answer", tried.hops)
        return Verdict(True, summary, ignored_channels=frozenset({case.name(0)}))
    error = sphinx.unwrap_error(tried.shared_secrets, resolution.reason)
    if error is None:
        return case.unreadable()
    return case.read(error.hop, decode_failure(error.message))


def passed(tried: Tried, unix_s: float) -> list[Lesson]:
    """Return what an HTLC teaches that was paid."""
    return [
        Lesson(hop.short_channel_id, hop.node_id, msat, True, unix_s)
        for hop, msat in tried.channels
    ]


@dataclass(frozen=True, slots=True)
class _Case:
    tried: Tried
    chain_hash: bytes
    unix_s: float

    def name(self, place: int) -> tuple[int, bytes]:
        hop = self.tried.hops[place]
        return hop.short_channel_id, hop.node_id

    def _lessons(self, passed: int) -> list[Lesson]:
        """The first so many hops took the HTLC."""
        return [
            Lesson(hop.short_channel_id, hop.node_id, msat, True, self.unix_s)
            for hop, msat in self.tried.channels[: passed - 1]
        ]

    def _failed(self, place: int, failure: Failure) -> list[Lesson]:
        """The hop did not take it."""
        # An onion that somebody spoiled says nothing of the channel at other times.
        is_permanent = failure.is_permanent and not failure.is_bad_onion
        return [
            Lesson(hop.short_channel_id, hop.node_id, msat, False, self.unix_s, is_permanent)
            for hop, msat in self.tried.channels[place - 1 : place]
        ]

    def malformed(self, code: int) -> Verdict:
        """The first hop could not read what we built."""
        summary = _remote(_name(code), self.tried.hops[0].next_node_id, self.tried.hops)
        first = frozenset({self.tried.hops[0].next_node_id})
        is_last = len(self.tried.hops) == 1
        return Verdict(not is_last, summary, ignored_nodes=first)

    def unreadable(self) -> Verdict:
        """Somebody on the way made the error unreadable, and nobody can say who."""
        summary = {
            "failureType": "UnreadableRemote",
            "failureMessage": "the error onion could not be read",
            "failedRoute": route_summary(self.tried.hops),
        }
        ignored = frozenset(self.name(place) for place in range(1, len(self.tried.hops)))
        return Verdict(bool(ignored), summary, ignored_channels=ignored)

    def read(self, hop: int, failure: Failure) -> Verdict:
        """A node says what is wrong; ``hop`` counts onion layers from 0."""
        last = len(self.tried.hops) - 1
        if hop >= last:
            return self._of_payee(hop, failure)
        node_id = self.tried.hops[hop].next_node_id
        summary = _remote(_described(failure), node_id, self.tried.hops)
        lessons = self._lessons(hop + 1)
        following = self.name(hop + 1)
        if failure.code in POLICY and (edge := self._fresher(hop + 1, failure)) is not None:
            return Verdict(True, summary, tuple(lessons), extra=(edge,))
        if failure.is_node or failure.code == 0:
            return Verdict(True, summary, tuple(lessons), ignored_nodes=frozenset({node_id}))
        lessons += self._failed(hop + 1, failure)
        return Verdict(True, summary, tuple(lessons), ignored_channels=frozenset({following}))

    def _of_payee(self, hop: int, failure: Failure) -> Verdict:
        """The payee itself, or somebody inside the blinded path that leads to it."""
        last = len(self.tried.hops) - 1
        node_id = self.tried.hops[last].next_node_id if hop == last else b""
        if self.tried.is_blinded:
            node_id = self.tried.hops[last].node_id
            ignored = frozenset({self.name(last)})
            lessons = tuple(self._lessons(last))
            summary = _remote(_described(failure), node_id, self.tried.hops)
            return Verdict(True, summary, lessons, ignored_channels=ignored)
        lessons = tuple(self._lessons(last + 1))
        summary = _remote(_described(failure), node_id, self.tried.hops)
        if failure.name == "mpp_timeout":
            return Verdict(True, summary, lessons)
        is_passing = failure.code == NODE | 2 or failure.name == "unknown"
        if not is_passing or failure.code & PERM:
            return Verdict(False, summary, lessons)
        # Another of its channels may do better.
        return Verdict(True, summary, lessons, ignored_channels=frozenset({self.name(last)}))

    def _fresher(self, place: int, failure: Failure) -> Edge | None:
        """Return the terms that an error brought, where they are right and others than ours."""
        raw = dict(failure.fields).get("channel_update", b"")
        if not isinstance(raw, bytes) or not raw:
            return None
        if not raw.startswith(CHANNEL_UPDATE_TYPE):
            # Some nodes leave the message type out.
            raw = CHANNEL_UPDATE_TYPE + raw
        hop = self.tried.hops[place]
        try:
            update = update_view(raw)
        except MalformedMessage:
            return None
        if not self._is_of(update, hop) or not verify(raw, hop.node_id):
            return None
        fresh = hop._replace(
            fee_base_msat=update.fee_base_msat,
            fee_proportional_millionths=update.fee_proportional_millionths,
            cltv_expiry_delta=update.cltv_expiry_delta,
        )
        edge = Edge(fresh, update.htlc_minimum_msat, update.htlc_maximum_msat)
        amount_msat = self.tried.carried[place]
        is_met = fresh == hop and update.htlc_minimum_msat <= amount_msat
        # Terms that we met already: it lies, or means something else.
        return None if is_met or update.is_disabled else edge

    def _is_of(self, update: UpdateView, hop: Hop) -> bool:
        is_right_side = update.direction == (0 if hop.node_id < hop.next_node_id else 1)
        return (
            update.chain_hash == self.chain_hash
            and update.short_channel_id == hop.short_channel_id
            and is_right_side
        )


def _name(code: int) -> str:
    return FAILURES.get(code, (f"unknown failure {code:#06x}", ()))[0]


def _described(failure: Failure) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in failure.fields if isinstance(value, int))
    name = _name(failure.code)
    return f"{name} ({shown})" if shown else name


def _remote(message: str, node: bytes, hops: Sequence[Hop]) -> dict[str, Any]:
    return {
        "failureType": "Remote",
        "failureMessage": message,
        "failedRoute": route_summary(hops),
        "failedNode": node.hex(),
    }
