"""Blinded paths of any length: each node opens its part and no other, and a payment adds up."""

import pytest
from hypothesis import given, settings, strategies as st
from support.onion_peer import Keys

from shared.crypto import blinding, onion_message, sphinx
from shared.crypto.failures import INVALID_ONION_BLINDING
from shared.crypto.onion_message import Delivered, Forwarded
from shared.crypto.recipient_data import (
    PaymentRelay,
    RecipientData,
    encode_padded,
    open_recipient_data,
    payinfo,
)
from shared.errors import InvalidOnion
from shared.wire import BlindedPath, OnionMessage, encode
from shared.wire.codec import Reader
from shared.wire.record import Nested, decode_stream

secrets_ = st.integers(1, 1 << 255).map(lambda number: number.to_bytes(32, "big"))
nodes = st.lists(st.integers(1, 1 << 64), min_size=1, max_size=6, unique=True).map(
    lambda numbers: [Keys(number.to_bytes(32, "big")) for number in numbers]
)
relays = st.builds(
    PaymentRelay,
    cltv_expiry_delta=st.integers(0, 2_016),
    fee_proportional_millionths=st.integers(0, 200_000),
    fee_base_msat=st.integers(0, 1_000_000),
)


@given(secrets_, nodes, st.lists(st.binary(max_size=300), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_each_node_opens_its_own_part_and_makes_the_key_of_the_next(
    session_key: bytes, hops: list[Keys], plaintexts: list[bytes]
) -> None:
    path = blinding.blind(
        session_key, [(hop.node_id, text) for hop, text in zip(hops, plaintexts, strict=False)]
    )
    assert path.first_node_id == hops[0].node_id
    path_key = path.first_path_key
    for number, (hop, part) in enumerate(zip(hops, path.path, strict=True)):
        sealed = part.encrypted_recipient_data
        assert len(sealed) == len(plaintexts[number]) + blinding.TAG_BYTES
        opened = blinding.opened(hop.private, path_key, sealed)
        assert opened.plaintext == plaintexts[number]
        with pytest.raises(InvalidOnion) as refused:
            blinding.opened(bytes(31) + b"\x07", opened.next_path_key, sealed)
        assert refused.value.code == INVALID_ONION_BLINDING
        path_key = opened.next_path_key


@given(secrets_, nodes)
@settings(max_examples=15, deadline=None)
def test_a_path_is_read_from_what_is_written(session_key: bytes, hops: list[Keys]) -> None:
    path = onion_message.path_through(session_key, [hop.node_id for hop in hops], b"id")
    codec = Nested(BlindedPath)
    reader = Reader(codec.write(path))
    assert BlindedPath.model_validate(codec.read(reader)) == path
    assert reader.left == 0


@given(
    st.lists(
        st.builds(
            RecipientData,
            short_channel_id=st.none() | st.integers(0, (1 << 64) - 1),
            path_id=st.none() | st.binary(max_size=600),
            unknown_tlvs=st.dictionaries(st.sampled_from([3, 561]), st.binary(max_size=20)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 700),
)
@settings(max_examples=100, deadline=None)
def test_padding_makes_all_equally_long_and_changes_nothing_else(
    hops: list[RecipientData], size: int
) -> None:
    padded = encode_padded(hops, size)
    assert len({len(stream) for stream in padded}) == 1
    assert len(padded[0]) >= size
    for hop, stream in zip(hops, padded, strict=True):
        read = decode_stream(RecipientData, stream)
        assert read.model_copy(update={"padding": None}) == hop


@given(
    nodes.filter(lambda hops: len(hops) > 1),
    secrets_,
    st.dictionaries(
        st.sampled_from([1, 5, 64, 65, 1001]), st.binary(max_size=200), max_size=2
    ).filter(lambda contents: sum(number >= 64 for number in contents) <= 1),
    st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_a_message_passes_every_node_and_says_at_the_end_what_was_said(
    hops: list[Keys], key: bytes, contents: dict[int, bytes], wants_answer: bool
) -> None:
    contents = {number: value for number, value in contents.items() if number != 65}
    path = onion_message.path_through(key, [hop.node_id for hop in hops], b"word")
    back = onion_message.path_through(key, [hop.node_id for hop in reversed(hops)], b"back")
    message = onion_message.build(key, path, contents, back if wants_answer else None)
    size = len(message.onion_message_packet)
    assert size in {1366, 32834}
    for hop, following in zip(hops, [*hops[1:], None], strict=True):
        step = onion_message.unwrap(message, hop)
        if following is None:
            assert isinstance(step, Delivered)
            assert dict(step.contents) == contents
            assert step.path_id == b"word"
            assert step.reply_path == (back if wants_answer else None)
            return
        assert isinstance(step, Forwarded)
        assert step.next_node_id == following.node_id
        message = step.message
        assert len(message.onion_message_packet) == size


@given(nodes, secrets_, st.data())
@settings(max_examples=60, deadline=None)
def test_a_message_with_any_bit_flipped_is_ignored(
    hops: list[Keys], key: bytes, data: st.DataObject
) -> None:
    path = onion_message.path_through(key, [hop.node_id for hop in hops])
    message = onion_message.build(key, path, {1001: b"hello"})
    raw = bytearray(message.path_key + message.onion_message_packet)
    # The first byte of a point that is no 02 or 03 does not even decode.
    at = data.draw(st.integers(1, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = OnionMessage(path_key=bytes(raw[:33]), onion_message_packet=bytes(raw[33:]))
    with pytest.raises(InvalidOnion):
        onion_message.unwrap(changed, hops[0])


@given(secrets_, st.binary(max_size=3_000))
@settings(max_examples=60, deadline=None)
def test_garbage_of_any_size_is_ignored(key: bytes, garbage: bytes) -> None:
    node = Keys()
    message = OnionMessage(path_key=Keys(key).node_id, onion_message_packet=garbage)
    with pytest.raises(InvalidOnion):
        onion_message.unwrap(message, node)
    assert len(encode(message)) == 2 + 33 + 2 + len(garbage)


def after_relays(amount_msat: int, hops: list[PaymentRelay]) -> int:
    for relay in hops:
        amount_msat = relay.amt_to_forward_msat(amount_msat)
    return amount_msat


@given(st.lists(relays, max_size=6), st.integers(1, 10**12), st.integers(0, 300))
@settings(max_examples=300, deadline=None)
def test_who_pays_by_payinfo_pays_at_least_what_all_hops_take(
    hops: list[PaymentRelay], amount_msat: int, final: int
) -> None:
    costs = payinfo(
        hops, min_final_cltv_expiry_delta=final, htlc_minimum_msat=1, htlc_maximum_msat=10**15
    )
    fee = costs.fee_base_msat + costs.fee_proportional_millionths * amount_msat // 1_000_000
    arrives = after_relays(amount_msat + fee, hops)
    assert arrives >= amount_msat
    # Rounding is all that is paid too much: at most one millionth and two msat for each hop.
    slack = len(hops) * (2 + (amount_msat + fee) // 1_000_000)
    assert arrives - amount_msat <= slack
    assert costs.cltv_expiry_delta == final + sum(hop.cltv_expiry_delta for hop in hops)


def test_a_hop_that_is_told_what_it_does_not_know_refuses() -> None:
    node = Keys()
    for text in (bytes.fromhex("0a00"), bytes.fromhex("1000"), b"\xff"):
        path = blinding.blind(b"\x01" * 32, [(node.node_id, text)])
        sealed = path.path[0].encrypted_recipient_data
        with pytest.raises(InvalidOnion) as refused:
            open_recipient_data(node.private, path.first_path_key, sealed)
        assert refused.value.code == INVALID_ONION_BLINDING


def test_a_payload_that_breaks_a_rule_is_ignored() -> None:
    node, other = Keys(), Keys()
    key = b"\x02" * 32

    def sent(data: RecipientData, *, is_last: bool, payload: bytes = b"") -> OnionMessage:
        told = encode_padded([data])[0]
        path = blinding.blind(key, [(node.node_id, told), (other.node_id, b"")])
        sealed = path.path[0].encrypted_recipient_data
        own = b"\x04" + bytes([len(sealed)]) + sealed + payload
        hops = [sphinx.Hop(path.path[0].blinded_node_id, own)]
        if not is_last:
            hops.append(sphinx.Hop(path.path[1].blinded_node_id, b"\x04\x00"))
        packet = sphinx.build(key, hops, b"").packet
        return OnionMessage(path_key=path.first_path_key, onion_message_packet=packet)

    forwards = RecipientData(next_node_id=other.node_id)
    assert isinstance(onion_message.unwrap(sent(forwards, is_last=False), node), Forwarded)
    assert isinstance(onion_message.unwrap(sent(RecipientData(), is_last=True), node), Delivered)
    broken = [
        sent(RecipientData(), is_last=False),
        sent(forwards, is_last=False, payload=b"\x40\x00"),
        sent(forwards, is_last=False, payload=b"\x41\x00"),
        sent(forwards.model_copy(update={"path_id": b"x"}), is_last=False),
        sent(forwards.model_copy(update={"allowed_features": b"\x02"}), is_last=False),
        sent(RecipientData(allowed_features=b"\x01"), is_last=True),
        sent(RecipientData(), is_last=True, payload=b"\x40\x00\x42\x00"),
        sent(RecipientData(), is_last=True, payload=b"\x40\x00\x43\x00"),
        sent(RecipientData(), is_last=True, payload=b"\x46\x00"),
        sent(RecipientData(), is_last=True, payload=b"\x40"),
    ]
    for message in broken:
        with pytest.raises(InvalidOnion):
            onion_message.unwrap(message, node)
    empty = RecipientData(allowed_features=b"\x00")
    assert isinstance(onion_message.unwrap(sent(empty, is_last=True), node), Delivered)


def test_what_carries_a_message_cannot_be_its_contents_and_too_much_does_not_fit() -> None:
    path = onion_message.path_through(b"\x03" * 32, [Keys().node_id])
    for number in (2, 4):
        with pytest.raises(ValueError, match="carry"):
            onion_message.build(b"\x04" * 32, path, {number: b""})
    with pytest.raises(ValueError, match="fit"):
        onion_message.build(b"\x04" * 32, path, {1: bytes(33_000)})
