"""The broker's configuration as text: the files in ``nats/`` and what the embedded server runs.

``python -m shared.fabric.configuration nats`` writes that folder; a test holds it equal to this.
"""

import sys
from pathlib import Path

from shared.fabric.roles import users_conf

__all__ = ["cluster_conf", "files", "server_conf", "shared_conf"]

_LIMITS = """\
max_payload: 262144      # the largest BOLT message, 65 kB, is 131 kB of hex in an envelope
max_pending: 64MB        # a client this far behind is cut off; its sessions resume
write_deadline: "5s"
ping_interval: "2s"      # clients ping every second: a frozen one is noticed from both sides
ping_max: 2
"""

_JETSTREAM = """\
jetstream {{
  # Only what can be rebuilt: the routing table and the event log. Never a lease, never a channel.
  store_dir: "{store}"
  max_mem: 256MB
  max_file: 2GB
}}
"""


def server_conf(
    *,
    listen: str = "0.0.0.0:4222",
    certs: str = "certs",
    users: str = "certs/users.conf",
    store: str = "jetstream",
    extra: str = "",
) -> str:
    """Return the configuration of a broker with roles.

    Args:
        listen: address and port; port -1 is a random one.
        certs: folder of the certificates, as seen from the server's working directory.
        users: ``users.conf``, as seen from the configuration file.
        store: folder for JetStream.
        extra: more lines.
    """
    return f"""\
# NATS as Squall's fabric: TLS 1.3 from the first byte, one user per certificate, least rights.
# Written by `python -m shared.fabric.configuration nats`; see nats/README.md.
# Certificates are looked up in the working directory, the included file beside this one.
listen: "{listen}"
{_LIMITS}
tls {{
  cert_file: "{certs}/server.pem"
  key_file: "{certs}/server.key"
  ca_file: "{certs}/ca.pem"
  verify_and_map: true     # the e-mail name in a client's certificate is its user
  handshake_first: true    # without it nats-py may be talked into plaintext
  min_version: "1.3"
  timeout: 2
}}

{_JETSTREAM.format(store=store)}
accounts {{
  SQUALL: {{
    jetstream: enabled
    include "{users}"
  }}
  SYS: {{}}
}}
system_account: SYS
{extra}"""


def shared_conf(
    *,
    listen: str = "0.0.0.0:4222",
    certs: str = "certs",
    store: str = "jetstream",
    extra: str = "",
) -> str:
    """Return the configuration of a broker whose members all share one certificate."""
    return f"""\
# NATS as Squall's fabric in the simple mode: one self-signed certificate for every member.
# Whoever has its key may do everything; there are no roles. See nats/README.md.
listen: "{listen}"
{_LIMITS}
tls {{
  cert_file: "{certs}/shared.pem"
  key_file: "{certs}/shared.key"
  ca_file: "{certs}/shared.pem"
  verify: true
  handshake_first: true
  min_version: "1.3"
  timeout: 2
}}

{_JETSTREAM.format(store=store)}{extra}"""


def cluster_conf(
    *,
    name: str = "$SQUALL_NATS_NAME",
    base: str = "nats-server.conf",
    certs: str = "certs",
    listen: str = "0.0.0.0:6222",
    routes: tuple[str, ...] = ("nats-1:6222", "nats-2:6222", "nats-3:6222"),
) -> str:
    """Return what turns the configuration ``base`` into one of three servers."""
    urls = "\n".join(f'    "tls://{route}"' for route in routes)
    return f"""\
# One of three brokers; start each with its own SQUALL_NATS_NAME (nats-1, nats-2, nats-3).
# The server certificate must name all three: squall certs DIR --host nats-1 --host nats-2 ...
include "{base}"
server_name: {name}

cluster {{
  name: squall
  listen: "{listen}"
  no_advertise: true
  routes: [
{urls}
  ]
  tls {{
    cert_file: "{certs}/server.pem"
    key_file: "{certs}/server.key"
    ca_file: "{certs}/ca.pem"
    # Without this any certificate of the cluster, a front's too, could join as a server.
    verify_cert_and_check_known_urls: true
    min_version: "1.3"
    timeout: 2
  }}
}}
"""


def files() -> dict[str, str]:
    """Return the generated files of the folder ``nats`` by name."""
    return {
        "nats-server.conf": server_conf(),
        "users.conf": users_conf(),
        "cluster.conf": cluster_conf(),
        "shared.conf": shared_conf(),
    }


if __name__ == "__main__":
    for _name, _text in files().items():
        (Path(sys.argv[1]) / _name).write_text(_text, encoding="utf-8")
