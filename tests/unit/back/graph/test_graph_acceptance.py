"""Whether an announcement that a front submits belongs into the routing table (BOLT 7)."""

import dataclasses
from struct import pack
from typing import Any

import pytest
from support.network import Shape, generate

from back.graph.acceptance import (
    ACCEPTED,
    DEPTH,
    Absent,
    Decision,
    Funding,
    Pending,
    Situation,
    change_of,
    first_look,
    funding_height,
    judge_channel,
)
from shared.chain import MAINNET, REGTEST
from shared.fabric.gossip import Outcome
from shared.gossip.record import ChannelRecord, Kind
from shared.gossip.rules import STALE_S
from shared.gossip.table import Table
from shared.gossip.view import channel_view, node_view, update_view

NOW = 1_700_000_000
NETWORK = generate(Shape(channels=6, nodes=4), NOW)
SCID = next(iter(NETWORK.channels))
CHANNEL = NETWORK.channels[SCID]
UPDATE = NETWORK.updates[SCID << 1]
HEIGHT = funding_height(SCID) + 1_000
SITUATION = Situation(REGTEST.chain_hash, NOW, HEIGHT)


def look(raw: bytes, table: Table | None = None, **changes: Any) -> Decision | Pending:
    situation = dataclasses.replace(SITUATION, **changes)
    return first_look(Table() if table is None else table, raw, situation)


def outcome(raw: bytes, table: Table | None = None, **changes: Any) -> Outcome:
    found = look(raw, table, **changes)
    assert isinstance(found, Decision), "something is still to be asked"
    return found.outcome


def full() -> Table:
    table = Table()
    for change in NETWORK.changes():
        table.apply(change)
    return table


def channels_only(spent_height: int = 0) -> Table:
    table = Table()
    for change in NETWORK.changes():
        if isinstance(change.value, ChannelRecord):
            value = change.value._replace(spent_height=spent_height)
            table.apply(change._replace(value=value))
    return table


def changed(raw: bytes, at: int, value: bytes) -> bytes:
    return raw[:at] + value + raw[at + len(value) :]


def newer(raw: bytes, by_s: int = 1) -> bytes:
    """The same update with another timestamp; its signature is wrong now."""
    return changed(raw, 106, pack(">I", update_view(raw).timestamp + by_s))


def named(raw: bytes, addresses: bytes, *, by_s: int = 1) -> bytes:
    """The same node, with other addresses; its signature is wrong now."""
    seen = node_view(raw)
    size = 2 + 64 + 2 + len(seen.features)
    head = changed(raw, size, pack(">I", seen.timestamp + by_s))[: size + 4 + 33 + 3 + 32]
    return head + pack(">H", len(addresses)) + addresses


NODE_ID = channel_view(CHANNEL).node_id_1
NODE = NETWORK.nodes[NODE_ID]


# --- channels -------------------------------------------------------------------------------------


def test_an_unknown_channel_is_taken_to_the_chain() -> None:
    found = look(CHANNEL)
    assert found == Pending(CHANNEL, channel_view(CHANNEL), b"")


def test_a_channel_that_is_there_is_known() -> None:
    assert outcome(CHANNEL, full()) is Outcome.KNOWN


def test_the_first_announcement_of_a_channel_stays() -> None:
    table = channels_only()
    seen = channel_view(CHANNEL)
    at = CHANNEL.index(seen.node_id_2)
    other = changed(CHANNEL, at, b"\x03" + b"\xff" * 32)
    assert outcome(other, table) is Outcome.REFUSED


def test_a_spent_channel_is_not_announced_again() -> None:
    assert outcome(CHANNEL, channels_only(spent_height=HEIGHT)) is Outcome.REFUSED


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (-5, Outcome.REFUSED),
        (0, Outcome.REFUSED),
        (2, Outcome.REFUSED),
        (3, Outcome.LATER),
        (DEPTH - 1, Outcome.LATER),
    ],
)
def test_a_young_channel_comes_later_when_it_is_nearly_old_enough(
    depth: int, expected: Outcome
) -> None:
    assert outcome(CHANNEL, height=funding_height(SCID) + depth - 1) is expected


