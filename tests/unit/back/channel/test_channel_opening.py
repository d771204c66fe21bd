"""open_channel and accept_channel, rule by rule (BOLT 2 § Channel Establishment v1)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.channels import ANCHORS, POLICY, STATIC, End, messages_named
from support.openings import FEATURES, SCRIPT, accepted, begun, proposed, reception

from back.channel import machine, opening
from back.channel.effects import (
    ChannelForgotten,
    CloseConnection,
    FreeFunding,
    MakeFundingTransaction,
    Publish,
)
from back.channel.events import AbandonOpening, BlockConnected, Disconnected, Received
from back.channel.model import Phase
from back.channel.policy import ChannelPolicy, channel_type_bits
from back.transactions.commitment import CommitmentType
from back.transactions.scripts import funding_script_pubkey
from shared.errors import Action, CommandError, ProtocolViolation
from shared.features import Feature, FeatureSet
from shared.wire import AcceptChannel, Error, OpenChannel

WUMBO = 1 << 24
MARKET = replace(POLICY, regtest_slack=False)
NO_POINT = b"\x02" + b"\xff" * 32
POINTS = (
    "funding_pubkey",
    "revocation_basepoint",
    "payment_basepoint",
    "delayed_payment_basepoint",
    "htlc_basepoint",
    "first_per_commitment_point",
)
STATIC_COST_SAT = 724  # the weight of a commitment without HTLCs, at 1,000 per kw
ANCHORS_COST_SAT = 1_124 + 2 * 330


def without(feature: Feature) -> frozenset[Feature]:
    return FEATURES - {feature}


def refusal(
    message: OpenChannel, policy: ChannelPolicy = POLICY, **known: Any
) -> ProtocolViolation:
    """How a proposal is refused; nothing is spent on it before."""
    with pytest.raises(ProtocolViolation) as caught:
        opening.check(message, reception(**known), policy)
    with pytest.raises(ProtocolViolation):
        accepted(message, policy, **known)
    # An `error` with the temporary id is all that it costs.
    assert caught.value.action is Action.FAIL_CHANNEL
    return caught.value


def open_channel(policy: ChannelPolicy = POLICY, **changes: Any) -> OpenChannel:
    """An open_channel with other fields than an honest opener's."""
    return proposed(policy)[1].model_copy(update=changes)


# --- what we propose ---------------------------------------------------------------------------


def test_open_channel_says_what_the_channel_then_holds() -> None:
    opener, message = proposed(replace(POLICY, to_self_delay=99, max_accepted_htlcs=7))
    local = opener.channel.parameters.local
    for name in (
        "dust_limit_satoshis",
        "max_htlc_value_in_flight_msat",
        "channel_reserve_satoshis",
        "htlc_minimum_msat",
        "to_self_delay",
        "max_accepted_htlcs",
        *POINTS[:-1],
    ):
        assert getattr(message, name) == getattr(local, name), name
    assert message.first_per_commitment_point == opener.keys.point(0)
    assert (message.to_self_delay, message.max_accepted_htlcs) == (99, 7)
    assert message.channel_flags == 0
    assert message.channel_type == channel_type_bits(STATIC)
    assert (opener.channel.local_msat, opener.channel.remote_msat) == (600_000_000, 400_000_000)


def test_the_best_type_that_both_speak_is_proposed() -> None:
    asked: dict[frozenset[Feature], CommitmentType] = {
        FEATURES: ANCHORS,
        without(Feature.option_anchors): STATIC,
    }
    for features, kind in asked.items():
        opener, message = proposed(features=features, commitment_type=None)
        assert opener.channel.parameters.commitment_type is kind
        assert message.channel_type == channel_type_bits(kind)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [(STATIC, Feature.option_static_remotekey), (ANCHORS, Feature.option_anchors)],
)
def test_a_type_that_was_not_negotiated_is_not_proposed(
    kind: CommitmentType, missing: Feature
) -> None:
    with pytest.raises(CommandError, match=missing.name):
        proposed(features=without(missing), commitment_type=kind)


