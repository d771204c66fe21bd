"""What to do with an HTLC that was irrevocably added (BOLT 4 § Payload for the Last Node). Pure.

The failure codes are those of BOLT 4 § Failure Messages; of several the first of its list is told.
Multi-part payments are not supported yet: one HTLC pays all, or fails.
"""

import hmac
from dataclasses import dataclass, field
from hashlib import sha256

from back.channel.model import Htlc
from back.payment.decision import (
    Decision,
    Fail,
    Fulfil,
    Malformed,
    settlement,
    unreadable,
)
from shared.crypto.failures import INVALID_ONION_BLINDING, encode_failure
from shared.crypto.payload import Payload, decode_payload
from shared.crypto.sphinx import Peeled
from shared.errors import InvalidOnion

__all__ = [
    "ACCEPTED_CLTV_EXPIRY_DELTA",
    "MIN_FINAL_CLTV_EXPIRY_DELTA",
    "Decision",
    "Fail",
    "Fulfil",
    "Malformed",
    "Now",
    "Standing",
    "decide",
    "settlement",
    "unreadable",
]

ACCEPTED_CLTV_EXPIRY_DELTA = 27
"""Blocks that must be left when an HTLC is fulfilled: the channel itself is closed 18 before the
end, so the peer has 9 to take the preimage."""
MIN_FINAL_CLTV_EXPIRY_DELTA = ACCEPTED_CLTV_EXPIRY_DELTA + 3
"""What our invoices ask for: up to three blocks may come while the HTLC is on its way."""

MAX_OVERPAYMENT = 2


@dataclass(frozen=True, slots=True)
class Now:
    """When the decision is made.

    Attributes:
        unix_s: seconds since 1970.
        height: of the chain.
    """

    unix_s: int
    height: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The invoice of a payment_hash, and which HTLCs paid it.

    Attributes:
        amount_msat: as asked for; None: any.
        expires_at: seconds since 1970.
        is_paid: paid, or about to be.
        paid_by: (key_index, id) of the HTLCs that did it.
    """

    preimage: bytes = field(repr=False)
    payment_secret: bytes = field(repr=False)
    amount_msat: int | None
    expires_at: int
    is_paid: bool = False
    paid_by: frozenset[tuple[int, int]] = frozenset()


def decide(
    htlc: Htlc, peeled: Peeled, key_index: int, standing: Standing | None, now: Now
) -> Decision:
    """Decide on one HTLC.

    Args:
        htlc: as received.
        peeled: its onion, our layer off.
        key_index: of its channel.
        standing: of its payment_hash; None: no invoice of ours has it.
        now: when.
    """
    if htlc.path_key is not None:
        return Malformed(INVALID_ONION_BLINDING)
    try:
        payload = decode_payload(peeled.payload)
    except InvalidOnion as error:
        return unreadable(error)
    wrong = _payload_failure(htlc, payload, is_final=peeled.is_final)
    return Fail(wrong) if wrong else _final(htlc, payload, key_index, standing, now)


def _final(
    htlc: Htlc, payload: Payload, key_index: int, standing: Standing | None, now: Now
) -> Decision:
    if standing is not None and (key_index, htlc.id) in standing.paid_by:
        # Decided before a restart, and the decision did not reach the channel.
        return Fulfil(standing.preimage)
    if standing is None or not _is_what_we_asked_for(htlc, payload, standing, now):
        details = {"htlc_msat": htlc.amount_msat, "height": now.height}
        return Fail(encode_failure("incorrect_or_unknown_payment_details", **details))
    wrong = _tampering_failure(htlc, payload)
    return Fail(wrong) if wrong else Fulfil(standing.preimage)


def _payload_failure(htlc: Htlc, payload: Payload, *, is_final: bool) -> bytes:
    """Say what keeps a payload from being one for us; empty if nothing."""
    if payload.current_path_key is not None or payload.encrypted_recipient_data is not None:
        digest = sha256(htlc.onion_routing_packet).digest()
        return encode_failure("invalid_onion_blinding", sha256_of_onion=digest)
    for number, value in ((2, payload.amt_to_forward), (4, payload.outgoing_cltv_value)):
        if value is None:
            return encode_failure("invalid_onion_payload", type=number, offset=0)
    if is_final:
        return b""
    if payload.short_channel_id is None:
        return encode_failure("invalid_onion_payload", type=6, offset=0)
    # Nothing is forwarded yet, so there is no next peer that we know.
    return encode_failure("unknown_next_peer")


def _is_what_we_asked_for(htlc: Htlc, payload: Payload, standing: Standing, now: Now) -> bool:
    """Whether what the payer answers for is right: one code for all, so that nobody can probe."""
    data = payload.payment_data
    if standing.is_paid or data is None:
        return False
    return (
        now.unix_s < standing.expires_at
        and hmac.compare_digest(data.payment_secret, standing.payment_secret)
        and data.total_msat == payload.amt_to_forward
        and _is_amount_right(standing.amount_msat, data.total_msat)
        and htlc.cltv_expiry >= now.height + ACCEPTED_CLTV_EXPIRY_DELTA
    )


def _is_amount_right(asked_msat: int | None, paid_msat: int) -> bool:
    if asked_msat is None:
        return paid_msat > 0
    return asked_msat <= paid_msat <= MAX_OVERPAYMENT * asked_msat


def _tampering_failure(htlc: Htlc, payload: Payload) -> bytes:
    """Say how the HTLC differs from what the payer meant for it; empty if it does not."""
    if htlc.cltv_expiry < (payload.outgoing_cltv_value or 0):
        return encode_failure("final_incorrect_cltv_expiry", cltv_expiry=htlc.cltv_expiry)
    if htlc.amount_msat < (payload.amt_to_forward or 0):
        return encode_failure("final_incorrect_htlc_amount", incoming_htlc_amt=htlc.amount_msat)
    return b""
