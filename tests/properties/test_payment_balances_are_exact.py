"""What a channel says that it can send is exactly what its core takes."""

from dataclasses import replace

from hypothesis import given, settings, strategies as st
from support.channels import ANCHORS, POLICY, STATIC, deliver_all, offered, opened, wired

from back.channel.effects import HtlcOffered, OfferRefused
from back.payment.balances import can_receive_msat, can_send_msat

KINDS = st.sampled_from([STATIC, ANCHORS])
LIMITS = st.fixed_dictionaries(
    {
        "dust_limit_satoshis": st.integers(354, 1_000),
        "channel_reserve_satoshis": st.integers(1_000, 20_000),
        "max_htlc_value_in_flight_msat": st.integers(1_000_000, 1_000_000_000),
        "max_accepted_htlcs": st.integers(1, 8),
        "htlc_minimum_msat": st.integers(1, 2_000_000),
    }
)
OUR_LIMITS = st.fixed_dictionaries(
    {
        "max_offered_htlcs": st.integers(1, 8),
        "max_offered_in_flight_ratio": st.floats(0.001, 1.0),
    }
)
AMOUNTS = st.lists(st.integers(1, 40_000_000), max_size=6)


def takes(end, amount_msat: int) -> bool:  # type: ignore[no-untyped-def]
    """Whether the core offers an HTLC of this amount."""
    step = end.do(offered("probe", amount_msat))
    taken = [e for e in step.effects if isinstance(e, HtlcOffered | OfferRefused)]
    assert len(taken) == 1
    return isinstance(taken[0], HtlcOffered)


@settings(max_examples=100, deadline=None)
@given(
    kind=KINDS,
    opener_limits=LIMITS,
    fundee_limits=LIMITS,
    ours=OUR_LIMITS,
    push_sat=st.integers(0, 900_000),
    feerate=st.integers(253, 5_000),
    to_fundee=AMOUNTS,
    to_opener=AMOUNTS,
    side=st.integers(0, 1),
)
def test_the_largest_htlc_is_taken_and_one_msat_more_is_not(
    *, kind, opener_limits, fundee_limits, ours, push_sat, feerate, to_fundee, to_opener, side
) -> None:  # type: ignore[no-untyped-def]
    ends = wired(
        opened(
            kind,
            push_msat=push_sat * 1000,
            feerate_per_kw=feerate,
            opener_limits=opener_limits,
            fundee_limits=fundee_limits,
            policy=replace(POLICY, **ours),
        )
    )
    for end, amounts in zip(ends, (to_fundee, to_opener), strict=True):
        for number, amount in enumerate(amounts):
            end.do(offered(f"p{ends.index(end)}{number}", amount))
        deliver_all(*ends)
    end = ends[side]
    if not end.is_healthy:
        return
    most = can_send_msat(end.channel)
    before = end.channel
    assert not takes(end, most + 1)
    end.channel = before
    if most > 0:
        assert takes(end, most)


@settings(max_examples=40, deadline=None)
@given(kind=KINDS, push_sat=st.integers(0, 900_000), feerate=st.integers(253, 5_000))
def test_at_rest_one_side_can_send_what_the_other_can_receive(kind, push_sat, feerate) -> None:  # type: ignore[no-untyped-def]
    opener, fundee = opened(kind, push_msat=push_sat * 1000, feerate_per_kw=feerate)
    assert can_send_msat(opener) == can_receive_msat(fundee)
    assert can_send_msat(fundee) == can_receive_msat(opener)
