"""BOLT 4's vectors of onions that end in a blinded route: payments and onion messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.crypto import sphinx
from shared.crypto.failures import INVALID_ONION_BLINDING
from shared.crypto.payload import decode_payload, encode_payload
from shared.crypto.signature import public_key
from shared.errors import InvalidOnion
from shared.wire import OnionMessage, decode

FOLDER = Path(__file__).parent


def vectors(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"bolt4_{name}_test.json").read_text())


PAYMENT = vectors("blinded_payment_onion")
ROUTE = vectors("route_blinding")
MESSAGE = vectors("blinded_onion_message")
HOPS = PAYMENT["generate"]["full_route"]["hops"]
ASSOCIATED = bytes.fromhex(PAYMENT["generate"]["associated_data"])


def payment_payload(hop: dict[str, Any]) -> bytes:
    framed = bytes.fromhex(hop["payload"])
    assert framed[0] == len(framed) - 1
    return framed[1:]


def test_the_payment_onion_to_a_blinded_route_is_the_one_of_the_bolt() -> None:
    hops = [sphinx.Hop(bytes.fromhex(hop["pubkey"]), payment_payload(hop)) for hop in HOPS]
    session_key = bytes.fromhex(PAYMENT["generate"]["session_key"])
    assert sphinx.build(session_key, hops, ASSOCIATED).packet.hex() == PAYMENT["generate"]["onion"]


def path_keys() -> list[bytes | None]:
    """What update_add_htlc carries to each hop: from Carol on, the point that the one before made.

    Bob, who introduces the route, finds his in the payload.
    """
    made = [hop.get("next_path_key") for hop in PAYMENT["decrypt"]["hops"]]
    return [None, None, *(bytes.fromhex(point) for point in made[1:-1])]


def test_each_hop_peels_its_payload_with_the_path_key_it_was_given() -> None:
    peeled_hops = PAYMENT["decrypt"]["hops"]
    following = [*(hop["onion"] for hop in peeled_hops[1:]), None]
    for hop, path_key, made, onion in zip(peeled_hops, path_keys(), HOPS, following, strict=True):
        node_key, packet = bytes.fromhex(hop["node_privkey"]), bytes.fromhex(hop["onion"])
        peeled = sphinx.peel(node_key, packet, ASSOCIATED, path_key)
        assert peeled.payload == payment_payload(made)
        assert peeled.next_packet == (None if onion is None else bytes.fromhex(onion))


def test_payloads_of_a_blinded_route_are_read_field_by_field_and_written_again() -> None:
    alice, bob, carol, _, eve = (decode_payload(payment_payload(hop)) for hop in HOPS)
    assert (alice.amt_to_forward, alice.outgoing_cltv_value) == (110125, 749150)
    assert alice.short_channel_id == 10
    assert bob.current_path_key == bytes.fromhex(HOPS[1]["tlvs"]["current_path_key"])
    route = PAYMENT["generate"]["blinded_route"]["hops"]
    assert carol.encrypted_recipient_data == bytes.fromhex(route[1]["encrypted_data"])
    assert (eve.amt_to_forward, eve.total_amount_msat) == (100000, 150000)
    for hop in HOPS:
        payload = payment_payload(hop)
        assert encode_payload(decode_payload(payload)) == payload


@pytest.mark.parametrize("hop", ROUTE["unblind"]["hops"], ids=lambda hop: hop["alias"])
def test_the_blinded_private_key_is_the_one_of_the_bolt(hop: dict[str, Any]) -> None:
    node_key, path_key = bytes.fromhex(hop["node_privkey"]), bytes.fromhex(hop["path_key"])
    blinded = sphinx._blinded_key(node_key, path_key)
    assert blinded.hex() == hop["blinded_privkey"]
    number = [unblind["alias"] for unblind in ROUTE["unblind"]["hops"]].index(hop["alias"])
    assert public_key(blinded).hex() == ROUTE["generate"]["hops"][number]["blinded_node_id"]


def test_an_onion_message_is_peeled_by_each_hop_to_the_last() -> None:
    hops = MESSAGE["decrypt"]["hops"]
    for number, hop in enumerate(hops):
        message = decode(bytes.fromhex(hop["onion_message"]))
        assert isinstance(message, OnionMessage)
        peeled = sphinx.peel(
            bytes.fromhex(hop["privkey"]), message.onion_message_packet, b"", message.path_key
        )
        if number + 1 == len(hops):
            assert peeled.is_final
            assert bytes.fromhex("68656c6c6f") in peeled.payload
            continue
        following = decode(bytes.fromhex(hops[number + 1]["onion_message"]))
        assert isinstance(following, OnionMessage)
        assert peeled.next_packet == following.onion_message_packet


@pytest.mark.parametrize("at", [0, 1, 40, 1340])
def test_every_error_inside_a_blinded_route_is_invalid_onion_blinding(at: int) -> None:
    carol = PAYMENT["decrypt"]["hops"][2]
    packet = bytearray.fromhex(carol["onion"])
    packet[at] ^= 0xFF
    with pytest.raises(InvalidOnion) as refused:
        sphinx.peel(bytes.fromhex(carol["node_privkey"]), bytes(packet), ASSOCIATED, path_keys()[2])
    assert refused.value.code == INVALID_ONION_BLINDING
    assert refused.value.shared_secret is None


def test_a_path_key_that_is_no_point_is_invalid_onion_blinding() -> None:
    carol = PAYMENT["decrypt"]["hops"][2]
    packet, node_key = bytes.fromhex(carol["onion"]), bytes.fromhex(carol["node_privkey"])
    with pytest.raises(InvalidOnion) as refused:
        sphinx.peel(node_key, packet, ASSOCIATED, bytes(33))
    assert refused.value.code == INVALID_ONION_BLINDING
