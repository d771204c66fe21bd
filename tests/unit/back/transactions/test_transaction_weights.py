"""Fees, weights and dust of BOLT 3, from its own numbers."""

import pytest
from support.commitments import htlc, parameters, secret

from back.transactions.closing import closing_weight
from back.transactions.commitment import CommitmentType, HtlcKind, build_commitment
from back.transactions.weights import (
    anchors_sat,
    commitment_fee_sat,
    commitment_weight,
    dust_limit_of_script,
    htlc_success_fee_sat,
    htlc_timeout_fee_sat,
)
from back.transactions.witness import signed_commitment

STATIC = CommitmentType.STATIC_REMOTEKEY
ANCHORS = CommitmentType.ANCHORS_ZERO_FEE_HTLC
LONGEST = b"\xff" * 32 + b"\x7f" * 32
"""Makes the longest signature that is valid: 72 bytes with its sighash byte."""


def weight(signed: bytes, unsigned: bytes) -> int:
    return 3 * len(unsigned) + len(signed)


def test_the_example_of_the_bolt() -> None:
    commitment = build_commitment(
        parameters(
            commitment_type=STATIC,
            feerate_per_kw=5_000,
            dust_limit_satoshis=546,
            to_local_msat=6_000_000_000,
            to_remote_msat=3_986_200_000,
            htlcs=(
                htlc(0, 5_000_000),
                htlc(1, 1_000_000),
                htlc(2, 7_000_000, offered=False),
                htlc(3, 800_000, offered=False),
            ),
        )
    )
    assert htlc_timeout_fee_sat(STATIC, 5_000) == 3_315
    assert htlc_success_fee_sat(STATIC, 5_000) == 3_515
    assert commitment_weight(STATIC, 2) == 1_068
    assert commitment_fee_sat(STATIC, 5_000, 2) == 5_340
    assert commitment.fee_sat == 7_140
    kinds = {c.htlc.id: c.kind for c in commitment.htlc_transactions}
    assert kinds == {0: HtlcKind.TIMEOUT, 2: HtlcKind.SUCCESS}


def test_htlc_transactions_on_anchors_pay_no_fee() -> None:
    assert htlc_timeout_fee_sat(ANCHORS, 5_000) == htlc_success_fee_sat(ANCHORS, 5_000) == 0
    assert (anchors_sat(STATIC), anchors_sat(ANCHORS)) == (0, 660)


@pytest.mark.parametrize("kind", CommitmentType)
@pytest.mark.parametrize("count", [0, 1, 10])
def test_the_expected_weight_is_close_above_the_actual(kind: CommitmentType, count: int) -> None:
    htlcs = tuple(htlc(n, 50_000_000, offered=n % 2 == 0) for n in range(count))
    commitment = build_commitment(
        parameters(
            commitment_type=kind,
            to_local_msat=7_000_000_000 - 50_000_000 * count,
            htlcs=htlcs,
        )
    )
    signed = signed_commitment(commitment, LONGEST, LONGEST)
    slack = commitment_weight(kind, count) - weight(signed, commitment.unsigned)
    # The BOLT assumes 73 bytes for a signature of at most 72, and 3 for the anchors' output count.
    assert slack == 2 + (8 if kind is ANCHORS else 0)


@pytest.mark.parametrize(
    ("script", "limit_sat"),
    [
        ("76a914" + "11" * 20 + "88ac", 546),
        ("a914" + "11" * 20 + "87", 540),
        ("0014" + "11" * 20, 294),
        ("0020" + "11" * 32, 330),
        ("5120" + "11" * 32, 354),
        ("5128" + "11" * 40, 354),
        ("51024e73", 240),
        ("6a06" + "11" * 6, 0),
    ],
)
def test_dust_limits_are_bitcoin_cores(script: str, limit_sat: int) -> None:
    assert dust_limit_of_script(bytes.fromhex(script)) == limit_sat


def test_a_closing_weighs_what_its_parts_weigh() -> None:
    p2wpkh, p2wsh = b"\x00\x14" + secret("a")[:20], b"\x00\x20" + secret("b")
    # Appendix A: version, counts, input, outputs, locktime; marker and flag; witness.
    assert closing_weight(p2wpkh, p2wsh) == 4 * (4 + 1 + 41 + 1 + 31 + 43 + 4) + 2 + 222
