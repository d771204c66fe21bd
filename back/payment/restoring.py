"""Payments of a former process, as they are taken up again."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from back.payment.failures import Tried, Verdict, route_summary
from back.payment.route import Hop
from back.payment.sending import Part, Sending, SendLimits
from back.storage.payments import Attempt, Payment, PaymentState
from shared.units import ShortChannelId

__all__ = ["restored", "shown_route", "stored_route"]

_SHOWN = ("nodeId", "nextNodeId", "shortChannelId")


def stored_route(tried: Tried) -> str:
    """Return a way as it is kept: for people, and for the judgement of an error after a restart."""
    shown: list[dict[str, Any]] = []
    for hop, summary, msat in zip(
        tried.hops, route_summary(tried.hops), tried.carried, strict=True
    ):
        terms = {
            "feeBaseMsat": hop.fee_base_msat,
            "feeProportionalMillionths": hop.fee_proportional_millionths,
            "cltvExpiryDelta": hop.cltv_expiry_delta,
            "amountMsat": msat,
        }
        shown.append({**summary, **terms})
    return json.dumps(shown)


def shown_route(route: str) -> list[dict[str, Any]]:
    """Return a stored way for people."""
    return [{name: hop[name] for name in _SHOWN if name in hop} for hop in json.loads(route)]


def _tried(attempt: Attempt) -> Tried:
    hops, carried = [], []
    for hop in json.loads(attempt.route):
        scid = hop.get("shortChannelId")
        hops.append(
            Hop(
                bytes.fromhex(hop["nodeId"]),
                bytes.fromhex(hop["nextNodeId"]),
                0 if scid is None else ShortChannelId.parse(scid).pack(),
                hop.get("feeBaseMsat", 0),
                hop.get("feeProportionalMillionths", 0),
                hop.get("cltvExpiryDelta", 0),
            )
        )
        carried.append(hop.get("amountMsat", attempt.amount_msat))
    return Tried(tuple(hops), tuple(carried), attempt.shared_secrets)


def restored(payment: Payment, attempts: Sequence[Attempt]) -> Sending:
    """Return a payment as it stands: it waits for its parts, and nothing new is tried.

    How far it may go was said to a former process: what it may cost, which ways were allowed. A
    try beyond that would spend what nobody agreed to.

    Args:
        payment: its row.
        attempts: its parts.
    """
    done: asyncio.Future[Sending] = asyncio.get_running_loop().create_future()
    sending = Sending(payment, None, SendLimits(), payment.created_at, done, is_hopeless=True)
    for attempt in attempts:
        part = Part(attempt, b"", attempt.key_index or 0, _tried(attempt), is_offered=True)
        sending.parts[attempt.number] = part
        sending.rounds += 1
        if attempt.state is PaymentState.FAILED:
            summary = json.loads(attempt.failure or "{}")
            part.verdict = Verdict(may_retry=False, summary=summary)
            part.is_over = True
            sending.failures.append(summary)
        elif attempt.state is PaymentState.SENT:
            part.is_over = part.is_paid = True
    return sending
