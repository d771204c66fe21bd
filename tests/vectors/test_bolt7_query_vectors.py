"""BOLT 7, extended-queries.json."""

import json
from pathlib import Path
from typing import Any
from zlib import compress

import pytest

from shared.errors import Action, MalformedMessage
from shared.units import ShortChannelId
from shared.wire import (
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    decode,
    decode_short_ids,
    decode_timestamps,
    encode,
    encode_short_ids,
    encode_timestamps,
)

VECTORS = json.loads((Path(__file__).parent / "bolt7_extended_queries.json").read_text())["vectors"]
ARRAYS = [v for v in VECTORS if "shortChannelIds" in v["msg"]]


def encoding(vector: dict[str, Any]) -> str:
    return vector["msg"]["shortChannelIds"]["encoding"]


UNCOMPRESSED = [v for v in ARRAYS if encoding(v) == "UNCOMPRESSED"]
COMPRESSED = [v for v in ARRAYS if encoding(v) != "UNCOMPRESSED"]


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_every_query_of_the_vectors_has_one_encoding(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["hex"])
    message = decode(wire)
    assert type(message).__name__ == vector["msg"]["type"]
    assert message is not None
    assert encode(message) == wire
    assert message.chain_hash.hex() == vector["msg"]["chainHash"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("vector", VECTORS[:2], ids=range(2))
def test_a_range_query_asks_for_what_the_vector_says(vector: dict[str, Any]) -> None:
    message = decode(bytes.fromhex(vector["hex"]))
    assert isinstance(message, QueryChannelRange)
    assert message.first_blocknum == vector["msg"]["firstBlockNum"]
    assert message.number_of_blocks == vector["msg"]["numberOfBlocks"]
    assert message.query_option == (3 if vector["msg"]["tlvStream"]["records"] else None)


@pytest.mark.parametrize("vector", UNCOMPRESSED, ids=range(len(UNCOMPRESSED)))
def test_uncompressed_ids_are_read_and_written(vector: dict[str, Any]) -> None:
    message = decode(bytes.fromhex(vector["hex"]))
    assert isinstance(message, ReplyChannelRange | QueryShortChannelIds)
    ids = decode_short_ids(message.encoded_short_ids)
    expected = vector["msg"]["shortChannelIds"]["array"]
    assert [str(ShortChannelId.unpack(scid)) for scid in ids] == expected
    assert encode_short_ids(ids) == message.encoded_short_ids


@pytest.mark.parametrize("vector", COMPRESSED, ids=range(len(COMPRESSED)))
def test_ids_in_zlib_are_read_and_never_written(vector: dict[str, Any]) -> None:
    message = decode(bytes.fromhex(vector["hex"]))
    assert isinstance(message, ReplyChannelRange | QueryShortChannelIds)
    ids = decode_short_ids(message.encoded_short_ids)
    expected = vector["msg"]["shortChannelIds"]["array"]
    assert [str(ShortChannelId.unpack(scid)) for scid in ids] == expected
    assert encode_short_ids(ids)[0] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        b"\x01rubbish",
        b"\x01" + compress(bytes(8))[:-1],
        b"\x01" + compress(bytes(8)) + b"more",
        b"\x01" + compress(bytes(7)),
        b"\x01" + compress(bytes(1 << 24)),
        b"\x02" + bytes(8),
    ],
    ids=["empty", "rubbish", "truncated", "trailing", "no whole number", "a bomb", "unknown"],
)
def test_ids_that_cannot_be_read_within_bounds_cost_a_warning(data: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_short_ids(data)
    assert caught.value.action is Action.WARN


def test_timestamps_and_checksums_are_those_of_the_vector() -> None:
    (vector,) = [v for v in UNCOMPRESSED if "checksums" in v["msg"]]
    message = decode(bytes.fromhex(vector["hex"]))
    assert isinstance(message, ReplyChannelRange)
    assert message.timestamps_tlv is not None
    assert message.checksums_tlv is not None
    stamps = decode_timestamps(message.timestamps_tlv)
    expected = vector["msg"]["timestamps"]["timestamps"]
    assert stamps == [(t["timestamp1"], t["timestamp2"]) for t in expected]
    assert encode_timestamps(stamps) == message.timestamps_tlv
    sums = [(c.checksum_node_id_1, c.checksum_node_id_2) for c in message.checksums_tlv]
    expected = vector["msg"]["checksums"]["checksums"]
    assert sums == [(c["checksum1"], c["checksum2"]) for c in expected]
