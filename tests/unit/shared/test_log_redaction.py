"""Nothing secret reaches the log."""

import json
import logging

import pytest
import structlog

from shared.log import MASK, configure, redact


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    filters = logging.getLogger("asyncio").filters[:]
    configured = structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    logging.getLogger("asyncio").filters[:] = filters
    structlog.configure(**configured)


@pytest.mark.parametrize(
    "name",
    [
        "seed",
        "payment_preimage",
        "per_commitment_secret",
        "payment_secret",
        "api_password",
        "ck",
        "temp_k1",
        "node_key",
        "ephemeral_private",
        "Authorization",
        "session_key",
        "mnemonic",
    ],
)
@pytest.mark.parametrize("value", [b"\x01" * 32, "01" * 32, 7])
def test_a_value_under_a_secret_name_is_masked(name: str, value: object) -> None:
    assert redact(None, "info", {name: value}) == {name: MASK}


@pytest.mark.parametrize("name", ["peer", "payment_hash", "funding_pubkey", "back", "seconds"])
def test_an_ordinary_name_is_not_masked(name: str) -> None:
    assert redact(None, "info", {name: b"\x02\xff"}) == {name: "02ff"}


def test_a_secret_inside_a_value_is_masked() -> None:
    event = redact(None, "info", {"htlc": {"id": 1, "r_preimage": b"x"}, "all": [{"seed": "y"}]})
    assert event == {"htlc": {"id": 1, "r_preimage": MASK}, "all": [{"seed": MASK}]}


def test_long_bytes_are_cut() -> None:
    shown = redact(None, "info", {"onion": bytes(1366)})["onion"]
    assert shown.endswith("(1366 bytes)")
    assert len(shown) < 160


def test_our_events_and_the_librarys_are_json_lines_without_secrets(capsys) -> None:
    configure(level="INFO", human=False)
    structlog.get_logger("ours").info("key_made", seed=b"\x07" * 32, peer=b"\x02")
    logging.getLogger("theirs").warning("hello", extra={"password": "hunter2"})
    structlog.get_logger("ours").debug("unseen")
    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["seed"], ours["peer"], ours["level"]) == (
        "key_made",
        MASK,
        "02",
        "info",
    )
    assert (theirs["event"], theirs["password"], theirs["logger"]) == ("hello", MASK, "theirs")