def test_a_channel_of_six_confirmations_is_old_enough() -> None:
    assert isinstance(look(CHANNEL, height=funding_height(SCID) + DEPTH - 1), Pending)


def test_without_a_chain_a_channel_comes_later() -> None:
    assert outcome(CHANNEL, height=0) is Outcome.LATER


def test_without_a_chain_what_is_known_is_known_still() -> None:
    assert outcome(CHANNEL, full(), height=0) is Outcome.KNOWN


def test_a_channel_of_another_chain_is_refused() -> None:
    assert outcome(CHANNEL, chain_hash=MAINNET.chain_hash) is Outcome.REFUSED


def test_an_announcement_may_not_be_endless() -> None:
    assert outcome(CHANNEL + bytes(2_000)) is Outcome.REFUSED
    assert outcome(newer(UPDATE) + bytes(1_000), full()) is Outcome.REFUSED
    # Unknown fields at the end are signed, and kept.
    assert isinstance(look(CHANNEL + bytes(50)), Pending)


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x01\x00", CHANNEL[:400], UPDATE[:100], NODE[:90]])
def test_what_is_too_short_is_refused_and_nobody_is_to_blame(raw: bytes) -> None:
    assert outcome(raw, full()) is Outcome.REFUSED


def test_a_message_of_another_type_is_refused() -> None:
    assert outcome(b"\x00\x10" + bytes(500)) is Outcome.REFUSED


def test_the_output_decides_on_a_channel() -> None:
    output = NETWORK.output(SCID)
    assert output is not None
    seen = channel_view(CHANNEL)
    right = Funding(bytes(32), output.amount_sat, output.script_pubkey)
    assert judge_channel(seen, right) is ACCEPTED
    wrong = right._replace(script_pubkey=output.script_pubkey[:-1] + b"\x00")
    assert judge_channel(seen, wrong).outcome is Outcome.REFUSED
    for absent in set(Absent) - {Absent.PRUNED}:
        assert judge_channel(seen, absent) == Decision(Outcome.REFUSED, absent.value)
    pruned = Decision(Outcome.UNVERIFIABLE, Absent.PRUNED.value)
    assert judge_channel(seen, Absent.PRUNED) == pruned


def test_the_order_of_the_bitcoin_keys_does_not_matter() -> None:
    seen = channel_view(CHANNEL)
    swapped = seen._replace(bitcoin_key_1=seen.bitcoin_key_2, bitcoin_key_2=seen.bitcoin_key_1)
    output = NETWORK.output(SCID)
    assert output is not None
    funding = Funding(bytes(32), output.amount_sat, output.script_pubkey)
    assert judge_channel(swapped, funding) is ACCEPTED


# --- updates --------------------------------------------------------------------------------------


def test_an_update_is_checked_with_the_key_of_its_direction() -> None:
    seen = channel_view(CHANNEL)
    for direction, signer in enumerate((seen.node_id_1, seen.node_id_2)):
        found = look(NETWORK.updates[SCID << 1 | direction], channels_only())
        assert isinstance(found, Pending)
        assert found.signer == signer


def test_an_update_that_is_not_newer_is_known() -> None:
    assert outcome(UPDATE, full()) is Outcome.KNOWN
    assert outcome(newer(UPDATE, -1), full()) is Outcome.KNOWN


def test_an_update_of_a_channel_that_is_looked_up_comes_later() -> None:
    assert outcome(UPDATE, is_awaited=lambda scid: scid == SCID) is Outcome.LATER


def test_an_update_of_no_channel_is_refused() -> None:
    assert outcome(UPDATE) is Outcome.REFUSED


def test_an_update_may_not_promise_more_than_the_channel_holds() -> None:
    capacity_msat = NETWORK.capacities_sat[SCID] * 1_000
    at = len(UPDATE) - 8
    assert isinstance(look(changed(newer(UPDATE), at, pack(">Q", capacity_msat)), full()), Pending)
    assert outcome(changed(newer(UPDATE), at, pack(">Q", capacity_msat + 1)), full()) is (
        Outcome.REFUSED
    )


