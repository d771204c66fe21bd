"""Expected weights and the fees that follow (BOLT 3 § Fees, § Dust Limits, § Trimmed Outputs)."""

from enum import Enum

__all__ = [
    "ANCHOR_SAT",
    "CommitmentType",
    "anchors_sat",
    "commitment_fee_sat",
    "commitment_weight",
    "dust_limit_of_script",
    "htlc_success_fee_sat",
    "htlc_timeout_fee_sat",
    "opener_cost_sat",
]

ANCHOR_SAT = 330
HTLC_OUTPUT_WEIGHT = 172
UNKNOWN_SEGWIT_DUST_SAT = 354
_OP_RETURN = b"\x6a"
_DUST_LIMITS = (
    (b"\x00\x14", 22, 294),  # p2wpkh
    (b"\x00\x20", 34, 330),  # p2wsh
    (b"\xa9\x14", 23, 540),  # p2sh
    (b"\x76\xa9\x14", 25, 546),  # p2pkh
    (b"\x51\x02\x4e\x73", 4, 240),  # p2a
)


class CommitmentType(Enum):
    """The commitment formats that we speak."""

    STATIC_REMOTEKEY = "static_remotekey"
    ANCHORS_ZERO_FEE_HTLC = "anchors_zero_fee_htlc_tx"


_BASE = {CommitmentType.STATIC_REMOTEKEY: 724, CommitmentType.ANCHORS_ZERO_FEE_HTLC: 1124}
_TIMEOUT_WEIGHT = 663
_SUCCESS_WEIGHT = 703


def commitment_weight(kind: CommitmentType, untrimmed_htlcs: int) -> int:
    """Expected weight of a commitment transaction."""
    return _BASE[kind] + HTLC_OUTPUT_WEIGHT * untrimmed_htlcs


def commitment_fee_sat(kind: CommitmentType, feerate_per_kw: int, untrimmed_htlcs: int) -> int:
    """The base fee, which the opener pays; anchors come on top."""
    return feerate_per_kw * commitment_weight(kind, untrimmed_htlcs) // 1000


def anchors_sat(kind: CommitmentType) -> int:
    """What both anchors hold; the opener pays it."""
    return 2 * ANCHOR_SAT if kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC else 0


def opener_cost_sat(kind: CommitmentType, feerate_per_kw: int, untrimmed_htlcs: int = 0) -> int:
    """All that a commitment takes from the opener: the base fee and both anchors."""
    return commitment_fee_sat(kind, feerate_per_kw, untrimmed_htlcs) + anchors_sat(kind)


def htlc_timeout_fee_sat(kind: CommitmentType, feerate_per_kw: int) -> int:
    """Fee of an HTLC-timeout transaction; 0 with anchors."""
    if kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC:
        return 0
    return feerate_per_kw * _TIMEOUT_WEIGHT // 1000


def htlc_success_fee_sat(kind: CommitmentType, feerate_per_kw: int) -> int:
    """Fee of an HTLC-success transaction; 0 with anchors."""
    if kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC:
        return 0
    return feerate_per_kw * _SUCCESS_WEIGHT // 1000


def dust_limit_of_script(script_pubkey: bytes) -> int:
    """Bitcoin Core's dust limit of an output, by its script's form (BOLT 3 § Dust Limits)."""
    for prefix, size, limit_sat in _DUST_LIMITS:
        if len(script_pubkey) == size and script_pubkey.startswith(prefix):
            return limit_sat
    return 0 if script_pubkey.startswith(_OP_RETURN) else UNKNOWN_SEGWIT_DUST_SAT
