"""Onions for any route are peeled hop by hop; errors come back; what is changed is refused."""

import contextlib

import pytest
from hypothesis import example, given, settings, strategies as st

from shared.crypto import sphinx
from shared.crypto.failures import BADONION, CODES, FAILURES, decode_failure, encode_failure
from shared.crypto.payload import Payload, PaymentData, decode_payload, encode_payload
from shared.crypto.signature import public_key
from shared.errors import InvalidOnion

PRIVATES = [bytes([number]) * 32 for number in range(1, 28)]
SESSION_KEY = b"\x77" * 32
HASH = b"\x42" * 32

secrets = st.binary(min_size=32, max_size=32)
bodies = st.binary(min_size=2, max_size=30)
routes = st.integers(1, 20).flatmap(lambda hops: st.lists(bodies, min_size=hops, max_size=hops))


def built(payloads: list[bytes]) -> sphinx.Onion:
    hops = [
        sphinx.Hop(public_key(private), payload)
        for private, payload in zip(PRIVATES, payloads, strict=False)
    ]
    return sphinx.build(SESSION_KEY, hops, HASH)


@settings(max_examples=40, deadline=None)
@given(routes)
@example([b"ab"] * 20)
@example([bytes(1300 - 32 - 3)])
def test_each_hop_of_any_route_gets_its_payload_and_a_packet_of_the_same_size(payloads) -> None:
    onion = built(payloads)
    packet: bytes | None = onion.packet
    for private, payload, secret in zip(PRIVATES, payloads, onion.shared_secrets, strict=False):
        assert packet is not None
        assert len(packet) == 1366
        peeled = sphinx.peel(private, packet, HASH)
        assert (peeled.payload, peeled.shared_secret) == (payload, secret)
        packet = peeled.next_packet
    assert packet is None
    assert len(onion.shared_secrets) == len(payloads)


@settings(max_examples=40, deadline=None)
@given(routes, st.binary(min_size=2, max_size=400), st.data())
def test_an_error_is_read_by_the_payer_wherever_it_was_made(payloads, message, data) -> None:
    onion = built(payloads)
    failing = data.draw(st.integers(0, len(payloads) - 1))
    error = sphinx.create_error(onion.shared_secrets[failing], message)
    assert len(error) == 32 + 2 + 2 + max(256, len(message))
    for secret in reversed(onion.shared_secrets[:failing]):
        error = sphinx.wrap_error(secret, error)
    unwrapped = sphinx.unwrap_error(onion.shared_secrets, error)
    assert unwrapped == sphinx.UnwrappedError(failing, message)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1365), st.integers(1, 255))
def test_any_changed_byte_of_a_packet_is_told_in_the_open(at: int, by: int) -> None:
    packet = bytearray(built([b"payload"] * 3).packet)
    packet[at] ^= by
    with pytest.raises(InvalidOnion) as refused:
        sphinx.peel(PRIVATES[0], bytes(packet), HASH)
    assert refused.value.code & BADONION
    assert refused.value.shared_secret is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 31), st.integers(1, 255))
def test_an_onion_that_is_used_for_another_payment_is_refused(at: int, by: int) -> None:
    other = bytearray(HASH)
    other[at] ^= by
    with pytest.raises(InvalidOnion):
        sphinx.peel(PRIVATES[0], built([b"payload"]).packet, bytes(other))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.none() | st.binary(max_size=33))
@example(b"", None)
@example(bytes(66), None)
@example(bytes(67), None)
def test_garbage_is_refused_and_nothing_else_is_raised(packet: bytes, path_key) -> None:
    with pytest.raises(InvalidOnion):
        sphinx.peel(PRIVATES[0], packet, HASH, path_key)


def sealed(plain: bytes) -> bytes:
    """Return a packet whose only layer decrypts to ``plain``."""
    points, made = sphinx.shared_secrets(SESSION_KEY, [public_key(PRIVATES[0])])
    payloads = sphinx._xor(plain, sphinx._stream(sphinx._key(b"rho", made[0]), len(plain)))
    mac = sphinx.hmac.digest(sphinx._key(b"mu", made[0]), payloads + HASH, "sha256")
    return b"\x00" + points[0] + payloads + mac


@pytest.mark.parametrize(
    "length", [b"\x00", b"\x01", b"\xfd\x00\x02", b"\xfd\x05\x14", b"\xff" * 9]
)
def test_a_hop_that_is_sent_a_senseless_length_can_tell_the_payer(length: bytes) -> None:
    """The layer authenticates, so whatever is wrong inside is answered under its secret."""
    with pytest.raises(InvalidOnion) as refused:
        sphinx.peel(PRIVATES[0], sealed(length.ljust(1300, b"\1")), HASH)
    assert refused.value.code == CODES["invalid_onion_payload"]
    assert refused.value.shared_secret is not None


