"""BOLT 4's onion and error vectors."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from shared.crypto import sphinx
from shared.crypto.failures import FAILURES, decode_failure
from shared.crypto.payload import decode_payload, encode_payload
from shared.crypto.signature import public_key
from shared.errors import InvalidOnion

FOLDER = Path(__file__).parent
ONION = json.loads((FOLDER / "bolt4_onion_test.json").read_text())
ERROR = json.loads((FOLDER / "bolt4_onion_error_test.json").read_text())


def framed(payload: bytes) -> bytes:
    """Take the BigSize length off, which the vectors include."""
    return payload[3:] if payload[0] == 0xFD else payload[1:]


def vector_hops() -> list[sphinx.Hop]:
    return [
        sphinx.Hop(bytes.fromhex(h["pubkey"]), framed(bytes.fromhex(h["payload"])))
        for h in ONION["generate"]["hops"]
    ]


def built() -> sphinx.Onion:
    generate = ONION["generate"]
    return sphinx.build(
        bytes.fromhex(generate["session_key"]),
        vector_hops(),
        bytes.fromhex(generate["associated_data"]),
    )


def test_the_packet_is_the_one_of_the_bolt() -> None:
    assert built().packet.hex() == ONION["onion"]


def test_each_hop_peels_its_own_payload_and_the_last_knows_that_it_is() -> None:
    packet: bytes | None = bytes.fromhex(ONION["onion"])
    associated = bytes.fromhex(ONION["generate"]["associated_data"])
    for private, hop in zip(ONION["decode"], vector_hops(), strict=True):
        assert packet is not None
        peeled = sphinx.peel(bytes.fromhex(private), packet, associated)
        assert peeled.payload == hop.payload
        packet = peeled.next_packet
    assert packet is None


def test_the_error_packet_of_the_bolt_is_made_and_unwrapped() -> None:
    secrets = [bytes.fromhex(h["hop_shared_secret"]) for h in ERROR["generate"]["hops"]]
    # This vector's payload has 254 bytes of padding behind the 2-byte failure.
    packet = sphinx.create_error(secrets[-1], bytes.fromhex(ERROR["generate"]["failure_message"]))
    for secret in reversed(secrets[:-1]):
        packet = sphinx.wrap_error(secret, packet)
    assert packet.hex() == ERROR["errorpacket"]
    unwrapped = sphinx.unwrap_error(secrets, packet)
    assert unwrapped is not None
    assert unwrapped.hop == 4
    assert decode_failure(unwrapped.message).name == "temporary_node_failure"


@pytest.mark.parametrize("at", [0, 5, 40, 900, 1340])
def test_a_changed_byte_is_refused(at: int) -> None:
    packet = bytearray(bytes.fromhex(ONION["onion"]))
    packet[at] ^= 1
    with pytest.raises(InvalidOnion):
        sphinx.peel(
            bytes.fromhex(ONION["decode"][0]),
            bytes(packet),
            bytes.fromhex(ONION["generate"]["associated_data"]),
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=2, max_size=30), min_size=1, max_size=20), st.data())
def test_any_route_is_peeled_and_its_error_comes_back(payloads, data) -> None:
    privates = [bytes([i + 1]) * 32 for i in range(len(payloads))]
    hops = [
        sphinx.Hop(public_key(key), payload)
        for key, payload in zip(privates, payloads, strict=True)
    ]
    onion = sphinx.build(bytes([0x77]) * 32, hops, b"hash")
    packet: bytes | None = onion.packet
    for key, payload, secret in zip(privates, payloads, onion.shared_secrets, strict=True):
        assert packet is not None
        peeled = sphinx.peel(key, packet, b"hash")
        assert (peeled.payload, peeled.shared_secret) == (payload, secret)
        packet = peeled.next_packet
    failing = data.draw(st.integers(0, len(payloads) - 1))
    error = sphinx.create_error(onion.shared_secrets[failing], b"\x20\x02")
    for secret in reversed(onion.shared_secrets[:failing]):
        error = sphinx.wrap_error(secret, error)
    unwrapped = sphinx.unwrap_error(onion.shared_secrets, error)
    assert unwrapped == sphinx.UnwrappedError(failing, b"\x20\x02")


@given(st.binary(max_size=400))
def test_no_failure_message_of_a_stranger_raises(message: bytes) -> None:
    failure = decode_failure(message)
    assert failure.name == FAILURES.get(failure.code, ("unknown", ()))[0]


@given(st.binary(max_size=200))
def test_a_payload_is_read_or_refused_as_invalid_onion_payload(data: bytes) -> None:
    with contextlib.suppress(InvalidOnion):
        assert encode_payload(decode_payload(data)) == data
