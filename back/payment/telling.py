"""What users hear of our payments, as rows of the commit that makes it true."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from back import events
from back.events import FailedTry, Sent, SentPart
from back.events.facts import part_id

if TYPE_CHECKING:
    from back.payment.route import Hop
    from back.payment.sending import Part, Sending
    from back.storage.statements import Write

__all__ = ["failed_event", "sent_event"]


def sent_event(sending: "Sending", preimage: bytes, unix_s: float) -> "Write":
    """Tell that a payment is sent: all its parts that are under way will be paid too.

    Args:
        sending: with a part that is paid.
        preimage: the proof.
        unix_s: now.
    """
    payment = sending.payment
    now_ms = int(unix_s * 1000)
    parts = [part for part in sending.parts.values() if part.is_paid or not part.is_over]
    return events.payment_sent(
        Sent(
            id=payment.id,
            payment_hash=payment.payment_hash,
            payment_preimage=preimage,
            recipient_amount_msat=payment.amount_msat,
            recipient_node_id=payment.recipient,
            parts=tuple(_sent_part(sending, part, now_ms) for part in parts),
            started_at_ms=payment.created_at * 1000,
        )
    )


def _sent_part(sending: "Sending", part: "Part", now_ms: int) -> SentPart:
    attempt = part.attempt
    return SentPart(
        id=part_id(sending.payment.id, attempt.number),
        channel_id=part.channel_id,
        next_node_id=part.tried.hops[0].next_node_id,
        amount_with_fees_msat=attempt.amount_msat + attempt.fees_msat,
        fees_msat=attempt.fees_msat,
        route=part.tried.hops,
        started_at_ms=attempt.created_at * 1000,
        settled_at_ms=now_ms,
    )


def failed_event(sending: "Sending", failures: Sequence[dict[str, Any]], unix_s: float) -> "Write":
    """Tell that a payment failed for good.

    Args:
        sending: no part of it can be paid any more.
        failures: all of it, as they are stored.
        unix_s: now.
    """
    now_ms = int(unix_s * 1000)
    tries = [_tried(sending, failure, now_ms) for failure in failures]
    return events.payment_failed(
        sending.payment.id,
        sending.payment.payment_hash,
        tries,
        sending.payment.created_at * 1000,
        now_ms,
    )


def _tried(sending: "Sending", failure: dict[str, Any], now_ms: int) -> FailedTry:
    started_ms = sending.payment.created_at * 1000
    amount_msat, index = sending.payment.amount_msat, 0
    route: tuple[Hop, ...] = ()
    node = failure.get("failedNode")
    for part in sending.parts.values():
        if part.verdict is not None and part.verdict.summary is failure:
            amount_msat, route = part.attempt.amount_msat, part.tried.hops
            started_ms = part.attempt.created_at * 1000
            ids = [hop.next_node_id.hex() for hop in route]
            index = ids.index(node) + 1 if node in ids else 0
    is_unreadable = failure.get("failureType") == "UnreadableRemote"
    return FailedTry(
        amount_msat=amount_msat,
        route=route,
        message="" if is_unreadable else str(failure.get("failureMessage", "")),
        origin_node=bytes.fromhex(node) if node else None,
        index=index,
        started_at_ms=started_ms,
        failed_at_ms=now_ms,
    )
