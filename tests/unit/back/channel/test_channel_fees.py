"""Commitment feerates (BOLT 2 § Updating Fees)."""

from dataclasses import replace

import pytest
from support.channels import (
    ANCHORS,
    POLICY,
    STATIC,
    End,
    deliver_all,
    messages_named,
    offered,
    opened,
    settle,
    wired,
)

from back.channel import fees, machine
from back.channel.effects import CloseConnection
from back.channel.events import FeerateChanged, Received, UpdateFeerate
from back.channel.model import FeeState, FeeUpdate, Phase
from back.channel.spec import local_spec, remote_spec
from shared.errors import Action, CommandError, PeerError
from shared.wire import UpdateFee


def states(end: End) -> list[tuple[int, FeeState]]:
    return [(fee.feerate_per_kw, fee.state) for fee in end.channel.fees]


def an_update(end: End, feerate_per_kw: int) -> Received:
    return Received(UpdateFee(channel_id=end.channel.channel_id, feerate_per_kw=feerate_per_kw))


# --- the life of a feerate ------------------------------------------------------------------------


def test_each_message_moves_a_feerate_one_state_on() -> None:
    f = FeeState
    opener, fundee = wired(opened())
    opener.do(UpdateFeerate(2_000))
    assert states(opener) == [(1_000, f.COMMITTED), (2_000, f.IN_FUNDEE)]
    fundee.receive(1)
    assert states(fundee) == [(1_000, f.COMMITTED), (2_000, f.PROPOSED)]
    assert local_spec(fundee.channel).feerate_per_kw == 1_000
    fundee.receive(1)
    assert states(fundee) == [(1_000, f.COMMITTED), (2_000, f.IN_BOTH)]
    assert local_spec(fundee.channel).feerate_per_kw == 2_000
    opener.receive(1)
    assert states(opener) == [(1_000, f.COMMITTED), (2_000, f.FUNDEE_REVOKED)]
    assert local_spec(opener.channel).feerate_per_kw == 1_000
    assert remote_spec(opener.channel).feerate_per_kw == 2_000
    opener.receive(1)
    assert states(opener) == [(2_000, f.COMMITTED)]
    fundee.receive()
    assert states(fundee) == [(2_000, f.COMMITTED)]


def test_a_new_feerate_may_follow_before_the_last_one_is_committed() -> None:
    opener, fundee = wired(opened())
    opener.do(UpdateFeerate(2_000))
    fundee.receive()
    opener.receive(1)  # the revocation, not yet the signature
    opener.do(UpdateFeerate(3_000))
    assert [fee for fee, _ in states(opener)] == [1_000, 2_000, 3_000]
    deliver_all(opener, fundee)
    assert states(opener) == states(fundee) == [(3_000, FeeState.COMMITTED)]


def test_a_proposal_that_was_not_signed_is_forgotten_with_the_connection() -> None:
    opener, fundee = wired(opened())
    opener.do(UpdateFeerate(2_000))
    fundee.receive(1)
    opener.cut()
    assert states(fundee) == [(1_000, FeeState.COMMITTED)]
    settle(opener, fundee)
    assert states(fundee) == [(2_000, FeeState.COMMITTED)], "its batch was sent again"


def test_of_two_proposals_the_last_one_counts() -> None:
    _, fundee = wired(opened())
    fundee.do(an_update(fundee, 2_000), an_update(fundee, 3_000))
    assert states(fundee) == [(1_000, FeeState.COMMITTED), (3_000, FeeState.PROPOSED)]


# --- as opener ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "estimate", "sent"),
    [
        (STATIC, 1_100, None),  # within a tenth
        (STATIC, 1_101, 1_101),
        (STATIC, 899, 899),
        (STATIC, 30_000, 30_000),
        (STATIC, 100, 253),
        (ANCHORS, 30_000, 2_500),  # a child pays for the rest
        (ANCHORS, 1_050, None),
    ],
)
def test_the_opener_follows_the_estimate_with_hysteresis(
    kind: object, estimate: int, sent: int | None
) -> None:
    opener, _ = wired(opened(kind))
    opener.do(FeerateChanged(estimate))
    assert [m.feerate_per_kw for m in opener.sent if isinstance(m, UpdateFee)] == (
        [] if sent is None else [sent]
    )
    assert opener.channel.feerate_per_kw == estimate


def test_a_fundee_only_notes_the_estimate() -> None:
    _, fundee = wired(opened())
    fundee.do(FeerateChanged(30_000))
    assert not fundee.sent
    assert fundee.channel.feerate_per_kw == 30_000


def test_an_estimate_that_changed_while_the_peer_was_away_is_followed_after_the_reconnection() -> (
    None
):
    opener, fundee = wired(opened())
    opener.cut()
    opener.do(FeerateChanged(5_000))
    assert not opener.channel.queue
    settle(opener, fundee)
    assert states(fundee) == [(5_000, FeeState.COMMITTED)]