def test_a_type_that_this_node_does_not_want_is_not_proposed() -> None:
    with pytest.raises(CommandError, match="anchors"):
        proposed(replace(POLICY, accepts_anchors=False), commitment_type=ANCHORS)
    with pytest.raises(CommandError, match="static"):
        proposed(
            replace(POLICY, accepts_static_remotekey=False),
            features=without(Feature.option_anchors),
            commitment_type=None,
        )


def test_large_channels_need_the_feature_of_both() -> None:
    _, message = proposed(funding_satoshis=WUMBO)
    assert message.funding_satoshis == WUMBO
    small = without(Feature.option_support_large_channel)
    _, message = proposed(funding_satoshis=WUMBO - 1, features=small)
    assert message.funding_satoshis == WUMBO - 1
    with pytest.raises(CommandError, match="option_support_large_channel"):
        proposed(funding_satoshis=WUMBO, features=small)


def test_no_more_is_pushed_than_is_there() -> None:
    with pytest.raises(CommandError, match="cannot push"):
        proposed(funding_satoshis=100_000, push_msat=100_000_001)


@pytest.mark.parametrize(("kind", "cost_sat"), [(STATIC, STATIC_COST_SAT), (ANCHORS, 1_784)])
def test_the_opener_keeps_enough_for_the_first_commitment(
    kind: CommitmentType, cost_sat: int
) -> None:
    """With anchors their 660 sat too: without them no signature could be made."""
    enough = 1_000_000_000 - cost_sat * 1_000
    opener, _ = begun(kind, push_msat=enough)
    assert opener.channel.local_msat == cost_sat * 1_000
    with pytest.raises(CommandError, match=f"costs {cost_sat} sat"):
        proposed(commitment_type=kind, push_msat=enough + 1)


def test_our_shutdown_script_is_promised_where_that_is_negotiated() -> None:
    opener, message = proposed()
    assert message.upfront_shutdown_script == SCRIPT
    assert opener.channel.parameters.local.upfront_shutdown_script == SCRIPT
    # Otherwise the record is there and empty: BOLT 2 wants it beside channel_type.
    plain = without(Feature.option_upfront_shutdown_script)
    opener, message = proposed(features=plain)
    assert message.upfront_shutdown_script == b""
    assert opener.channel.parameters.local.upfront_shutdown_script == b""
    assert opener.channel.parameters.default_shutdown_script == SCRIPT


@pytest.mark.parametrize("announce", [True, False])
def test_the_announce_bit_is_the_operators_word(announce: bool) -> None:
    opener, message = proposed(announce=announce)
    assert message.channel_flags == int(announce)
    assert opener.channel.parameters.announce is announce


# --- what we accept ----------------------------------------------------------------------------


def test_accept_channel_says_what_the_channel_then_holds() -> None:
    fundee, answer = accepted(open_channel(), replace(POLICY, minimum_depth=3))
    assert answer.minimum_depth == fundee.channel.parameters.minimum_depth == 3
    assert answer.channel_type == channel_type_bits(STATIC)
    assert answer.upfront_shutdown_script == SCRIPT
    assert answer.channel_reserve_satoshis == 10_000
    assert answer.first_per_commitment_point == fundee.keys.point(0)
    assert (fundee.channel.local_msat, fundee.channel.remote_msat) == (400_000_000, 600_000_000)
    assert fundee.channel.phase is Phase.WAIT_FOR_FUNDING_CREATED


