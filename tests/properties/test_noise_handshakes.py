"""Any two nodes agree on a session; any changed byte on the way ends the handshake or the session.

The node key is used through the requests only, as by a front that does not hold it.
"""

from typing import NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from shared.crypto import noise
from shared.crypto.signature import public_key
from shared.errors import HandshakeFailed

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
private_keys = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


class Keys(NamedTuple):
    """Static and ephemeral private keys of both sides."""

    initiator: bytes
    initiator_ephemeral: bytes
    responder: bytes
    responder_ephemeral: bytes


keys = st.builds(Keys, private_keys, private_keys, private_keys, private_keys)


class Change(NamedTuple):
    """Which act is changed on its way, where, and by what."""

    act: int
    at: int
    by: int


changes = st.one_of(
    st.builds(Change, st.just(act), st.integers(0, size - 1), st.integers(1, 255))
    for act, size in ((1, noise.ACT_ONE), (2, noise.ACT_TWO), (3, noise.ACT_THREE))
)


def carried(act: int, data: bytes, change: Change | None) -> bytes:
    if change is None or change.act != act:
        return data
    changed = bytearray(data)
    changed[change.at] ^= change.by
    return bytes(changed)


def handshake(
    k: Keys, change: Change | None = None, signers: Keys | None = None
) -> tuple[noise.Session, noise.Session]:
    """Run a handshake; ``signers`` hold the static keys that answer the requests."""
    signers = signers or k
    initiator_id, responder_id = public_key(k.initiator), public_key(k.responder)
    started, one = noise.initiate(initiator_id, k.initiator_ephemeral, responder_id)
    waits = noise.AwaitActOne(responder_id, k.responder_ephemeral)
    asked = waits.receive(carried(1, one, change))
    waits_more, two = asked.answer(noise.answer_responder(signers.responder, asked.request))
    asks = started.receive(carried(2, two, change))
    ours, three = asks.answer(noise.answer_initiator(signers.initiator, asks.request))
    return ours, waits_more.receive(carried(3, three, change))


def opened(session: noise.Session, frame: bytes) -> bytes:
    size = session.open_size(frame[: noise.HEADER])
    assert size == len(frame) - noise.HEADER
    return session.open_message(frame[noise.HEADER :])


@settings(max_examples=40, deadline=None)
@given(keys, st.lists(st.tuples(st.booleans(), st.binary(max_size=400)), max_size=12))
def test_any_two_nodes_agree_and_every_message_arrives(
    k: Keys, talk: list[tuple[bool, bytes]]
) -> None:
    ours, theirs = handshake(k)
    assert (ours.remote, theirs.remote) == (public_key(k.responder), public_key(k.initiator))
    for is_ours, message in talk:
        sender, receiver = (ours, theirs) if is_ours else (theirs, ours)
        assert opened(receiver, sender.seal(message)) == message


@settings(max_examples=150, deadline=None)
@given(keys, changes)
def test_any_changed_byte_of_any_act_fails_the_handshake(k: Keys, change: Change) -> None:
    with pytest.raises(HandshakeFailed):
        handshake(k, change)


@settings(max_examples=60, deadline=None)
@given(keys, private_keys, st.sampled_from(["responder", "initiator"]))
def test_a_signer_with_another_node_key_never_completes_a_handshake(
    k: Keys, other: bytes, side: str
) -> None:
    impostor = k._replace(**{side: other})
    if impostor == k:
        return
    with pytest.raises(HandshakeFailed):
        handshake(k, signers=impostor)


KNOWN = Keys(*(bytes([number]) * 32 for number in (1, 2, 3, 4)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_of_a_frame_is_noticed(message: bytes, at: int, by: int) -> None:
    ours, theirs = handshake(KNOWN)
    frame = bytearray(ours.seal(message))
    frame[at % len(frame)] ^= by
    with pytest.raises(HandshakeFailed):
        opened(theirs, bytes(frame))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=2, max_size=6, unique=True), st.data())
def test_a_frame_that_is_dropped_repeated_or_out_of_turn_is_noticed(messages, data) -> None:
    ours, theirs = handshake(KNOWN)
    frames = [ours.seal(message) for message in messages]
    order = data.draw(st.lists(st.integers(0, len(frames) - 1), min_size=1, max_size=8))
    for turn, number in enumerate(order):
        if number != turn:
            with pytest.raises(HandshakeFailed):
                opened(theirs, frames[number])
            return
        assert opened(theirs, frames[number]) == messages[number]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_garbage_is_never_answered_with_anything_but_a_failed_handshake(garbage: bytes) -> None:
    responder, initiator = public_key(KNOWN.responder), public_key(KNOWN.initiator)
    started, _ = noise.initiate(initiator, KNOWN.initiator_ephemeral, responder)
    requests = noise.InitiatorRequest(garbage, garbage, garbage)
    steps = (
        lambda: noise.answer_responder(KNOWN.responder, noise.ResponderRequest(garbage)),
        lambda: noise.answer_initiator(KNOWN.initiator, requests),
        lambda: noise.AwaitActOne(responder, KNOWN.responder_ephemeral).receive(garbage),
        lambda: started.receive(garbage),
        lambda: noise.initiate(initiator, KNOWN.initiator_ephemeral, garbage),
    )
    for step in steps:
        with pytest.raises(HandshakeFailed):
            step()
