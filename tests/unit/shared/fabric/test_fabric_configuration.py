"""The folder ``nats`` is what the declaration says, and the server takes it."""

import re
import subprocess
from pathlib import Path

import pytest

from shared.errors import CommandError
from shared.fabric import certificates, server
from shared.fabric.configuration import cluster_conf, files, server_conf
from shared.fabric.roles import ROLES

NATS = Path(__file__).parents[4] / "nats"


@pytest.mark.parametrize("name", files())
def test_the_folder_is_up_to_date(name: str) -> None:
    assert (NATS / name).read_text(encoding="utf-8") == files()[name], (
        "run: python -m shared.fabric.configuration nats"
    )


def test_the_folder_holds_no_python() -> None:
    assert not list(NATS.rglob("*.py*")), "it would merge into the installed package nats"


@pytest.mark.parametrize("name", ["nats-server.conf", "cluster.conf", "shared.conf"])
def test_the_server_accepts_the_files_where_the_certificates_are(name: str, tmp_path: Path) -> None:
    for file, text in files().items():
        (tmp_path / file).write_text(text)
    certificates.create(tmp_path / "certs")
    if name == "shared.conf":
        certificates.create_shared(tmp_path / "certs")
    checked = subprocess.run(
        [server.find_nats_server(), "-t", "-c", name],
        cwd=tmp_path,
        env={"SQUALL_NATS_NAME": "nats-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_a_fresh_certificate_folder_has_the_users_of_the_repository(tmp_path: Path) -> None:
    certificates.create(tmp_path)
    assert (tmp_path / "users.conf").read_text() == (NATS / "users.conf").read_text()


def test_tls_is_never_optional() -> None:
    for text in (files()["nats-server.conf"], files()["shared.conf"]):
        assert "handshake_first: true" in text
        assert 'min_version: "1.3"' in text
        assert "allow_non_tls" not in text
    assert "verify_cert_and_check_known_urls: true" in cluster_conf()


def test_no_right_is_a_bare_wildcard() -> None:
    for role in ROLES:
        for subject in (*role.publish, *role.subscribe):
            assert subject.split(".")[0] in {"ln", "_INBOX", "$JS"}
            # The tap's pattern of six tokens has the messages of sessions and nothing else.
            is_messages = (role.user, subject) == ("tap", "ln.*.*.*.*.*")
            assert is_messages or not re.fullmatch(r"(ln|_INBOX|\$JS)\.[*>].*", subject)


def test_only_the_back_speaks_to_fronts_and_only_fronts_speak_for_peers() -> None:
    def publishers(prefix: str) -> set[str]:
        return {r.user for r in ROLES if any(s.startswith(prefix) for s in r.publish)}

    assert publishers("ln.out") == {"back"}
    assert publishers("ln.hello") == {"back"}
    assert publishers("ln.in") == {"front"}
    assert publishers("ln.key") == {"front"}


def test_the_limits_stand_in_every_configuration() -> None:
    assert "max_payload: 262144" in server_conf(listen="127.0.0.1:-1")


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    with pytest.raises(CommandError, match=r"did not start: .*users\.conf"):
        await server.start(tmp_path / "certs", tmp_path / "nats")
