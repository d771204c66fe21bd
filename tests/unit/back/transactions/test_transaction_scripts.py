"""Scripts at their edges; the plain ones are in the BOLT 3 vectors."""

import pytest
from embit.script import Script
from support.commitments import point

from back.transactions import scripts
from shared.errors import MalformedMessage

V0_20, V0_32 = b"\x00\x14" + bytes(20), b"\x00\x20" + bytes(32)


@pytest.mark.parametrize("script", [V0_20, V0_32])
def test_version_0_programs_may_close_always(script: bytes) -> None:
    assert scripts.is_standard_shutdown_script(script, anysegwit=False)
    assert scripts.is_standard_shutdown_script(script, anysegwit=True)


@pytest.mark.parametrize(
    "script",
    [
        bytes((version, size)) + bytes(size)
        for version in (0x51, 0x52, 0x60)
        for size in (2, 32, 40)
    ],
)
def test_later_versions_may_close_with_anysegwit_only(script: bytes) -> None:
    assert scripts.is_standard_shutdown_script(script, anysegwit=True)
    assert not scripts.is_standard_shutdown_script(script, anysegwit=False)


@pytest.mark.parametrize(
    "script",
    [
        b"",
        b"\x00",
        V0_20[:-1],
        V0_20 + b"\0",
        V0_32 + b"\0",
        b"\x00\x15" + bytes(21),
        b"\x51\x01\x00",
        b"\x51\x29" + bytes(41),
        b"\x51\x20" + bytes(31),
        b"\x51\x20" + bytes(33),
        b"\x50\x20" + bytes(32),
        b"\x61\x20" + bytes(32),
        b"\x51\x4c\x20" + bytes(32),
        bytes.fromhex("76a914" + "11" * 20 + "88ac"),
        bytes.fromhex("a914" + "11" * 20 + "87"),
        b"\x6a\x06" + bytes(6),
    ],
)
def test_no_other_form_may_close(script: bytes) -> None:
    assert not scripts.is_standard_shutdown_script(script, anysegwit=True)


def test_the_funding_script_has_its_keys_in_order_whoever_asks() -> None:
    one, other = sorted((point("one"), point("other")))
    assert scripts.funding_script(one, other) == scripts.funding_script(other, one)
    assert scripts.funding_keys(scripts.funding_script(other, one)) == (one, other)


@pytest.mark.parametrize(
    "script",
    [
        b"",
        bytes(71),
        scripts.funding_script(point("one"), point("other"))[:-1],
        scripts.funding_script(point("one"), point("other")) + b"\0",
    ],
)
def test_another_script_has_no_funding_keys(script: bytes) -> None:
    with pytest.raises(MalformedMessage):
        scripts.funding_keys(script)


@pytest.mark.parametrize(
    ("delay", "pushed"),
    [
        (0, "00"),
        (1, "51"),
        (16, "60"),
        (17, "0111"),
        (127, "017f"),
        (128, "028000"),
        (144, "029000"),
        (255, "02ff00"),
        (256, "020001"),
        (2016, "02e007"),
        (32767, "02ff7f"),
        (32768, "03008000"),
        (65535, "03ffff00"),
    ],
)
def test_delays_are_pushed_minimally(delay: int, pushed: str) -> None:
    script = scripts.to_local_script(point("revocation"), delay, point("delayed"))
    assert script[:1] + script[1:35] + b"\x67" == script[:36]
    assert script[36:].startswith(bytes.fromhex(pushed) + b"\xb2\x75")


def test_key_hash_outputs_are_those_of_an_independent_library() -> None:
    from embit.ec import PublicKey
    from embit.script import p2wpkh, p2wsh

    key = point("payment")
    assert scripts.p2wpkh(key) == p2wpkh(PublicKey.parse(key)).data
    script = scripts.to_remote_anchors_script(key)
    assert scripts.p2wsh(script) == p2wsh(Script(script)).data