def test_no_second_proposal_while_one_is_on_its_way() -> None:
    opener, _ = wired(opened())
    opener.do(FeerateChanged(5_000))
    opener.do(FeerateChanged(9_000))
    assert messages_named(opener.sent).count("update_fee") == 1


def test_a_feerate_that_the_opener_cannot_pay_is_not_proposed() -> None:
    # 10,000 sat above the reserve: 724 weight at 13,000/kw is 9,412 sat, at 14,000/kw 10,136 sat.
    opener, _ = wired(opened(push_msat=980_000_000))
    with pytest.raises(CommandError, match="are reserved"):
        machine.apply(opener.channel, UpdateFeerate(14_000))
    opener.do(FeerateChanged(14_000))
    assert not opener.sent
    opener.do(FeerateChanged(13_000))
    assert messages_named(opener.sent) == ["update_fee", "commitment_signed"]


def test_a_feerate_that_would_trim_too_much_is_not_proposed() -> None:
    opener, fundee = wired(opened(policy=replace(POLICY, max_dust_exposure_msat=1_000_000)))
    opener.do(offered("p1", 1_500_000))
    deliver_all(opener, fundee)
    # At 2,000/kw its HTLC transaction costs 1,326 sat: no output any more.
    with pytest.raises(CommandError, match="no output"):
        machine.apply(opener.channel, UpdateFeerate(2_000))


@pytest.mark.parametrize("which", ["fundee", "offline", "low"])
def test_an_impossible_proposal_is_refused(which: str) -> None:
    opener, fundee = wired(opened())
    feerate = 2_000
    end = opener
    if which == "fundee":
        end = fundee
    elif which == "offline":
        opener.cut()
    else:
        feerate = 252
    with pytest.raises(CommandError):
        machine.apply(end.channel, UpdateFeerate(feerate))


def test_offers_after_a_feerate_count_with_the_new_one() -> None:
    opener, fundee = wired(opened(push_msat=900_000_000))
    opener.do(UpdateFeerate(20_000), offered("p1", 60_000_000))
    # 90,000 sat above the reserve would do at 1,000/kw, not at 20,000/kw and twice that.
    assert opener.outcomes["p1"] == ["refused"]
    settle(opener, fundee)
    assert states(opener) == [(20_000, FeeState.COMMITTED)]


# --- as fundee ----------------------------------------------------------------------------------


def refused(end: End, feerate_per_kw: int) -> str:
    with pytest.raises(PeerError) as caught:
        machine.apply(end.channel, an_update(end, feerate_per_kw))
    assert caught.value.action is Action.DISCONNECT
    end.do(an_update(end, feerate_per_kw))
    assert end.took(CloseConnection)
    assert end.channel.phase is Phase.NORMAL
    assert end.channel.fees == (FeeUpdate(1_000, FeeState.COMMITTED),)
    return str(caught.value)


def test_only_the_opener_sets_the_feerate() -> None:
    opener, _ = wired(opened())
    assert "does not pay" in refused(opener, 2_000)


def test_a_feerate_out_of_bounds_costs_the_connection() -> None:
    strict = replace(POLICY, regtest_slack=False)
    ends = opened(policy=strict)
    fundee = wired((ends[0], replace(ends[1], feerate_per_kw=4_000)))[1]
    assert "is below 2000" in refused(fundee, 1_999)
    fundee = wired((ends[0], replace(ends[1], feerate_per_kw=4_000)))[1]
    assert "is above 40000" in refused(fundee, 40_001)
    fundee = wired(opened())[1]
    assert "is above 100000" in refused(fundee, 100_001)
    fundee = wired(opened())[1]
    assert "is below 253" in refused(fundee, 252)


def test_regtest_feerates_are_accepted() -> None:
    _, fundee = wired(opened())
    fundee.do(an_update(fundee, 37_500))
    assert not fundee.took(CloseConnection)


def test_without_an_estimate_of_our_own_only_absolute_bounds_count() -> None:
    ends = opened(policy=replace(POLICY, regtest_slack=False))
    fundee = wired(ends)[1]
    fundee.do(an_update(fundee, 37_500))
    assert not fundee.took(CloseConnection)


def test_a_feerate_that_the_opener_cannot_pay_costs_the_connection() -> None:
    _, fundee = wired(opened(push_msat=980_000_000))
    fundee.do(an_update(fundee, 27_000))  # 19,548 of 20,000 sat
    assert not fundee.took(CloseConnection)
    _, fundee = wired(opened(push_msat=980_000_000))
    assert "the opener has" in refused(fundee, 28_000)


def test_the_target_of_an_anchor_channel_is_capped() -> None:
    opener, _ = opened(ANCHORS)
    assert fees.target_feerate_per_kw(opener, 2_499) == 2_499
    assert fees.target_feerate_per_kw(opener, 2_501) == fees.ANCHORS_MAX_FEERATE_PER_KW
