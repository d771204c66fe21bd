"""Every message survives the wire and the fabric, and no input breaks the decoder."""

import json

import pytest
from hypothesis import given, settings, strategies as st
from support.messages import instances, messages

from shared.errors import Action, MalformedMessage
from shared.wire import (
    REGISTRY,
    Announcement,
    Message,
    channel_token,
    decode,
    encode,
    from_json,
    signed_data,
    to_json,
)

EACH = pytest.mark.parametrize("model", REGISTRY.values(), ids=lambda m: m.NAME)


@EACH
@settings(max_examples=15)
@given(data=st.data())
def test_every_message_survives_the_wire(model: type[Message], data: st.DataObject) -> None:
    message = data.draw(instances(model))
    wire = encode(message)
    assert wire[:2] == model.TYPE.to_bytes(2, "big")
    again = decode(wire)
    assert again == message
    assert type(again) is model
    assert encode(again) == wire


@EACH
@settings(max_examples=15)
@given(data=st.data())
def test_every_message_survives_the_fabric(model: type[Message], data: st.DataObject) -> None:
    message = data.draw(instances(model))
    assert from_json(model.NAME, to_json(message)) == message


@given(message=messages())
def test_json_says_nothing_of_what_is_absent(message: Message) -> None:
    shown = json.loads(to_json(message))
    set_fields = {n for n, v in message if v is not None and v is not False}
    silent = {n for n in ("unknown_tlvs", "extension") if not getattr(message, n, None)}
    assert set(shown) == set_fields - silent


@given(message=messages(), data=st.data())
def test_no_truncation_raises_anything_but_malformed(message: Message, data: st.DataObject) -> None:
    wire = encode(message)
    short = wire[: data.draw(st.integers(0, len(wire) - 1))]
    _decodes_or_is_malformed(short)


@settings(max_examples=300)
@given(message=messages(), data=st.data())
def test_no_bit_flip_raises_anything_but_malformed(message: Message, data: st.DataObject) -> None:
    wire = bytearray(encode(message))
    for bit in data.draw(st.lists(st.integers(0, 8 * len(wire) - 1), min_size=1, max_size=4)):
        wire[bit // 8] ^= 1 << bit % 8
    _decodes_or_is_malformed(bytes(wire))


@settings(max_examples=300)
@given(number=st.sampled_from(sorted(REGISTRY)), body=st.binary(max_size=200))
def test_no_garbage_raises_anything_but_malformed(number: int, body: bytes) -> None:
    _decodes_or_is_malformed(number.to_bytes(2, "big") + body)


@given(message=messages(), data=st.data())
def test_no_damaged_json_raises_anything_but_malformed(
    message: Message, data: st.DataObject
) -> None:
    text = bytearray(to_json(message))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = from_json(message.NAME, bytes(text))
    except MalformedMessage:
        return
    assert from_json(message.NAME, to_json(read)) == read


@EACH
@settings(max_examples=10)
@given(data=st.data())
def test_a_message_cut_inside_its_fields_closes_the_connection(
    model: type[Message], data: st.DataObject
) -> None:
    message = data.draw(instances(model))
    bare = message.model_copy(
        update={
            **{slot.name: model.model_fields[slot.name].default for slot in model.TLVS.values()},
            **({"extension": b""} if isinstance(message, Announcement) else {"unknown_tlvs": {}}),
        }
    )
    wire = encode(bare)
    with pytest.raises(MalformedMessage) as caught:
        decode(wire[: data.draw(st.integers(0, len(wire) - 1))])
    assert caught.value.action is Action.DISCONNECT


@given(data=st.data(), extension=st.binary(max_size=40))
def test_announcements_keep_every_byte_that_is_signed(
    data: st.DataObject, extension: bytes
) -> None:
    models = [m for m in REGISTRY.values() if issubclass(m, Announcement)]
    model = data.draw(st.sampled_from(models))
    message = data.draw(instances(model)).model_copy(update={"extension": b""})
    wire = encode(message) + extension
    read = decode(wire)
    assert isinstance(read, Announcement)
    assert encode(read) == wire
    assert signed_data(read) == wire[2 + 64 * model.SIGNATURES :]
    again = from_json(model.NAME, to_json(read))
    assert encode(again) == wire


@given(message=messages())
def test_a_channel_token_is_a_subject_token(message: Message) -> None:
    token = channel_token(message)
    names = [n for n in ("channel_id", "temporary_channel_id") if n in type(message).model_fields]
    channel_id = getattr(message, names[0]) if names else bytes(32)
    assert token == ("-" if channel_id == bytes(32) else channel_id.hex())


def _decodes_or_is_malformed(wire: bytes) -> None:
    """What decodes must also encode to the very same bytes: there is one encoding only."""
    try:
        message = decode(wire)
    except MalformedMessage:
        return
    if message is None:
        assert wire[1] % 2
        return
    assert encode(message) == wire
