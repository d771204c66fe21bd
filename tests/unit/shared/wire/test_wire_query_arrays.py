"""Encoded arrays of gossip queries (BOLT 7 § Query Messages)."""

import pytest

from shared.errors import Action, MalformedMessage
from shared.wire import (
    EncodedQueryFlags,
    EncodedTimestamps,
    decode_query_flags,
    decode_short_ids,
    decode_timestamps,
    encode_query_flags,
    encode_short_ids,
)


def test_no_ids_are_one_byte_or_none() -> None:
    assert encode_short_ids([]) == b"\0"
    assert decode_short_ids(b"\0") == []
    assert decode_short_ids(b"") == []


@pytest.mark.parametrize("data", [b"\0" + bytes(7), b"\0" + bytes(9), b"\1", b"\2" + bytes(8)])
def test_a_broken_array_is_worth_a_warning(data: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_short_ids(data)
    assert caught.value.action is Action.WARN


def test_flags_are_minimal_bigsizes() -> None:
    tlv = encode_query_flags([1, 31, 253])
    assert tlv.encoded_query_flags.hex() == "011ffd00fd"
    assert decode_query_flags(tlv) == [1, 31, 253]
    for data in (b"\xfd\0\1", b"\xfd\0"):
        with pytest.raises(MalformedMessage):
            decode_query_flags(EncodedQueryFlags(encoding_type=0, encoded_query_flags=data))


def test_compressed_flags_and_timestamps_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode_query_flags(EncodedQueryFlags(encoding_type=1, encoded_query_flags=b""))
    with pytest.raises(MalformedMessage):
        decode_timestamps(EncodedTimestamps(encoding_type=1, encoded_timestamps=b""))


def test_half_a_pair_of_timestamps_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode_timestamps(EncodedTimestamps(encoding_type=0, encoded_timestamps=bytes(12)))


def test_flags_of_one_byte_each_are_read_however_many_and_longer_ones_only_if_few() -> None:
    assert decode_query_flags(encode_query_flags([31] * 60_000)) == [31] * 60_000
    assert decode_query_flags(encode_query_flags([253] * 2_000)) == [253] * 2_000
    with pytest.raises(MalformedMessage) as caught:
        decode_query_flags(encode_query_flags([253] * 2_001))
    assert caught.value.action is Action.WARN
