"""BOLT 8 Appendix A: handshakes, each of its errors, and frames across two key rotations."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.crypto import noise
from shared.errors import HandshakeFailed

VECTORS = json.loads(Path(__file__).with_name("bolt8_transport.json").read_text())
MESSAGES = VECTORS["messages"]

Case = dict[str, Any]


def key(case: Case, name: str) -> bytes:
    return bytes.fromhex(case[name])


def acts(case: Case, kind: str) -> list[bytes]:
    return [bytes.fromhex(step[kind]) for step in case["steps"] if kind in step]


def initiated(case: Case) -> tuple[noise.Session, list[bytes]]:
    """Run the initiator's side; return the session and what it sent."""
    waiting, act_one = noise.initiate(key(case, "ls.pub"), key(case, "e.priv"), key(case, "rs.pub"))
    assert act_one == acts(case, "output")[0]
    asked = waiting.receive(acts(case, "input")[0])
    answer = noise.answer_initiator(key(case, "ls.priv"), asked.request)
    session, act_three = asked.answer(answer)
    return session, [act_one, act_three]


def responded(case: Case) -> tuple[noise.Session, list[bytes]]:
    """Run the responder's side; return the session and what it sent."""
    act_one, act_three = [*acts(case, "input"), b""][:2]
    asked = noise.AwaitActOne(key(case, "ls.pub"), key(case, "e.priv")).receive(act_one)
    answer = noise.answer_responder(key(case, "ls.priv"), asked.request)
    waiting, act_two = asked.answer(answer)
    assert [act_two] == acts(case, "output")
    return waiting.receive(act_three), [act_two]


def named(case: Case) -> str:
    return case["name"].replace(" ", "-")


def test_all_cases_of_the_appendix_are_here() -> None:
    assert (len(VECTORS["initiator"]), len(VECTORS["responder"])) == (5, 10)
    assert len(MESSAGES["frames"]) == 6


def test_the_initiator_sends_the_acts_and_ends_with_the_keys_of_the_bolt() -> None:
    case = VECTORS["initiator"][0]
    session, sent = initiated(case)
    assert sent == acts(case, "output")
    assert session.remote == key(case, "rs.pub")
    assert (session.send._key, session.receive._key) == (key(case, "sk"), key(case, "rk"))


def test_the_responder_sends_the_act_and_ends_with_the_keys_of_the_bolt() -> None:
    case = VECTORS["responder"][0]
    session, sent = responded(case)
    assert sent == acts(case, "output")
    assert session.remote == key(VECTORS["initiator"][0], "ls.pub")
    assert (session.send._key, session.receive._key) == (key(case, "sk"), key(case, "rk"))


@pytest.mark.parametrize("case", VECTORS["initiator"][1:], ids=named)
def test_a_wrong_act_two_fails_the_handshake(case: Case) -> None:
    assert acts(case, "input")
    with pytest.raises(HandshakeFailed):
        initiated(case)


@pytest.mark.parametrize("case", VECTORS["initiator"][1:], ids=named)
def test_the_signer_refuses_the_same_wrong_act_two(case: Case) -> None:
    request = noise.InitiatorRequest(
        key(case, "rs.pub"), key(case, "e.priv"), acts(case, "input")[0]
    )
    with pytest.raises(HandshakeFailed):
        noise.answer_initiator(key(case, "ls.priv"), request)


@pytest.mark.parametrize("case", VECTORS["responder"][1:], ids=named)
def test_a_wrong_act_one_or_three_fails_the_handshake(case: Case) -> None:
    assert acts(case, "input")
    with pytest.raises(HandshakeFailed):
        responded(case)


@pytest.mark.parametrize(
    "case", [c for c in VECTORS["responder"] if " act1 " in c["name"]], ids=named
)
def test_the_signer_refuses_the_same_wrong_act_one(case: Case) -> None:
    with pytest.raises(HandshakeFailed):
        noise.answer_responder(key(case, "ls.priv"), noise.ResponderRequest(acts(case, "input")[0]))


def test_the_static_answers_are_the_hkdf_outputs_of_the_appendix() -> None:
    case = VECTORS["initiator"][0]
    first = noise.answer_responder(
        key(VECTORS["responder"][0], "ls.priv"), noise.ResponderRequest(acts(case, "output")[0])
    )
    assert first.ck.hex() == "b61ec1191326fa240decc9564369dbb3ae2b34341d1e11ad64ed89f89180582f"
    assert first.temp_k.hex() == "e68f69b7f096d7917245f5e5cf8ae1595febe4d4644333c99f9c4a1282031c9f"
    third = noise.answer_initiator(
        key(case, "ls.priv"),
        noise.InitiatorRequest(key(case, "rs.pub"), key(case, "e.priv"), acts(case, "input")[0]),
    )
    assert third.ck.hex() == MESSAGES["ck"]
    assert third.temp_k.hex() == "981a46c820fb7a241bc8184ba4bb1f01bcdfafb00dde80098cb8c38db9141520"


def test_frames_match_across_two_key_rotations_in_both_directions_of_use() -> None:
    ck = key(MESSAGES, "ck")
    send, receive = (noise.Cipher(key(MESSAGES, name), ck) for name in ("sk", "rk"))
    session = noise.Session(bytes(33), send, receive)
    mirror = noise.Session(bytes(33), noise.Cipher(b"\0" * 32, ck), noise.Cipher(send._key, ck))
    message, seen = key(MESSAGES, "message"), 0
    for number in range(1002):
        frame = session.seal(message)
        if expected := MESSAGES["frames"].get(str(number)):
            assert frame.hex() == expected
            seen += 1
        size = mirror.open_size(frame[: noise.HEADER])
        assert size == len(frame) - noise.HEADER
        assert mirror.open_message(frame[noise.HEADER :]) == message
    assert seen == len(MESSAGES["frames"])