def test_both_sides_agree_on_everything() -> None:
    opener, fundee = begun(ANCHORS)
    ours, theirs = opener.channel.parameters, fundee.channel.parameters
    assert ours.local == theirs.remote
    assert theirs.local == ours.remote
    assert ours.commitment_type is theirs.commitment_type is ANCHORS
    assert ours.minimum_depth == theirs.minimum_depth
    assert ours.is_opener
    assert not theirs.is_opener


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chain_hash": b"\x01" * 32}, "is not ours"),
        ({"channel_type": None}, "channel_type is missing"),
        ({"channel_type": b""}, "not one that we speak"),
        ({"channel_type": b"\x40\x00\x00"}, "not one that we speak"),
        ({"funding_satoshis": 99_999}, "not in 100000"),
        ({"push_msat": 1_000_000_001}, "push_msat"),
        ({"to_self_delay": 2_017}, "to_self_delay"),
        ({"max_accepted_htlcs": 484}, "max_accepted_htlcs"),
        ({"max_accepted_htlcs": 0}, "max_accepted_htlcs"),
        ({"dust_limit_satoshis": 353}, "dust_limit_satoshis 353 is below 354"),
        ({"dust_limit_satoshis": 1_001}, "dust_limit_satoshis 1001 is above"),
        ({"channel_reserve_satoshis": 353}, "is above channel_reserve_satoshis 353"),
        ({"channel_reserve_satoshis": 50_001}, "channel_reserve_satoshis 50001 is above 50000"),
        ({"htlc_minimum_msat": 1_000_000_001}, "htlc_minimum_msat"),
        ({"upfront_shutdown_script": None}, "upfront_shutdown_script is missing"),
        ({"upfront_shutdown_script": b"\x6a"}, "form that BOLT 2 does not allow"),
        ({"feerate_per_kw": 252}, "below 253"),
        ({"feerate_per_kw": 100_001}, "above 100000"),
        *(({name: NO_POINT}, name) for name in POINTS),
    ],
    ids=str,
)
def test_a_proposal_out_of_bounds_is_refused(changes: dict[str, Any], words: str) -> None:
    assert words in str(refusal(open_channel(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"funding_satoshis": 100_000, "push_msat": 0, "channel_reserve_satoshis": 1_000},
        {"to_self_delay": 2_016},
        {"max_accepted_htlcs": 483},
        {"max_accepted_htlcs": 1},
        {"dust_limit_satoshis": 1_000},
        {"channel_reserve_satoshis": 50_000},
        {"channel_reserve_satoshis": 354},
        {"htlc_minimum_msat": 1_000_000_000},
        {"upfront_shutdown_script": b""},
        {"upfront_shutdown_script": b"\x51\x20" + bytes(32)},
        {"channel_flags": 0xFE},
        {"feerate_per_kw": 253},
        {"feerate_per_kw": 100_000, "push_msat": 0},
    ],
    ids=str,
)
def test_a_proposal_at_its_bounds_is_accepted(changes: dict[str, Any]) -> None:
    fundee, _ = accepted(open_channel(**changes))
    # Undefined bits of channel_flags mean nothing.
    assert not fundee.channel.parameters.announce


def test_an_announced_channel_is_remembered_as_such() -> None:
    fundee, _ = accepted(open_channel(channel_flags=1))
    assert fundee.channel.parameters.announce


def test_a_reserve_below_our_own_dust_limit_is_refused() -> None:
    policy = replace(POLICY, dust_limit_satoshis=600)
    message = open_channel(dust_limit_satoshis=354, channel_reserve_satoshis=599)
    assert "below our dust_limit_satoshis 600" in str(refusal(message, policy))


def test_the_reserve_that_we_ask_for_covers_both_dust_limits() -> None:
    message = open_channel(
        funding_satoshis=100_000,
        push_msat=0,
        dust_limit_satoshis=999,
        channel_reserve_satoshis=1_000,
    )
    _, answer = accepted(message, replace(POLICY, reserve_ratio=0.001))
    assert answer.channel_reserve_satoshis == 999


def test_only_negotiated_types_are_accepted() -> None:
    message = open_channel(channel_type=channel_type_bits(ANCHORS))
    accepted(message)
    features = without(Feature.option_anchors)
    assert "not negotiated" in str(refusal(message, features=features))
    assert "not one that we speak" in str(refusal(message, replace(POLICY, accepts_anchors=False)))
    old = replace(POLICY, accepts_static_remotekey=False)
    assert "not one that we speak" in str(refusal(open_channel(), old))


def test_a_type_says_what_it_wants_with_even_bits() -> None:
    odd = FeatureSet.of(optional=[Feature.option_static_remotekey]).to_bytes()
    assert "not one that we speak" in str(refusal(open_channel(channel_type=odd)))


