"""Whatever arrives, a preimage is given for exactly what the invoice asks for, and once."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings, strategies as st
from support.channels import secret

from back.channel.model import Htlc, HtlcState
from back.payment.decision import Fail, Fulfil, Malformed, settlement, unreadable
from back.payment.multipart import Complete, join
from back.payment.receive import ACCEPTED_CLTV_EXPIRY_DELTA, Claim, Judgement, Now, Standing, judge
from back.relay.onion import Final, Forward, interpret
from shared.crypto import sphinx
from shared.crypto.failures import BADONION, INVALID_ONION_BLINDING, decode_failure
from shared.crypto.payload import Payload, PaymentData
from shared.crypto.signature import public_key
from shared.errors import InvalidOnion

PREIMAGE, SECRET = secret("preimage"), secret("payment secret")
HASH = sha256(PREIMAGE).digest()
NODE = secret("node")
HEIGHT = 1_000
NOW = Now(5_000, HEIGHT)
FINAL_CODES = {
    "incorrect_or_unknown_payment_details",
    "final_incorrect_cltv_expiry",
    "final_incorrect_htlc_amount",
    "invalid_onion_payload",
}

amounts = st.integers(2, 10_000_000)
steps = st.sampled_from([-1, 1])
DEVIATIONS = ("total", "forward", "htlc", "secret", "no secret", "cltv", "onion cltv")


@st.composite
def standings(draw):  # type: ignore[no-untyped-def]
    nobody = st.just(frozenset())
    somebody = st.frozensets(st.tuples(st.integers(0, 1), st.integers(0, 2)))
    paid_by = draw(st.one_of(nobody, nobody, nobody, somebody))
    return Standing(
        preimage=PREIMAGE,
        payment_secret=SECRET,
        amount_msat=draw(st.one_of(amounts, amounts, amounts, st.none())),
        expires_at=NOW.unix_s + draw(st.sampled_from([-1, 0, 1, 1, 1, 1])),
        is_paid=bool(paid_by),
        paid_by=paid_by,
    )


@st.composite
def payments(draw, standing):  # type: ignore[no-untyped-def]
    """An HTLC and its payload: right, but for up to two deviations by a hair's breadth."""
    wrong = draw(st.sets(st.sampled_from(DEVIATIONS), max_size=2))

    def off(name: str) -> int:
        return int(draw(steps)) if name in wrong else 0

    asked = (standing.amount_msat if standing is not None else None) or draw(amounts)
    total = asked * draw(st.sampled_from([1, 2])) + off("total")
    forward = total + off("forward")
    cltv = HEIGHT + ACCEPTED_CLTV_EXPIRY_DELTA + off("cltv")
    proof = PaymentData(
        payment_secret=secret("another") if "secret" in wrong else SECRET, total_msat=total
    )
    payload = Payload(
        amt_to_forward=forward,
        outgoing_cltv_value=cltv + off("onion cltv"),
        payment_data=None if "no secret" in wrong else proof,
    )
    htlc = Htlc(
        offered=False,
        id=draw(st.integers(0, 2)),
        amount_msat=forward + off("htlc"),
        payment_hash=HASH,
        cltv_expiry=cltv,
        state=HtlcState.RCVD_ADD_ACK_REVOCATION,
        onion_routing_packet=b"\0" * 1366,
    )
    return htlc, payload


def judged(htlc, payload, key_index, standing):  # type: ignore[no-untyped-def]
    return judge(Final(htlc, payload, secret("shared")), key_index, standing, NOW)


