"""What we paid, as JSON with Eclair's names."""

from functools import lru_cache
from typing import TYPE_CHECKING

from back.api.forms import read_invoice
from back.api.json import Json, invoice_json, timestamp_json
from back.api.offer_json import bolt12_invoice_json
from back.events.facts import part_id
from back.payment.restoring import shown_route
from back.storage.payments import PaymentState
from shared import bolt12

if TYPE_CHECKING:
    from collections.abc import Sequence

    from back.payment.sending import Sending
    from back.storage.payments import Attempt, Payment

__all__ = ["payment_event_json", "sent_json"]

_BOLT12 = "lni1"


def sent_json(payment: "Payment", attempts: "Sequence[Attempt]") -> list[Json]:
    """Return what stands for a payment: itself, or its parts where several bring the amount.

    Parts that failed are not shown beside others that did not: a payment that went through in the
    end did not fail.

    Args:
        payment: as stored.
        attempts: of it.
    """
    counting = [attempt for attempt in attempts if attempt.state is not PaymentState.FAILED]
    if payment.state is PaymentState.FAILED or len(counting) < 2:
        route = counting[0].route if counting else "[]"
        shown = _payment(payment)
        return [{**shown, "status": _status(payment, payment.fees_msat, shown_route(route))}]
    return [_part(payment, attempt) for attempt in counting]


def _payment(payment: "Payment") -> Json:
    shown: Json = {
        "id": str(payment.id),
        "parentId": str(payment.parent or payment.id),
    }
    if payment.external_id is not None:
        shown["externalId"] = payment.external_id
    shown |= {
        "paymentHash": payment.payment_hash.hex(),
        "paymentType": _type(payment.bolt11),
        "amount": payment.amount_msat,
        "recipientAmount": payment.amount_msat,
        "recipientNodeId": payment.recipient.hex(),
        "createdAt": timestamp_json(payment.created_at),
    }
    if payment.bolt11:
        shown["invoice"] = _invoice(payment.bolt11)
    return shown


def _part(payment: "Payment", attempt: "Attempt") -> Json:
    """One of several parts; it ends when its own HTLC does."""
    is_sent = attempt.state is PaymentState.SENT
    route = shown_route(attempt.route)
    return {
        **_payment(payment),
        "id": str(part_id(payment.id, attempt.number)),
        "parentId": str(payment.parent or payment.id),
        "amount": attempt.amount_msat,
        "createdAt": timestamp_json(attempt.created_at),
        "status": (
            _status(payment, attempt.fees_msat, route, attempt.completed_at)
            if is_sent
            else {"type": "pending"}
        ),
    }


def _type(text: str | None) -> str:
    if text is None:
        return "KeySend"
    return "Blinded" if text.startswith(_BOLT12) else "Standard"


@lru_cache(maxsize=64)
def _invoice(text: str) -> Json:
    if text.startswith(_BOLT12):
        return bolt12_invoice_json(text, bolt12.decode_invoice_text(text))
    return invoice_json(text, read_invoice(text))


def _status(
    payment: "Payment", fees_msat: int, route: list[Json], completed_at: int | None = None
) -> Json:
    completed = timestamp_json(completed_at or payment.completed_at or 0)
    match payment.state:
        case PaymentState.PENDING:
            return {"type": "pending"}
        case PaymentState.FAILED:
            failures = list(payment.failures)
            return {"type": "failed", "failures": failures, "completedAt": completed}
        case PaymentState.SENT:
            return {
                "type": "sent",
                "paymentPreimage": (payment.preimage or b"").hex(),
                "feesPaid": fees_msat,
                "route": route,
                "completedAt": completed,
            }


def payment_event_json(sending: "Sending") -> Json:
    """How a payment ended, for who waited for it."""
    payment = sending.payment
    shown: Json = {
        "type": "payment-sent" if payment.state is PaymentState.SENT else "payment-failed",
        "id": str(payment.id),
        "paymentHash": payment.payment_hash.hex(),
    }
    started, settled = timestamp_json(payment.created_at), timestamp_json(payment.completed_at or 0)
    if payment.state is not PaymentState.SENT:
        shown["failures"] = list(payment.failures)
        return {**shown, "startedAt": started, "settledAt": settled}
    parts = [
        {
            "id": str(part_id(payment.id, part.attempt.number)),
            "channelId": part.channel_id.hex(),
            "nextNodeId": part.tried.hops[0].next_node_id.hex(),
            "amountWithFees": part.attempt.amount_msat + part.attempt.fees_msat,
            "fees": part.attempt.fees_msat,
            "startedAt": timestamp_json(part.attempt.created_at),
            "settledAt": settled,
        }
        for part in sending.parts.values()
        if part.is_paid
    ]
    return {
        **shown,
        "paymentPreimage": (payment.preimage or b"").hex(),
        "recipientAmount": payment.amount_msat,
        "recipientNodeId": payment.recipient.hex(),
        "parts": parts,
        "fees": payment.fees_msat,
        "startedAt": started,
        "settledAt": settled,
    }
