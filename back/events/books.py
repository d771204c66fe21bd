"""The books of payments, as the API shows them: page by page, and sums per peer."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from back.events.facts import (
    IncomingPart,
    OutgoingPart,
    Relayed,
    Sent,
    SentPart,
    moment_json,
    part_id,
    received_json,
    relayed_json,
    sent_json,
)
from back.payment.restoring import shown_route
from back.storage import audit
from back.storage.audit import Ends, Place

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from back.storage.audit import ReceivedPayment, RelayedPayment, SentPayment
    from back.storage.payments import Attempt
    from back.storage.store import Store

__all__ = ["Books", "RelayStats", "Span"]

PAGE = 500
"""Payments read at once: some 20 ms in a thread."""
STRETCH_MS = 6 * 3_600_000
"""Sums are made for so much time at once, that nobody waits long for a reader of the database."""
_NOBODY = Ends(b"", b"")

Json = dict[str, Any]
Ledger = dict[int, Ends]


@dataclass(frozen=True, slots=True)
class Span:
    """Which payments are meant.

    Attributes:
        since: unix seconds, included.
        until: unix seconds, included.
        count: at most so many; None: all.
        skip: after leaving out so many.
    """

    since: int
    until: int
    count: int | None = None
    skip: int = 0


@dataclass(slots=True)
class RelayStats:
    """What a peer brought in relayed payments; amounts are millisatoshis."""

    node_id: bytes
    incoming_count: int = 0
    incoming_msat: int = 0
    outgoing_count: int = 0
    outgoing_msat: int = 0
    fee_msat: int = 0

    def shown(self, span: Span) -> Json:
        """Return it with the fields of the API; what is paid on chain is not in these books."""
        return {
            "remoteNodeId": self.node_id.hex(),
            "incomingPaymentCount": self.incoming_count,
            "totalAmountIn": self.incoming_msat,
            "outgoingPaymentCount": self.outgoing_count,
            "totalAmountOut": self.outgoing_msat,
            "relayFeeEarned": self.fee_msat,
            "onChainTransactionsCount": 0,
            "onChainFeePaid": 0,
            "liquidityFeeEarned": 0,
            "liquidityFeePaid": 0,
            "from": moment_json(span.since * 1000),
            "to": moment_json(span.until * 1000),
        }


class _Row(Protocol):
    @property
    def place(self) -> Place: ...


R = TypeVar("R", bound=_Row)


class Books:
    """Reads the database for who asks about the past; payments never wait for it.

    Args:
        store: of the node.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store

    # --- pages ------------------------------------------------------------------------------------

    def sent(self, span: Span) -> AsyncIterator[list[Json]]:
        """Payments of ours that succeeded, in pages, the oldest first."""
        return self._pages(span, audit.sent_payments, _sent_keys, _sent)

    def received(self, span: Span) -> AsyncIterator[list[Json]]:
        """Payments to us."""
        return self._pages(span, audit.received_payments, _received_keys, _received)

    def relayed(self, span: Span) -> AsyncIterator[list[Json]]:
        """Payments through us."""
        return self._pages(span, audit.relayed_payments, _relayed_keys, _relayed)

    async def _pages(
        self,
        span: Span,
        query: "Callable[[Connection, int, int, int, int, Place], list[R]]",
        keys: Callable[[R], Sequence[int]],
        shown: Callable[[R, Ledger], Json],
    ) -> AsyncIterator[list[Json]]:
        left, skip, place = span.count, span.skip, ()
        while left is None or left > 0:
            limit = PAGE if left is None else min(PAGE, left)

            def read(
                connection: "Connection", limit: int = limit, skip: int = skip, place: Place = place
            ) -> tuple[Place, list[Json], int]:
                rows = query(connection, span.since, span.until, limit, skip, place)
                wanted = sorted({key for row in rows for key in keys(row)})
                ends = audit.channel_ends(connection, wanted)
                page = [shown(row, ends) for row in rows]
                return (rows[-1].place if rows else place), page, limit

            place, page, asked = await self._store.read(read)
            if page:
                yield page
            if len(page) < asked:
                return
            skip = 0
            left = None if left is None else left - len(page)

    # --- sums -------------------------------------------------------------------------------------

    async def relay_stats(self, span: Span) -> list[RelayStats]:
        """Return what each peer brought, the one with the highest fees first."""
        peers: dict[bytes, RelayStats] = {}
        async for sums, ends in self._stretches(span):
            for each in sums:
                source = ends.get(each.in_key_index, _NOBODY).node_id
                target = ends.get(each.out_key_index, _NOBODY).node_id
                incoming = peers.setdefault(source, RelayStats(source))
                incoming.incoming_count += each.payments
                incoming.incoming_msat += each.in_amount_msat
                outgoing = peers.setdefault(target, RelayStats(target))
                outgoing.outgoing_count += each.payments
                outgoing.outgoing_msat += each.out_amount_msat
                outgoing.fee_msat += each.in_amount_msat - each.out_amount_msat
        return sorted(peers.values(), key=lambda peer: (-peer.fee_msat, peer.node_id))

    async def _stretches(self, span: Span) -> "AsyncIterator[tuple[list[audit.Sums], Ledger]]":
        since_ms, until_ms = span.since * 1000, span.until * 1000 + 999
        while since_ms <= until_ms:

            def read(
                connection: "Connection", since_ms: int = since_ms
            ) -> "tuple[int, list[audit.Sums], Ledger]":
                first = audit.first_relayed_ms(connection, since_ms, until_ms)
                if first is None:
                    return until_ms, [], {}
                last = min(first + STRETCH_MS - 1, until_ms)
                sums = audit.relay_sums(connection, first, last)
                wanted = {key for each in sums for key in (each.in_key_index, each.out_key_index)}
                return last, sums, audit.channel_ends(connection, sorted(wanted))

            last, sums, ends = await self._store.read(read)
            yield sums, ends
            since_ms = last + 1


