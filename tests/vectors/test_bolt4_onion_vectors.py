"""BOLT 4's vectors of onions and errors."""

import json
from pathlib import Path

import pytest

from shared.crypto import failures, sphinx
from shared.crypto.failures import decode_failure
from shared.errors import InvalidOnion

FOLDER = Path(__file__).parent
ONION = json.loads((FOLDER / "bolt4_onion_test.json").read_text())
FAILURES = json.loads((FOLDER / "bolt4_failures.json").read_text())
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


def test_the_error_is_obfuscated_hop_by_hop_with_the_keys_of_the_bolt() -> None:
    hops = ERROR["generate"]["hops"]
    for hop in hops:
        secret = bytes.fromhex(hop["hop_shared_secret"])
        assert sphinx._key(b"ammag", secret).hex() == hop["ammag_key"]
    assert sphinx._key(b"um", secret).hex() == hops[-1]["um_key"]


def test_shared_secrets_of_onion_and_error_vectors_are_the_same() -> None:
    expected = [hop["hop_shared_secret"] for hop in ERROR["generate"]["hops"]]
    assert [secret.hex() for secret in built().shared_secrets] == expected


SIZES = {"u16": 2, "u32": 4, "u64": 8, "sha256": 32, "bigsize": failures._BIG_SIZE}


def layout_of(fields: list[list[str]]) -> tuple[tuple[str, int], ...]:
    """Return the layout of a failure as the code declares it: a length belongs to its bytes."""
    named = [(name, kind) for kind, name in fields if name != "len"]
    return tuple((name, 0 if kind == "len*byte" else SIZES[kind]) for name, kind in named)


def test_every_failure_of_the_bolt_is_declared_with_its_code_and_fields() -> None:
    expected = {f["code"]: (f["name"], layout_of(f["fields"])) for f in FAILURES["failures"]}
    assert len(expected) == 22
    assert expected == failures.FAILURES
