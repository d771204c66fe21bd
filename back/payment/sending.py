"""A payment under way, in memory, and the rules by which it goes on."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from back.payment.failures import Tried, Verdict, local_failure
from back.payment.send import Order
from back.storage.payments import Attempt, Payment, PaymentState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from back.payment.route import Edge, Hop, Route
    from shared.bolt11 import Invoice

__all__ = [
    "MAX_ATTEMPTS",
    "ORIGIN",
    "Part",
    "PaymentRequest",
    "SendLimits",
    "Sending",
    "origin_of",
    "parse_origin",
]

ORIGIN = "payment"
"""First word of :attr:`Htlc.origin` of our payments."""
MAX_ATTEMPTS = 5
MAX_PARTS = 16
MIN_PART_MSAT = 10_000_000
"""Smaller parts cost more in fees and locks than they help."""
DEFAULT_FEE_FLAT_MSAT = 21_000
DEFAULT_FEE_SHARE = 0.03
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class SendLimits:
    """How far a payment may go.

    Attributes:
        max_fee_msat: of all parts together; None: 21 sat or 3 %, whichever is more.
        max_attempts: rounds of looking for ways.
        timeout_s: after so long nothing more is tried.
        max_parts: HTLCs at a time.
    """

    max_fee_msat: int | None = None
    max_attempts: int = MAX_ATTEMPTS
    timeout_s: float = TIMEOUT_S
    max_parts: int = MAX_PARTS

    def fee_msat(self, amount_msat: int) -> int:
        """Return the most that a payment of this amount may cost."""
        if self.max_fee_msat is not None:
            return self.max_fee_msat
        return max(DEFAULT_FEE_FLAT_MSAT, int(amount_msat * DEFAULT_FEE_SHARE))


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What is to be paid.

    Attributes:
        amount_msat: None: what the invoice says.
        external_id: whatever the asker calls it.
        routes: the ways to take, where the asker chose them; no others are tried.
        parent: of several payments of one invoice that the asker splits itself.
    """

    invoice: "Invoice"
    bolt11: str
    amount_msat: int | None = None
    external_id: str | None = None
    limits: SendLimits = SendLimits()
    routes: "tuple[Route, ...]" = ()
    parent: UUID | None = None


@dataclass(slots=True)
class Part:
    """One HTLC of a payment, while it is at hand.

    Attributes:
        attempt: its row; without htlc_id until it is offered.
        tried: the way it takes.
        is_offered: durable in the channel.
        verdict: how it failed.
        is_over: nothing more comes of it.
        is_paid: its preimage is known.
        ends_payment: the commit of its failure is that of the payment's too.
    """

    attempt: Attempt
    channel_id: bytes
    key_index: int
    tried: Tried
    is_offered: bool = False
    verdict: Verdict | None = None
    is_over: bool = False
    is_paid: bool = False
    ends_payment: bool = False

    @property
    def sent_msat(self) -> int:
        """What its HTLC carries: with the fees."""
        return self.tried.carried[0]

    @property
    def counts(self) -> bool:
        """Whether it may be paid still, or was."""
        return self.is_paid or not self.is_over


@dataclass(slots=True, eq=False)
class Sending:
    """A payment under way.

    Attributes:
        payment: its row.
        order: None after a restart: what the asker allowed is not known any more, so nothing new
            is tried.
        done: resolves when it is sent or has failed, and no part of it is left.
        deadline_s: unix seconds; nothing is tried after it.
        routes: ways that the asker chose, not taken yet.
        is_given: only such ways are taken.
        rounds: of looking for ways.
        is_looking: a round is under way.
        is_hopeless: nothing more is tried.
        is_ended: everybody was told of its end.
    """

    payment: Payment
    order: Order | None
    limits: SendLimits
    deadline_s: float
    done: "asyncio.Future[Sending]"
    parts: dict[int, Part] = field(default_factory=dict)
    routes: "tuple[Route, ...]" = ()
    is_given: bool = False
    rounds: int = 0
    is_looking: bool = False
    is_hopeless: bool = False
    is_ended: bool = False
    failures: list[dict[str, Any]] = field(default_factory=list)
    ignored_nodes: set[bytes] = field(default_factory=set)
    ignored_channels: set[tuple[int, bytes]] = field(default_factory=set)
    extra: "dict[tuple[int, bytes], Edge]" = field(default_factory=dict)

    @property
    def in_flight(self) -> list[Part]:
        """HTLCs of it that may still be fulfilled, or were and are not gone."""
        return [part for part in self.parts.values() if not part.is_over]

    @property
    def missing_msat(self) -> int:
        """What no part brings that is under way or was paid."""
        brought = sum(part.attempt.amount_msat for part in self.parts.values() if part.counts)
        return self.payment.amount_msat - brought

    @property
    def fee_left_msat(self) -> int:
        """What further parts may cost."""
        spent = sum(part.attempt.fees_msat for part in self.parts.values() if part.counts)
        return self.limits.fee_msat(self.payment.amount_msat) - spent

    @property
    def fees_msat(self) -> int:
        """What the parts cost that were paid."""
        return sum(part.attempt.fees_msat for part in self.parts.values() if part.is_paid)

    @property
    def is_sent(self) -> bool:
        """Whether its preimage is known."""
        return self.payment.state is PaymentState.SENT

    @property
    def is_ending(self) -> bool:
        """Whether a commit is under way by which it fails."""
        return any(part.ends_payment for part in self.in_flight)

    @property
    def family(self) -> UUID:
        """What the parts share of a payment that the asker splits: the id of the first of them."""
        return self.payment.parent or self.payment.id

    def too_late(self, unix_s: float) -> str:
        """Say why it is too late for another try; empty if it is not."""
        if self.order is None:
            return "the node was restarted while it was paid"
        if unix_s >= self.order.expires_at:
            return "the invoice has expired"
        if unix_s >= self.deadline_s:
            return f"{self.limits.timeout_s:g} s are over"
        return ""

    def why_not(self, unix_s: float) -> str:
        """Say what keeps it from another try; empty if nothing."""
        if why := self.too_late(unix_s):
            return why
        if self.is_hopeless:
            return "another part failed for good"
        if self.rounds >= self.limits.max_attempts:
            return f"{self.rounds} attempts have failed"
        if self.is_given and not self.routes:
            return "the given route failed"
        return ""

    def give_up(self, why: str, hops: "Sequence[Hop]" = ()) -> None:
        """Try nothing more."""
        self.is_hopeless = True
        self.failures.append(local_failure(why, hops))

    def learn(self, verdict: Verdict) -> None:
        """Take what a failed part teaches this payment."""
        self.failures.append(verdict.summary)
        self.ignored_nodes |= verdict.ignored_nodes
        self.ignored_channels |= verdict.ignored_channels
        for edge in verdict.extra:
            key = edge.hop.short_channel_id, edge.hop.node_id
            if key in self.extra:
                # It was told fresher terms before, and they did not do.
                self.ignored_channels.add(key)
            self.extra[key] = edge
        self.is_hopeless = self.is_hopeless or not verdict.may_retry


def origin_of(payment_id: UUID, number: int) -> str:
    """Return what an HTLC remembers of its payment: ``payment:<id>:<number of the attempt>``."""
    return f"{ORIGIN}:{payment_id}:{number}"


def parse_origin(origin: str | None) -> tuple[UUID, int]:
    """Read an origin of ours."""
    _, payment_id, number = (origin or "").split(":")
    return UUID(payment_id), int(number)
