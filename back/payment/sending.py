"""A payment under way, in memory."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from back.payment.send import Order, Verdict
from back.storage.payments import Attempt, Payment
from shared.bolt11 import Invoice

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "MAX_ATTEMPTS",
    "ORIGIN",
    "Part",
    "PaymentRequest",
    "Sending",
    "origin_of",
    "parse_origin",
]

ORIGIN = "payment"
"""First word of :attr:`Htlc.origin` of our payments."""
MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What is to be paid.

    Attributes:
        amount_msat: None: what the invoice says.
        external_id: whatever the asker calls it.
        max_attempts: HTLCs to try at most.
    """

    invoice: Invoice
    bolt11: str
    amount_msat: int | None = None
    external_id: str | None = None
    max_attempts: int = MAX_ATTEMPTS


@dataclass(slots=True)
class Part:
    """One HTLC of a payment, while it is at hand.

    Attributes:
        attempt: its row; without htlc_id until it is offered.
        is_offered: durable in the channel.
        verdict: how it failed.
        is_over: nothing more comes of it.
    """

    attempt: Attempt
    channel_id: bytes
    key_index: int
    is_offered: bool = False
    verdict: Verdict | None = None
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Sending:
    """A payment under way.

    Attributes:
        payment: its row.
        order: None after a restart, if the invoice cannot be read any more.
        done: resolves when it is sent or has failed.
    """

    payment: Payment
    order: Order | None
    max_attempts: int
    done: "asyncio.Future[Sending]"
    parts: dict[int, Part] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_in_flight(self) -> bool:
        """Whether an HTLC of it may still be fulfilled."""
        return any(not part.is_over for part in self.parts.values())


def origin_of(payment_id: UUID, number: int) -> str:
    """Return what an HTLC remembers of its payment: ``payment:<id>:<number of the attempt>``."""
    return f"{ORIGIN}:{payment_id}:{number}"


def parse_origin(origin: str | None) -> tuple[UUID, int]:
    """Read an origin of ours."""
    _, payment_id, number = (origin or "").split(":")
    return UUID(payment_id), int(number)
