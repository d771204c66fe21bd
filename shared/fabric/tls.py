"""Who we are on the fabric, and the TLS that proves it. There is no way to connect without."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from shared.errors import CommandError
from shared.fabric.roles import DOMAIN

__all__ = ["Credentials", "Identity", "client_context", "identity"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files one process uses.

    Attributes:
        ca: certificate of the cluster CA; in shared mode the shared certificate itself.
        cert: our certificate.
        key: its private key, readable by us only.
        shared: one self-signed certificate for all members: trusted by itself, no host names, no
            roles.
    """

    ca: Path
    cert: Path
    key: Path
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says.

    Attributes:
        role: ``back``, ``front``, ``tap``, ``events`` or ``admin``; ``""`` for a shared
            certificate.
        name: the front that it was made for alone, or ``""`` where replicas share it.
    """

    role: str
    name: str = ""

    @property
    def user(self) -> str:
        """The user's name at the broker without its domain; the second token of its inboxes."""
        return f"{self.role}-{self.name}" if self.name else self.role


def identity(credentials: Credentials) -> Identity:
    """Read role and name out of our own certificate.

    Raises:
        CommandError: no such file, no certificate, or none of a role.
    """
    if credentials.shared:
        return Identity("")
    try:
        certificate = x509.load_pem_x509_certificate(credentials.cert.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise CommandError(f"{credentials.cert} is no certificate of a role: {error}") from error
    for email in names.get_values_for_type(x509.RFC822Name):
        user, _, domain = email.partition("@")
        if domain == DOMAIN:
            role, _, name = user.partition("-")
            return Identity(role, name)
    raise CommandError(f"{credentials.cert} names no role (no e-mail name at {DOMAIN})")


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Return a fresh TLS 1.3 client context; one for each connection, so that renewed files count.

    Raises:
        CommandError: a file is missing, unreadable, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The shared certificate carries no host names; it must still be exactly that certificate.
    context.check_hostname = not credentials.shared
    try:
        context.load_verify_locations(credentials.ca)
        context.load_cert_chain(credentials.cert, credentials.key)
    except (OSError, ssl.SSLError) as error:
        files = f"{credentials.ca}, {credentials.cert}, {credentials.key}"
        raise CommandError(f"cannot use the certificates {files}: {error}") from error
    return context