@pytest.mark.parametrize("payloads", [[], [bytes(1300 - 32 - 2)], [bytes(40)] * 20])
def test_what_does_not_fit_in_a_packet_is_not_built(payloads: list[bytes]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        built(payloads)


@settings(max_examples=40, deadline=None)
@given(st.lists(secrets, max_size=20), st.binary(max_size=400))
def test_an_error_that_nobody_of_the_route_made_is_nobodys(made, packet: bytes) -> None:
    assert sphinx.unwrap_error(made, packet) is None


def test_an_authentic_error_with_a_senseless_frame_still_names_its_hop() -> None:
    secret = b"\x05" * 32
    content = b"\xff\xff" + bytes(256)
    mac = sphinx.hmac.digest(sphinx._key(b"um", secret), content, "sha256")
    packet = sphinx.wrap_error(secret, mac + content)
    assert sphinx.unwrap_error([secret], packet) == sphinx.UnwrappedError(0, b"")
    assert decode_failure(b"").name == "unknown"


# --- what is inside --------------------------------------------------------------------------

payload_values = st.builds(
    Payload,
    amt_to_forward=st.none() | st.integers(0, 2**64 - 1),
    outgoing_cltv_value=st.none() | st.integers(0, 2**32 - 1),
    short_channel_id=st.none() | st.integers(0, 2**64 - 1),
    payment_data=st.none()
    | st.builds(PaymentData, payment_secret=secrets, total_msat=st.integers(0, 2**64 - 1)),
    encrypted_recipient_data=st.none() | st.binary(max_size=80),
    current_path_key=st.none() | st.sampled_from([public_key(p) for p in PRIVATES[:3]]),
    payment_metadata=st.none() | st.binary(max_size=80),
    total_amount_msat=st.none() | st.integers(0, 2**64 - 1),
    keysend_preimage=st.none() | secrets,
    unknown_tlvs=st.dictionaries(st.sampled_from([1, 3, 65537, 2**64 - 1]), st.binary(max_size=9)),
)


@settings(max_examples=100, deadline=None)
@given(payload_values)
def test_any_payload_comes_back_as_it_was_written(payload: Payload) -> None:
    assert decode_payload(encode_payload(payload)) == payload


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_a_payload_is_read_or_refused_as_invalid_onion_payload(data: bytes) -> None:
    with contextlib.suppress(InvalidOnion):
        assert encode_payload(decode_payload(data)) == data


failure_values = st.sampled_from(sorted(CODES)).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(fields_of(name)))
)


def fields_of(name: str) -> dict[str, st.SearchStrategy]:
    """Return a strategy for each field of a failure."""
    sizes = dict(FAILURES[CODES[name]][1])
    made: dict[str, st.SearchStrategy] = {}
    for field, size in sizes.items():
        if field == "channel_update":
            made[field] = st.binary(max_size=200)
        elif field == "sha256_of_onion":
            made[field] = secrets
        else:
            made[field] = st.integers(0, 2 ** (8 * size) - 1 if size > 0 else 2**64 - 1)
    return made


@settings(max_examples=200, deadline=None)
@given(failure_values, st.binary(max_size=20))
def test_any_failure_comes_back_and_extra_bytes_are_ignored(failure, extra: bytes) -> None:
    name, values = failure
    decoded = decode_failure(encode_failure(name, **values) + extra)
    assert (decoded.name, decoded.code, dict(decoded.fields)) == (name, CODES[name], values)


@settings(max_examples=100, deadline=None)
@given(failure_values, st.data())
def test_a_failure_that_is_cut_off_is_read_as_far_as_it_goes(failure, data) -> None:
    name, values = failure
    message = encode_failure(name, **values)
    decoded = decode_failure(message[: data.draw(st.integers(2, len(message)))])
    assert decoded.name == name
    assert dict(decoded.fields).items() <= values.items()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_failure_message_of_a_stranger_raises(message: bytes) -> None:
    failure = decode_failure(message)
    assert failure.name == FAILURES.get(failure.code, ("unknown", ()))[0]


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ("0201010201", "cut off"),
        ("020101" + "020101", "twice"),
        ("040101" + "020101", "out of order"),
        ("02020001", "amount with a leading zero"),
        ("0209" + "01" * 9, "amount of nine bytes"),
        ("0405" + "01" * 5, "expiry of five bytes"),
        ("0607" + "01" * 7, "short_channel_id of seven bytes"),
        ("081f" + "01" * 31, "payment_secret of 31 bytes"),
        ("fd000201" + "01", "type longer than it needs to be"),
        ("02fd0001" + "01", "length longer than it needs to be"),
        ("0e00", "unknown even type"),
        ("ff0000000146c6616420" + "00" * 32, "unknown even type beside keysend's"),
    ],
    ids=lambda value: value.replace(" ", "-") if " " in value else None,
)
def test_a_payload_that_breaks_a_rule_of_tlv_streams_is_refused(data: str, wrong: str) -> None:
    with pytest.raises(InvalidOnion) as refused:
        decode_payload(bytes.fromhex(data))
    assert refused.value.code == CODES["invalid_onion_payload"], wrong


def test_a_keysend_record_is_read_and_an_unknown_odd_one_kept() -> None:
    number = (5482373484).to_bytes(8, "big").hex()
    payload = decode_payload(bytes.fromhex(f"020101fd01010177ff{number}20{'ab' * 32}"))
    assert payload.keysend_preimage == b"\xab" * 32
    assert payload.unknown_tlvs == {257: b"\x77"}
    assert "ab" * 32 not in repr(payload)
    assert repr(payload.keysend_preimage)[2:-1] not in repr(payload)
