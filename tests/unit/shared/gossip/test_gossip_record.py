"""Raw announcements are read by place, as the wire models read them; GRAPH's values round-trip."""

import pytest
from hypothesis import given, strategies as st

from shared.errors import FabricError, MalformedMessage
from shared.fabric.gossip import Submission, decode_submission, encode_submission
from shared.gossip.record import (
    GONE,
    Change,
    ChannelRecord,
    Kind,
    change_payload,
    change_subject,
    parse_change,
)
from shared.gossip.rules import Rejection, check
from shared.gossip.signed import digest
from shared.gossip.view import node_timestamp, update_timestamp, view
from shared.wire import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement, encode
from shared.wire.message import signature_hash

POINT = b"\x02" + bytes(31) + b"\x01"
OTHER = b"\x03" + bytes(31) + b"\x02"
CHAIN = bytes(range(32))
blobs = st.binary(max_size=40)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


def channel(scid: int = 7, features: bytes = b"", extension: bytes = b"") -> ChannelAnnouncement:
    return ChannelAnnouncement(
        node_signature_1=b"\x01" * 64,
        node_signature_2=b"\x02" * 64,
        bitcoin_signature_1=b"\x03" * 64,
        bitcoin_signature_2=b"\x04" * 64,
        features=features,
        chain_hash=CHAIN,
        short_channel_id=scid,
        node_id_1=POINT,
        node_id_2=OTHER,
        bitcoin_key_1=OTHER,
        bitcoin_key_2=POINT,
        extension=extension,
    )


def update(scid: int = 7, **fields: object) -> ChannelUpdate:
    given_: dict[str, object] = {
        "signature": b"\x01" * 64,
        "chain_hash": CHAIN,
        "short_channel_id": scid,
        "timestamp": 1_000,
        "message_flags": 1,
        "channel_flags": 0,
        "cltv_expiry_delta": 144,
        "htlc_minimum_msat": 1,
        "fee_base_msat": 2,
        "fee_proportional_millionths": 3,
        "htlc_maximum_msat": 4,
    }
    return ChannelUpdate(**(given_ | fields))


def node(timestamp: int = 5, features: bytes = b"", addresses: bytes = b"") -> NodeAnnouncement:
    return NodeAnnouncement(
        signature=b"\x01" * 64,
        features=features,
        timestamp=timestamp,
        node_id=POINT,
        rgb_color=b"abc",
        alias=b"x" * 32,
        addresses=addresses,
    )


@given(u64, blobs, blobs)
def test_a_channel_announcement_is_read_as_the_model_reads_it(
    scid: int, features: bytes, extension: bytes
) -> None:
    model = channel(scid, features, extension)
    read = view(encode(model))
    assert read == tuple(getattr(model, name) for name in read._fields)
    assert digest(encode(model)) == signature_hash(model)


@given(u64, u32, st.integers(0, 255), st.integers(0, 255), blobs)
def test_a_channel_update_is_read_as_the_model_reads_it(
    scid: int, timestamp: int, flags: int, channel_flags: int, extension: bytes
) -> None:
    model = update(
        scid,
        timestamp=timestamp,
        message_flags=flags,
        channel_flags=channel_flags,
        extension=extension,
    )
    read = view(encode(model))
    assert read == tuple(getattr(model, name) for name in read._fields)
    assert update_timestamp(encode(model)) == timestamp
    assert digest(encode(model)) == signature_hash(model)


@given(u32, blobs, blobs)
def test_a_node_announcement_is_read_as_the_model_reads_it(
    timestamp: int, features: bytes, addresses: bytes
) -> None:
    model = node(timestamp, features, addresses)
    read = view(encode(model))
    assert read == tuple(getattr(model, name) for name in read._fields)
    assert node_timestamp(encode(model)) == timestamp
    assert digest(encode(model)) == signature_hash(model)


@pytest.mark.parametrize("message", [channel(features=b"ab"), update(), node(addresses=b"12345")])
def test_an_announcement_cut_anywhere_is_malformed(
    message: ChannelAnnouncement | ChannelUpdate | NodeAnnouncement,
) -> None:
    raw = encode(message)
    for size in range(len(raw)):
        with pytest.raises(MalformedMessage):
            view(raw[:size])


