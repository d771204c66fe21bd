"""The checksum of a channel_update (BOLT 7): others' published examples, and what it covers."""

import pytest
from support.gossip_links import update_change

from shared.gossip.checksum import checksum

# Updates and checksums that Eclair's and Core Lightning's own tests agree upon.
PUBLISHED = [
    (
        "010276df7e70c63cc2b63ef1c062b99c6d934a80ef2fd4dae9e1d86d277f47674af3255a97fa52ade7f129263f"
        "591ed784996eba6383135896cc117a438c8029328206226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1f"
        "c7b2b73cf188910f00006700000100005d50f933010000900000000000000000000003e80000000a000000000e"
        "e6b280",
        0xEB8277A6,
    ),
    (
        "010206737e9e18d3e4d0ab4066ccaecdcc10e648c5f1c5413f1610747e0d463fa7fa39c1b02ea2fd694275ecfe"
        "fe4fe9631f24afd182ab75b805e16cd550941f858c06226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1f"
        "c7b2b73cf188910f00006d00000100005d50f935010000300000000000000000000000640000000b0000000000"
        "0186a0",
        0xF32CE968,
    ),
]
SIGNATURE, TIMESTAMP = range(2, 66), range(106, 110)
RAW: bytes = update_change(1, 1).value


@pytest.mark.parametrize(("raw", "expected"), PUBLISHED, ids=["eclair", "core lightning"])
def test_a_checksum_is_what_other_nodes_compute(raw: str, expected: int) -> None:
    assert checksum(bytes.fromhex(raw)) == expected


@pytest.mark.parametrize("at", [*SIGNATURE, *TIMESTAMP])
def test_a_new_signature_or_timestamp_leaves_the_checksum(at: int) -> None:
    assert checksum(changed(RAW, at)) == checksum(RAW)


@pytest.mark.parametrize("at", sorted({*range(66, len(RAW))} - {*TIMESTAMP}))
def test_any_other_byte_changes_the_checksum(at: int) -> None:
    assert checksum(changed(RAW, at)) != checksum(RAW)


def test_what_follows_the_known_fields_changes_the_checksum() -> None:
    assert checksum(RAW + b"\x01\x01\x07") != checksum(RAW)


def changed(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
