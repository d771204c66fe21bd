"""The owner of the outgoing channel: adds HTLCs, keeps the ledger, repeats outcomes.

An offer is taken once, whatever is lost: its pairing is a row of the commit of the outgoing add,
and the database refuses a second one.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from back.channel.events import OfferHtlc
from back.channel.model import Failed, Fulfilled, Malformed, Resolution
from back.relay import forward
from back.relay.handoff import ForwardId, Noted, Offer, Outcome, Refused, Taken
from back.storage import forwards as stored
from back.storage.forwards import ForwardState, OpenForward, StoredForward
from shared.errors import CommandError

if TYPE_CHECKING:
    import asyncio

    from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcOffered
    from back.channel.model import Channel
    from back.relay.handoff import Carrier, ToDownstream
    from back.runner import ChannelRunner
    from back.storage.statements import Write

__all__ = ["Downstream", "Market", "origin_of", "parse_origin"]

log = structlog.get_logger()

ORIGIN = "relay"
"""First word of :attr:`Htlc.origin` of forwarded HTLCs."""
REPEAT_S = 1.0
"""After so long an outcome is told again."""
KEPT_REFUSALS = 20_000
KEPT_CLOSED = 100_000
"""Forwards of the past that an offer which comes late must not begin again."""


def origin_of(forward_id: ForwardId) -> str:
    """Return what an HTLC remembers of its forward: ``relay:<key_index>:<htlc_id>``."""
    return f"{ORIGIN}:{forward_id.key_index}:{forward_id.htlc_id}"


def parse_origin(origin: str | None) -> ForwardId:
    """Read an origin of ours."""
    _, key_index, htlc_id = (origin or "").split(":")
    return ForwardId(int(key_index), int(htlc_id))


@dataclass(slots=True, eq=False)
class Entry:
    """A forward under way.

    Attributes:
        offer: None after a restart: the ledger has what is still needed.
        left: channels to try yet.
        row: once the outgoing add is on its way into the database.
        is_taken: it is there.
        outcome: once the outgoing HTLC has ended, durably.
        in_node_id: the incoming peer, or what is known of it after a restart.
        out_node_id: the outgoing peer.
    """

    offer: Offer | None
    left: "list[ChannelRunner]" = field(default_factory=list)
    refusal: bytes = b""
    row: StoredForward | None = None
    is_taken: bool = False
    outcome: Outcome | None = None
    in_node_id: bytes = b""
    out_node_id: bytes = b""
    said_at: float = 0.0


class Market(Protocol):
    """What the downstream side asks of the node: channels, terms, limits, books."""

    def ways(self, offer: Offer) -> "list[ChannelRunner]":
        """Return the channels to try, in order; none: there is no such peer or channel."""

    def refusal(self, offer: Offer, channel: "Channel") -> bytes:
        """Say as a failure message why an HTLC may not go into a channel; empty if it may."""

    def began(self, offer: Offer, channel: "Channel") -> None:
        """An HTLC is on its way into a channel."""

    def ended(self, forward_id: ForwardId) -> None:
        """An outgoing HTLC is gone, or was not added after all."""

    def relayed(self, row: StoredForward, now_ms: int) -> "list[Write]":
        """Return what else the commit of a preimage shall hold."""


class Downstream:
    """The outgoing side of every forward of our shards.

    Args:
        carrier: brings answers to the other side.
        market: the channels and what may go into them.
        clock: unix seconds.
        monotonic: seconds.
    """

    def __init__(
        self,
        carrier: "Carrier",
        market: Market,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._carrier = carrier
        self._market = market
        self._clock = clock
        self._monotonic = monotonic
        self._entries: dict[ForwardId, Entry] = {}
        self._refused: OrderedDict[ForwardId, bytes] = OrderedDict()
        self._closed: OrderedDict[ForwardId, None] = OrderedDict()
        self._noted: list[tuple[bytes, Write]] = []

    @property
    def pending(self) -> int:
        """Forwards that are not over."""
        return len(self._entries)

    # --- start ------------------------------------------------------------------------------------

    def has(self, forward_id: ForwardId) -> bool:
        """Whether a forward is under way here."""
        return forward_id in self._entries

    def restore(self, forwards: Iterable[OpenForward]) -> None:
        """Take up what the ledger holds."""
        for each in forwards:
            row, out_node_id = each.forward, each.out_node_id
            entry = Entry(None, row=row, is_taken=True)
            entry.in_node_id, entry.out_node_id = each.in_node_id, out_node_id
            entry.outcome = _outcome(row, out_node_id)
            self._entries[row.id] = entry

    # --- from upstream ----------------------------------------------------------------------------

    def receive(self, message: "ToDownstream") -> None:
        """Take a message of the other side."""
        match message:
            case Offer():
                self._offered(message)
            case Noted():
                self._note(message.id)

    def _offered(self, offer: Offer) -> None:
        if (entry := self._entries.get(offer.id)) is not None:
            entry.in_node_id = offer.in_node_id
            if entry.offer is not None:
                entry.offer = offer
            self._answer(offer.id, entry)
            return
        if (failure := self._refused.get(offer.id)) is not None:
            self._say_refused(offer, failure)
            return
        if not offer.may_begin or offer.id in self._closed:
            return
        ways = self._market.ways(offer)
        if not ways:
            self._refuse(offer, forward.UNKNOWN_NEXT_PEER)
            return
        entry = self._entries[offer.id] = Entry(
            offer, ways, in_node_id=offer.in_node_id, out_node_id=offer.out_node_id
        )
        self._try_next(entry, offer)

    def _answer(self, forward_id: ForwardId, entry: Entry) -> None:
        """Say again where a forward stands; nothing while its add is not durable."""
        if entry.outcome is not None:
            self._carrier.to_upstream(entry.outcome, entry.in_node_id)
        elif entry.is_taken:
            taken = Taken(key_index=forward_id.key_index, htlc_id=forward_id.htlc_id)
            self._carrier.to_upstream(taken, entry.in_node_id)

    def _try_next(self, entry: Entry, offer: Offer) -> None:
        while entry.left:
            runner = entry.left.pop(0)
            why = self._market.refusal(offer, runner.channel)
            if why:
                # What the channel that was named says is what the payer can use.
                entry.refusal = entry.refusal or why
                continue
            self._market.began(offer, runner.channel)
            event = OfferHtlc(
                amount_msat=offer.amount_msat,
                payment_hash=offer.payment_hash,
                cltv_expiry=offer.cltv_expiry,
                onion_routing_packet=offer.onion_routing_packet,
                origin=origin_of(offer.id),
                path_key=offer.path_key,
            )
            entry.row = self._row(offer, runner.channel)
            runner.request(event).add_done_callback(partial(self._posted, entry))
            return
        del self._entries[offer.id]
        self._refuse(offer, entry.refusal or forward.TEMPORARY)

    def _row(self, offer: Offer, channel: "Channel") -> StoredForward:
        return StoredForward(
            id=offer.id,
            out_key_index=channel.parameters.key_index,
            out_htlc_id=-1,
            payment_hash=offer.payment_hash,
            in_amount_msat=offer.in_amount_msat,
            out_amount_msat=offer.amount_msat,
            created_at_ms=offer.received_at_ms,
        )

    def _posted(self, entry: Entry, done: "asyncio.Future[Channel]") -> None:
        """The channel took the request, or stopped before: then no effect will tell.

        Where the lease was lost, the HTLC may be in the database: the next owner knows.
        """
        if done.cancelled() or not isinstance(done.exception(), CommandError):
            return
        if entry.offer is not None and self._entries.get(entry.offer.id) is entry:
            self._not_added(entry, entry.offer)

    def _not_added(self, entry: Entry, offer: Offer) -> None:
        if entry.is_taken or entry.row is None:
            return
        self._market.ended(entry.row.id)
        entry.row = None
        entry.refusal = entry.refusal or forward.TEMPORARY
        self._try_next(entry, offer)

    def _refuse(self, offer: Offer, failure: bytes) -> None:
        self._refused[offer.id] = failure
        if len(self._refused) > KEPT_REFUSALS:
            self._refused.popitem(last=False)
        self._say_refused(offer, failure)

    def _say_refused(self, offer: Offer, failure: bytes) -> None:
        refused = Refused(
            key_index=offer.key_index,
            htlc_id=offer.htlc_id,
            attempt=offer.attempt,
            failure=failure,
        )
        self._carrier.to_upstream(refused, offer.in_node_id)

    def _note(self, forward_id: ForwardId) -> None:
        self._refused.pop(forward_id, None)
        self._closed[forward_id] = None
        if len(self._closed) > KEPT_CLOSED:
            self._closed.popitem(last=False)
        entry = self._entries.get(forward_id)
        if entry is None or entry.row is None or entry.outcome is None:
            return
        del self._entries[forward_id]
        is_paid = entry.outcome.kind == "fulfilled"
        write = stored.fulfilled_forward_noted if is_paid else stored.failed_forward_noted
        self._noted.append((entry.out_node_id, write(forward_id)))

    def take_noted(self) -> "list[tuple[bytes, Write]]":
        """Return (outgoing peer, write) of what upstream has noted since."""
        noted, self._noted = self._noted, []
        return noted

    def repeat(self) -> None:
        """Tell outcomes again that nobody has noted."""
        now = self._monotonic()
        for forward_id, entry in list(self._entries.items()):
            if entry.outcome is not None and now - entry.said_at >= REPEAT_S:
                entry.said_at = now
                self._answer(forward_id, entry)

    # --- what the outgoing channel tells ----------------------------------------------------------

    def offered(self, channel: "Channel", effect: "HtlcOffered") -> "list[Write]":
        """Return the pairing's row, for the commit of the outgoing add."""
        del channel
        entry = self._entries[parse_origin(effect.htlc.origin)]
        if entry.row is None:
            raise CommandError("an HTLC is added of which nothing is known")
        entry.row = replace(entry.row, out_htlc_id=effect.htlc.id)
        return [stored.add_forward(entry.row)]

    def was_offered(self, effect: "HtlcOffered") -> None:
        """The pairing is durable."""
        forward_id = parse_origin(effect.htlc.origin)
        entry = self._entries.get(forward_id)
        if entry is not None and not entry.is_taken:
            entry.is_taken = True
            self._answer(forward_id, entry)
            entry.offer, entry.left = None, []

    def was_refused(self, origin: str) -> None:
        """The channel had no room after all: try another."""
        entry = self._entries.get(parse_origin(origin))
        if entry is not None and entry.offer is not None:
            self._not_added(entry, entry.offer)

    def fulfilled(self, effect: "HtlcFulfilled") -> "list[Write]":
        """Return the rows of a preimage, for the commit in which it becomes durable."""
        forward_id = parse_origin(effect.htlc.origin)
        now_ms = int(self._clock() * 1000)
        rows = [stored.forward_fulfilled(forward_id, effect.payment_preimage, now_ms)]
        entry = self._entries.get(forward_id)
        if entry is not None and entry.row is not None and entry.outcome is None:
            rows += self._market.relayed(entry.row, now_ms)
        return rows

    def was_fulfilled(self, effect: "HtlcFulfilled") -> None:
        """The preimage is durable: upstream may have it."""
        self._ended(parse_origin(effect.htlc.origin), Fulfilled(effect.payment_preimage))

    def failed(self, effect: "HtlcFailed") -> "list[Write]":
        """Return the row of a failure, for the commit in which it becomes irrevocable."""
        reason, code = _failure_columns(effect.htlc.resolution)
        forward_id = parse_origin(effect.htlc.origin)
        return [stored.forward_failed(forward_id, reason, code, int(self._clock() * 1000))]

    def was_failed(self, effect: "HtlcFailed") -> None:
        """The failure is durable and irrevocable: upstream may fail too."""
        self._ended(parse_origin(effect.htlc.origin), effect.htlc.resolution)

    def _ended(self, forward_id: ForwardId, resolution: Resolution | None) -> None:
        entry = self._entries.get(forward_id)
        if entry is None or entry.outcome is not None:
            return
        if entry.row is not None:
            self._market.ended(entry.row.id)
        entry.outcome = Outcome.of(forward_id, entry.out_node_id, resolution)
        entry.said_at = self._monotonic()
        self._answer(forward_id, entry)


def _failure_columns(resolution: Resolution | None) -> tuple[bytes | None, int | None]:
    match resolution:
        case Malformed(sha256_of_onion=digest, failure_code=code):
            return digest, code
        case Failed(reason=reason):
            return reason, None
        case _:
            return None, None


def _outcome(row: StoredForward, out_node_id: bytes) -> Outcome | None:
    resolution: Resolution | None = None
    if row.state is ForwardState.PENDING:
        return None
    if row.state is ForwardState.FULFILLED:
        resolution = Fulfilled(row.preimage or b"")
    elif row.reason is not None and row.failure_code is not None:
        resolution = Malformed(row.reason, row.failure_code)
    elif row.reason is not None:
        resolution = Failed(row.reason)
    return Outcome.of(row.id, out_node_id, resolution)
