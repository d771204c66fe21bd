"""What each hop of a payment reads, and our own channels as its beginning."""

from types import SimpleNamespace
from typing import Any

import pytest
from support.channels import opened, secret

from back.channel.model import Link
from back.payment.exits import Exits
from back.payment.given import hops_of_channels
from back.payment.recipient import (
    STAND_IN,
    BlindedPayPath,
    BlindedRecipient,
    ClearRecipient,
    Recipient,
)
from back.payment.route import Hop, LocalChannel, Route
from back.payment.send import Candidate, Order, local_channel, payment_onion
from shared.crypto import sphinx
from shared.crypto.blinding import blind, opened as unsealed
from shared.crypto.payload import Payload, decode_payload
from shared.crypto.signature import public_key
from shared.errors import CommandError

HASH, TOTAL = secret("hash"), 5_000_000
KEYS = [secret("node", number) for number in range(5)]
NODES = [public_key(key) for key in KEYS]
TERMS = [(0, 0, 0), (1_000, 100, 40), (2_000, 200, 50)]
HEIGHT, SHADOW = 800, 2


def onion_of(recipient: Recipient, hops: list[Hop], amount_msat: int) -> Any:
    order = Order(recipient, HASH, TOTAL, 1 << 40)
    route = Route(amount_msat, tuple(hops))
    return payment_onion(
        order, route, height=HEIGHT, session_key=secret("session"), shadow_blocks=SHADOW
    )


def peeled(packet: bytes, keys: list[bytes], path_keys: dict[int, bytes] | None = None) -> Any:
    """What each node reads, in order; the last one finds that it is the last."""
    read: list[Payload] = []
    for place, key in enumerate(keys):
        layer = sphinx.peel(key, packet, HASH, (path_keys or {}).get(place))
        read.append(decode_payload(layer.payload))
        assert layer.is_final == (place == len(keys) - 1)
        packet = layer.next_packet or b""
    return read


def line(count: int) -> list[Hop]:
    return [Hop(NODES[n], NODES[n + 1], 101 + n, *TERMS[n]) for n in range(count)]


def test_hops_read_where_to_and_the_payee_what_it_asked_for() -> None:
    recipient = ClearRecipient(NODES[3], secret("secret"), 18, payment_metadata=b"\x01\x02")
    onion = onion_of(recipient, line(3), 1_000_000)
    first, second, last = peeled(onion.packet, KEYS[1:4])
    final_expiry = HEIGHT + 18 + SHADOW
    fee_of_2 = 2_000 + 200
    assert (first.short_channel_id, second.short_channel_id) == (102, 103)
    assert (second.amt_to_forward, second.outgoing_cltv_value) == (1_000_000, final_expiry)
    assert first.amt_to_forward == 1_000_000 + fee_of_2
    assert first.outgoing_cltv_value == final_expiry + 50
    assert (last.amt_to_forward, last.outgoing_cltv_value) == (1_000_000, final_expiry)
    assert last.payment_data is not None
    assert last.payment_data.payment_secret == secret("secret")
    assert last.payment_data.total_msat == TOTAL, "this is one part of several"
    assert (last.payment_metadata, last.keysend_preimage) == (b"\x01\x02", None)
    assert last.short_channel_id is None
    assert onion.cltv_expiry == final_expiry + 90
    assert onion.amount_msat == 1_000_000 + onion.fees_msat
    for payload in (first, second):
        assert payload.payment_data is None
        assert payload.payment_metadata is None


def test_keysend_brings_the_preimage_to_the_payee_alone() -> None:
    recipient = ClearRecipient(NODES[2], None, 42, keysend_preimage=secret("preimage"))
    first, last = peeled(onion_of(recipient, line(2), 7_000).packet, KEYS[1:3])
    assert first.keysend_preimage is None
    assert last.keysend_preimage == secret("preimage")
    assert last.payment_data is None
    assert "preimage" not in repr(recipient)


@pytest.mark.parametrize("length", [1, 3])
def test_a_blinded_path_is_read_by_each_of_its_hops(length: int) -> None:
    start = 2
    ids = [(NODES[start + n], b"data %d" % n) for n in range(length)]
    path = blind(secret("path"), ids)
    pay = BlindedPayPath(path, NODES[start], 500, 10, 60, 1, 10**9)
    unused = BlindedPayPath(blind(secret("other"), ids), NODES[start], 0, 0, 0, 1, 10**9)
    recipient = BlindedRecipient(NODES[4], (unused, pay))
    hops = [*line(2), recipient.extra[1].hop]
    onion = onion_of(recipient, hops, 1_000_000)
    # Hops of a path read with their own key, once they have blinded it with the path key.
    path_keys, path_key = {}, path.first_path_key
    for place in range(length):
        path_keys[1 + place] = path_key
        sealed = path.path[place].encrypted_recipient_data
        read = unsealed(KEYS[start + place], path_key, sealed)
        assert read.plaintext == b"data %d" % place
        path_key = read.next_path_key
    keys = [KEYS[1], *KEYS[start : start + length]]
    first, *inside = peeled(onion.packet, keys, {k: v for k, v in path_keys.items() if k > 1})
    assert first.short_channel_id == 102
    carried = 1_000_000 + 500 + 10
    assert first.amt_to_forward == carried
    assert first.outgoing_cltv_value == HEIGHT + SHADOW + 60
    for place, payload in enumerate(inside):
        is_last = place == length - 1
        assert payload.encrypted_recipient_data == path.path[place].encrypted_recipient_data
        assert payload.current_path_key == (path.first_path_key if place == 0 else None)
        assert payload.amt_to_forward == (1_000_000 if is_last else None)
        assert payload.total_amount_msat == (TOTAL if is_last else None)
        assert payload.outgoing_cltv_value == (HEIGHT + SHADOW if is_last else None)
        assert payload.short_channel_id is None
        assert payload.payment_data is None


