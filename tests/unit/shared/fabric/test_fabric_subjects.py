"""Subjects: one spelling, and no value can widen one."""

import pytest
from hypothesis import given, strategies as st

from shared.errors import FabricError
from shared.fabric import subjects

PEER = b"\x03" + b"\xab" * 32
CHANNEL = b"\x9f" * 32


def test_an_inbound_subject_reads_as_documented() -> None:
    assert subjects.inbound(PEER, CHANNEL, "update_add_htlc") == (
        f"ln.in.{subjects.shard(PEER)}.03{'ab' * 32}.{'9f' * 32}.update_add_htlc"
    )


def test_a_message_without_a_channel_has_a_dash() -> None:
    assert subjects.outbound("f-1", PEER, None, "warning") == f"ln.out.f-1.03{'ab' * 32}.-.warning"


@pytest.mark.parametrize(
    ("token", "digest"),
    # Published FNV-1a test vectors.
    [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)],
)
def test_the_hash_is_fnv_1a(token: bytes, digest: int) -> None:
    value = subjects._FNV_OFFSET
    for byte in token:
        value = ((value ^ byte) * subjects._FNV_PRIME) & 0xFFFFFFFF
    assert value == digest


def test_a_shard_is_that_of_the_hex_token_as_the_server_computes_it() -> None:
    token, value = PEER.hex(), 0x811C9DC5
    for character in token:
        value = ((value ^ ord(character)) * 0x01000193) % 2**32
    assert subjects.shard(PEER) == value % 64


def test_peers_spread_over_all_shards() -> None:
    found = {subjects.shard(b"\x02" + n.to_bytes(32, "big")) for n in range(1000)}
    assert found == set(range(64))


@given(
    st.sampled_from([2, 3]),
    st.binary(min_size=32, max_size=32),
    st.one_of(st.none(), st.binary(min_size=32, max_size=32)),
    st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
)
def test_what_is_built_is_read_back(first, rest, channel, name, front) -> None:
    peer = bytes([first]) + rest
    parsed = subjects.parse_inbound(subjects.inbound(peer, channel, name))
    assert parsed == subjects.Inbound(subjects.shard(peer), peer, channel, name)
    out = subjects.parse_outbound(subjects.outbound(front, peer, channel, name))
    assert out == subjects.Outbound(front, peer, channel, name)


@given(st.text(max_size=80))
def test_no_text_becomes_a_front_unless_it_is_a_token(text: str) -> None:
    try:
        subject = subjects.front_outbound(text)
    except ValueError:
        return
    assert subject.count(".") == 3
    assert not set(text) & set(".*> \r\n\t")


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "Ack", "a b", "a\n", "1a", "a" * 65])
def test_a_name_cannot_widen_a_subject(name: str) -> None:
    with pytest.raises(ValueError, match="not a message name"):
        subjects.inbound(PEER, None, name)


@pytest.mark.parametrize("peer", [b"", PEER[:-1], b"\x04" + PEER[1:], PEER + b"\x00"])
def test_only_node_ids_become_peers(peer: bytes) -> None:
    with pytest.raises(ValueError, match="node id"):
        subjects.inbound(peer, None, "ping")


def test_only_32_bytes_become_a_channel() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        subjects.outbound("f", PEER, b"\x01" * 31, "shutdown")


@pytest.mark.parametrize("build", [subjects.hello, subjects.open_session, subjects.shard_inbound])
@pytest.mark.parametrize("number", [-1, 64])
def test_only_64_shards_exist(build, number: int) -> None:
    with pytest.raises(ValueError, match="shard"):
        build(number)


GOOD = subjects.inbound(PEER, CHANNEL, "shutdown")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "ln.in",
        GOOD + ".x",
        GOOD.replace("ln.in", "ln.out"),
        GOOD.replace(f".{subjects.shard(PEER)}.", f".0{subjects.shard(PEER)}."),
        GOOD.replace("abab", "ABAB", 1),
        GOOD.replace(CHANNEL.hex(), "9f"),
        GOOD.replace("shutdown", "SHUTDOWN"),
        GOOD + "\n",
        "ln.in.64." + GOOD.split(".", 3)[3],
    ],
)
def test_a_subject_that_we_would_not_write_is_refused(subject: str) -> None:
    with pytest.raises(FabricError):
        subjects.parse_inbound(subject)


def test_a_message_on_a_shard_that_is_not_the_peers_is_refused() -> None:
    wrong = (subjects.shard(PEER) + 1) % 64
    with pytest.raises(FabricError, match="that of the peer"):
        subjects.parse_inbound(GOOD.replace(f".{subjects.shard(PEER)}.", f".{wrong}.", 1))


def test_other_subjects_read_as_documented() -> None:
    assert [
        subjects.open_session(7),
        subjects.resume_session(7),
        subjects.hello(0),
        subjects.alive("f1"),
        subjects.onion(63),
        subjects.gossip("channel_update"),
        subjects.verdict("f1"),
        subjects.graph_channel(592400107018944513),
        subjects.graph_update(1, 0),
        subjects.graph_node(PEER),
        subjects.event("payment_sent"),
        subjects.shard_inbound(17),
        subjects.front_outbound("f1"),
        subjects.back_group(5),
        subjects.parse_last_token("ln.alive.f1"),
    ] == [
        "ln.session.7.open",
        "ln.session.7.resume",
        "ln.hello.0",
        "ln.alive.f1",
        "ln.onion.63",
        "ln.gossip.channel_update",
        "ln.verdict.f1",
        "ln.graph.channel.592400107018944513",
        "ln.graph.update.1.0",
        f"ln.graph.node.{PEER.hex()}",
        "ln.event.payment_sent",
        "ln.in.17.>",
        "ln.out.f1.>",
        "back.5",
        "f1",
    ]


@pytest.mark.parametrize(("scid", "direction"), [(-1, 0), (1 << 64, 0), (1, 2)])
def test_an_update_has_a_channel_and_one_of_two_directions(scid: int, direction: int) -> None:
    with pytest.raises(ValueError, match=r"short channel id|direction"):
        subjects.graph_update(scid, direction)