def test_an_alias_only_channel_is_private() -> None:
    aliased = channel_type_bits(ANCHORS, scid_alias=True)
    fundee, answer = accepted(open_channel(channel_type=aliased))
    assert answer.channel_type == fundee.channel.parameters.channel_type == aliased
    announced = open_channel(channel_type=aliased, channel_flags=1)
    assert "option_scid_alias" in str(refusal(announced))


def test_large_channels_are_accepted_with_the_feature_only() -> None:
    message = open_channel(funding_satoshis=WUMBO, channel_reserve_satoshis=10_000)
    accepted(message)
    small = without(Feature.option_support_large_channel)
    assert "option_support_large_channel" in str(refusal(message, features=small))
    accepted(open_channel(funding_satoshis=WUMBO - 1), features=small)
    assert "not in" in str(refusal(message, replace(POLICY, max_funding_sat=WUMBO - 1)))


@pytest.mark.parametrize(
    ("kind", "cost_sat"), [(STATIC, STATIC_COST_SAT), (ANCHORS, ANCHORS_COST_SAT)]
)
def test_a_first_commitment_that_the_opener_cannot_pay_is_refused(
    kind: CommitmentType, cost_sat: int
) -> None:
    most = 1_000_000_000 - cost_sat * 1_000
    fundee, _ = accepted(open_channel(channel_type=channel_type_bits(kind), push_msat=most))
    assert fundee.channel.remote_msat == cost_sat * 1_000
    message = open_channel(channel_type=channel_type_bits(kind), push_msat=most + 1)
    assert f"costs it {cost_sat} sat" in str(refusal(message))


@pytest.mark.parametrize("kind", [STATIC, ANCHORS])
def test_one_side_starts_above_the_reserve(kind: CommitmentType) -> None:
    cost_sat = STATIC_COST_SAT if kind is STATIC else ANCHORS_COST_SAT
    reserve_sat = 50_000
    keeps_msat = (reserve_sat + cost_sat) * 1_000

    def message(opener_msat: int, push_msat: int) -> OpenChannel:
        return open_channel(
            funding_satoshis=(opener_msat + push_msat) // 1_000,
            push_msat=push_msat,
            channel_reserve_satoshis=reserve_sat,
            channel_type=channel_type_bits(kind),
        )

    policy = replace(POLICY, min_funding_sat=1, max_reserve_ratio=1.0)
    both_below = message(keeps_msat, reserve_sat * 1_000)
    assert "both sides would start at or below" in str(refusal(both_below, policy))
    accepted(message(keeps_msat + 1_000, reserve_sat * 1_000), policy)
    accepted(message(keeps_msat, reserve_sat * 1_000 + 1_000), policy)


def test_a_feerate_must_suit_the_chain() -> None:
    slow, fast = open_channel(MARKET, feerate_per_kw=499), open_channel(MARKET, feerate_per_kw=500)
    accepted(fast, MARKET)
    assert "too slow" in str(refusal(slow, MARKET))
    # With anchors a child pays for what is missing.
    accepted(slow.model_copy(update={"channel_type": channel_type_bits(ANCHORS)}), MARKET)
    accepted(open_channel(MARKET, feerate_per_kw=10_000), MARKET)
    dear = open_channel(MARKET, feerate_per_kw=10_001)
    assert "above 10000" in str(refusal(dear, MARKET))


# --- accept_channel at the opener --------------------------------------------------------------


