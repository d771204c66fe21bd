"""BOLT 4's vectors of route blinding: every number in them, made and taken apart."""

import hashlib
import hmac
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coincurve
import pytest

from shared.crypto import blinding, onion_message, sphinx
from shared.crypto.recipient_data import (
    PaymentConstraints,
    PaymentRelay,
    RecipientData,
    encode_recipient_data,
    open_recipient_data,
    payinfo,
)
from shared.crypto.signature import public_key
from shared.units import ShortChannelId
from shared.wire import BlindedHop, BlindedPath, OnionMessage, decode, encode
from shared.wire.record import decode_stream

FOLDER = Path(__file__).parent
Json = dict[str, Any]


def vectors(name: str) -> Json:
    return json.loads((FOLDER / f"bolt4_{name}_test.json").read_text())


ROUTE = vectors("route_blinding")
PAYMENT = vectors("blinded_payment_onion")
MESSAGE = vectors("blinded_onion_message")


def by_alias(hop: Json) -> str:
    return str(hop["alias"])


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def features(bits: Sequence[int]) -> bytes:
    number = sum(1 << bit for bit in bits)
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def tlvs(wanted: Json) -> RecipientData:
    """The vectors' JSON of an encrypted_data_tlv."""
    known: dict[str, Any] = {}
    unknown: dict[int, bytes] = {}
    for name, value in wanted.items():
        match name:
            case "short_channel_id":
                known[name] = ShortChannelId.parse(value).pack()
            case "payment_relay":
                known[name] = PaymentRelay(**{"fee_base_msat": 0, **value})
            case "payment_constraints":
                known[name] = PaymentConstraints(**value)
            case "allowed_features":
                known[name] = features(value["features"])
            case "path_key_override_secret":
                assert public_key(raw(value)).hex() == wanted["next_path_key_override"]
            case _ if name.startswith("unknown_tag_"):
                unknown[int(name.removeprefix("unknown_tag_"))] = raw(value)
            case _:
                known[name] = raw(value)
    return RecipientData(**known, unknown_tlvs=unknown)


def path_of(route: Json, data: str) -> BlindedPath:
    hops = [
        BlindedHop(
            blinded_node_id=raw(hop["blinded_node_id"]), encrypted_recipient_data=raw(hop[data])
        )
        for hop in route["hops"]
    ]
    return BlindedPath(
        first_node_id=raw(route["first_node_id"]),
        first_path_key=raw(route["first_path_key"]),
        path=hops,
    )


# --- route-blinding-test.json ---------------------------------------------------------------------

MADE = ROUTE["generate"]["hops"]
BOBS_PART, EVES_PART = slice(0, 2), slice(2, 4)


@pytest.mark.parametrize("hop", MADE, ids=by_alias)
def test_what_hops_are_told_is_written_and_read_as_in_the_bolt(hop: Json) -> None:
    told = tlvs(hop["tlvs"])
    assert encode_recipient_data(told).hex() == hop["encoded_tlvs"]
    assert decode_stream(RecipientData, raw(hop["encoded_tlvs"])) == told


@pytest.mark.parametrize("part", [BOBS_PART, EVES_PART])
def test_the_keys_of_each_hop_are_those_of_the_bolt(part: slice) -> None:
    hops = MADE[part]
    keys = blinding.hop_keys(raw(hops[0]["session_key"]), [raw(hop["node_id"]) for hop in hops])
    assert hops[0]["session_key"] == hops[0]["path_privkey"]
    for hop, key in zip(hops, keys, strict=True):
        assert key.path_key.hex() == hop["path_key"]
        assert public_key(raw(hop["path_privkey"])) == key.path_key
        assert key.shared_secret.hex() == hop["shared_secret"]
        assert key.rho.hex() == hop["rho"]
        assert key.blinded_node_id.hex() == hop["blinded_node_id"]


def blinded(part: slice) -> BlindedPath:
    hops = [(raw(hop["node_id"]), encode_recipient_data(tlvs(hop["tlvs"]))) for hop in MADE[part]]
    return blinding.blind(raw(MADE[part][0]["session_key"]), hops)


def test_two_paths_of_different_makers_make_the_route_of_the_bolt() -> None:
    first, second = blinded(BOBS_PART), blinded(EVES_PART)
    assert second.first_path_key.hex() == MADE[1]["tlvs"]["next_path_key_override"]
    assert second.first_node_id.hex() == MADE[2]["node_id"]
    whole = blinding.joined(first, second)
    assert whole == path_of(ROUTE["route"], "encrypted_data")
    for hop, made in zip(whole.path, MADE, strict=True):
        assert hop.encrypted_recipient_data.hex() == made["encrypted_data"]