CHANGES = [
    Change(Kind.CHANNEL, 7, ChannelRecord(encode(channel(7)), 21_000_000, 144, bytes(32))),
    Change(Kind.UPDATE, 7 << 1 | 1, encode(update(7, channel_flags=1))),
    Change(Kind.NODE, POINT, encode(node())),
    Change(Kind.CHANNEL, 7, None),
    Change(Kind.UPDATE, 7 << 1, None),
    Change(Kind.NODE, POINT, None),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_value_of_the_table_comes_back_as_it_was_written(change: Change) -> None:
    assert parse_change(change_subject(change), change_payload(change)) == change


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        (change_subject(CHANGES[0]._replace(key=8)), change_payload(CHANGES[0])),
        (change_subject(CHANGES[1]._replace(key=7 << 1)), change_payload(CHANGES[1])),
        (change_subject(CHANGES[2]._replace(key=OTHER)), change_payload(CHANGES[2])),
        (change_subject(CHANGES[0]), b"\x02" + change_payload(CHANGES[0])[1:]),
        (change_subject(CHANGES[1]), b"\x02" + change_payload(CHANGES[1])[1:]),
        (change_subject(CHANGES[0]), b"\x01"),
        (change_subject(CHANGES[1]), b"\x01\x01"),
        ("ln.graph.self", b"{}"),
        ("ln.graph.channel.x", b""),
        ("ln.graph.node.02", b""),
        ("ln.other.channel.7", b""),
        *((change_subject(change), b"") for change in CHANGES),
        *((change_subject(change), b'{"type":"an answer of the broker"}') for change in CHANGES),
        ("ln.graph.channel.7", change_payload(Change(Kind.CHANNEL, 8, None))),
        ("ln.graph.update.7.0", change_payload(Change(Kind.UPDATE, 15, None))),
        (f"ln.graph.node.{OTHER.hex()}", change_payload(Change(Kind.NODE, POINT, None))),
        ("ln.graph.channel.07", GONE + b"ln.graph.channel.07"),
        ("ln.graph.update.7.2", GONE + b"ln.graph.update.7.2"),
        ("ln.graph.node.02" + "AB" * 32, GONE + b"ln.graph.node.02" + b"AB" * 32),
    ],
)
def test_a_value_that_is_not_of_its_subject_is_refused(subject: str, payload: bytes) -> None:
    with pytest.raises(FabricError):
        parse_change(subject, payload)


@given(st.integers(0, 2**53 - 1), st.lists(st.binary(max_size=500), min_size=1, max_size=100))
def test_a_submission_comes_back_as_it_was_sent(first_id: int, items: list[bytes]) -> None:
    payload = encode_submission("front-1", first_id, items)
    assert decode_submission(payload) == Submission("front-1", first_id, tuple(items))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        encode_submission("front-1", 1, []),
        encode_submission("front-1", 1, [b"abc"])[:-1],
        encode_submission("front-1", 1 << 53, [b"abc"]),
        encode_submission("front-1", 1, [b"x"] * 101),
        encode_submission("a.b", 1, [b"abc"]),
        b"\x02" + encode_submission("front-1", 1, [b"abc"])[1:],
    ],
)
def test_a_malformed_submission_is_refused(payload: bytes) -> None:
    with pytest.raises(FabricError):
        decode_submission(payload)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (channel(), None),
        (channel().model_copy(update={"chain_hash": bytes(32)}), Rejection.CHAIN),
        (channel().model_copy(update={"node_id_2": POINT}), Rejection.NODE_ORDER),
        (channel().model_copy(update={"bitcoin_key_1": b"\x04" * 33}), Rejection.POINT),
        (update(timestamp=10_000_000), None),
        (update(timestamp=10_000_000, chain_hash=bytes(32)), Rejection.CHAIN),
        (update(timestamp=10_000_000, message_flags=3), Rejection.PRIVATE),
        (update(timestamp=10_000_000, message_flags=0), Rejection.NO_HTLC_MAXIMUM),
        (update(timestamp=10_000_000, htlc_maximum_msat=0), Rejection.HTLC_MAXIMUM),
        (update(timestamp=10_000_000 - 1_209_601), Rejection.STALE),
        (update(timestamp=10_000_000 + 86_401), Rejection.FUTURE),
        (node(timestamp=0), None),
        (node(timestamp=10_000_000 + 86_401), Rejection.FUTURE),
        (node().model_copy(update={"node_id": b"\x00" * 33}), Rejection.POINT),
    ],
)
def test_what_an_announcement_says_by_itself_is_checked(
    message: ChannelAnnouncement | ChannelUpdate | NodeAnnouncement, expected: Rejection | None
) -> None:
    assert check(view(encode(message)), CHAIN, 10_000_000) is expected
