"""bitcoind's refusals of a transaction are told apart, and gaps in its notifications noticed."""

import struct

import pytest

from back.chain.publisher import Verdict, judge
from back.chain.zmq import Notifications


@pytest.mark.parametrize(
    ("code", "reason", "verdict"),
    [
        (-27, "Transaction outputs already in utxo set", Verdict.KNOWN),
        (-26, "txn-already-known", Verdict.KNOWN),
        (-26, "txn-already-in-mempool", Verdict.KNOWN),
        (-25, "bad-txns-inputs-missingorspent", Verdict.WAIT),
        (
            -26,
            "insufficient fee, rejecting replacement 00, not enough additional fees",
            Verdict.WAIT,
        ),
        (-26, "txn-mempool-conflict", Verdict.WAIT),
        (-26, "min relay fee not met, 100 < 253", Verdict.WAIT),
        (-26, "mempool min fee not met", Verdict.WAIT),
        (-26, "non-BIP68-final", Verdict.WAIT),
        (-26, "non-final", Verdict.WAIT),
        (-26, "dust", Verdict.WAIT),
        (-26, "mandatory-script-verify-flag-failed (Signature is …)", Verdict.REJECTED),
        (-26, "bad-txns-in-belowout, value in (1) < value out (2)", Verdict.REJECTED),
        (-22, "TX decode failed", Verdict.REJECTED),
    ],
)
def test_refusals_are_judged(code: int, reason: str, verdict: Verdict) -> None:
    assert judge(code, reason) is verdict


class Ears:
    """What notifications led to."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.missed: list[str] = []
        self.notifications = Notifications(
            {"hashblock": "tcp://x", "rawtx": ""},
            lambda topic, body: self.heard.append((topic, body)),
            self.missed.append,
        )

    def take(self, topic: bytes, number: int) -> None:
        self.notifications.take([topic, b"body", struct.pack("<I", number)])


def test_a_gap_is_noticed_per_topic() -> None:
    ears = Ears()
    for number in (7, 8, 11, 12):
        ears.take(b"hashblock", number)
    ears.take(b"rawtx", 5)
    assert ears.missed == ["hashblock"]
    assert len(ears.heard) == 5


def test_numbers_go_round_and_a_restart_is_a_gap() -> None:
    ears = Ears()
    for number in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1):
        ears.take(b"rawtx", number)
    assert not ears.missed
    ears.take(b"rawtx", 0)
    assert ears.missed == ["rawtx"]


@pytest.mark.parametrize(
    "parts", [[], [b"rawtx"], [b"rawtx", b"x", b"123"], [b"hashblock2", b"", bytes(4)]]
)
def test_what_is_not_understood_is_dropped(parts: list[bytes]) -> None:
    ears = Ears()
    ears.notifications.take(parts)
    assert not ears.heard
