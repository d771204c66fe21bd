"""Feature bits (BOLT 9, BOLT 1 § init)."""

import pytest
from hypothesis import given, strategies as st

from shared.features import Context, Feature, FeatureSet

F = Feature


def test_bits_count_from_the_end_of_the_field() -> None:
    assert FeatureSet.from_bytes(bytes.fromhex("0201")).bits == {0, 9}
    assert FeatureSet(frozenset({0, 9})).to_bytes().hex() == "0201"


def test_the_field_is_as_short_as_it_can_be() -> None:
    assert FeatureSet().to_bytes() == b""
    assert FeatureSet(frozenset({7})).to_bytes().hex() == "80"
    assert FeatureSet(frozenset({8})).to_bytes().hex() == "0100"
    assert FeatureSet.from_bytes(bytes.fromhex("00000080")) == FeatureSet(frozenset({7}))


@given(bits=st.frozensets(st.integers(0, 300)))
def test_every_set_survives_its_bytes(bits: frozenset[int]) -> None:
    data = FeatureSet(bits).to_bytes()
    assert FeatureSet.from_bytes(data).bits == bits
    assert data[:1] != b"\0"


def test_the_largest_field_a_message_can_carry_is_read_and_written() -> None:
    data = b"\xff" * 65_535
    features = FeatureSet.from_bytes(data)
    assert len(features.bits) == 8 * len(data)
    assert features.to_bytes() == data


def test_either_bit_offers_and_the_even_one_requires() -> None:
    optional = FeatureSet.of(optional=[F.option_anchors])
    required = FeatureSet.of(required=[F.option_anchors])
    assert optional.bits == {23}
    assert required.bits == {22}
    assert optional.supports(F.option_anchors)
    assert required.supports(F.option_anchors)
    assert required.requires(F.option_anchors)
    assert not optional.requires(F.option_anchors)
    assert not FeatureSet().supports(F.option_anchors)


def test_both_bits_count_as_required_but_are_never_made() -> None:
    assert FeatureSet(frozenset({22, 23})).requires(F.option_anchors)
    with pytest.raises(ValueError, match="both required and optional: option_anchors"):
        FeatureSet.of(required=[F.option_anchors], optional=[F.option_anchors])


def test_a_feature_is_negotiated_when_both_offer_it() -> None:
    ours = FeatureSet.of(optional=[F.option_anchors, F.basic_mpp])
    theirs = FeatureSet.of(optional=[F.option_anchors], required=[F.option_splice])
    assert FeatureSet.negotiated(ours, theirs) == {F.option_anchors}


def test_a_feature_that_we_require_is_negotiated_in_any_case() -> None:
    ours = FeatureSet.of(required=[F.option_channel_type])
    assert FeatureSet.negotiated(ours, FeatureSet()) == {F.option_channel_type}
    assert FeatureSet.negotiated(FeatureSet(), ours) == set()


def test_only_unknown_even_bits_close_the_connection() -> None:
    bits = frozenset({0, 1, 2, 22, 99, 100, 101, 256})
    assert FeatureSet(bits).unknown_required() == (2, 100, 256)
    assert FeatureSet(frozenset({3, 55, 259})).unknown_required() == ()


@pytest.mark.parametrize(
    ("feature", "needed"),
    [
        (F.basic_mpp, F.payment_secret),
        (F.option_zeroconf, F.option_scid_alias),
        (F.option_simple_close, F.option_shutdown_anysegwit),
    ],
)
def test_a_missing_dependency_is_named(feature: Feature, needed: Feature) -> None:
    assert FeatureSet.of(optional=[feature]).missing_dependencies() == ((feature, needed),)
    assert FeatureSet.of(required=[feature], optional=[needed]).missing_dependencies() == ()


def test_no_other_feature_has_a_dependency() -> None:
    with_some = {f for f in Feature if f.dependencies}
    assert with_some == {F.basic_mpp, F.option_zeroconf, F.option_simple_close}


def test_no_two_features_share_a_bit() -> None:
    bits = [f.bit for f in Feature]
    assert len(set(bits)) == len(bits) == 24
    assert all(bit % 2 == 0 for bit in bits)


def test_each_context_shows_its_own_features_only() -> None:
    everything = FeatureSet.of(optional=Feature)
    assert everything.only(Context.CHANNEL_TYPE).features == (
        F.option_static_remotekey,
        F.option_anchors,
        F.option_scid_alias,
        F.option_zeroconf,
    )
    assert F.option_payment_metadata not in everything.only(Context.INIT).features
    assert F.option_payment_metadata in everything.only(Context.INVOICE).features
    assert everything.only(Context.CHANNEL) == FeatureSet()
    keysend = FeatureSet.of(optional=[F.keysend])
    assert everything.only(Context.NODE) == everything.only(Context.INIT).union(keysend)


def test_the_two_fields_of_init_combine() -> None:
    both = FeatureSet(frozenset({1})).union(FeatureSet(frozenset({1, 13})))
    assert both == FeatureSet(frozenset({1, 13}))


def test_a_set_reads_as_names() -> None:
    assert str(FeatureSet(frozenset({12, 17, 57}))) == (
        "option_static_remotekey, basic_mpp?, bit 56?"
    )
