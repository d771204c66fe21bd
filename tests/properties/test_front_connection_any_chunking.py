"""However a stream is cut into reads, the same messages come out of a connection."""

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from support.lightning_peer import node_id_of

from front.transport.connection import Authenticated, Connection
from shared.crypto.noise import (
    InitiatorRequest,
    ResponderRequest,
    answer_initiator,
    answer_responder,
)
from shared.errors import HandshakeFailed, InvariantError

OURS, THEIRS = b"\x11" * 32, b"\x22" * 32
EPHEMERAL_1, EPHEMERAL_2 = b"\x33" * 32, b"\x44" * 32

messages = st.lists(
    st.one_of(
        st.binary(min_size=0, max_size=40),
        st.integers(0, 65535).map(lambda size: b"\xab" * size),
    ),
    max_size=8,
)
cuts = st.lists(st.floats(0, 1), max_size=12)


def pieces(data: bytes, where: list[float]) -> list[bytes]:
    ends = sorted({0, len(data), *(int(part * len(data)) for part in where)})
    return [data[start:end] for start, end in pairwise(ends)]


def drive(connection: Connection, private: bytes, data: list[bytes]) -> tuple[list[bytes], bytes]:
    """Feed pieces, answer requests at once; return messages and what must be written."""
    received: list[bytes] = []
    outgoing = connection.take_outgoing()
    for piece in data or [b""]:
        connection.feed(piece)
        while (event := connection.next_event()) is not None:
            if isinstance(event, ResponderRequest):
                connection.answer(answer_responder(private, event))
            elif isinstance(event, InitiatorRequest):
                connection.answer(answer_initiator(private, event))
            elif isinstance(event, bytes):
                received.append(event)
            outgoing += connection.take_outgoing()
    return received, outgoing


def handshaken() -> tuple[Connection, Connection]:
    """An initiator and a responder after their handshake."""
    initiator = Connection.initiator(node_id_of(THEIRS), EPHEMERAL_1, node_id_of(OURS))
    responder = Connection.responder(node_id_of(OURS), EPHEMERAL_2)
    act_one = initiator.take_outgoing()
    _, act_two = drive(responder, OURS, [act_one])
    _, act_three = drive(initiator, THEIRS, [act_two])
    drive(responder, OURS, [act_three])
    return initiator, responder


@given(sent=messages, act_one_cuts=cuts, rest_cuts=cuts)
def test_any_chunking_of_handshake_and_messages_gives_the_same_messages(
    sent, act_one_cuts, rest_cuts
):
    initiator = Connection.initiator(node_id_of(THEIRS), EPHEMERAL_1, node_id_of(OURS))
    responder = Connection.responder(node_id_of(OURS), EPHEMERAL_2)
    _, act_two = drive(responder, OURS, pieces(initiator.take_outgoing(), act_one_cuts))
    _, act_three = drive(initiator, THEIRS, pieces(act_two, rest_cuts))
    stream = act_three + b"".join(initiator.seal(message) for message in sent)
    received, _ = drive(responder, OURS, pieces(stream, rest_cuts))
    assert received == sent
    assert responder.node_id == node_id_of(THEIRS)
    assert initiator.node_id == node_id_of(OURS)


@given(sent=messages, where=cuts)
def test_messages_survive_the_rotation_of_keys(sent, where):
    initiator, responder = handshaken()
    early = b"".join(initiator.seal(number.to_bytes(2, "big")) for number in range(501))
    assert len(drive(responder, OURS, [early])[0]) == 501
    stream = b"".join(initiator.seal(message) for message in sent)
    assert drive(responder, OURS, pieces(stream, where))[0] == sent


@given(
    sent=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    position=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    where=cuts,
)
def test_a_flipped_bit_is_noticed_and_nothing_behind_it_comes_out(sent, position, bit, where):
    initiator, responder = handshaken()
    frames = [initiator.seal(message) for message in sent]
    stream = bytearray(b"".join(frames))
    at = int(position * len(stream))
    stream[at] ^= 1 << bit
    received: list[bytes] = []

    def read_all() -> None:
        for piece in pieces(bytes(stream), where):
            responder.feed(piece)
            while isinstance(event := responder.next_event(), bytes):
                received.append(event)

    with pytest.raises(HandshakeFailed):
        read_all()
    assert received == sent[: len(received)]
    assert sum(map(len, frames[: len(received)])) <= at


def test_nothing_goes_on_until_the_request_is_answered():
    initiator = Connection.initiator(node_id_of(THEIRS), EPHEMERAL_1, node_id_of(OURS))
    responder = Connection.responder(node_id_of(OURS), EPHEMERAL_2)
    act_one = initiator.take_outgoing()
    responder.feed(act_one + bytes(1000))
    assert responder.next_event() == ResponderRequest(act_one)
    assert responder.next_event() is None
    assert responder.take_outgoing() == b""
    assert responder.act_one == act_one


def test_the_end_of_the_handshake_comes_before_the_first_message():
    initiator = Connection.initiator(node_id_of(THEIRS), EPHEMERAL_1, node_id_of(OURS))
    responder = Connection.responder(node_id_of(OURS), EPHEMERAL_2)
    _, act_two = drive(responder, OURS, [initiator.take_outgoing()])
    _, act_three = drive(initiator, THEIRS, [act_two])
    responder.feed(act_three + initiator.seal(b"first"))
    assert responder.next_event() is Authenticated.AUTHENTICATED
    assert responder.next_event() == b"first"
    assert responder.next_event() is None


def test_an_answer_of_another_key_is_not_believed():
    initiator = Connection.initiator(node_id_of(THEIRS), EPHEMERAL_1, node_id_of(OURS))
    responder = Connection.responder(node_id_of(OURS), EPHEMERAL_2)
    responder.feed(initiator.take_outgoing())
    request = responder.next_event()
    assert isinstance(request, ResponderRequest)
    other = Connection.initiator(node_id_of(THEIRS), EPHEMERAL_1, node_id_of(b"\x55" * 32))
    with pytest.raises(HandshakeFailed):
        responder.answer(answer_responder(b"\x55" * 32, ResponderRequest(other.take_outgoing())))


def test_refuses_to_speak_or_be_named_before_the_handshake():
    responder = Connection.responder(node_id_of(OURS), EPHEMERAL_2)
    with pytest.raises(InvariantError):
        responder.seal(b"")
    with pytest.raises(InvariantError):
        _ = responder.node_id


def test_refuses_a_message_that_is_too_long():
    initiator, _ = handshaken()
    with pytest.raises(ValueError, match="65535"):
        initiator.seal(bytes(65536))