# --- JSON -----------------------------------------------------------------------------------------


def _sent_keys(payment: "SentPayment") -> list[int]:
    return [part.key_index for part in payment.parts if part.key_index is not None]


def _sent(payment: "SentPayment", ends: Ledger) -> Json:
    shown = sent_json(
        Sent(
            id=payment.id,
            payment_hash=payment.payment_hash,
            payment_preimage=payment.preimage,
            recipient_amount_msat=payment.amount_msat,
            recipient_node_id=payment.recipient,
            parts=tuple(_sent_part(payment, part, ends) for part in payment.parts),
            started_at_ms=payment.created_at * 1000,
        )
    )
    for part, told in zip(payment.parts, shown["parts"], strict=True):
        told["route"] = shown_route(part.route)
    return shown


def _sent_part(payment: "SentPayment", part: "Attempt", ends: Ledger) -> SentPart:
    channel = ends.get(part.key_index or 0, _NOBODY)
    return SentPart(
        id=part_id(payment.id, part.number),
        channel_id=channel.channel_id,
        next_node_id=channel.node_id,
        amount_with_fees_msat=part.amount_msat + part.fees_msat,
        fees_msat=part.fees_msat,
        route=None,
        started_at_ms=part.created_at * 1000,
        settled_at_ms=(part.completed_at or payment.completed_at) * 1000,
    )


def _received_keys(payment: "ReceivedPayment") -> list[int]:
    return [part.key_index for part in payment.parts]


def _received(payment: "ReceivedPayment", ends: Ledger) -> Json:
    parts = []
    for part in payment.parts:
        channel = ends.get(part.key_index, _NOBODY)
        parts.append(IncomingPart(*channel, part.amount_msat, part.received_at * 1000))
    return received_json(payment.payment_hash, parts)


def _relayed_keys(payment: "RelayedPayment") -> list[int]:
    return [payment.in_key_index, payment.out_key_index]


def _relayed(payment: "RelayedPayment", ends: Ledger) -> Json:
    source = ends.get(payment.in_key_index, _NOBODY)
    target = ends.get(payment.out_key_index, _NOBODY)
    incoming = IncomingPart(*source, payment.in_amount_msat, payment.created_at_ms)
    outgoing = OutgoingPart(*target, payment.out_amount_msat, payment.completed_at_ms)
    return relayed_json(Relayed(payment.payment_hash, (incoming,), (outgoing,)))
