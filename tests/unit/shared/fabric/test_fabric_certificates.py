"""`squall certs`: what it writes, and what it refuses."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from shared.errors import CommandError
from shared.fabric import certificates
from shared.fabric.certificates_cli import app
from shared.fabric.tls import Identity, client_context, identity

NAMES = {"ca", "server", "back", "front", "tap", "events", "admin"}


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    certificates.create(tmp_path / "certs")
    return tmp_path / "certs"


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path, kind: type) -> list[str]:
    extension = load(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return list(map(str, extension.value.get_values_for_type(kind)))


def usages(path: Path) -> set[x509.ObjectIdentifier]:
    return set(load(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cluster_has_a_ca_a_server_and_one_certificate_per_role(certs: Path) -> None:
    expected = {f"{n}.{end}" for n in NAMES for end in ("pem", "key")} | {"users.conf"}
    assert {path.name for path in certs.iterdir()} == expected


def test_private_keys_are_readable_by_their_owner_only(certs: Path) -> None:
    certificates.add_front(certs, "f1")
    certificates.renew(certs)
    keys = list(certs.glob("*.key"))
    assert len(keys) == len(NAMES) + 1
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_every_certificate_verifies_against_the_ca_and_is_not_one(certs: Path) -> None:
    ca = load(certs / "ca.pem")
    for name in NAMES - {"ca"}:
        certificate = load(certs / f"{name}.pem")
        certificate.verify_directly_issued_by(ca)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical
        assert not basic.value.ca


@pytest.mark.parametrize("role", sorted(NAMES - {"ca", "server"}))
def test_a_role_is_the_mail_name_and_is_a_client_only(certs: Path, role: str) -> None:
    assert names(certs / f"{role}.pem", x509.RFC822Name) == [f"{role}@squall"]
    assert usages(certs / f"{role}.pem") == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert identity(certificates.credentials(certs, role)) == Identity(role)


def test_the_server_has_host_names_and_no_role(certs: Path) -> None:
    assert names(certs / "server.pem", x509.DNSName) == ["localhost", "nats"]
    assert names(certs / "server.pem", x509.IPAddress) == ["127.0.0.1", "::1"]
    assert names(certs / "server.pem", x509.RFC822Name) == []


def test_more_host_names_and_addresses_are_taken_and_kept_by_renew(tmp_path: Path) -> None:
    certificates.create(tmp_path, ["nats-1.example", "10.0.0.7", "localhost"])
    certificates.renew(tmp_path)
    assert names(tmp_path / "server.pem", x509.DNSName) == ["localhost", "nats", "nats-1.example"]
    assert names(tmp_path / "server.pem", x509.IPAddress) == ["127.0.0.1", "::1", "10.0.0.7"]


@pytest.mark.parametrize("existing", ["ca.key", "back.pem", "server.key"])
def test_nothing_is_ever_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(CommandError, match="exists; nothing was changed"):
        certificates.create(tmp_path)
    assert snapshot(tmp_path) == {existing: b"precious"}


def test_a_shared_certificate_is_not_overwritten(tmp_path: Path) -> None:
    certificates.create_shared(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(CommandError, match="exists"):
        certificates.create_shared(tmp_path)
    assert snapshot(tmp_path) == before
    assert stat.S_IMODE((tmp_path / "shared.key").stat().st_mode) == 0o600


def test_a_front_of_its_own_has_its_own_user(certs: Path) -> None:
    certificates.add_front(certs, "paris-1")
    credentials = certificates.credentials(certs, "front-paris-1")
    assert identity(credentials) == Identity("front", "paris-1")
    assert identity(credentials).user == "front-paris-1"
    users = (certs / "users.conf").read_text()
    assert '"front-paris-1@squall"' in users
    assert '"ln.out.paris-1.>"' in users


def test_a_front_is_added_once(certs: Path) -> None:
    certificates.add_front(certs, "f1")
    before = snapshot(certs)
    with pytest.raises(CommandError, match="exists"):
        certificates.add_front(certs, "f1")
    assert snapshot(certs) == before


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "../x", "é", "x" * 65])
def test_a_front_needs_a_name_that_cannot_widen_its_rights(certs: Path, name: str) -> None:
    before = snapshot(certs)
    with pytest.raises(CommandError, match="not a front's name"):
        certificates.add_front(certs, name)
    assert snapshot(certs) == before


def test_renew_replaces_all_but_the_ca(certs: Path) -> None:
    certificates.add_front(certs, "f1")
    before = snapshot(certs)
    renewed = certificates.renew(certs, now=datetime.now(UTC) + timedelta(days=1))
    after = snapshot(certs)
    assert set(renewed) == NAMES - {"ca"} | {"front-f1"}
    unchanged = {name for name in before if before[name] == after[name]}
    assert unchanged == {"ca.pem", "ca.key", "users.conf"}
    for name in renewed:
        load(certs / f"{name}.pem").verify_directly_issued_by(load(certs / "ca.pem"))
        client_context(certificates.credentials(certs, name))


def test_renew_forgets_the_user_of_a_front_whose_files_are_gone(certs: Path) -> None:
    certificates.add_front(certs, "f1")
    (certs / "front-f1.pem").unlink()
    certificates.renew(certs)
    assert "front-f1" not in (certs / "users.conf").read_text()


def test_a_folder_that_may_not_sign_says_so(certs: Path) -> None:
    (certs / "ca.key").unlink()
    with pytest.raises(CommandError, match=r"ca\.key is no private key"):
        certificates.renew(certs)
    (certs / "back.key").rename(certs / "ca.key")
    with pytest.raises(CommandError, match=r"is not the key of ca\.pem"):
        certificates.add_front(certs, "f1")


def test_a_shared_folder_has_no_fronts_to_add(tmp_path: Path) -> None:
    certificates.create_shared(tmp_path)
    with pytest.raises(CommandError, match="no roles"):
        certificates.add_front(tmp_path, "f1")


def test_a_certificate_without_a_role_is_no_identity(certs: Path) -> None:
    with pytest.raises(CommandError, match="names no role"):
        identity(certificates.credentials(certs, "server"))
    with pytest.raises(CommandError, match="no certificate"):
        identity(certificates.credentials(certs, "missing"))


def test_a_host_that_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="neither a host name nor an address"):
        certificates.create(tmp_path, ["bücher"])


# --- the command ----------------------------------------------------------------------------------


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_makes_a_cluster(tmp_path: Path) -> None:
    result = run(tmp_path / "c", "--host", "nats-1", "--host", "nats-2")
    assert result.exit_code == 0, result.output
    assert "nats-2" in names(tmp_path / "c" / "server.pem", x509.DNSName)
    assert run("add-front", "f1", "--dir", tmp_path / "c").exit_code == 0
    result = run("renew", "--dir", tmp_path / "c")
    assert result.exit_code == 0
    assert "front-f1" in result.output


def test_the_command_makes_a_shared_certificate(tmp_path: Path) -> None:
    assert run("--shared", tmp_path / "c").exit_code == 0
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"shared.pem", "shared.key"}


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    run(tmp_path)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "ca.pem exists; nothing was changed" in result.output
    assert "Traceback" not in result.output
    assert run("renew", "--dir", tmp_path / "none").exit_code == 1
