"""Fees of cooperative closes (BOLT 2 § Legacy Closing Negotiation)."""

import pytest
from support.channels import deliver_all
from support.closings import SCRIPT, left_out, negotiating, offer, pair, warning_of

from back.channel import closing
from back.channel.closing import ClosingFees, FeeAnswer, answer_fee, our_fees
from back.channel.effects import Publish
from back.channel.events import Close, Received
from back.channel.model import ClosingNegotiation, Phase
from back.transactions.closing import closing_variants
from back.transactions.transaction import parse_transaction
from shared.crypto.signature import sign_compact
from shared.errors import Action, ProtocolViolation
from shared.wire import ClosingSigned, FeeRange, Warning as WarningMessage

# --- the fees that we want ---------------------------------------------------------------------


def test_the_preferred_fee_follows_the_estimate() -> None:
    opener, _ = negotiating()
    fees = our_fees(opener.channel)
    weight = closing.closing_weight(SCRIPT, SCRIPT)
    assert fees == ClosingFees(253 * weight // 1000, weight, 2 * weight)
    first = opener.sent[-1]
    assert isinstance(first, ClosingSigned)
    assert first.fee_satoshis == fees.preferred_sat
    assert first.fee_range == FeeRange(
        min_fee_satoshis=fees.minimum_sat, max_fee_satoshis=fees.maximum_sat
    )


def test_the_operators_feerates_are_the_range() -> None:
    opener, fundee = pair()
    opener.do(Close(SCRIPT, (300, 2_000, 4_000)))
    fundee.receive()
    opener.receive()
    weight = closing.closing_weight(SCRIPT, SCRIPT)
    assert our_fees(opener.channel) == ClosingFees(300 * weight // 1000, 2 * weight, 4 * weight)


@pytest.mark.parametrize("feerates", [(252, 300, 300), (300, 299, 400), (300, 400, 399)])
def test_feerates_that_fall_or_do_not_relay_are_refused(feerates: tuple[int, int, int]) -> None:
    opener, _ = pair()
    opener.do(Close(SCRIPT, feerates))
    assert "rising" in str(opener.refusals[0][1])
    assert opener.channel.local_shutdown_script is None


def test_another_range_counts_from_the_next_connection_on() -> None:
    opener, fundee = negotiating()
    opener.do(Close(SCRIPT, (1_000, 3_000, 5_000)))
    assert not opener.refusals
    opener.cut()
    opener.connect()
    fundee.receive()
    opener.receive()
    fees = [m.fee_satoshis for m in opener.sent if isinstance(m, ClosingSigned)]
    assert fees[1] == 3 * fees[0]


def test_no_fee_is_more_than_the_payer_has() -> None:
    opener, fundee = pair(push_msat=999_000_000)
    opener.do(Close(SCRIPT, (253, 5_000, 10_000)))
    deliver_all(opener, fundee)
    assert opener.channel.phase is Phase.CLOSING
    (published,) = opener.took(Publish)
    assert isinstance(published, Publish)
    outputs = parse_transaction(published.transaction).outputs
    assert [output.value_sat for output in outputs] == [999_000]


@pytest.mark.parametrize("feerate_per_kw", [253, 2_000_000])
def test_a_transaction_keeps_an_output_whatever_it_pays(feerate_per_kw: int) -> None:
    """Where all is the payer's, its fee must not eat it: no output, no transaction."""
    opener, fundee = pair(push_msat=0)
    opener.do(Close(SCRIPT, (253, feerate_per_kw, feerate_per_kw)))
    deliver_all(opener, fundee)
    assert opener.channel.phase is Phase.CLOSING
    (published,) = opener.took(Publish)
    assert isinstance(published, Publish)
    (output,) = parse_transaction(published.transaction).outputs
    assert output.value_sat >= 354
    assert output.script_pubkey == SCRIPT


# --- agreeing, with fee_range ------------------------------------------------------------------

FEES = ClosingFees(100, 200, 400)
NOTHING = ClosingNegotiation()


def signed(fee_satoshis: int, fees: tuple[int, int] | None) -> ClosingSigned:
    span = None if fees is None else FeeRange(min_fee_satoshis=fees[0], max_fee_satoshis=fees[1])
    return ClosingSigned(
        channel_id=bytes(32), fee_satoshis=fee_satoshis, signature=bytes(64), fee_range=span
    )


def sent(last: int, received: int | None = None) -> ClosingNegotiation:
    return ClosingNegotiation(last, received, (last,))


def test_our_own_fee_comes_back_and_it_is_done() -> None:
    for is_opener in (True, False):
        answer = answer_fee(signed(200, (150, 300)), sent(200), FEES, is_opener=is_opener)
        assert answer == FeeAnswer(200, is_agreed=True, is_sent=False)


def test_a_fee_in_the_range_that_we_sent_is_signed() -> None:
    for fee in (100, 150, 400):
        for span in (None, (1, 1_000)):
            answer = answer_fee(signed(fee, span), sent(200), FEES, is_opener=True)
            assert answer == FeeAnswer(fee, is_agreed=True, is_sent=True)


@pytest.mark.parametrize(
    ("fee", "span", "chosen"),
    [
        (200, (150, 300), 200),  # in both ranges: theirs
        (300, (150, 300), 300),
        (150, (150, 300), 150),
        (5_000, (150, 9_000), 5_000),  # what the funder pays is the funder's business
        (50, (50, 300), 200),  # too little to relay: what we prefer
        (50, (50, 120), 120),  # as much of it as the funder allows
        (9, (300, 500), 300),  # not even in its own range
    ],
)
def test_a_fundee_answers_with_a_fee_in_both_ranges(
    fee: int, span: tuple[int, int], chosen: int
) -> None:
    answer = answer_fee(signed(fee, span), NOTHING, FEES, is_opener=False)
    assert answer == FeeAnswer(chosen, is_agreed=chosen == fee, is_sent=True)


@pytest.mark.parametrize("is_opener", [True, False])
def test_ranges_that_do_not_meet_are_worth_a_warning(is_opener: bool) -> None:
    """BOLT 2: a warning, and a failed channel only after a reasonable time."""
    low = signed(50, (10, 99))
    with pytest.raises(ProtocolViolation, match="does not meet ours") as caught:
        answer_fee(low, sent(200), FEES, is_opener=is_opener)
    assert caught.value.action is Action.WARN


def test_a_fundees_fee_outside_the_overlap_fails_the_channel() -> None:
    with pytest.raises(ProtocolViolation, match="where both ranges meet") as caught:
        answer_fee(signed(401, (150, 500)), sent(200), FEES, is_opener=True)
    assert caught.value.action is Action.FAIL_CHANNEL


def test_a_funder_that_changes_its_mind_fails_the_channel() -> None:
    with pytest.raises(ProtocolViolation, match="is not our 120") as caught:
        answer_fee(signed(90, (50, 120)), sent(120), FEES, is_opener=False)
    assert caught.value.action is Action.FAIL_CHANNEL


def test_two_messages_settle_it_where_the_fundee_agrees() -> None:
    opener, fundee = negotiating()
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        fees = [m.fee_satoshis for m in end.sent if isinstance(m, ClosingSigned)]
        assert len(fees) == 1
        assert end.channel.phase is Phase.CLOSING


def test_three_messages_settle_it_where_the_fundee_wants_more() -> None:
    opener, fundee = pair()
    fundee.do(Close(SCRIPT, (1_500, 1_500, 1_500)))
    deliver_all(opener, fundee)
    fees = [
        [m.fee_satoshis for m in e.sent if isinstance(m, ClosingSigned)] for e in (opener, fundee)
    ]
    assert len(fees[0]) == 2
    assert fees[0][1] == fees[1][0] > fees[0][0]
    assert len({p.transaction for e in (opener, fundee) for p in e.took(Publish)}) == 1  # type: ignore[union-attr]


def test_a_warning_leaves_both_negotiating() -> None:
    opener, fundee = pair()
    fundee.do(Close(SCRIPT, (5_000, 5_000, 5_000)))
    deliver_all(opener, fundee)
    assert isinstance(fundee.sent[-1], WarningMessage)
    assert opener.channel.phase is fundee.channel.phase is Phase.NEGOTIATING
    assert not opener.took(Publish)


# --- agreeing, without fee_range ---------------------------------------------------------------


def test_an_old_peer_is_met_in_the_middle() -> None:
    answer = answer_fee(signed(1_000, None), NOTHING, FEES, is_opener=False)
    assert answer == FeeAnswer(200, is_agreed=False, is_sent=True)
    answer = answer_fee(signed(500, None), sent(200, 1_000), FEES, is_opener=False)
    assert answer == FeeAnswer(350, is_agreed=False, is_sent=True)
    answer = answer_fee(signed(390, None), sent(350, 500), FEES, is_opener=False)
    assert answer == FeeAnswer(390, is_agreed=True, is_sent=True)


def test_a_first_fee_that_suits_us_is_signed_at_once() -> None:
    answer = answer_fee(signed(111, None), NOTHING, FEES, is_opener=False)
    assert answer == FeeAnswer(111, is_agreed=True, is_sent=True)


def test_a_fee_that_makes_no_progress_costs_the_connection() -> None:
    for fee in (500, 501, 99):
        with pytest.raises(ProtocolViolation, match="not strictly between") as caught:
            answer_fee(signed(fee, None), sent(200, 500), FEES, is_opener=False)
        assert caught.value.action is Action.DISCONNECT


def test_no_fee_that_we_could_propose_costs_the_connection() -> None:
    with pytest.raises(ProtocolViolation, match=r"no fee between 400 and 500") as caught:
        answer_fee(signed(500, None), sent(400, 600), FEES, is_opener=False)
    assert caught.value.action is Action.DISCONNECT


def test_two_old_nodes_converge() -> None:
    low, high = ClosingFees(100, 100, 600), ClosingFees(500, 900, 900)
    states = {low: NOTHING, high: NOTHING}
    fee, turn, other = 100, high, low
    states[low] = sent(100)
    for _ in range(20):
        answer = answer_fee(signed(fee, None), states[turn], turn, is_opener=turn is low)
        if answer.is_agreed:
            break
        states[turn] = ClosingNegotiation(answer.fee_satoshis, fee, (answer.fee_satoshis,))
        fee, turn, other = answer.fee_satoshis, other, turn
    assert answer.is_agreed
    assert 500 <= answer.fee_satoshis <= 600


# --- what is signed ----------------------------------------------------------------------------


def test_a_bad_signature_costs_the_connection_and_not_the_channel() -> None:
    opener, fundee = negotiating()
    message = offer(opener, 700, (100, 900))
    fundee.do(Received(message.model_copy(update={"signature": bytes(64)})))
    assert "signature of the closing transaction" in warning_of(fundee)
    assert fundee.channel.phase is Phase.NEGOTIATING
    assert not fundee.took(Publish)


def test_a_fee_above_the_funders_balance_costs_the_connection() -> None:
    opener, fundee = negotiating()
    message = offer(opener, 700).model_copy(update={"fee_satoshis": 600_001})
    fundee.do(Received(message))
    assert "above the funder's 600000 sat" in warning_of(fundee)


def test_a_close_without_outputs_fails_the_channel() -> None:
    """BOLT 2: an output below the dust limit of its script must fail the channel."""
    opener, fundee = negotiating(push_msat=0)
    message = ClosingSigned(
        channel_id=opener.channel.channel_id, fee_satoshis=999_700, signature=bytes(64)
    )
    fundee.do(Received(message))
    assert fundee.sent[-1].NAME == "error"
    assert fundee.channel.phase is Phase.CLOSING
    assert [p.what for p in fundee.took(Publish)] == ["commitment"]  # type: ignore[union-attr]


def test_an_output_that_is_dust_is_left_out_by_both() -> None:
    opener, fundee = negotiating(push_msat=353_999)
    deliver_all(opener, fundee)
    (published,) = opener.took(Publish)
    assert isinstance(published, Publish)
    assert len(parse_transaction(published.transaction).outputs) == 1


def test_a_peer_may_leave_its_own_output_out() -> None:
    opener, fundee = negotiating()
    fundee.do(Received(left_out(fundee, opener, 700)))
    (published,) = fundee.took(Publish)
    assert isinstance(published, Publish)
    (output,) = parse_transaction(published.transaction).outputs
    assert output.script_pubkey == fundee.channel.local_shutdown_script
    assert output.value_sat == 400_000


def test_a_peer_may_not_leave_our_output_out() -> None:
    opener, fundee = negotiating()
    (_, variant) = closing_variants(closing.transaction(opener.channel, 700))
    assert [o.script_pubkey for o in variant.outputs] == [opener.channel.local_shutdown_script]
    signature = sign_compact(opener.keys.funding, variant.sighash)
    message = offer(opener, 700, (100, 900)).model_copy(update={"signature": signature})
    fundee.do(Received(message))
    assert "signature of the closing transaction" in warning_of(fundee)
    assert not fundee.took(Publish)