def test_a_way_that_ends_elsewhere_is_not_taken() -> None:
    recipient = ClearRecipient(NODES[3], secret("secret"), 18)
    for wrong in (line(2), [Hop(NODES[0], STAND_IN, 1)]):
        with pytest.raises(CommandError, match="payee"):
            onion_of(recipient, wrong, 1_000)
    with pytest.raises(CommandError, match="payee"):
        onion_of(recipient, line(3), 0)


def test_a_way_that_locks_the_money_for_too_long_is_not_taken() -> None:
    slow = [*line(2), Hop(NODES[2], NODES[3], 103, 0, 0, 2_000)]
    with pytest.raises(CommandError, match="too long"):
        onion_of(ClearRecipient(NODES[3], secret("secret"), 18), slow, 1_000)


# --- our own channels -----------------------------------------------------------------------------


def test_a_channel_shows_what_it_can_still_send() -> None:
    channel = opened()[0]
    whole = local_channel(Candidate(channel), is_exact=True)
    assert whole.next_node_id == channel.parameters.node_id
    assert local_channel(Candidate(channel, 5_000, 1), is_exact=True) == whole._replace(
        can_send_msat=whole.can_send_msat - 5_000
    )
    assert local_channel(Candidate(channel, 10**12, 1), is_exact=True).can_send_msat == 0
    estimate = local_channel(Candidate(channel), is_exact=False).can_send_msat
    assert estimate >= whole.can_send_msat


def exits_with(*changes: dict[str, Any]) -> Exits:
    runners = {}
    for number, each in enumerate(changes):
        channel = opened()[0]
        for name, value in each.items():
            object.__setattr__(channel, name, value)
        object.__setattr__(channel, "local_alias", 900 + number)
        object.__setattr__(channel, "funding", None)
        object.__setattr__(channel.parameters, "key_index", number)
        runners[bytes([number])] = SimpleNamespace(channel=channel, is_stopped=False)
    peer = SimpleNamespace(runners=runners)
    by_key = {runner.channel.parameters.key_index: runner for runner in runners.values()}
    return Exits(
        SimpleNamespace(  # type: ignore[arg-type]
            runners=runners,
            by_key_index=by_key.get,
            peers=SimpleNamespace(known={runners[b"\x00"].channel.parameters.node_id: peer}),
        )
    )


def test_exits_leave_out_what_is_offline_or_was_tried() -> None:
    exits = exits_with({}, {"link": Link.OFFLINE}, {})
    assert [channel.short_channel_id for channel in exits.local()] == [900, 902]
    assert [channel.short_channel_id for channel in exits.local({(900, b"")})] == [902]
    runner = exits.runner(902)
    assert runner is not None
    assert runner.channel.local_alias == 902
    assert exits.runner(5) is None
    node_id = runner.channel.parameters.node_id
    found = exits.direct(node_id, 1_000, {(900, b"")})
    assert found is not None
    assert found.hop(NODES[0]) == Hop(NODES[0], node_id, 902)
    assert exits.direct(NODES[4], 1_000, ()) is None
    assert exits.direct(node_id, 10**12, ()) is None


def test_what_is_on_its_way_is_reserved_until_it_is_there() -> None:
    exits = exits_with({})
    most = exits.local()[0].can_send_msat
    exits.reserve(0, 2 * most, 1)
    assert exits.local() == ()
    assert exits.is_room_coming(1_000), "what is on its way may come back"
    assert not exits.is_room_coming(10**12)
    exits.reserve(0, -2 * most, -1)
    assert exits.local()[0].can_send_msat == most
    assert not exits.is_room_coming(1_000), "there is room now"
    assert not exits._reserved


def test_room_that_comes_in_one_channel_is_waited_for_whatever_others_have() -> None:
    exits = exits_with({}, {})
    one, other = (runner.channel for runner in exits._channels.runners.values())
    object.__setattr__(other.parameters, "node_id", NODES[4])
    most = exits.local()[0].can_send_msat
    amount = most // 2
    exits.reserve(0, most, 1)
    assert exits.is_room_coming(amount), "the other may not lead to the payee"
    assert exits.is_room_coming(amount, one.parameters.node_id)
    assert exits.is_room_coming(amount, NODES[3]), "a payee that is no peer"
    exits.reserve(0, -most, -1)
    assert not exits.is_room_coming(amount, one.parameters.node_id)
    assert not exits.is_room_coming(3 * most)


# --- given routes ---------------------------------------------------------------------------------


def test_a_given_route_begins_with_a_channel_of_ours_and_goes_on_from_there() -> None:
    class NoChannels:
        def channel(self, name: int) -> None:
            del name

    local = [LocalChannel(7, NODES[1], 1_000_000)]
    table: Any = NoChannels()
    assert hops_of_channels([7], NODES[0], local, table) == [Hop(NODES[0], NODES[1], 7)]
    for names, why in (([], "empty"), ([8], "no channel of ours"), ([7, 8], "is known")):
        with pytest.raises(CommandError, match=why):
            hops_of_channels(names, NODES[0], local, table)