def test_a_spent_channel_can_only_be_disabled() -> None:
    table = channels_only(spent_height=HEIGHT)
    enabled = changed(UPDATE, 111, bytes([0]))
    assert outcome(enabled, table) is Outcome.REFUSED
    assert isinstance(look(changed(enabled, 111, bytes([2])), table), Pending)


def test_a_stale_update_and_one_of_the_far_future_are_refused() -> None:
    assert outcome(UPDATE, channels_only(), unix_s=NOW + STALE_S + 1) is Outcome.REFUSED
    assert outcome(UPDATE, channels_only(), unix_s=NOW - 10 * 86_400) is Outcome.REFUSED


# --- nodes ----------------------------------------------------------------------------------------


def test_a_node_without_a_channel_is_refused() -> None:
    assert outcome(NODE) is Outcome.REFUSED


def test_a_node_that_is_not_newer_is_known() -> None:
    assert outcome(NODE, full()) is Outcome.KNOWN
    assert isinstance(look(NODE, channels_only()), Pending)


V4 = b"\x01" + bytes(6)
V6 = b"\x02" + bytes(18)
TOR = b"\x04" + bytes(37)
NAME = b"\x05\x03abc" + bytes(2)


@pytest.mark.parametrize(
    ("addresses", "is_fine"),
    [
        (b"", True),
        (V4 + V6 + TOR + NAME, True),
        (NAME + NAME, False),
        (V4[:-1], False),
        (NAME[:-1], False),
        (b"\x05", False),
        (V4 + b"\x63 of a later time", True),
    ],
    ids=["none", "all", "two names", "short", "short name", "a name of nothing", "unknown"],
)
def test_addresses_must_fit_and_have_one_name_at_most(addresses: bytes, is_fine: bool) -> None:
    found = look(named(NODE, addresses), full())
    assert isinstance(found, Pending) is is_fine


def test_a_node_may_not_be_endless() -> None:
    assert outcome(named(NODE, b"\x63" + bytes(4_000)), full()) is Outcome.REFUSED


# --- ours -----------------------------------------------------------------------------------------


def test_what_we_say_of_ourselves_nobody_else_replaces() -> None:
    own = {SCID << 1, NODE_ID}
    assert outcome(newer(UPDATE), full(), is_own=own.__contains__) is Outcome.REFUSED
    assert outcome(named(NODE, b""), full(), is_own=own.__contains__) is Outcome.REFUSED
    peers = newer(NETWORK.updates[SCID << 1 | 1])
    assert isinstance(look(peers, full(), is_own=own.__contains__), Pending)


def test_the_echo_of_what_we_say_is_known() -> None:
    own = {SCID << 1, NODE_ID}
    assert outcome(UPDATE, full(), is_own=own.__contains__) is Outcome.KNOWN
    assert outcome(NODE, full(), is_own=own.__contains__) is Outcome.KNOWN


# --- changes --------------------------------------------------------------------------------------


def test_an_accepted_announcement_is_the_change_of_its_key() -> None:
    funding = Funding(b"\x05" * 32, 1_234, b"")
    channel = change_of(Pending(CHANNEL, channel_view(CHANNEL), b""), funding)
    assert channel == (Kind.CHANNEL, SCID, ChannelRecord(CHANNEL, 1_234, 0, b"\x05" * 32))
    update = change_of(Pending(UPDATE, update_view(UPDATE), b""))
    assert update == (Kind.UPDATE, SCID << 1, UPDATE)
    node = change_of(Pending(NODE, node_view(NODE), b""))
    assert node == (Kind.NODE, NODE_ID, NODE)


def test_a_channel_without_its_output_is_a_bug() -> None:
    with pytest.raises(ValueError, match="funding output"):
        change_of(Pending(CHANNEL, channel_view(CHANNEL), b""))
