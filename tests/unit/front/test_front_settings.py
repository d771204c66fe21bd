from ipaddress import ip_network
from pathlib import Path

import pytest

from front.settings import FrontSettings
from shared.errors import CommandError
from shared.settings import host_port

TLS = {
    "SQUALL_FRONT_TLS_CA": "ca.pem",
    "SQUALL_FRONT_TLS_CERT": "front.pem",
    "SQUALL_FRONT_TLS_KEY": "front.key",
}


@pytest.fixture
def load(monkeypatch):
    """Load settings from these variables, given without their prefix."""

    def loaded(**variables: str) -> FrontSettings:
        environ = TLS | {f"SQUALL_FRONT_{k.upper()}": v for k, v in variables.items()}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return FrontSettings.load()

    return loaded


def test_three_files_are_enough(load):
    settings = load()
    assert settings.listen == ("0.0.0.0:9735",)
    assert settings.key_provider == "remote"
    assert settings.credentials.cert == Path("front.pem")


def test_refuses_to_run_without_tls(monkeypatch):
    for name in TLS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CommandError, match="SQUALL_FRONT_TLS_CERT"):
        FrontSettings.load()


def test_refuses_an_unknown_variable_and_says_what_was_meant(load):
    with pytest.raises(CommandError, match=r"LISTNE .meant SQUALL_FRONT_LISTEN"):
        load(listne="127.0.0.1:9735")


def test_lists_are_separated_by_commas(load):
    settings = load(
        listen="127.0.0.1:9735, [::1]:9736",
        proxy_protocol="true",
        proxy_sources="10.0.0.0/8, 192.0.2.1",
    )
    assert settings.listen == ("127.0.0.1:9735", "[::1]:9736")
    assert settings.proxies == (ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"))


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"listen": "9735"}, "LISTEN"),
        ({"listen": "127.0.0.1:70000"}, "LISTEN"),
        ({"metrics_listen": "here"}, "METRICS_LISTEN"),
        ({"name": "a.b"}, "NAME"),
        ({"node_id": "02aa"}, "NODE_ID"),
        ({"node_id": "zz"}, "NODE_ID"),
        ({"unlimited_sources": "everywhere"}, "UNLIMITED_SOURCES"),
        ({"unlimited_sources": "10.0.0.1/8"}, "host bits set"),
        ({"max_handshakes": "0"}, "MAX_HANDSHAKES"),
        ({"proxy_protocol": "true"}, "proxy_sources"),
        ({"proxy_sources": "10.0.0.0/8"}, "proxy_protocol is off"),
        ({"key_provider": "env"}, "needs node_key"),
        ({"key_provider": "file"}, "needs node_key_file"),
        ({"node_key": "11" * 32}, "key_provider is remote"),
        ({"key_provider": "vault"}, "KEY_PROVIDER"),
    ],
)
def test_refuses_what_cannot_work(load, variables, why):
    with pytest.raises(CommandError, match=why):
        load(**variables)


def test_never_shows_the_key(load):
    settings = load(key_provider="env", node_key="ab" * 32)
    assert "abab" not in repr(settings)
    with pytest.raises(CommandError) as refused:
        load(key_provider="env", node_key="ab" * 32, max_handshakes="none")
    assert "abab" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::]:9735", ("::", 9735)), ("host:1", ("host", 1))],
)
def test_splits_host_and_port(text, expected):
    assert host_port(text) == expected
