from ipaddress import ip_address

import pytest

from front.transport.proxy import MAX_HEADER, ProxyHeader, read_header
from shared.errors import HandshakeFailed

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def header(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def addresses(source: str, destination: str, port: int) -> bytes:
    packed = ip_address(source).packed + ip_address(destination).packed
    return packed + port.to_bytes(2, "big") + (9735).to_bytes(2, "big")


def test_reads_the_source_of_an_ipv4_connection():
    data = header(0x21, 0x11, addresses("198.51.100.7", "192.0.2.1", 40123))
    assert read_header(data + b"act one") == ProxyHeader(len(data), ("198.51.100.7", 40123))


def test_reads_the_source_of_an_ipv6_connection():
    data = header(0x21, 0x21, addresses("2001:db8::7", "2001:db8::1", 40123))
    assert read_header(data) == ProxyHeader(len(data), ("2001:db8::7", 40123))


def test_skips_the_extensions_behind_the_addresses():
    extension = b"\x04\x00\x03\x00\x00\x00"
    data = header(0x21, 0x11, addresses("198.51.100.7", "192.0.2.1", 1) + extension)
    assert read_header(data + b"rest") == ProxyHeader(len(data), ("198.51.100.7", 1))


@pytest.mark.parametrize(("command", "family"), [(0x20, 0x00), (0x20, 0x11), (0x21, 0x00)])
def test_a_health_check_and_an_unknown_family_name_no_source(command: int, family: int):
    data = header(command, family, addresses("198.51.100.7", "192.0.2.1", 1))
    assert read_header(data) == ProxyHeader(len(data), None)


def test_waits_for_every_byte_of_the_header():
    data = header(0x21, 0x11, addresses("198.51.100.7", "192.0.2.1", 40123))
    assert all(read_header(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize("data", [b"\x00", b"\r\n\r\r", b"PROXY TCP4 198.51.100.7", bytes(50)])
def test_refuses_what_starts_otherwise_at_its_first_wrong_byte(data: bytes):
    with pytest.raises(HandshakeFailed, match="no PROXY v2 header"):
        read_header(data)


@pytest.mark.parametrize("command", [0x11, 0x22, 0x31, 0x00])
def test_refuses_another_version_or_command(command: int):
    with pytest.raises(HandshakeFailed, match=f"{command:#04x}"):
        read_header(header(command, 0x11, bytes(12)))


def test_refuses_a_header_that_is_too_long_before_it_has_arrived():
    with pytest.raises(HandshakeFailed, match="at most 2048"):
        read_header(header(0x21, 0x11, bytes(MAX_HEADER))[:16])


@pytest.mark.parametrize(("family", "size"), [(0x11, 11), (0x21, 35)])
def test_refuses_addresses_that_are_cut_short(family: int, size: int):
    with pytest.raises(HandshakeFailed, match=f"{size} bytes of addresses"):
        read_header(header(0x21, family, bytes(size)))
