"""What may be paid, through which channel, and what a failure means."""

from dataclasses import replace
from typing import Any

import pytest
from support.channels import opened, secret

from back.channel.model import Channel, Link
from back.payment import send
from back.payment.balances import can_send_msat
from back.payment.route import Hop, Route
from back.payment.send import Candidate
from shared import bolt11
from shared.chain import MAINNET, REGTEST
from shared.crypto import sphinx
from shared.crypto.payload import decode_payload
from shared.crypto.signature import public_key
from shared.errors import CommandError
from shared.features import Feature, FeatureSet

PAYER, PAYEE_KEY = public_key(secret("payer")), secret("payee")
PAYEE = public_key(PAYEE_KEY)
NOW = 1_700_000_000
INVOICE = bolt11.Invoice(
    chain=REGTEST,
    timestamp=NOW - 10,
    payment_hash=secret("hash"),
    payment_secret=secret("secret"),
    amount_msat=1_000_000,
    description="",
    payee=PAYEE,
    min_final_cltv_expiry_delta=30,
    features=FeatureSet.of(required=(Feature.var_onion_optin, Feature.payment_secret)),
)


DIRECT = Route(1_000_000, (Hop(PAYER, PAYEE, 5),))


def order(amount_msat: int | None = None, unix_s: float = NOW, **changes: Any) -> send.Order:
    invoice = replace(INVOICE, **changes)
    return send.order(invoice, amount_msat, payer=PAYER, chain=REGTEST, unix_s=unix_s)


def refusal(*args: Any, **changes: Any) -> str:
    with pytest.raises(CommandError) as caught:
        order(*args, **changes)
    return str(caught.value)


def test_an_invoice_is_paid_as_it_says() -> None:
    wanted = order()
    assert (wanted.amount_msat, wanted.recipient.payee) == (1_000_000, PAYEE)
    assert wanted.expires_at == INVOICE.expires_at


def test_what_may_not_be_paid_says_why() -> None:
    assert "mainnet" in refusal(chain=MAINNET)
    assert "our own" in refusal(payee=PAYER)
    assert "expired" in refusal(None, INVOICE.expires_at)
    assert "2017 blocks" in refusal(min_final_cltv_expiry_delta=2017)


def test_amounts_follow_the_rules_of_overpayment() -> None:
    assert order(1_000_000).amount_msat == 1_000_000
    assert order(2_000_000).amount_msat == 2_000_000
    assert "2000001 msat" in refusal(2_000_001)
    assert "999999 msat" in refusal(999_999)


def test_an_invoice_without_amount_needs_one() -> None:
    bare = replace(INVOICE, amount_msat=None)

    def wanted(amount_msat: int | None) -> send.Order:
        return send.order(bare, amount_msat, payer=PAYER, chain=REGTEST, unix_s=NOW)

    assert wanted(5).amount_msat == 5
    with pytest.raises(CommandError, match="names no amount"):
        wanted(None)
    with pytest.raises(CommandError, match="cannot be paid"):
        wanted(0)
    with pytest.raises(CommandError, match="cannot be paid"):
        wanted(1 << 63)


def test_features_that_we_lack_are_not_paid_around() -> None:
    mpp = FeatureSet.of(optional=(Feature.basic_mpp,), required=(Feature.payment_secret,))
    assert order(features=mpp).amount_msat == 1_000_000
    assert "feature bit 100" in refusal(features=FeatureSet(frozenset({100})))
    lonely = FeatureSet.of(optional=(Feature.basic_mpp,))
    assert "payment_secret" in refusal(features=lonely)
    blinded = FeatureSet.of(required=(Feature.option_route_blinding,))
    assert "option_route_blinding" in refusal(features=blinded)


def test_the_onion_tells_the_payee_what_it_asked_for() -> None:
    wanted = order(payment_metadata=b"\x01\x02")
    onion = send.payment_onion(
        wanted, DIRECT, height=800, session_key=secret("session"), shadow_blocks=3
    )
    peeled = sphinx.peel(PAYEE_KEY, onion.packet, INVOICE.payment_hash)
    payload = decode_payload(peeled.payload)
    assert peeled.is_final
    assert payload.payment_data is not None
    assert payload.payment_data.payment_secret == INVOICE.payment_secret
    assert payload.payment_data.total_msat == payload.amt_to_forward == 1_000_000
    assert payload.outgoing_cltv_value == onion.cltv_expiry == 800 + 30 + 3
    assert payload.payment_metadata == b"\x01\x02"
    assert payload.short_channel_id is None


def test_no_htlc_is_locked_for_longer_than_max_htlc_cltv() -> None:
    most = send.MAX_HTLC_CLTV - send.SHADOW_ROOM
    wanted = order(min_final_cltv_expiry_delta=most)
    onion = send.payment_onion(
        wanted,
        DIRECT,
        height=0,
        session_key=secret("session"),
        shadow_blocks=1_000,
    )
    assert onion.cltv_expiry == send.MAX_HTLC_CLTV, "the offset takes what is left"
    assert "locked" in refusal(min_final_cltv_expiry_delta=most + 1)


def test_an_offset_looks_like_more_hops() -> None:
    """It is never nothing, it varies, and it is no sure sign of anything."""
    draws = [bytes([n % 3, n % 7, n % 5, n % 11]) for n in range(200)] + [b"\xff" * 4, bytes(4)]
    offsets = [send.shadow_blocks(draw) for draw in draws]
    assert min(offsets) >= 1
    assert max(offsets) <= send.SHADOW_ROOM + 2 * 144
    assert len(set(offsets)) > 50
    assert any(offset <= send.SHADOW_ROOM for offset in offsets)
    assert any(offset > 144 for offset in offsets)


def test_metadata_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CommandError, match="does not fit"):
        send.payment_onion(
            order(payment_metadata=bytes(1300)),
            DIRECT,
            height=1,
            session_key=secret("session"),
            shadow_blocks=1,
        )


# --- channels ---------------------------------------------------------------------------------


def channel(key_index: int, **changes: Any) -> Channel:
    end = opened()[0]
    parameters = replace(end.parameters, key_index=key_index)
    return replace(end, parameters=parameters, **changes)


def chosen(*candidates: Candidate, amount_msat: int = 1_000, tried: set[int] | None = None) -> int:
    found = send.choose_channel(candidates, amount_msat, frozenset(tried or ()))
    return -1 if found is None else found.parameters.key_index


def test_the_least_busy_channel_with_room_is_chosen() -> None:
    busy = Candidate(channel(0), reserved_msat=5_000, reserved_count=5)
    idle = Candidate(channel(1))
    small = Candidate(channel(2, local_msat=20_000_000))
    assert chosen(busy, idle) == 1
    assert chosen(small, idle) == 1, "of two idle ones the richer"
    assert chosen(small, busy, amount_msat=100_000_000) == 0
    assert chosen(small) == 2


def test_channels_that_were_tried_or_do_not_work_are_left_out() -> None:
    assert chosen(Candidate(channel(0)), Candidate(channel(1)), tried={0}) == 1
    assert chosen(Candidate(channel(0, link=Link.OFFLINE))) == -1
    assert chosen(Candidate(channel(0)), tried={0}) == -1
    assert chosen() == -1


def test_what_is_on_its_way_counts_against_the_room() -> None:
    most = can_send_msat(channel(0))
    assert chosen(Candidate(channel(0)), amount_msat=most) == 0
    assert chosen(Candidate(channel(0), 1, 1), amount_msat=most) == -1


def test_secrets_of_an_order_are_not_shown() -> None:
    assert repr(INVOICE.payment_secret) not in repr(order())
