"""Each thing that can be wrong with an HTLC has its BOLT 4 failure."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from support.channels import secret

from back.channel.events import FailHtlc, FailMalformedHtlc, FulfillHtlc
from back.channel.htlc import FULFILLED_MARGIN_BLOCKS
from back.channel.model import Htlc, HtlcState
from back.payment.decision import Decision, Fail, Fulfil, Malformed, settlement, unreadable
from back.payment.kind import InvoiceKind
from back.payment.multipart import Part
from back.payment.receive import (
    ACCEPTED_CLTV_EXPIRY_DELTA,
    MIN_FINAL_CLTV_EXPIRY_DELTA,
    Claim,
    Judgement,
    Now,
    Standing,
    judge,
    keysend_preimage,
)
from back.relay.onion import Final, Place
from shared.crypto import sphinx
from shared.crypto.failures import INVALID_ONION_BLINDING, decode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.crypto.recipient_data import RecipientData
from shared.crypto.signature import public_key
from shared.errors import InvalidOnion

PREIMAGE, SECRET, SHARED = secret("preimage"), secret("payment secret"), secret("shared")
HASH = sha256(PREIMAGE).digest()
NODE, SESSION = secret("node"), secret("session")
HEIGHT = 1_000
NOW = Now(5_000, HEIGHT)
CLTV = HEIGHT + ACCEPTED_CLTV_EXPIRY_DELTA
AMOUNT = 1_000_000
STANDING = Standing(PREIMAGE, SECRET, AMOUNT, NOW.unix_s + 1)
KEYSEND = replace(STANDING, amount_msat=None, payment_secret=PREIMAGE, kind=InvoiceKind.KEYSEND)
BLINDED = replace(STANDING, kind=InvoiceKind.BOLT12)
HTLC = Htlc(
    offered=False,
    id=7,
    amount_msat=AMOUNT,
    payment_hash=HASH,
    cltv_expiry=CLTV,
    state=HtlcState.RCVD_ADD_ACK_REVOCATION,
    onion_routing_packet=bytes(1366),
)
DATA = PaymentData(payment_secret=SECRET, total_msat=AMOUNT)
PAYLOAD = Payload(amt_to_forward=AMOUNT, outgoing_cltv_value=CLTV, payment_data=DATA)
PATH = RecipientData(path_id=SECRET)


def decided(
    htlc: Htlc = HTLC,
    payload: Payload = PAYLOAD,
    standing: Standing | None = STANDING,
    *,
    place: Place = Place.OUTSIDE,
    opened: RecipientData | None = None,
    may_take: bool = True,
    **fields: Any,
) -> Judgement:
    final = Final(htlc, payload.model_copy(update=fields), SHARED, place, opened)
    return judge(final, 0, standing, NOW, may_take=may_take)


def claim(htlc: Htlc = HTLC, forwarded_msat: int = AMOUNT, total_msat: int = AMOUNT) -> Claim:
    part = Part(0, htlc.id, htlc.amount_msat, forwarded_msat, htlc.cltv_expiry)
    return Claim(part, total_msat)


def failure(decision: Judgement) -> tuple[str, dict[str, int | bytes]]:
    assert isinstance(decision, Fail)
    found = decode_failure(decision.message)
    return found.name, dict(found.fields)


def paying(total_msat: int, **fields: Any) -> dict[str, Any]:
    """A payload that pays ``total_msat``."""
    data = PaymentData(payment_secret=SECRET, total_msat=total_msat)
    return {"payment_data": data, "amt_to_forward": total_msat, **fields}


DETAILS = ("incorrect_or_unknown_payment_details", {"htlc_msat": AMOUNT, "height": HEIGHT})


def test_the_right_htlc_counts_towards_its_payment() -> None:
    assert decided() == claim()


def test_an_unknown_payment_hash_fails() -> None:
    assert failure(decided(standing=None)) == DETAILS


def test_a_wrong_or_missing_payment_secret_fails_just_the_same() -> None:
    other = PaymentData(payment_secret=bytes(32), total_msat=AMOUNT)
    assert failure(decided(payment_data=other)) == DETAILS
    assert failure(decided(payment_data=None)) == DETAILS


def test_an_expired_invoice_is_not_paid_any_more() -> None:
    assert failure(decided(standing=replace(STANDING, expires_at=NOW.unix_s))) == DETAILS


@pytest.mark.parametrize(
    ("paid_msat", "is_taken"),
    [
        (AMOUNT - 1, False),
        (AMOUNT, True),
        (AMOUNT + 1, True),
        (2 * AMOUNT, True),
        (2 * AMOUNT + 1, False),
    ],
)
def test_an_invoice_takes_its_amount_up_to_twice(paid_msat: int, is_taken: bool) -> None:
    htlc = replace(HTLC, amount_msat=paid_msat)
    decision = decided(htlc, **paying(paid_msat))
    if is_taken:
        assert decision == claim(htlc, paid_msat, paid_msat)
    else:
        assert failure(decision) == (DETAILS[0], {"htlc_msat": paid_msat, "height": HEIGHT})


def test_an_invoice_without_amount_takes_any() -> None:
    htlc = replace(HTLC, amount_msat=3)
    open_amount = replace(STANDING, amount_msat=None)
    assert decided(htlc, standing=open_amount, **paying(3)) == claim(htlc, 3, 3)
    assert failure(decided(htlc, standing=open_amount, **paying(0)))[0] == DETAILS[0]


def test_a_part_counts_with_what_the_payer_meant_it_to_bring() -> None:
    htlc = replace(HTLC, amount_msat=AMOUNT // 2)
    assert decided(htlc, amt_to_forward=AMOUNT // 2 - 1) == claim(htlc, AMOUNT // 2 - 1)


def test_a_part_that_brings_nothing_only_takes_a_slot() -> None:
    assert failure(decided(amt_to_forward=0)) == DETAILS


def test_an_htlc_that_ends_too_soon_fails_and_tells_our_height() -> None:
    early = replace(HTLC, cltv_expiry=CLTV - 1)
    assert failure(decided(early, outgoing_cltv_value=CLTV - 1)) == DETAILS


def test_an_htlc_below_what_its_onion_says_was_tampered_with() -> None:
    assert failure(decided(outgoing_cltv_value=CLTV + 1)) == (
        "final_incorrect_cltv_expiry",
        {"cltv_expiry": CLTV},
    )
    short = replace(HTLC, amount_msat=AMOUNT - 1)
    assert failure(decided(short)) == (
        "final_incorrect_htlc_amount",
        {"incoming_htlc_amt": AMOUNT - 1},
    )


def test_an_htlc_above_what_its_onion_says_is_welcome() -> None:
    htlc = replace(HTLC, amount_msat=AMOUNT + 5)
    assert decided(htlc) == claim(htlc)


def test_a_second_htlc_for_a_paid_invoice_fails_and_the_first_stays_fulfilled() -> None:
    paid = replace(STANDING, is_paid=True, paid_by=frozenset({(0, HTLC.id)}))
    assert decided(standing=paid) == Fulfil(PREIMAGE)
    assert failure(decided(replace(HTLC, id=8), standing=paid)) == DETAILS
    elsewhere = replace(STANDING, is_paid=True, paid_by=frozenset({(1, HTLC.id)}))
    assert failure(decided(standing=elsewhere)) == DETAILS


def test_what_paid_is_fulfilled_whatever_else_holds_now() -> None:
    """A decision is not taken back: others of its payment may be fulfilled already."""
    paid = replace(STANDING, is_paid=True, paid_by=frozenset({(0, HTLC.id)}), expires_at=0)
    assert decided(standing=paid, may_take=False) == Fulfil(PREIMAGE)
    assert decided(replace(HTLC, cltv_expiry=HEIGHT), standing=paid) == Fulfil(PREIMAGE)


def test_nothing_is_taken_where_nothing_may_be() -> None:
    assert failure(decided(may_take=False)) == ("temporary_node_failure", {})


# --- keysend --------------------------------------------------------------------------------------


def test_keysend_brings_its_own_preimage() -> None:
    without = {"payment_data": None, "keysend_preimage": PREIMAGE}
    assert decided(standing=KEYSEND, **without) == claim()
    assert failure(decided(standing=KEYSEND, payment_data=None)) == DETAILS
    wrong = {**without, "keysend_preimage": bytes(32)}
    assert failure(decided(standing=KEYSEND, **wrong)) == DETAILS


def test_keysend_in_parts_shows_the_same_secret_in_each() -> None:
    standing = replace(KEYSEND, payment_secret=SECRET)
    assert decided(standing=standing, keysend_preimage=PREIMAGE) == claim()
    other = PaymentData(payment_secret=bytes(32), total_msat=AMOUNT)
    fields = {"payment_data": other, "keysend_preimage": PREIMAGE}
    assert failure(decided(standing=standing, **fields)) == DETAILS


def test_a_preimage_of_another_hash_is_no_keysend() -> None:
    fits = Final(HTLC, PAYLOAD.model_copy(update={"keysend_preimage": PREIMAGE}), SHARED)
    assert keysend_preimage(fits) == PREIMAGE
    assert keysend_preimage(replace(fits, payload=PAYLOAD)) is None
    assert keysend_preimage(replace(fits, htlc=replace(HTLC, payment_hash=bytes(32)))) is None
    assert keysend_preimage(replace(fits, opened=PATH)) is None


def test_an_invoice_is_not_paid_by_keysend() -> None:
    fields = {"payment_data": None, "keysend_preimage": PREIMAGE}
    assert failure(decided(**fields)) == DETAILS


# --- blinded paths --------------------------------------------------------------------------------


BLINDED_FIELDS = {"payment_data": None, "total_amount_msat": AMOUNT}


def test_a_path_that_we_made_for_the_invoice_proves_the_payment() -> None:
    decision = decided(standing=BLINDED, place=Place.INSIDE, opened=PATH, **BLINDED_FIELDS)
    assert decision == claim()


@pytest.mark.parametrize("path_id", [None, b"", bytes(32), SECRET + b"\0"])
def test_any_other_path_proves_nothing_and_nobody_hears_why(path_id: bytes | None) -> None:
    other = RecipientData(path_id=path_id)
    decision = decided(standing=BLINDED, place=Place.INSIDE, opened=other, **BLINDED_FIELDS)
    assert decision == Malformed(INVALID_ONION_BLINDING)
    first = decided(standing=BLINDED, place=Place.INTRODUCTION, opened=other, **BLINDED_FIELDS)
    assert failure(first) == DETAILS


def test_each_kind_of_invoice_wants_its_own_proof() -> None:
    assert failure(decided(standing=BLINDED)) == DETAILS
    fields = {**BLINDED_FIELDS, "payment_data": DATA}
    by_path = decided(place=Place.INTRODUCTION, opened=PATH, **fields)
    assert failure(by_path) == DETAILS


def test_a_blinded_payment_promises_by_its_own_field() -> None:
    fields = {**BLINDED_FIELDS, "total_amount_msat": 2 * AMOUNT + 1}
    decision = decided(standing=BLINDED, place=Place.INTRODUCTION, opened=PATH, **fields)
    assert failure(decision) == DETAILS


# --- decisions ------------------------------------------------------------------------------------


def onion(payload: bytes) -> bytes:
    hop = sphinx.Hop(public_key(NODE), payload)
    return sphinx.build(SESSION, [hop], HASH).packet


def test_an_onion_of_the_legacy_realm_fails_in_a_way_the_payer_can_read() -> None:
    with pytest.raises(InvalidOnion) as caught:
        sphinx.peel(NODE, onion(b""), HASH)
    decision: Decision = unreadable(caught.value)
    assert failure(decision)[0] == "invalid_onion_payload"
    assert caught.value.shared_secret is not None
    event = settlement(HTLC, decision, caught.value.shared_secret)
    assert isinstance(event, FailHtlc)
    secrets = sphinx.shared_secrets(SESSION, [public_key(NODE)])[1]
    read = sphinx.unwrap_error(secrets, event.reason)
    assert read is not None
    assert decode_failure(read.message).name == "invalid_onion_payload"


@pytest.mark.parametrize(
    ("at", "name"),
    [(0, "invalid_onion_version"), (1, "invalid_onion_key"), (50, "invalid_onion_hmac")],
)
def test_an_onion_that_cannot_be_read_is_malformed(at: int, name: str) -> None:
    packet = bytearray(onion(encode_payload(PAYLOAD)))
    packet[at] ^= 0xFF
    with pytest.raises(InvalidOnion) as caught:
        sphinx.peel(NODE, bytes(packet), HASH)
    event = settlement(HTLC, unreadable(caught.value), b"")
    assert isinstance(event, FailMalformedHtlc)
    assert decode_failure(event.failure_code.to_bytes(2, "big")).name == name
    assert event.sha256_of_onion == sha256(HTLC.onion_routing_packet).digest()


def test_a_decision_becomes_the_event_that_carries_it_out() -> None:
    assert settlement(HTLC, Fulfil(PREIMAGE), SHARED) == FulfillHtlc(HTLC.id, PREIMAGE)
    failed = settlement(HTLC, Fail(b"\x40\x0f"), SHARED)
    assert isinstance(failed, FailHtlc)
    read = sphinx.unwrap_error([SHARED], failed.reason)
    assert read is not None
    assert read.message == b"\x40\x0f"


def test_our_invoices_leave_room_to_claim_what_we_accept() -> None:
    assert FULFILLED_MARGIN_BLOCKS < ACCEPTED_CLTV_EXPIRY_DELTA < MIN_FINAL_CLTV_EXPIRY_DELTA


def test_secrets_are_not_shown() -> None:
    shown = repr((Fulfil(PREIMAGE), STANDING))
    assert PREIMAGE.hex() not in shown
    assert repr(PREIMAGE) not in shown
    assert repr(SECRET) not in shown
