"""Signatures of the three announcements: what is right, and everything that is nearly so."""

from hashlib import sha256

import coincurve
import pytest
from support.network import Shape, generate, recently

from shared.errors import MalformedMessage
from shared.gossip.signed import digest, signatures, verify, with_low_s
from shared.gossip.view import channel_view

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
NETWORK = generate(Shape(channels=3, nodes=3), recently(), first_block=3)
CHANNEL = next(iter(NETWORK.channels.values()))
SCID = next(iter(NETWORK.channels))
UPDATES = [NETWORK.updates[SCID << 1 | direction] for direction in (0, 1)]
SIGNERS = list(channel_view(CHANNEL)[2:4])
NODE = next(iter(NETWORK.nodes.values()))
ALL = [(CHANNEL, b""), *zip(UPDATES, SIGNERS, strict=True), (NODE, b"")]
PLACES = {256: (2, 66, 130, 194), 257: (2,), 258: (2,)}
EACH = pytest.mark.parametrize(("raw", "signer"), ALL, ids=("channel", "update", "back", "node"))


def places(raw: bytes) -> tuple[int, ...]:
    return PLACES[int.from_bytes(raw[:2], "big")]


def with_high_s(raw: bytes, place: int) -> bytes:
    """The other signature that the same key could have made: as good to a lenient library."""
    s = ORDER - int.from_bytes(raw[place + 32 : place + 64], "big")
    return raw[: place + 32] + s.to_bytes(32, "big") + raw[place + 64 :]


@EACH
def test_what_a_node_signed_is_right(raw, signer):
    assert verify(raw, signer)
    assert signatures(raw) == len(places(raw))


@EACH
def test_every_signature_and_every_byte_that_is_signed_counts(raw, signer):
    start = places(raw)[-1] + 64
    # not the length of the features, whose change makes the message too short
    checked = (5, *(place + 40 for place in places(raw)), start + 12, start + 30, len(raw) - 1)
    for at in checked:
        wrong = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert not verify(wrong, signer), at


@EACH
def test_bytes_after_the_known_fields_are_signed_too(raw, signer):
    assert not verify(raw + b"\0", signer)


def test_an_announcement_with_fields_of_a_later_version_is_right_if_they_are_signed():
    key = coincurve.PrivateKey(b"\1" * 32)
    body = UPDATES[0][66:] + b"later"
    signature = key.sign_recoverable(sha256(sha256(body).digest()).digest(), hasher=None)[:64]
    assert verify(UPDATES[0][:2] + signature + body, key.public_key.format())


@EACH
def test_a_signature_of_high_s_is_not_right(raw, signer):
    for place in places(raw):
        assert not verify(with_high_s(raw, place), signer)


@EACH
def test_a_signature_of_high_s_can_be_told_from_a_wrong_one(raw, signer):
    twin = raw
    for place in places(raw):
        twin = with_high_s(twin, place)
        assert with_low_s(twin) == raw
    assert with_low_s(raw) == raw
    wrong = twin[:-1] + bytes([twin[-1] ^ 1])
    assert not verify(with_low_s(wrong), signer)


@EACH
@pytest.mark.parametrize("nonsense", [bytes(64), b"\xff" * 64, bytes(63) + b"\1"])
def test_a_signature_that_is_none_is_not_right(raw, signer, nonsense):
    for place in places(raw):
        assert not verify(raw[:place] + nonsense + raw[place + 64 :], signer)


def test_the_four_signatures_cannot_change_places():
    one, other = CHANNEL[2:66], CHANNEL[66:130]
    assert not verify(CHANNEL[:2] + other + one + CHANNEL[130:])


def test_the_other_end_of_a_channel_did_not_sign_the_update():
    assert not verify(UPDATES[0], SIGNERS[1])


@pytest.mark.parametrize(
    "signer", [b"", bytes(33), b"\2" + b"\xff" * 32, b"\4" + SIGNERS[0][1:], SIGNERS[0] + b"\0"]
)
def test_a_key_that_is_none_has_signed_nothing(signer):
    assert not verify(UPDATES[0], signer)


@pytest.mark.parametrize("raw", [b"", b"\1", b"\1\0", b"\1\1" + bytes(64), b"\0\x10" + bytes(400)])
def test_what_is_no_announcement_is_malformed(raw):
    with pytest.raises(MalformedMessage):
        verify(raw, SIGNERS[0])


def test_the_digest_is_the_double_sha256_of_what_follows_the_signatures():
    assert digest(CHANNEL) == sha256(sha256(CHANNEL[258:]).digest()).digest()
    assert digest(NODE) == sha256(sha256(NODE[66:]).digest()).digest()
