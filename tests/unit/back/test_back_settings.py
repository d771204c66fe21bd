"""Settings of the back that are refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from back.settings import BackSettings

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"


def settings(**values: Any) -> BackSettings:
    required = {"tls_cert": Path("back.pem"), "tls_key": Path("back.key"), "tls_ca": Path("ca.pem")}
    return BackSettings(**required, api_password="a password", **values)


def test_public_addresses_of_every_kind_are_taken() -> None:
    addresses = ("192.0.2.1:9735", "[2001:db8::1]:9735", f"{ONION}:9735", "ln.example.com:9735")
    assert settings(public_addresses=addresses).public_addresses == addresses


@pytest.mark.parametrize(
    "addresses",
    [("192.0.2.1:0",), ("two words",), ("short.onion:9735",), ("a.example:1", "b.example:1")],
)
def test_a_public_address_that_cannot_be_announced_is_refused(addresses: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        settings(public_addresses=addresses)
