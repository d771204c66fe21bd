"""May an HTLC be forwarded into a channel, and with which code not (BOLT 4)."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.channels import opened

from back.channel.model import Channel, Link, Phase
from back.relay import forward, market
from back.relay.handoff import Offer
from back.relay.terms import ChannelTerms
from shared.crypto.failures import decode_failure

HEIGHT = 1_000
TERMS = ChannelTerms(
    fee_base_msat=1_000,
    fee_proportional_millionths=1_000,
    cltv_expiry_delta=144,
    htlc_minimum_msat=10_000,
    htlc_maximum_msat=500_000_000,
)
CHANNEL = opened()[0]


def offer(**changed: Any) -> Offer:
    """An HTLC of 1,000,000 msat that pays exactly what is asked."""
    values = {
        "key_index": 1,
        "htlc_id": 2,
        "in_node_id": b"\x02" + bytes(32),
        "in_amount_msat": 1_002_000,
        "in_cltv_expiry": HEIGHT + 344,
        "out_node_id": b"\x03" + bytes(32),
        "short_channel_id": 5,
        "amount_msat": 1_000_000,
        "cltv_expiry": HEIGHT + 200,
        "payment_hash": bytes(32),
        "onion_routing_packet": bytes(1366),
        "received_at_ms": 1,
        "attempt": 1,
    }
    return Offer(**(values | changed))


def refused(given: Offer, channel: Channel = CHANNEL, *accepted: ChannelTerms) -> str:
    """The name of the failure; empty if there is none."""
    message = forward.refusal(given, channel, accepted or (TERMS,), HEIGHT)
    return decode_failure(message).name if message else ""


def test_an_htlc_that_pays_exactly_what_is_asked_goes_on() -> None:
    assert refused(offer()) == ""


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"in_amount_msat": 1_001_999}, "fee_insufficient"),
        ({"amount_msat": 9_999, "in_amount_msat": 20_000}, "amount_below_minimum"),
        (
            {"amount_msat": 500_000_001, "in_amount_msat": 600_000_000},
            "temporary_channel_failure",
        ),
        ({"in_cltv_expiry": HEIGHT + 343}, "incorrect_cltv_expiry"),
        ({"cltv_expiry": HEIGHT + 2, "in_cltv_expiry": HEIGHT + 146}, "expiry_too_soon"),
        ({"in_cltv_expiry": HEIGHT + 2_017}, "expiry_too_far"),
    ],
)
def test_each_rule_of_the_channel_has_its_code(changed: dict[str, int], code: str) -> None:
    assert refused(offer(**changed)) == code


def test_the_limits_themselves_are_fine() -> None:
    assert not refused(offer(amount_msat=10_000, in_amount_msat=11_010))
    assert not refused(offer(amount_msat=500_000_000, in_amount_msat=500_501_000))
    assert not refused(offer(cltv_expiry=HEIGHT + 3, in_cltv_expiry=HEIGHT + 147))
    assert not refused(offer(in_cltv_expiry=HEIGHT + 2_016))


def test_a_failure_tells_the_amounts_and_no_channel_update() -> None:
    message = forward.refusal(offer(in_amount_msat=1_001_000), CHANNEL, (TERMS,), HEIGHT)
    assert message == bytes.fromhex("100c") + (1_001_000).to_bytes(8, "big") + bytes(2)
    late = offer(in_cltv_expiry=HEIGHT + 300)
    message = forward.refusal(late, CHANNEL, (TERMS,), HEIGHT)
    assert message == bytes.fromhex("100d") + (HEIGHT + 200).to_bytes(4, "big") + bytes(2)


def test_former_terms_may_be_met_as_long_as_they_are_accepted() -> None:
    dearer = replace(TERMS, fee_base_msat=5_000)
    assert refused(offer(), CHANNEL, dearer) == "fee_insufficient"
    assert not refused(offer(), CHANNEL, dearer, TERMS)


def test_of_several_terms_those_of_now_are_what_the_payer_hears_of() -> None:
    dearer = replace(TERMS, fee_base_msat=5_000)
    slower = replace(TERMS, cltv_expiry_delta=1_000)
    assert refused(offer(), CHANNEL, slower, dearer) == "incorrect_cltv_expiry"


def test_no_terms_yet_means_not_yet() -> None:
    assert decode_failure(forward.refusal(offer(), CHANNEL, (), HEIGHT)).name == (
        "temporary_channel_failure"
    )


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"link": Link.OFFLINE}, "temporary_channel_failure"),
        ({"link": Link.SYNCING}, "temporary_channel_failure"),
        ({"phase": Phase.WAIT_FOR_CHANNEL_READY}, "temporary_channel_failure"),
        ({"phase": Phase.SHUTDOWN}, "permanent_channel_failure"),
        ({"phase": Phase.CLOSING}, "permanent_channel_failure"),
        ({"remote_shutdown_script": b"\x00\x14"}, "permanent_channel_failure"),
        ({"local_shutdown_script": b"\x00\x14"}, "permanent_channel_failure"),
    ],
)
def test_nothing_goes_into_a_channel_that_is_away_or_closing(
    changed: dict[str, Any], code: str
) -> None:
    assert refused(offer(), replace(CHANNEL, **changed)) == code


def runner(local_msat: int, **changed: Any) -> Any:
    return SimpleNamespace(channel=replace(CHANNEL, local_msat=local_msat, **changed))


def test_the_named_channel_is_tried_first_and_the_others_from_poor_to_rich() -> None:
    rich, poor, named = runner(900), runner(10), runner(500)
    closing = runner(50, phase=Phase.SHUTDOWN)
    assert market.in_order(named, [rich, poor, named, closing]) == [named, poor, rich]
    assert market.in_order(None, [rich, poor]) == [poor, rich]
