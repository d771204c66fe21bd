"""`squall certs`: the cluster's own CA and one certificate per role, or one shared certificate.

A folder holds, for each name, ``<name>.pem`` and ``<name>.key`` (0600): ``ca``, ``server``, the
roles ``back``, ``front``, ``tap``, ``events``, ``admin``, and ``front-<NAME>`` for each front that
has its own; and ``users.conf``, which the broker's configuration includes. In shared mode it holds
``shared`` only.

Raises:
    CommandError: from everything here: a file is in the way, missing, or not ours.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import CommandError
from shared.fabric.roles import DOMAIN, ROLES, front_alone, users_conf
from shared.fabric.tls import Credentials

__all__ = ["DEFAULT_HOSTS", "add_front", "create", "create_shared", "credentials", "renew"]

DEFAULT_HOSTS = ("localhost", "nats", "127.0.0.1", "::1")
"""Names of the broker in its certificate: this machine, and the service of compose.yaml."""
CA_DAYS = 3650
LEAF_DAYS = 825
_FRONT_FILE = re.compile(r"front-([A-Za-z0-9_-]{1,64})\.pem")


@dataclass(frozen=True, slots=True)
class _Signer:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def create(folder: Path, hosts: Iterable[str] = (), *, now: datetime | None = None) -> None:
    """Make a cluster: CA, server, one certificate per role, and the broker's users.

    Args:
        folder: created if absent; must hold no cluster yet.
        hosts: more names or addresses of the brokers, besides `DEFAULT_HOSTS`.
        now: start of validity; for tests.
    """
    now = now or datetime.now(UTC)
    names = ("ca", "server", *(role.user for role in ROLES))
    _prepare(folder, names)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("Squall cluster CA")
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca = _Signer(certificate, key)
    _write_pair(folder, "ca", certificate, key)
    _issue_server(folder, ca, [*DEFAULT_HOSTS, *hosts], now)
    for role in ROLES:
        _issue_user(folder, ca, role.user, now)
    _write(folder / "users.conf", users_conf().encode(), 0o644)


def create_shared(folder: Path, *, now: datetime | None = None) -> None:
    """Make one self-signed certificate for all members; whoever has its key may do everything."""
    now = now or datetime.now(UTC)
    _prepare(folder, ("shared",))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("Squall cluster")
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, "shared", certificate, key)


def add_front(folder: Path, name: str, *, now: datetime | None = None) -> None:
    """Make a certificate and a user for one front alone; the broker must reload its configuration.

    It hears only what is for ``name``. To revoke it, delete its two files, `renew`, and reload.
    """
    try:
        user = front_alone(name).user
    except ValueError as error:
        raise CommandError(str(error)) from None
    ca = _load_ca(folder)
    _refuse_overwriting(folder, (user,))
    _issue_user(folder, ca, user, now or datetime.now(UTC))
    _write_users(folder)


def renew(folder: Path, *, now: datetime | None = None) -> list[str]:
    """Replace every certificate and key but the CA's by new ones; return their names.

    Running processes keep their connections; they use the new files at the next one.
    """
    now = now or datetime.now(UTC)
    ca = _load_ca(folder)
    renewed = []
    if (folder / "server.pem").exists():
        _issue_server(folder, ca, _hosts(folder / "server.pem"), now)
        renewed.append("server")
    for user in (*(role.user for role in ROLES), *(f"front-{n}" for n in _fronts(folder))):
        if (folder / f"{user}.pem").exists():
            _issue_user(folder, ca, user, now)
            renewed.append(user)
    _write_users(folder)
    return renewed


def credentials(folder: Path, user: str) -> Credentials:
    """Return the files of one user (``back``, ``front``, ``front-<NAME>``, …), or of ``shared``."""
    if user == "shared":
        shared = folder / "shared.pem"
        return Credentials(shared, shared, folder / "shared.key", shared=True)
    return Credentials(folder / "ca.pem", folder / f"{user}.pem", folder / f"{user}.key")


# --- certificates -----------------------------------------------------------------------------


def _issue_server(folder: Path, ca: _Signer, hosts: Sequence[str], now: datetime) -> None:
    names = [_host(host) for host in dict.fromkeys(hosts)]
    # A broker is also a client of the others' route ports.
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    _issue(folder, ca, "server", names, usages, now)


def _issue_user(folder: Path, ca: _Signer, user: str, now: datetime) -> None:
    names = [x509.RFC822Name(f"{user}@{DOMAIN}")]
    _issue(folder, ca, user, names, [ExtendedKeyUsageOID.CLIENT_AUTH], now)


def _issue(
    folder: Path,
    ca: _Signer,
    name: str,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    certificate = (
        _builder(_name(name), ca.certificate.subject, key.public_key(), now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    _write_pair(folder, name, certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Clocks of a cluster differ a little.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Squall"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CommandError(f"{host!r} is neither a host name nor an address") from None


def _hosts(certificate: Path) -> list[str]:
    names = _load_certificate(certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    addresses = names.value.get_values_for_type(x509.IPAddress)
    return [*names.value.get_values_for_type(x509.DNSName), *map(str, addresses)]


# --- files --------------------------------------------------------------------------------------


def _prepare(folder: Path, names: Iterable[str]) -> None:
    """Make the folder; refuse one that holds a cluster."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make {folder}: {error}") from error
    _refuse_overwriting(folder, names)


def _refuse_overwriting(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        for path in (folder / f"{name}.pem", folder / f"{name}.key"):
            if path.exists():
                raise CommandError(f"{path} exists; nothing was changed")


def _write_pair(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(folder / f"{name}.key", pem, 0o600)
    _write(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put a file in place whole, readable by nobody else at any time."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error}") from error


def _write_users(folder: Path) -> None:
    fronts = [front_alone(name) for name in _fronts(folder)]
    _write(folder / "users.conf", users_conf((*ROLES, *fronts)).encode(), 0o644)


def _fronts(folder: Path) -> list[str]:
    """Names of the fronts with certificates of their own."""
    found = (_FRONT_FILE.fullmatch(path.name) for path in sorted(folder.glob("front-*.pem")))
    return [match[1] for match in found if match]


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} is no certificate: {error}") from error


def _load_ca(folder: Path) -> _Signer:
    if (folder / "shared.pem").exists():
        raise CommandError(f"{folder} holds a shared certificate: it has no roles and no CA")
    certificate = _load_certificate(folder / "ca.pem")
    path = folder / "ca.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(f"{path} is no private key: {error}") from error
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise CommandError(f"{path} is not the key of ca.pem")
    return _Signer(certificate, key)
