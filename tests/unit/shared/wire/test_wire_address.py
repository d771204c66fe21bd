"""Address descriptors (BOLT 7 § node_announcement)."""

import pytest
from hypothesis import given, strategies as st

from shared.errors import Action, MalformedMessage
from shared.wire import Address, AddressKind, pack_addresses, parse_addresses

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"


def test_each_known_type_is_read() -> None:
    data = bytes.fromhex(
        "01" + "7f000001" + "2607"
        "02" + "00" * 15 + "01" + "0001"
        "03" + "00" * 10 + "2607"
        "05" + "0b" + b"example.com".hex() + "ffff"
    )
    known, unknown = parse_addresses(data)
    assert list(map(str, known)) == [
        "127.0.0.1:9735",
        "[::1]:1",
        "aaaaaaaaaaaaaaaa.onion:9735",
        "example.com:65535",
    ]
    assert unknown == b""
    assert b"".join(address.pack() for address in known) == data


def test_a_tor_v3_address_is_35_bytes() -> None:
    address = Address.parse(f"{ONION}:1234")
    assert address.kind is AddressKind.TOR_V3
    assert len(address.pack()) == 1 + 35 + 2
    assert parse_addresses(address.pack()).known == (address,)
    assert str(address) == f"{ONION}:1234"


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_an_unknown_type_and_what_follows_is_kept_unread(kind: int) -> None:
    first = Address.parse("10.0.0.1").pack()
    known, unknown = parse_addresses(first + bytes([kind]) + first)
    assert list(map(str, known)) == ["10.0.0.1:9735"]
    assert unknown == bytes([kind]) + first


@pytest.mark.parametrize(
    "text", ["10.0.0.1:1", "[2001:db8::1]:9735", f"{ONION}:9735", "node.example:9735"]
)
def test_a_truncated_address_is_worth_a_warning(text: str) -> None:
    whole = Address.parse(text).pack()
    for size in range(1, len(whole)):
        with pytest.raises(MalformedMessage) as caught:
            parse_addresses(whole[:size])
        assert caught.value.action is Action.WARN


@pytest.mark.parametrize("name", [b"b\xfccher.example", b"a\nb", b"a\x1b[2J"])
def test_a_host_name_is_printable_ascii(name: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_addresses(b"\5" + bytes([len(name)]) + name + b"\0\1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", "1.2.3.4:9735"),
        ("1.2.3.4:5", "1.2.3.4:5"),
        ("[::1]", "[::1]:9735"),
        ("localhost:65535", "localhost:65535"),
        (f"{ONION.upper()}", f"{ONION}:9735"),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, expected: str) -> None:
    assert str(Address.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":9735", "::1", "1.2.3.4:0", "1.2.3.4:65536", "a b", "host:port", "[::1", "[1.2.3.x]:1",
     "short.onion", "a" * 256, "b\u00fccher.example"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(text)


def test_descriptors_are_written_in_ascending_order() -> None:
    addresses = [Address.parse(t) for t in ("node.example", "[::1]", "1.2.3.4")]
    kinds = [a.kind for a in parse_addresses(pack_addresses(addresses)).known]
    assert kinds == [AddressKind.IPV4, AddressKind.IPV6, AddressKind.DNS]


def test_a_second_host_name_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one DNS"):
        pack_addresses([Address.parse("a.example"), Address.parse("b.example")])


def test_an_address_without_a_port_or_of_tor_v2_is_not_dialled() -> None:
    assert Address.parse("1.2.3.4").is_usable
    assert not Address(AddressKind.IPV4, "1.2.3.4", 0).is_usable
    assert not Address(AddressKind.TOR_V2, "aaaaaaaaaaaaaaaa.onion", 9735).is_usable


@given(data=st.binary(max_size=120))
def test_descriptors_read_back_as_they_were_or_are_malformed(data: bytes) -> None:
    try:
        known, unknown = parse_addresses(data)
    except MalformedMessage:
        return
    assert b"".join(address.pack() for address in known) + unknown == data