@pytest.mark.parametrize("number", range(4), ids=[by_alias(hop) for hop in MADE])
def test_each_hop_of_the_route_opens_what_is_for_it(number: int) -> None:
    hop, made = ROUTE["unblind"]["hops"][number], MADE[number]
    node_key, path_key = raw(hop["node_privkey"]), raw(hop["path_key"])
    assert public_key(node_key).hex() == made["node_id"]
    assert sphinx._blinded_key(node_key, path_key).hex() == hop["blinded_privkey"]
    assert public_key(raw(hop["blinded_privkey"])).hex() == made["blinded_node_id"]
    sealed = raw(made["encrypted_data"])
    unsealed = blinding.opened(node_key, path_key, sealed)
    assert unsealed.plaintext.hex() == hop["decrypted_data"]
    assert unsealed.next_path_key.hex() == hop["next_path_key"]
    opened = open_recipient_data(node_key, path_key, sealed)
    assert opened.data == tlvs(made["tlvs"])
    assert opened.next_path_key.hex() == hop.get("next_path_key_override", hop["next_path_key"])


# --- blinded-payment-onion-test.json --------------------------------------------------------------

GENERATE = PAYMENT["generate"]
FULL = GENERATE["full_route"]["hops"]
TOLD = [tlvs(hop["tlvs"]["encrypted_recipient_data"]) for hop in FULL[1:]]


def test_what_a_blinded_route_costs_is_the_sum_of_the_bolt() -> None:
    priced = payinfo(
        [told.payment_relay for told in TOLD if told.payment_relay is not None],
        min_final_cltv_expiry_delta=0,
        htlc_minimum_msat=50,
        htlc_maximum_msat=150_000,
    )
    wanted = GENERATE["blinded_payinfo"]
    assert priced.fee_base_msat == wanted["fee_base_msat"]
    assert priced.fee_proportional_millionths == wanted["fee_proportional_millionths"]
    assert priced.cltv_expiry_delta == wanted["cltv_expiry_delta"]


def test_what_the_payers_first_hop_gets_pays_for_the_whole_route() -> None:
    """Alice forwards what the last gets, and all that the route takes by its payinfo."""
    costs = GENERATE["blinded_payinfo"]
    amount = GENERATE["final_amount_msat"]
    proportional = costs["fee_proportional_millionths"] * amount // 1_000_000
    alice = FULL[0]["tlvs"]
    assert amount + costs["fee_base_msat"] + proportional == alice["amt_to_forward"]
    assert GENERATE["final_cltv"] + costs["cltv_expiry_delta"] == alice["outgoing_cltv_value"]
    assert FULL[-1]["tlvs"]["amt_to_forward"] == amount
    assert FULL[-1]["tlvs"]["outgoing_cltv_value"] == GENERATE["final_cltv"]


def test_each_hop_forwards_by_payment_relay_until_the_recipient_has_its_amount() -> None:
    amount = FULL[0]["tlvs"]["amt_to_forward"]
    expiry = FULL[0]["tlvs"]["outgoing_cltv_value"]
    for told in TOLD:
        assert told.payment_constraints is not None
        assert amount >= told.payment_constraints.htlc_minimum_msat
        assert expiry <= told.payment_constraints.max_cltv_expiry
        if told.payment_relay is not None:
            amount = told.payment_relay.amt_to_forward_msat(amount)
            expiry -= told.payment_relay.cltv_expiry_delta
    assert (amount, expiry) == (GENERATE["final_amount_msat"], GENERATE["final_cltv"])


def test_each_hop_of_the_payment_opens_what_is_for_it() -> None:
    path_key = raw(GENERATE["blinded_route"]["first_path_key"])
    route, peeled = GENERATE["blinded_route"]["hops"], PAYMENT["decrypt"]["hops"][1:]
    for hop, made, told in zip(peeled, route, TOLD, strict=True):
        assert by_alias(hop) == by_alias(made)
        opened = open_recipient_data(
            raw(hop["node_privkey"]), path_key, raw(made["encrypted_data"])
        )
        assert opened.data == told
        assert opened.next_path_key.hex() == hop["next_path_key"]
        path_key = opened.next_path_key


# --- blinded-onion-message-onion-test.json --------------------------------------------------------

HOPS = MESSAGE["generate"]["hops"]
TO_BOB, TO_DAVE = slice(0, 1), slice(1, 4)


@pytest.mark.parametrize("hop", HOPS, ids=by_alias)
def test_what_hops_of_a_message_are_told_is_written_as_in_the_bolt(hop: Json) -> None:
    assert encode_recipient_data(tlvs(hop["tlvs"])).hex() == hop["encrypted_data_tlv"]


