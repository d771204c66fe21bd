"""Each thing that can be wrong with an HTLC has its BOLT 4 failure."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from support.channels import secret

from back.channel.events import FailHtlc, FailMalformedHtlc, FulfillHtlc
from back.channel.htlc import FULFILLED_MARGIN_BLOCKS
from back.channel.model import Htlc, HtlcState
from back.payment.receive import (
    ACCEPTED_CLTV_EXPIRY_DELTA,
    MIN_FINAL_CLTV_EXPIRY_DELTA,
    Decision,
    Fail,
    Fulfil,
    Malformed,
    Now,
    Standing,
    decide,
    settlement,
    unreadable,
)
from shared.crypto import sphinx
from shared.crypto.failures import INVALID_ONION_BLINDING, decode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
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


def decided(
    htlc: Htlc = HTLC,
    payload: Payload = PAYLOAD,
    standing: Standing | None = STANDING,
    *,
    is_final: bool = True,
    **fields: Any,
) -> Decision:
    stream = encode_payload(payload.model_copy(update=fields))
    peeled = sphinx.Peeled(stream, None if is_final else b"next", SHARED)
    return decide(htlc, peeled, 0, standing, NOW)


def failure(decision: Decision) -> tuple[str, dict[str, int | bytes]]:
    assert isinstance(decision, Fail)
    found = decode_failure(decision.message)
    return found.name, dict(found.fields)


def paying(total_msat: int, **fields: Any) -> dict[str, Any]:
    """A payload that pays ``total_msat``."""
    data = PaymentData(payment_secret=SECRET, total_msat=total_msat)
    return {"payment_data": data, "amt_to_forward": total_msat, **fields}


DETAILS = ("incorrect_or_unknown_payment_details", {"htlc_msat": AMOUNT, "height": HEIGHT})


def test_the_right_htlc_is_fulfilled() -> None:
    assert decided() == Fulfil(PREIMAGE)


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
        assert decision == Fulfil(PREIMAGE)
    else:
        assert failure(decision) == (DETAILS[0], {"htlc_msat": paid_msat, "height": HEIGHT})


def test_an_invoice_without_amount_takes_any() -> None:
    decision = decided(
        replace(HTLC, amount_msat=3), standing=replace(STANDING, amount_msat=None), **paying(3)
    )
    assert decision == Fulfil(PREIMAGE)


def test_a_part_of_a_payment_fails_without_multi_part_support() -> None:
    part = PaymentData(payment_secret=SECRET, total_msat=AMOUNT)
    decision = decided(
        replace(HTLC, amount_msat=AMOUNT // 2), payment_data=part, amt_to_forward=AMOUNT // 2
    )
    assert failure(decision)[0] == DETAILS[0]


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
    assert decided(replace(HTLC, amount_msat=AMOUNT + 5)) == Fulfil(PREIMAGE)


def test_a_second_htlc_for_a_paid_invoice_fails_and_the_first_stays_fulfilled() -> None:
    paid = replace(STANDING, is_paid=True, paid_by=frozenset({(0, HTLC.id)}))
    assert decided(standing=paid) == Fulfil(PREIMAGE)
    assert failure(decided(replace(HTLC, id=8), standing=paid)) == DETAILS
    elsewhere = replace(STANDING, is_paid=True, paid_by=frozenset({(1, HTLC.id)}))
    assert failure(decided(standing=elsewhere)) == DETAILS


@pytest.mark.parametrize(("field", "number"), [("amt_to_forward", 2), ("outgoing_cltv_value", 4)])
def test_a_payload_without_what_it_must_have_is_invalid(field: str, number: int) -> None:
    assert failure(decided(**{field: None})) == (
        "invalid_onion_payload",
        {"type": number, "offset": 0},
    )


def test_an_onion_for_another_node_meets_no_next_peer() -> None:
    assert failure(decided(is_final=False, short_channel_id=1 << 40)) == ("unknown_next_peer", {})
    assert failure(decided(is_final=False))[0] == "invalid_onion_payload"


def test_blinded_paths_are_refused_as_the_bolt_says() -> None:
    point = public_key(secret("path"))
    assert decided(replace(HTLC, path_key=point)) == Malformed(INVALID_ONION_BLINDING)
    assert failure(decided(current_path_key=point)) == (
        "invalid_onion_blinding",
        {"sha256_of_onion": sha256(HTLC.onion_routing_packet).digest()},
    )


@pytest.mark.parametrize("stream", [b"\x00", b"\x02\x01", b"\x04\x01\x05\x02\x01\x05", b"\x64\x00"])
def test_a_payload_that_is_no_tlv_stream_is_invalid(stream: bytes) -> None:
    peeled = sphinx.Peeled(stream, None, SHARED)
    assert failure(decide(HTLC, peeled, 0, STANDING, NOW))[0] == "invalid_onion_payload"


def onion(payload: bytes) -> bytes:
    hop = sphinx.Hop(public_key(NODE), payload)
    return sphinx.build(SESSION, [hop], HASH).packet


def test_an_onion_of_the_legacy_realm_fails_in_a_way_the_payer_can_read() -> None:
    with pytest.raises(InvalidOnion) as caught:
        sphinx.peel(NODE, onion(b""), HASH)
    decision = unreadable(caught.value)
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
