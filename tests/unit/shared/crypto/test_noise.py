import hashlib
import hmac
from typing import Any

import coincurve
import pytest

from shared.crypto import noise
from shared.crypto.signature import public_key
from shared.errors import HandshakeFailed

INITIATOR, INITIATOR_EPHEMERAL = b"\x01" * 32, b"\x02" * 32
RESPONDER, RESPONDER_EPHEMERAL = b"\x03" * 32, b"\x04" * 32
ORDER = bytes.fromhex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
UNKNOWN_X = b"\x02" + b"\xff" * 32
"""No point of the curve has this x."""


def steps() -> dict[str, Any]:
    """Return every value of one handshake, by name."""
    started, one = noise.initiate(public_key(INITIATOR), INITIATOR_EPHEMERAL, public_key(RESPONDER))
    asked = noise.AwaitActOne(public_key(RESPONDER), RESPONDER_EPHEMERAL).receive(one)
    first = noise.answer_responder(RESPONDER, asked.request)
    waiting, two = asked.answer(first)
    asks = started.receive(two)
    third = noise.answer_initiator(INITIATOR, asks.request)
    ours, three = asks.answer(third)
    theirs = waiting.receive(three)
    return {name: value for name, value in locals().items() if name != "steps"}


@pytest.fixture
def made() -> dict[str, Any]:
    return steps()


@pytest.mark.parametrize(
    "point", [bytes(33), UNKNOWN_X, b"\x04" + b"\x01" * 32, b"\x05" + b"\x01" * 32]
)
def test_an_act_with_no_point_of_the_curve_fails(made: dict[str, Any], point: bytes) -> None:
    act = b"\x00" + point + bytes(16)
    with pytest.raises(HandshakeFailed, match="not a point"):
        noise.AwaitActOne(public_key(RESPONDER), RESPONDER_EPHEMERAL).receive(act)
    with pytest.raises(HandshakeFailed, match="not a point"):
        noise.answer_responder(RESPONDER, noise.ResponderRequest(act))
    with pytest.raises(HandshakeFailed, match="not a point"):
        made["started"].receive(act)


@pytest.mark.parametrize("version", [1, 2, 255])
def test_another_version_is_named_in_the_refusal(made: dict[str, Any], version: int) -> None:
    for state, act in (
        (noise.AwaitActOne(public_key(RESPONDER), RESPONDER_EPHEMERAL), made["one"]),
        (made["started"], made["two"]),
        (made["waiting"], made["three"]),
    ):
        with pytest.raises(HandshakeFailed, match=f"version {version:02x}"):
            state.receive(bytes([version]) + act[1:])


@pytest.mark.parametrize("node_id", [bytes(33), UNKNOWN_X, b"", b"\x02"])
def test_a_node_id_that_is_no_point_cannot_be_dialled(node_id: bytes) -> None:
    with pytest.raises(HandshakeFailed, match="not a point"):
        noise.initiate(public_key(INITIATOR), INITIATOR_EPHEMERAL, node_id)


@pytest.mark.parametrize("ephemeral", [bytes(32), ORDER, b"\xff" * 32, b"\x01", b""])
def test_the_signer_refuses_an_ephemeral_key_that_is_none(
    made: dict[str, Any], ephemeral: bytes
) -> None:
    request = noise.InitiatorRequest(public_key(RESPONDER), ephemeral, made["two"])
    with pytest.raises(HandshakeFailed, match="private key"):
        noise.answer_initiator(INITIATOR, request)


def test_the_signer_refuses_an_act_one_for_another_node(made: dict[str, Any]) -> None:
    with pytest.raises(HandshakeFailed, match="authentication tag"):
        noise.answer_responder(INITIATOR, noise.ResponderRequest(made["one"]))


def test_the_signer_refuses_an_act_two_of_another_handshake(made: dict[str, Any]) -> None:
    request = noise.InitiatorRequest(public_key(RESPONDER), b"\x09" * 32, made["two"])
    with pytest.raises(HandshakeFailed, match="authentication tag"):
        noise.answer_initiator(INITIATOR, request)


def test_an_answer_holds_neither_the_shared_point_nor_its_hash(made: dict[str, Any]) -> None:
    for private, point, answer in (
        (RESPONDER, made["one"][1:34], made["first"]),
        (INITIATOR, made["two"][1:34], made["third"]),
    ):
        shared = coincurve.PublicKey(point).multiply(private).format()
        digest = hashlib.sha256(shared).digest()
        rho = hmac.digest(b"rho", digest, "sha256")
        assert not {shared[1:], digest, rho} & {answer.ck, answer.temp_k}


def test_a_wrong_answer_is_noticed_before_act_two_is_sent(made: dict[str, Any]) -> None:
    with pytest.raises(HandshakeFailed, match="authentication tag"):
        made["asked"].answer(noise.KeyAnswer(made["first"].ck, bytes(32)))


def test_no_state_shows_a_secret(made: dict[str, Any]) -> None:
    shown = " ".join(repr(value) for value in made.values())
    answers = made["first"], made["third"]
    keys = [INITIATOR_EPHEMERAL, RESPONDER_EPHEMERAL]
    secrets = keys + [secret for answer in answers for secret in (answer.ck, answer.temp_k)]
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


@pytest.mark.parametrize("size", [0, 1, 65535])
def test_messages_of_every_allowed_size_pass(made: dict[str, Any], size: int) -> None:
    frame = made["ours"].seal(bytes(size))
    assert made["theirs"].open_size(frame[:18]) == size + 16 == len(frame) - 18
    assert made["theirs"].open_message(frame[18:]) == bytes(size)


def test_a_message_that_is_too_long_is_refused_and_the_session_goes_on(
    made: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="65535"):
        made["ours"].seal(bytes(65536))
    frame = made["ours"].seal(b"next")
    made["theirs"].open_size(frame[:18])
    assert made["theirs"].open_message(frame[18:]) == b"next"


def test_a_truncated_frame_is_refused(made: dict[str, Any]) -> None:
    frame = made["ours"].seal(b"message")
    with pytest.raises(HandshakeFailed):
        made["theirs"].open_size(frame[:10])


def test_keys_of_both_directions_rotate_on_their_own_count(made: dict[str, Any]) -> None:
    ours, theirs = made["ours"], made["theirs"]
    first, back = ours.send._key, ours.receive._key
    for _ in range(500):
        frame = ours.seal(b"")
        theirs.open_size(frame[:18])
        theirs.open_message(frame[18:])
    assert ours.send._key == theirs.receive._key != first
    assert ours.receive._key == theirs.send._key == back