@pytest.mark.parametrize("part", [TO_BOB, TO_DAVE])
def test_every_number_on_the_way_to_a_message_path_is_the_one_of_the_bolt(part: slice) -> None:
    hops = HOPS[part]
    node_ids = [public_key(raw(hop["privkey"])) for hop in MESSAGE["decrypt"]["hops"][part]]
    keys = blinding.hop_keys(raw(hops[0]["path_key_secret"]), node_ids)
    for hop, key in zip(hops, keys, strict=True):
        assert key.path_key.hex() == hop["E"]
        assert public_key(raw(hop["path_key_secret"])) == key.path_key
        assert key.shared_secret.hex() == hop["ss"]
        tweak = hmac.digest(b"blinded_node_id", key.shared_secret, "sha256")
        assert tweak.hex() == hop["HMAC256('blinded_node_id', ss)"]
        assert key.blinded_node_id.hex() == hop["blinded_node_id"]
        factor = hashlib.sha256(key.path_key + key.shared_secret).digest()
        assert factor.hex() == hop["H(E || ss)"]
        assert key.rho.hex() == hop["rho"]
        # The vectors write this key with the byte that says that its point is compressed.
        following = coincurve.PrivateKey(raw(hop["path_key_secret"])).multiply(factor)
        assert following.secret.hex() + "01" == hop["next_e"]
    for hop, after in itertools.pairwise(hops):
        assert hop["next_e"] == after["path_key_secret"] + "01"


def message_path(part: slice) -> BlindedPath:
    node_ids = [public_key(raw(hop["privkey"])) for hop in MESSAGE["decrypt"]["hops"][part]]
    data = [encode_recipient_data(tlvs(hop["tlvs"])) for hop in HOPS[part]]
    return blinding.blind(
        raw(HOPS[part][0]["path_key_secret"]), list(zip(node_ids, data, strict=True))
    )


def test_a_hop_put_before_daves_path_makes_the_route_of_the_bolt() -> None:
    daves = message_path(TO_DAVE)
    wanted = path_of(MESSAGE["route"], "encrypted_recipient_data")
    assert blinding.joined(message_path(TO_BOB), daves) == wanted
    alice = raw(MESSAGE["route"]["first_node_id"])
    secret = raw(HOPS[0]["path_key_secret"])
    assert onion_message.lead_to(secret, [alice], daves.first_node_id, daves) == wanted
    for hop, made in zip(wanted.path, HOPS, strict=True):
        assert hop.encrypted_recipient_data.hex() == made["encrypted_recipient_data"]


def test_the_message_to_dave_is_the_one_of_the_bolt() -> None:
    route = path_of(MESSAGE["route"], "encrypted_recipient_data")
    contents = {1: raw(MESSAGE["onionmessage"]["unknown_tag_1"])}
    built = onion_message.build(raw(MESSAGE["generate"]["session_key"]), route, contents)
    packet = built.onion_message_packet.hex()
    assert packet == MESSAGE["onionmessage"]["onion_message_packet"]
    assert encode(built).hex() == MESSAGE["decrypt"]["hops"][0]["onion_message"]


class Holder:
    """A node of the vectors."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def peel_onion(
        self, packet: bytes, associated_data: bytes, path_key: bytes | None = None
    ) -> sphinx.Peeled:
        return sphinx.peel(self.secret, packet, associated_data, path_key)

    def open_recipient_data(self, path_key: bytes, encrypted: bytes) -> Any:
        return open_recipient_data(self.secret, path_key, encrypted)


def test_each_hop_sends_the_message_of_the_bolt_to_the_next() -> None:
    hops = MESSAGE["decrypt"]["hops"]
    for hop, following in itertools.pairwise(hops):
        message = decode(raw(hop["onion_message"]))
        assert isinstance(message, OnionMessage)
        step = onion_message.unwrap(message, Holder(raw(hop["privkey"])))
        assert isinstance(step, onion_message.Forwarded)
        assert step.next_node_id == raw(hop["next_node_id"])
        assert step.short_channel_id is None
        assert encode(step.message).hex() == following["onion_message"]


def test_dave_reads_what_he_was_sent_and_what_he_wrote_to_himself() -> None:
    dave = MESSAGE["decrypt"]["hops"][-1]
    message = decode(raw(dave["onion_message"]))
    assert isinstance(message, OnionMessage)
    read = onion_message.unwrap(message, Holder(raw(dave["privkey"])))
    assert isinstance(read, onion_message.Delivered)
    assert read.contents == {1: raw(dave["tlvs"]["unknown_tag_1"])}
    assert read.path_id == raw(HOPS[-1]["tlvs"]["path_id"])
    assert read.reply_path is None
    sealed = sphinx.peel(raw(dave["privkey"]), message.onion_message_packet, b"", message.path_key)
    assert dave["tlvs"]["encrypted_recipient_data"] in sealed.payload.hex()
