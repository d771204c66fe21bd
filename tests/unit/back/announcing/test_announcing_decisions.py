"""What our channel_update and node_announcement say, and when a new one is due (BOLT 7)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st
from support.announcements import POLICY_IDS, public_channel, ready_channel
from support.channels import Keys

from back.announcing import nodes, updates
from back.announcing.changes import changes_of, taken_back
from back.announcing.nodes import OurNode
from back.announcing.updates import DISABLE, DONT_FORWARD, MUST_BE_ONE, REFRESH_S
from back.channel.model import Channel, Link, Phase
from back.channel.policy import channel_type_bits
from back.relay.terms import RelayFees
from back.transactions.commitment import CommitmentType
from shared.crypto.signature import public_key, sign_compact
from shared.errors import LightningError
from shared.features import Feature, FeatureSet
from shared.gossip.record import ChannelRecord, Kind
from shared.gossip.signed import digest
from shared.wire import ChannelUpdate, encode
from shared.wire.address import Address, AddressKind, parse_addresses

FEES = RelayFees(fee_base_msat=7, fee_proportional_millionths=8, cltv_expiry_delta=99)
NOW = 1_700_000_000


def wanted(
    channel: Channel, *, stored: ChannelUpdate | None = None, is_long_away: bool = False
) -> ChannelUpdate:
    update = updates.wanted(channel, FEES, stored, is_long_away=is_long_away)
    assert update is not None
    return update


def says_nothing(channel: Channel) -> bool:
    return updates.wanted(channel, FEES, None, is_long_away=False) is None


def said(update: ChannelUpdate, timestamp: int = NOW) -> ChannelUpdate:
    return update.model_copy(update={"timestamp": timestamp, "signature": b"\1" * 64})


# --- channel_update -----------------------------------------------------------------------------


def test_a_public_channel_is_named_by_its_place_and_forwarded() -> None:
    channel = public_channel()
    assert channel.funding is not None
    update = wanted(channel)
    assert update.short_channel_id == channel.funding.short_channel_id
    assert update.message_flags == MUST_BE_ONE
    assert update.channel_flags == POLICY_IDS.index(channel.policy.node_id)
    assert (update.fee_base_msat, update.fee_proportional_millionths) == (7, 8)
    assert update.cltv_expiry_delta == 99


def test_what_is_not_announced_yet_is_for_the_peer_only() -> None:
    update = wanted(replace(public_channel(), channel_announcement=None))
    assert update.message_flags == MUST_BE_ONE | DONT_FORWARD


def test_a_private_channel_goes_by_the_alias_that_the_peer_gave() -> None:
    assert wanted(ready_channel(remote_alias=77)).short_channel_id == 77


def test_without_an_alias_it_goes_by_its_place_unless_that_is_to_be_hidden() -> None:
    channel = ready_channel(remote_alias=None)
    assert channel.funding is not None
    assert wanted(channel).short_channel_id == channel.funding.short_channel_id
    bits = channel_type_bits(CommitmentType.STATIC_REMOTEKEY, scid_alias=True)
    hidden = replace(channel, parameters=replace(channel.parameters, channel_type=bits))
    assert says_nothing(hidden)
    assert wanted(replace(hidden, remote_alias=5)).short_channel_id == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"is_channel_ready_received": False},
        {"phase": Phase.WAIT_FOR_CHANNEL_READY},
        {"phase": Phase.CLOSING},
    ],
)
def test_there_is_nothing_to_say_before_channel_ready_or_of_a_private_end(
    changes: dict[str, Any],
) -> None:
    assert says_nothing(replace(ready_channel(), **changes))


def test_htlc_limits_are_what_the_peer_accepts_and_we_could_send() -> None:
    channel = public_channel()
    channel = replace(channel, local_msat=channel.parameters.funding_satoshis * 1000)
    remote = channel.parameters.remote
    assert remote is not None
    update = wanted(channel)
    assert update.htlc_minimum_msat == remote.htlc_minimum_msat
    capacity_msat = channel.parameters.funding_satoshis * 1000
    assert update.htlc_maximum_msat == capacity_msat - remote.channel_reserve_satoshis * 1000
    narrow = replace(remote, max_htlc_value_in_flight_msat=5_000, htlc_minimum_msat=4_000)
    update = wanted(replace(channel, parameters=replace(channel.parameters, remote=narrow)))
    assert (update.htlc_minimum_msat, update.htlc_maximum_msat) == (4_000, 5_000)
    shut = replace(narrow, htlc_minimum_msat=5_001)
    closed = replace(channel, parameters=replace(channel.parameters, remote=shut))
    assert says_nothing(closed)


def is_disabled(update: ChannelUpdate) -> bool:
    return bool(update.channel_flags & DISABLE)


def test_a_channel_is_disabled_while_its_peer_is_away_for_long_and_until_it_is_back() -> None:
    away = replace(public_channel(), link=Link.OFFLINE)
    assert not is_disabled(wanted(away))
    disabled = wanted(away, is_long_away=True)
    assert is_disabled(disabled)
    # After a restart nobody knows since when: it stays as it was said.
    assert is_disabled(wanted(away, stored=said(disabled)))
    syncing = replace(away, link=Link.SYNCING)
    assert is_disabled(wanted(syncing, stored=said(disabled)))
    assert not is_disabled(wanted(public_channel(), stored=said(disabled)))


def test_a_private_channel_is_never_disabled_for_nobody_would_hear() -> None:
    away = replace(ready_channel(), link=Link.OFFLINE)
    assert not is_disabled(wanted(away, is_long_away=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": Phase.SHUTDOWN},
        {"phase": Phase.NEGOTIATING},
        {"phase": Phase.CLOSING},
        {"is_shutdown_sent": True},
        {"remote_shutdown_script": b"\0\x14" + bytes(20)},
    ],
)
def test_a_channel_is_disabled_while_it_closes(changes: dict[str, Any]) -> None:
    assert is_disabled(wanted(replace(public_channel(), **changes)))


def test_an_update_is_due_when_it_says_something_else_or_grows_old() -> None:
    update = wanted(public_channel())
    assert updates.due(None, update, NOW)
    assert not updates.due(said(update), update, NOW)
    assert not updates.due(said(update), update, NOW + REFRESH_S - 1)
    assert updates.due(said(update), update, NOW + REFRESH_S)
    assert updates.due(said(update), update.model_copy(update={"fee_base_msat": 8}), NOW)
    # A clock that went back makes nothing old.
    assert not updates.due(said(update), update, 0)


def test_what_only_the_peer_hears_does_not_grow_old() -> None:
    update = wanted(ready_channel())
    assert not updates.due(said(update), update, NOW + 10 * REFRESH_S)


@given(st.lists(st.integers(0, 1 << 31), min_size=1))
def test_timestamps_always_grow_whatever_the_clock_does(clock: list[int]) -> None:
    last = 0
    for now in clock:
        timestamp = updates.next_timestamp(last, now)
        assert timestamp > last
        assert timestamp >= now
        last = timestamp


# --- what the graph gets ------------------------------------------------------------------------


def test_the_graph_gets_the_channel_first_with_capacity_and_funding() -> None:
    channel = public_channel()
    assert channel.funding is not None
    assert channel.funding.short_channel_id is not None
    raw = encode(said(wanted(channel)))
    first, second = changes_of(channel, raw, NOW)
    assert first.kind is Kind.CHANNEL
    assert first.key == channel.funding.short_channel_id
    assert isinstance(first.value, ChannelRecord)
    assert first.value.raw == channel.channel_announcement
    assert first.value.capacity_sat == channel.parameters.funding_satoshis
    assert first.value.spent_height == 0
    assert first.value.funding_txid == channel.funding.outpoint.txid
    direction = POLICY_IDS.index(channel.policy.node_id)
    assert second == (Kind.UPDATE, channel.funding.short_channel_id << 1 | direction, raw)


def test_private_channels_and_private_updates_never_get_there() -> None:
    private = ready_channel(remote_alias=77)
    assert changes_of(private, encode(said(wanted(private))), NOW) == ()
    public = public_channel()
    aliased = encode(said(wanted(private)))
    assert [change.kind for change in changes_of(public, aliased, NOW)] == [Kind.CHANNEL]


def test_of_a_channel_whose_funding_goes_only_the_end_is_told() -> None:
    channel = replace(public_channel(), phase=Phase.CLOSING)
    raw = encode(said(wanted(channel)))
    assert [change.kind for change in changes_of(channel, raw, NOW)] == [Kind.UPDATE]
    assert changes_of(replace(channel, phase=Phase.CLOSED), None, NOW) == ()


def peers_update(channel: Channel, **changes: Any) -> bytes:
    """The peer's own, signed."""
    theirs = wanted(channel).model_copy(update={"timestamp": NOW, **changes})
    theirs = theirs.model_copy(update={"channel_flags": 1 - theirs.channel_flags})
    signature = sign_compact(Keys("fundee").node, digest(encode(theirs)))
    return encode(theirs.model_copy(update={"signature": signature}))


