"""Envelopes and requests: read back as written, refused loudly otherwise."""

import json

import pytest
from hypothesis import given, strategies as st
from support.sessions import CONNECTED, SESSION

from shared.errors import FabricError
from shared.fabric import requests
from shared.fabric.envelope import (
    CONTROLS,
    Close,
    Connected,
    Direction,
    Disconnected,
    Envelope,
    Reason,
    decode,
    decode_body,
    encode,
    is_known,
)
from shared.wire import REGISTRY, Init, UpdateFulfillHtlc, to_json

NODE = b"\x02" + b"\x11" * 32
ID = bytes(range(16))


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**59),
    st.integers(0, 2**59),
    st.integers(0, 2**59),
    st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text()), max_size=3),
    st.sampled_from(["", "f1", "front_2-x"]),
)
def test_an_envelope_is_read_back_as_written(session, epoch, seq, ack, message, front) -> None:
    envelope = Envelope(session, epoch, seq, ack, json.dumps(message).encode(), front)
    payload = encode(envelope)
    assert decode(payload) == envelope
    assert json.loads(payload)["message"] == message


def test_an_envelope_in_another_layout_is_read_too() -> None:
    written = Envelope(SESSION, 5, 7, 3, b'{"reason":"protocol"}', "f1")
    pretty = json.dumps(dict(reversed(json.loads(encode(written)).items())), indent=2)
    assert decode(pretty.encode()) == written


@pytest.mark.parametrize("layout", [None, 1])
def test_another_version_is_refused(layout) -> None:
    data = json.loads(encode(Envelope(SESSION, 5, 7, 3, b"{}"))) | {"v": 2}
    separators = (",", ":") if layout is None else None
    payload = json.dumps(data, separators=separators, indent=layout).encode()
    with pytest.raises(FabricError, match="version 2, this program speaks 1"):
        decode(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"v":1}',
        encode(Envelope(SESSION, 5, 7, 3, b"{}"))[:-1],
        encode(Envelope(SESSION, 5, 7, 3, b"{}")) + b"x",
        encode(Envelope(SESSION[:-1], 5, 7, 3, b"{}")),
        encode(Envelope(SESSION, 5, 7, 3, b"[]")),
        encode(Envelope(SESSION, -5, 7, 3, b"{}")),
        encode(Envelope(SESSION, 5, 7, 3, b"{}", "a.b")),
        encode(Envelope(SESSION, 5, 7, 3, b"{}")).replace(b'"ack"', b'"extra":1,"ack"'),
        encode(Envelope(SESSION, 5, 10**19, 3, b"{}")) + b" ",
    ],
)
def test_what_is_no_envelope_is_refused_without_being_quoted(payload: bytes) -> None:
    with pytest.raises(FabricError) as caught:
        decode(payload)
    assert SESSION.hex() not in str(caught.value)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(payload: bytes) -> None:
    for name in ("connected", "update_fulfill_htlc", "unheard_of"):
        for read in (decode, lambda p, name=name: decode_body(name, p)):
            with pytest.raises(FabricError):
                read(payload)


def test_a_message_body_becomes_the_message() -> None:
    message = UpdateFulfillHtlc(channel_id=b"\x01" * 32, id=3, payment_preimage=b"\x02" * 32)
    assert decode_body("update_fulfill_htlc", to_json(message)) == message


def test_connected_carries_both_inits_as_messages() -> None:
    read = decode_body("connected", CONNECTED)
    assert isinstance(read, Connected)
    assert isinstance(read.their_init, Init)
    assert json.loads(CONNECTED)["their_init"] == {"globalfeatures": "", "features": "01"}


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(FabricError, match="unheard_of"):
        decode_body("unheard_of", b"{}")
    assert not is_known("unheard_of")
    assert is_known("ack")
    assert is_known("commitment_signed")


def test_a_control_with_an_unknown_field_is_refused() -> None:
    body = Disconnected(reason=Reason.PROTOCOL).to_bytes()
    with pytest.raises(FabricError, match="malformed: since"):
        decode_body("disconnected", body[:-1] + b',"since":1}')


def test_no_control_has_the_name_of_a_message() -> None:
    assert not set(CONTROLS) & {model.NAME for model in REGISTRY.values()}


def test_an_error_never_quotes_the_input() -> None:
    with pytest.raises(FabricError) as caught:
        decode_body("close", b'{"last_seq":"sesame","reason":"protocol"}')
    assert "sesame" not in str(caught.value)


def test_close_is_read_back() -> None:
    close = Close(last_seq=9, reason=Reason.REPLACED, detail="newer")
    assert decode_body("close", close.to_bytes()) == close


# --- requests -------------------------------------------------------------------------------------

REQUESTS = [
    requests.Hello(shard=7, owner="back-1", epoch=5, commit_no=9),
    requests.Alive(front="f1", instance=ID, version="0.1.0", listen=("127.0.0.1:9735",)),
    requests.NodeSelf(node_id=NODE, networks=(b"\x01" * 32,), features=b"\x02"),
    requests.OpenRequest(
        session=ID,
        front="f1",
        instance=ID,
        peer=NODE,
        node_id=NODE,
        direction=Direction.OUTBOUND,
        address="192.0.2.1:9735",
        made_ms=20,
        dial_id=ID,
    ),
    requests.OpenReply(session=ID, accepted=True, epoch=5, node_id=NODE, has_channels=True),
    requests.ResumeRequest(
        front="f1",
        instance=ID,
        shard=7,
        sessions=(requests.Expecting(session=ID, expects=3),),
    ),
    requests.ResumeReply(shard=7, epoch=5, sessions=()),
    requests.ConnectRequest(dial_id=ID, node_id=NODE, addresses=("192.0.2.1:9735",)),
    requests.ConnectReply(dial_id=ID, front="f1", accepted=False, why="busy"),
    requests.EcdhResponder(front="f1", act_one=bytes(50)),
    requests.EcdhInitiator(
        front="f1", dial_id=ID, node_id=NODE, ephemeral=bytes(32), act_two=bytes(50)
    ),
    requests.EcdhReply(ck=b"\x01" * 32, temp_k=b"\x02" * 32),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_is_read_back_as_written(request_) -> None:
    payload = request_.to_bytes()
    assert json.loads(payload)["v"] == 1
    assert requests.read(type(request_), payload) == request_


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_of_another_version_or_with_more_fields_is_refused(request_) -> None:
    data = json.loads(request_.to_bytes())
    for changed in (data | {"v": 2}, data | {"new": 1}):
        with pytest.raises(FabricError, match="malformed"):
            requests.read(type(request_), json.dumps(changed).encode())


def test_either_kind_of_ecdh_request_is_told_apart() -> None:
    responder, initiator = REQUESTS[-3], REQUESTS[-2]
    assert requests.read_ecdh_request(responder.to_bytes()) == responder
    assert requests.read_ecdh_request(initiator.to_bytes()) == initiator
    with pytest.raises(FabricError, match="ecdh request"):
        requests.read_ecdh_request(b'{"v":1,"role":"oracle"}')


@pytest.mark.parametrize("request_", [REQUESTS[-2], REQUESTS[-1]], ids=["initiator", "reply"])
def test_key_material_is_not_in_a_repr(request_) -> None:
    text = repr(request_)
    assert "ephemeral" not in text
    assert "ck=" not in text
    assert "temp_k" not in text
