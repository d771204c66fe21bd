import pytest

from front.peer.handshake import Identity, check_init, combined, our_init
from shared.chain import MAINNET, REGTEST, SIGNET
from shared.errors import Action, ProtocolViolation
from shared.features import Feature, FeatureSet
from shared.wire import Init, decode, encode
from shared.wire.address import parse_addresses

OURS = FeatureSet.of(
    optional=[
        Feature.option_data_loss_protect,
        Feature.var_onion_optin,
        Feature.option_static_remotekey,
        Feature.payment_secret,
        Feature.option_anchors,
        Feature.option_channel_type,
    ]
)
LOCAL = our_init(Identity(OURS, (REGTEST.chain_hash,)))


def remote(*bits: int, networks: list[bytes] | None = None, global_bits: tuple[int, ...] = ()):
    return Init(
        globalfeatures=FeatureSet(frozenset(global_bits)).to_bytes(),
        features=FeatureSet(frozenset(bits)).to_bytes(),
        networks=networks,
    )


def test_says_features_and_networks():
    assert FeatureSet.from_bytes(LOCAL.features) == OURS
    assert LOCAL.networks == [REGTEST.chain_hash]
    assert LOCAL.globalfeatures == b""


def test_tells_a_peer_the_public_address_it_is_seen_as():
    init = our_init(Identity(OURS, ()), ("8.8.8.8", 40123))
    again = decode(encode(init))
    assert isinstance(again, Init)
    assert again.remote_addr is not None
    assert [str(a) for a in parse_addresses(again.remote_addr).known] == ["8.8.8.8:40123"]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "192.168.3.4", "::1", "fe80::1", "x"])
def test_tells_no_private_address(host: str):
    assert our_init(Identity(OURS, ()), (host, 40123)).remote_addr is None


def test_negotiates_what_both_offer():
    features = check_init(LOCAL, remote(1, 9, 13, 15, 27))
    assert Feature.option_static_remotekey in features
    assert Feature.option_anchors not in features
    assert Feature.option_shutdown_anysegwit not in features


def test_combines_both_feature_fields():
    assert combined(remote(13, global_bits=(23,))).bits == {13, 23}
    assert Feature.option_anchors in check_init(LOCAL, remote(13, global_bits=(23,)))


def test_ignores_unknown_odd_features():
    check_init(LOCAL, remote(13, 99, 1001))


@pytest.mark.parametrize("bit", [100, 1000, 30, 2])
def test_refuses_unknown_required_features(bit: int):
    with pytest.raises(ProtocolViolation, match=f"unknown feature bits {bit}") as refused:
        check_init(LOCAL, remote(13, bit))
    assert refused.value.action is Action.DISCONNECT


def test_names_no_more_bits_than_fit_a_warning():
    with pytest.raises(ProtocolViolation, match="and 992 more"):
        check_init(LOCAL, remote(*range(1000, 3000, 2)))


def test_refuses_a_known_feature_that_is_required_and_that_we_do_not_offer():
    with pytest.raises(ProtocolViolation, match=r"option_dual_fund \(bit 28\)"):
        check_init(LOCAL, remote(13, 28))


def test_lets_a_peer_require_what_every_node_is_assumed_to_support():
    bare = our_init(Identity(FeatureSet(), ()))
    check_init(bare, remote(0, 6, 8, 12, 14, 44))


def test_refuses_missing_dependencies():
    with pytest.raises(ProtocolViolation, match="basic_mpp needs payment_secret"):
        check_init(LOCAL, remote(17))


def test_refuses_a_peer_of_other_chains_only():
    with pytest.raises(ProtocolViolation, match="no common chain"):
        check_init(LOCAL, remote(13, networks=[MAINNET.chain_hash, SIGNET.chain_hash]))


@pytest.mark.parametrize(
    "networks", [None, [], [REGTEST.chain_hash], [MAINNET.chain_hash, REGTEST.chain_hash]]
)
def test_takes_a_peer_that_shares_a_chain_or_names_none(networks: list[bytes] | None):
    check_init(LOCAL, remote(13, networks=networks))