def test_the_peers_own_update_is_passed_on_with_ours() -> None:
    channel = public_channel()
    raw = peers_update(channel)
    changes = changes_of(replace(channel, remote_channel_update=raw), None, NOW)
    assert [change.value for change in changes[1:]] == [raw]


@pytest.mark.parametrize(
    "changes",
    [
        {"message_flags": MUST_BE_ONE | DONT_FORWARD},
        {"timestamp": NOW - 1_209_601},
        {"timestamp": NOW + 100_000},
        {"short_channel_id": 77},
    ],
)
def test_a_peers_update_that_is_not_for_others_stays_here(changes: dict[str, Any]) -> None:
    channel = public_channel()
    raw = peers_update(channel, **changes)
    told = changes_of(replace(channel, remote_channel_update=raw), None, NOW)
    assert [change.kind for change in told] == [Kind.CHANNEL]


def test_a_peers_update_that_it_did_not_sign_stays_here() -> None:
    channel = public_channel()
    raw = bytearray(peers_update(channel))
    raw[-1] ^= 1
    told = changes_of(replace(channel, remote_channel_update=bytes(raw)), None, NOW)
    assert [change.kind for change in told] == [Kind.CHANNEL]


def test_what_a_reorg_made_void_goes_updates_first() -> None:
    assert [(c.kind, c.key, c.value) for c in taken_back(9)] == [
        (Kind.UPDATE, 18, None),
        (Kind.UPDATE, 19, None),
        (Kind.CHANNEL, 9, None),
    ]


