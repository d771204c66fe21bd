"""BOLT 1, Appendices A to D."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest

from shared.errors import Action, MalformedMessage
from shared.wire import Init, Record, Tlv, TlvStream, decode, decode_stream, encode, encode_stream
from shared.wire.codec import BIG_SIZE, Reader, SInt
from shared.wire.types import TU32, TU64, U16, U64, Point, Scid

HERE = Path(__file__).parent


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text())


BIGSIZE, TLV = load("bolt1_bigsize"), load("bolt1_tlv")
INIT, SIGNED = load("bolt1_init_extension"), load("bolt1_signed_integers")


class Three(Record):
    """The record tlv3 of namespace n1."""

    node_id: Point
    amount_msat_1: U64
    amount_msat_2: U64


class N1(TlvStream):
    """Namespace n1."""

    tlv1: Annotated[TU64 | None, Tlv(1)] = None
    tlv2: Annotated[Scid | None, Tlv(2)] = None
    tlv3: Annotated[Three | None, Tlv(3)] = None
    tlv4: Annotated[U16 | None, Tlv(254)] = None


class N2(TlvStream):
    """Namespace n2."""

    tlv1: Annotated[TU64 | None, Tlv(0)] = None
    tlv2: Annotated[TU32 | None, Tlv(11)] = None


def hexed(vectors: list[dict[str, str]]) -> list[Any]:
    return [
        pytest.param(bytes.fromhex(v["stream"]), id=v["stream"][:40] or "empty") for v in vectors
    ]


@pytest.mark.parametrize("vector", BIGSIZE["decode"], ids=lambda v: v["name"])
def test_a_bigsize_decodes_as_bolt_1_says(vector: dict[str, Any]) -> None:
    reader = Reader(bytes.fromhex(vector["bytes"]))
    if "exp_error" in vector:
        with pytest.raises(MalformedMessage):
            BIG_SIZE.read(reader)
    else:
        assert BIG_SIZE.read(reader) == vector["value"]
        assert reader.left == 0


@pytest.mark.parametrize("vector", BIGSIZE["encode"], ids=lambda v: v["name"])
def test_a_bigsize_encodes_as_bolt_1_says(vector: dict[str, Any]) -> None:
    assert BIG_SIZE.write(vector["value"]).hex() == vector["bytes"]


@pytest.mark.parametrize("namespace", [N1, N2])
@pytest.mark.parametrize("stream", hexed(TLV["any_invalid"] + TLV["either_invalid"]))
def test_an_invalid_stream_is_refused_in_every_namespace(
    namespace: type[TlvStream], stream: bytes
) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_stream(namespace, stream)
    assert caught.value.action is Action.DISCONNECT


@pytest.mark.parametrize("stream", hexed(TLV["n1_invalid"] + TLV["n1_invalid_stream"]))
def test_an_invalid_stream_is_refused_in_n1(stream: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_stream(N1, stream)


@pytest.mark.parametrize("stream", hexed(TLV["n2_invalid_stream"]))
def test_an_invalid_stream_is_refused_in_n2(stream: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_stream(N2, stream)


@pytest.mark.parametrize("namespace", [N1, N2])
@pytest.mark.parametrize("stream", hexed(TLV["either_valid"]))
def test_unknown_odd_records_are_kept(namespace: type[TlvStream], stream: bytes) -> None:
    read = decode_stream(namespace, stream)
    assert read.model_dump(exclude_none=True).keys() <= {"unknown_tlvs"}
    assert len(read.unknown_tlvs) == (1 if stream else 0)
    assert encode_stream(read) == stream


@pytest.mark.parametrize("vector", TLV["n1_valid"], ids=lambda v: v["values"][:40])
def test_known_records_have_the_values_of_bolt_1(vector: dict[str, str]) -> None:
    stream = bytes.fromhex(vector["stream"])
    read = decode_stream(N1, stream)
    name, *values = vector["values"].split(" ")
    expected = dict(value.split("=") for value in values)
    value = getattr(read, name)
    if isinstance(value, Three):
        assert value.node_id.hex() == expected["node_id"]
        assert value.amount_msat_1 == int(expected["amount_msat_1"])
        assert value.amount_msat_2 == int(expected["amount_msat_2"])
    else:
        (text,) = expected.values()
        assert value == int(text.rpartition("x")[2])
    assert encode_stream(read) == stream


@pytest.mark.parametrize("invalid", hexed(TLV["any_invalid"]))
@pytest.mark.parametrize("valid", hexed(TLV["n1_valid"]))
def test_an_invalid_stream_spoils_a_valid_one_before_it(valid: bytes, invalid: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_stream(N1, valid + invalid)


def test_higher_valid_records_may_follow_lower_ones() -> None:
    by_type: dict[int, bytes] = {}
    for vector in TLV["n1_valid"] + TLV["either_valid"]:
        stream = bytes.fromhex(vector["stream"])
        if stream:
            by_type[BIG_SIZE.read(Reader(stream))] = stream
    ordered = [by_type[number] for number in sorted(by_type)]
    assert len(ordered) > 6
    whole = b"".join(ordered)
    assert encode_stream(decode_stream(N1, whole)) == whole


@pytest.mark.parametrize("vector", INIT["valid"], ids=lambda v: v["message"])
def test_a_valid_extension_of_init_is_kept(vector: dict[str, str]) -> None:
    wire = bytes.fromhex(vector["message"])
    message = decode(wire)
    assert isinstance(message, Init)
    assert encode(message) == wire


@pytest.mark.parametrize("vector", INIT["invalid"], ids=lambda v: v["message"])
def test_an_invalid_extension_of_init_closes_the_connection(vector: dict[str, str]) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(bytes.fromhex(vector["message"]))
    assert caught.value.action is Action.DISCONNECT


@pytest.mark.parametrize("vector", SIGNED["vectors"], ids=lambda v: str(v["value"]))
def test_signed_integers_are_two_s_complement(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    codec = SInt(len(data))
    assert codec.write(vector["value"]) == data
    assert codec.read(Reader(data)) == vector["value"]