@settings(max_examples=600, deadline=None)
@given(
    data=st.data(), known=st.sampled_from([True, True, True, False]), key_index=st.integers(0, 1)
)
def test_an_htlc_counts_if_and_only_if_it_is_what_we_asked_for(data, known, key_index) -> None:  # type: ignore[no-untyped-def]
    standing = data.draw(standings()) if known else None
    htlc, payload = data.draw(payments(standing))
    decision = judged(htlc, payload, key_index, standing)
    proof = payload.payment_data
    is_again = standing is not None and (key_index, htlc.id) in standing.paid_by
    is_right = (
        standing is not None
        and not standing.paid_by
        and NOW.unix_s < standing.expires_at
        and proof is not None
        and proof.payment_secret == SECRET
        and (standing.amount_msat or proof.total_msat)
        <= proof.total_msat
        <= 2 * (standing.amount_msat or proof.total_msat)
        and htlc.amount_msat >= payload.amt_to_forward > 0
        and htlc.cltv_expiry >= HEIGHT + ACCEPTED_CLTV_EXPIRY_DELTA
        and htlc.cltv_expiry >= payload.outgoing_cltv_value
    )
    if is_again:
        assert decision == Fulfil(PREIMAGE)
    elif is_right:
        assert isinstance(decision, Claim)
        assert decision.total_msat == proof.total_msat
        assert decision.part.amt_to_forward_msat == payload.amt_to_forward
    else:
        assert isinstance(decision, Fail)
        assert decode_failure(decision.message).name in FINAL_CODES
        assert PREIMAGE not in decision.message


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(2, 6))
def test_of_any_number_of_htlcs_that_pay_all_one_at_most_is_paid(data, count) -> None:  # type: ignore[no-untyped-def]
    """Each decision is taken note of, as the service does."""
    standing = Standing(PREIMAGE, SECRET, 1_000, NOW.unix_s + 1)
    paid: set[tuple[int, int]] = set()
    for _ in range(count):
        htlc, payload = data.draw(payments(standing))
        decision: Judgement = judged(htlc, payload, data.draw(st.integers(0, 1)), standing)
        if not isinstance(decision, Claim):
            continue
        if isinstance(join(None, decision.part, decision.total_msat, 0.0), Complete):
            paid.add(decision.part.key)
            standing = replace(standing, is_paid=True, paid_by=frozenset({decision.part.key}))
    assert len(paid) <= 1


@settings(max_examples=200, deadline=None)
@given(
    payload=st.binary(max_size=80),
    is_final=st.booleans(),
    path_key=st.sampled_from([None, public_key(secret("path"))]),
)
def test_any_payload_gets_an_answer_that_the_channel_can_send(payload, is_final, path_key) -> None:  # type: ignore[no-untyped-def]
    htlc = Htlc(
        offered=False,
        id=3,
        amount_msat=1_000,
        payment_hash=HASH,
        cltv_expiry=HEIGHT + 100,
        state=HtlcState.RCVD_ADD_ACK_REVOCATION,
        onion_routing_packet=b"\0" * 1366,
        path_key=path_key,
    )
    standing = Standing(PREIMAGE, SECRET, 1_000, NOW.unix_s + 1)
    peeled = sphinx.Peeled(payload, None if is_final else b"next", secret("shared"))
    asked = interpret(htlc, peeled, _unopened)
    if isinstance(asked, Forward):
        return
    decision = judge(asked, 0, standing, NOW) if isinstance(asked, Final) else asked
    assert not isinstance(decision, Fulfil | Claim)
    if isinstance(decision, Malformed):
        assert decision.code & BADONION
    assert settlement(htlc, decision, secret("shared")).id == 3


def _unopened(_path_key: bytes, _encrypted: bytes):  # type: ignore[no-untyped-def]
    raise InvalidOnion("not ours", code=INVALID_ONION_BLINDING)


@settings(max_examples=100, deadline=None)
@given(packet=st.binary(min_size=1366, max_size=1366), first=st.sampled_from([0, 0, 0, 1]))
def test_any_packet_that_cannot_be_peeled_is_answered(packet, first) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidOnion) as caught:
        sphinx.peel(NODE, bytes([first]) + packet[1:], HASH)
    assert isinstance(unreadable(caught.value), Malformed) or caught.value.shared_secret