# --- node_announcement --------------------------------------------------------------------------

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
NODE = OurNode.of(
    public_key(Keys("opener").node),
    "squall",
    "#1f4e79",
    FeatureSet.of(optional=(Feature.gossip_queries, Feature.option_channel_type)),
    ("ln.example.com:9736", f"{ONION}:9735", "[2001:db8::1]:9735", "192.0.2.1", "192.0.2.1:9735"),
)


def test_our_node_says_what_the_settings_say() -> None:
    announcement = nodes.wanted(NODE)
    assert announcement.alias == b"squall" + bytes(26)
    assert announcement.rgb_color == bytes.fromhex("1f4e79")
    assert FeatureSet.from_bytes(announcement.features) == NODE.features
    known, unknown = parse_addresses(announcement.addresses)
    assert unknown == b""
    # In the order of their types, each once.
    assert known == (
        Address(AddressKind.IPV4, "192.0.2.1", 9735),
        Address(AddressKind.IPV6, "2001:db8::1", 9735),
        Address(AddressKind.TOR_V3, ONION, 9735),
        Address(AddressKind.DNS, "ln.example.com", 9736),
    )


@pytest.mark.parametrize(
    ("alias", "addresses"),
    [
        ("x" * 33, ()),
        ("é" * 17, ()),
        ("", ("one.example:1", "two.example:1")),
        ("", ("192.0.2.1:0",)),
        ("", ("nobody.onion",)),
        ("", ("ümlaut.example",)),
    ],
)
def test_what_cannot_be_announced_is_refused(alias: str, addresses: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, LightningError)):
        OurNode.of(bytes(33), alias, "#000000", FeatureSet(), addresses)


def test_our_node_is_announced_again_only_when_it_says_something_else_or_is_old() -> None:
    now_wanted = nodes.wanted(NODE)
    stored = now_wanted.model_copy(update={"timestamp": NOW, "signature": b"\1" * 64})
    assert nodes.due(None, now_wanted, NOW)
    assert not nodes.due(stored, now_wanted, NOW + REFRESH_S - 1)
    assert not nodes.due(stored, now_wanted, 0)
    assert nodes.due(stored, now_wanted, NOW + REFRESH_S)
    other = nodes.wanted(replace(NODE, alias="else"))
    assert nodes.due(stored, other, NOW)
