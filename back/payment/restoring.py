"""Payments of a former process, as they are taken up again."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from back.payment import send
from back.payment.failures import Tried, Verdict, route_summary
from back.payment.route import Hop
from back.payment.sending import Part, Sending, SendLimits
from back.storage.payments import Attempt, Payment, PaymentState
from shared import bolt11
from shared.chain import Chain
from shared.errors import CommandError, MalformedMessage
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


def restored(
    payment: Payment, attempts: Sequence[Attempt], payer: bytes, chain: Chain, unix_s: float
) -> Sending:
    """Return a payment as it stands.

    Args:
        payment: its row.
        attempts: its parts.
        payer: our node id.
        chain: our network.
        unix_s: now.
    """
    done: asyncio.Future[Sending] = asyncio.get_running_loop().create_future()
    limits = SendLimits()
    deadline_s = payment.created_at + limits.timeout_s
    sending = Sending(
        payment, _order_again(payment, payer, chain, unix_s), limits, deadline_s, done
    )
    for attempt in attempts:
        part = Part(attempt, b"", attempt.key_index or 0, _tried(attempt), is_offered=True)
        sending.parts[attempt.number] = part
        sending.rounds += 1
        if attempt.state is PaymentState.FAILED:
            summary = json.loads(attempt.failure or "{}")
            part.verdict = Verdict(may_retry=True, summary=summary)
            part.is_over = True
            sending.failures.append(summary)
        elif attempt.state is PaymentState.SENT:
            part.is_over = part.is_paid = True
    return sending


def _order_again(payment: Payment, payer: bytes, chain: Chain, unix_s: float) -> send.Order | None:
    try:
        invoice = bolt11.decode(payment.bolt11 or "")
        return send.order(invoice, payment.amount_msat, payer=payer, chain=chain, unix_s=unix_s)
    except (CommandError, MalformedMessage):
        return None