def answered(change: Callable[[AcceptChannel], AcceptChannel]) -> End:
    """An opener that got an accept_channel with other fields than an honest accepter's."""
    opener, message = proposed()
    _, answer = accepted(message)
    opener.do(Received(change(answer)))
    return opener


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channel_type": None}, "channel_type differs"),
        ({"channel_type": channel_type_bits(ANCHORS)}, "channel_type differs"),
        ({"minimum_depth": 145}, "minimum_depth 145 is above 144"),
        ({"to_self_delay": 2_017}, "to_self_delay"),
        ({"max_accepted_htlcs": 0}, "max_accepted_htlcs"),
        ({"max_accepted_htlcs": 484}, "max_accepted_htlcs"),
        ({"dust_limit_satoshis": 353}, "dust_limit_satoshis"),
        ({"dust_limit_satoshis": 1_001}, "dust_limit_satoshis"),
        ({"channel_reserve_satoshis": 353}, "channel_reserve_satoshis"),
        ({"channel_reserve_satoshis": 50_001}, "channel_reserve_satoshis"),
        ({"htlc_minimum_msat": 1_000_000_001}, "htlc_minimum_msat"),
        ({"upfront_shutdown_script": None}, "upfront_shutdown_script is missing"),
        ({"upfront_shutdown_script": b"\xac"}, "upfront_shutdown_script has a form"),
        *(({name: NO_POINT}, name) for name in POINTS),
    ],
    ids=str,
)
def test_an_answer_out_of_bounds_fails_the_channel_before_anything_is_spent(
    changes: dict[str, Any], words: str
) -> None:
    opener = answered(lambda answer: answer.model_copy(update=changes))
    (error,) = opener.sent
    assert isinstance(error, Error)
    assert error.channel_id == opener.channel.parameters.temporary_channel_id
    assert words.encode() in error.data
    assert opener.channel.phase is Phase.CLOSED
    assert len(opener.took(ChannelForgotten)) == 1
    assert not opener.took(MakeFundingTransaction)
    assert not opener.took(Publish)


def test_dust_above_the_reserve_that_we_asked_for_fails_the_channel() -> None:
    opener, message = proposed(replace(POLICY, reserve_ratio=0.0001))
    assert message.channel_reserve_satoshis == 354
    _, answer = accepted(message)
    opener.do(Received(answer.model_copy(update={"dust_limit_satoshis": 355})))
    assert b"above the reserve that we asked for" in opener.sent[0].data  # type: ignore[attr-defined]


def test_a_good_answer_asks_the_wallet_for_the_funding_output() -> None:
    opener, fundee = begun()
    (wanted,) = opener.took(MakeFundingTransaction)
    assert isinstance(wanted, MakeFundingTransaction)
    keys = (opener.keys.party().funding_pubkey, fundee.keys.party().funding_pubkey)
    assert wanted.script_pubkey == funding_script_pubkey(*keys)
    assert wanted.amount_sat == 1_000_000
    assert not opener.sent


def test_a_second_answer_costs_the_connection() -> None:
    opener, _ = begun()
    _, answer = accepted(open_channel())
    opener.do(Received(answer))
    (closed,) = opener.took(CloseConnection)
    assert isinstance(closed, CloseConnection)
    assert "accept_channel is not legal in WAIT_FOR_FUNDING_INTERNAL" in closed.warning
    assert opener.channel.phase is Phase.CLOSED


# --- openings that go no further ---------------------------------------------------------------


def test_an_opening_ends_with_the_connection() -> None:
    opener, _ = proposed()
    fundee, _ = accepted(open_channel())
    for end in (opener, fundee):
        end.do(Disconnected())
        assert end.channel.phase is Phase.CLOSED
        assert len(end.took(ChannelForgotten)) == 1
        assert not end.sent
        assert not end.took(FreeFunding)


def test_an_abandoned_opening_tells_the_peer() -> None:
    opener, fundee = begun()
    for end in (opener, fundee):
        end.do(AbandonOpening("it took too long"))
        (error,) = end.sent
        assert isinstance(error, Error)
        assert error.data == b"it took too long"
        assert end.channel.phase is Phase.CLOSED


def test_nobody_waits_for_ever_for_the_next_message() -> None:
    opener, fundee = begun()
    for end in (opener, fundee):
        end.do(BlockConnected(106))
        assert end.channel.phase is not Phase.CLOSED
        end.do(BlockConnected(107))
        assert end.channel.phase is Phase.CLOSED
        assert messages_named(end.sent) == ["error"]


def test_an_opening_leaves_nothing_for_a_start() -> None:
    opener, fundee = begun()
    for end in (opener, fundee):
        assert machine.resume(end.channel) == ()
