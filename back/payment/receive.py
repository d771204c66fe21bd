"""What to do with an HTLC that is a payment to us (BOLT 4 § Payload for the Last Node). Pure.

The failure codes are those of BOLT 4 § Failure Messages; of several the first of its list is told.
"""

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from back.channel.model import Htlc
from back.payment.decision import Decision, Fulfil
from back.payment.kind import InvoiceKind
from back.payment.multipart import MAX_OVERPAYMENT, MPP_TIMEOUT_S, Part
from back.relay.onion import Final
from shared.crypto.failures import encode_failure
from shared.crypto.payload import Payload

__all__ = [
    "ACCEPTED_CLTV_EXPIRY_DELTA",
    "MIN_FINAL_CLTV_EXPIRY_DELTA",
    "MPP_TIMEOUT",
    "TEMPORARY",
    "Claim",
    "Judgement",
    "Now",
    "ReceivePolicy",
    "Standing",
    "judge",
    "keysend_preimage",
    "unknown_details",
]

ACCEPTED_CLTV_EXPIRY_DELTA = 27
"""Blocks that must be left when an HTLC is fulfilled: the channel itself is closed 18 before the
end, so the peer has 9 to take the preimage."""
MIN_FINAL_CLTV_EXPIRY_DELTA = ACCEPTED_CLTV_EXPIRY_DELTA + 3
"""What our invoices ask for: up to three blocks may come while the HTLC is on its way."""

MPP_TIMEOUT = encode_failure("mpp_timeout")
TEMPORARY = encode_failure("temporary_node_failure")


@dataclass(frozen=True, slots=True)
class ReceivePolicy:
    """What we take.

    Attributes:
        accepts_keysend: payments that nobody asked for, too.
        mpp_timeout_s: how long the first HTLC of a payment waits for the others.
    """

    accepts_keysend: bool = True
    mpp_timeout_s: float = MPP_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Now:
    """When the decision is made.

    Attributes:
        unix_s: seconds since 1970; when the first HTLC of the same payment came.
        height: of the chain.
    """

    unix_s: int
    height: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The invoice of a payment_hash, and which HTLCs paid it.

    Attributes:
        payment_secret: or the path_id, of a BOLT 12 invoice.
        amount_msat: as asked for; None: any.
        expires_at: seconds since 1970.
        is_paid: paid, or about to be.
        paid_by: (key_index, id) of the HTLCs that did it.
        kind: what proves that the payer means this invoice.
    """

    preimage: bytes = field(repr=False)
    payment_secret: bytes = field(repr=False)
    amount_msat: int | None
    expires_at: int
    is_paid: bool = False
    paid_by: frozenset[tuple[int, int]] = frozenset()
    kind: InvoiceKind = InvoiceKind.BOLT11


@dataclass(frozen=True, slots=True)
class Claim:
    """The HTLC is as it should be: it counts towards what the payer promised.

    Attributes:
        total_msat: that all HTLCs of the payment bring together.
    """

    part: Part
    total_msat: int


Judgement: TypeAlias = Decision | Claim


def judge(
    final: Final,
    key_index: int,
    standing: Standing | None,
    now: Now,
    *,
    may_take: bool = True,
) -> Judgement:
    """Look at one HTLC by itself.

    Args:
        final: it, and what its onion says.
        key_index: of its channel.
        standing: of its payment_hash; None: nothing of ours has it.
        now: when.
        may_take: False: nothing is taken now, whatever it would pay.

    Returns:
        Fulfil, where this very HTLC was decided on before a restart and the decision did not reach
        its channel; a failure; or a claim.
    """
    htlc, payload = final.htlc, final.payload
    if standing is not None and (key_index, htlc.id) in standing.paid_by:
        return Fulfil(standing.preimage)
    if not may_take:
        return final.refused(TEMPORARY)
    total_msat = _total_msat(final)
    if standing is None or not _is_what_we_asked_for(final, total_msat, standing, now):
        return final.refused(unknown_details(htlc, now.height))
    if wrong := _tampering_failure(htlc, payload):
        return final.refused(wrong)
    forwarded_msat = payload.amt_to_forward or 0
    part = Part(key_index, htlc.id, htlc.amount_msat, forwarded_msat, htlc.cltv_expiry)
    return Claim(part, total_msat)


def keysend_preimage(final: Final) -> bytes | None:
    """Return the preimage that the payer sent along; None if there is none that fits."""
    preimage = final.payload.keysend_preimage
    if preimage is None or final.opened is not None:
        return None
    return preimage if sha256(preimage).digest() == final.htlc.payment_hash else None


def unknown_details(htlc: Htlc, height: int) -> bytes:
    """Return the one failure for all that the payer answers for, so that nobody can probe."""
    details = {"htlc_msat": htlc.amount_msat, "height": height}
    return encode_failure("incorrect_or_unknown_payment_details", **details)


def _total_msat(final: Final) -> int:
    """What the payer promises; a payment that does not say it is no part of a larger one."""
    payload = final.payload
    if final.opened is not None:
        return payload.total_amount_msat or 0
    if payload.payment_data is not None:
        return payload.payment_data.total_msat
    return payload.amt_to_forward or 0


def _is_what_we_asked_for(final: Final, total_msat: int, standing: Standing, now: Now) -> bool:
    return (
        not standing.is_paid
        and now.unix_s < standing.expires_at
        and _is_meant(final, standing)
        and (final.payload.amt_to_forward or 0) > 0
        and _is_amount_right(standing.amount_msat, total_msat)
        and final.htlc.cltv_expiry >= now.height + ACCEPTED_CLTV_EXPIRY_DELTA
    )


def _is_meant(final: Final, standing: Standing) -> bool:
    """Whether the payer, and not a node on the way, made this HTLC for this invoice."""
    secret = _shown_secret(final, standing.kind)
    return secret is not None and hmac.compare_digest(secret, standing.payment_secret)


def _shown_secret(final: Final, kind: InvoiceKind) -> bytes | None:
    data = final.payload.payment_data
    if kind is InvoiceKind.BOLT12:
        return final.opened.path_id if final.opened is not None else None
    if final.opened is not None:
        return None
    if kind is InvoiceKind.KEYSEND:
        preimage = keysend_preimage(final)
        if preimage is None or data is None:
            return preimage
    return data.payment_secret if data is not None else None


def _is_amount_right(asked_msat: int | None, total_msat: int) -> bool:
    if asked_msat is None:
        return total_msat > 0
    return asked_msat <= total_msat <= MAX_OVERPAYMENT * asked_msat


def _tampering_failure(htlc: Htlc, payload: Payload) -> bytes:
    """Say how the HTLC differs from what the payer meant for it; empty if it does not."""
    if htlc.cltv_expiry < (payload.outgoing_cltv_value or 0):
        return encode_failure("final_incorrect_cltv_expiry", cltv_expiry=htlc.cltv_expiry)
    if htlc.amount_msat < (payload.amt_to_forward or 0):
        return encode_failure("final_incorrect_htlc_amount", incoming_htlc_amt=htlc.amount_msat)
    return b""
