"""Commitment transactions and the HTLC transactions that spend them (BOLT 3).

Everything is from the view of the commitment's *holder*, who can publish it: "local" is the holder,
"offered" by the holder. Built for speed: this is the hot path of every payment.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from back.transactions import scripts
from back.transactions.transaction import (
    SIGHASH_ALL,
    SIGHASH_SINGLE_ANYONECANPAY,
    Input,
    Output,
    double_sha256,
    legacy_bytes,
    segwit_digest,
)
from back.transactions.weights import (
    ANCHOR_SAT,
    CommitmentType,
    htlc_success_fee_sat,
    htlc_timeout_fee_sat,
    opener_cost_sat,
)
from shared.chain import Outpoint
from shared.crypto.keys import derive_public_key, derive_revocation_public_key

__all__ = [
    "CommitmentKeys",
    "CommitmentParameters",
    "CommitmentTransaction",
    "CommitmentType",
    "HtlcKind",
    "HtlcOutput",
    "HtlcTransaction",
    "OutputRole",
    "build_commitment",
    "commitment_keys",
    "commitment_number",
    "obscuring_factor",
]

SEQUENCE_MARK = 0x80
LOCKTIME_MARK = 0x20


@dataclass(frozen=True, slots=True)
class CommitmentKeys:
    """The keys of one commitment, from its holder's view."""

    per_commitment_point: bytes
    local_delayed_pubkey: bytes
    remote_pubkey: bytes
    """The other side's payment basepoint (option_static_remotekey)."""
    local_htlc_pubkey: bytes
    remote_htlc_pubkey: bytes
    revocation_pubkey: bytes
    local_funding_pubkey: bytes
    remote_funding_pubkey: bytes


@lru_cache(maxsize=8192)
def commitment_keys(
    per_commitment_point: bytes,
    *,
    local_delayed_payment_basepoint: bytes,
    local_htlc_basepoint: bytes,
    local_funding_pubkey: bytes,
    remote_payment_basepoint: bytes,
    remote_htlc_basepoint: bytes,
    remote_revocation_basepoint: bytes,
    remote_funding_pubkey: bytes,
) -> CommitmentKeys:
    """Derive the keys of the holder's commitment with this point (BOLT 3 § Key Derivation)."""
    point = per_commitment_point
    return CommitmentKeys(
        per_commitment_point=point,
        local_delayed_pubkey=derive_public_key(local_delayed_payment_basepoint, point),
        remote_pubkey=remote_payment_basepoint,
        local_htlc_pubkey=derive_public_key(local_htlc_basepoint, point),
        remote_htlc_pubkey=derive_public_key(remote_htlc_basepoint, point),
        revocation_pubkey=derive_revocation_public_key(remote_revocation_basepoint, point),
        local_funding_pubkey=local_funding_pubkey,
        remote_funding_pubkey=remote_funding_pubkey,
    )


@dataclass(frozen=True, slots=True)
class HtlcOutput:
    """An HTLC of a commitment, trimmed or not."""

    id: int
    offered: bool
    """By the commitment's holder."""
    amount_msat: int
    payment_hash: bytes
    cltv_expiry: int


class HtlcKind(Enum):
    """How the holder claims an HTLC output."""

    TIMEOUT = "timeout"
    SUCCESS = "success"


class OutputRole(Enum):
    """What an output of a commitment is."""

    TO_LOCAL = "to_local"
    TO_REMOTE = "to_remote"
    TO_LOCAL_ANCHOR = "to_local_anchor"
    TO_REMOTE_ANCHOR = "to_remote_anchor"
    OFFERED_HTLC = "offered_htlc"
    RECEIVED_HTLC = "received_htlc"


@dataclass(frozen=True, slots=True)
class CommitmentParameters:
    """Everything that a commitment transaction is made of.

    Attributes:
        number: of this commitment.
        opener_payment_basepoint, accepter_payment_basepoint: they obscure the number.
        holder_is_opener: the opener pays fee and anchors.
        to_self_delay: imposed on the holder.
        dust_limit_satoshis: the holder's.
        to_local_msat: the holder's balance before fee and anchors, HTLCs taken out.
        to_remote_msat: the other side's.
    """

    commitment_type: CommitmentType
    funding_outpoint: Outpoint
    funding_satoshis: int
    number: int
    opener_payment_basepoint: bytes
    accepter_payment_basepoint: bytes
    holder_is_opener: bool
    to_self_delay: int
    dust_limit_satoshis: int
    feerate_per_kw: int
    to_local_msat: int
    to_remote_msat: int
    htlcs: tuple[HtlcOutput, ...]
    keys: CommitmentKeys


@dataclass(frozen=True, slots=True)
class HtlcTransaction:
    """The holder's claim of one HTLC output, both sides' signatures missing.

    Attributes:
        output_index: in the commitment.
        script: witness script of that output.
        unsigned: serialized without witness.
        sighash: digest that the *other* side signs; with anchors SIGHASH_SINGLE|ANYONECANPAY.
        local_sighash: digest that the holder signs, always SIGHASH_ALL.
    """

    output_index: int
    htlc: HtlcOutput
    kind: HtlcKind
    script: bytes
    unsigned: bytes
    sighash: bytes
    sighash_flag: int
    local_sighash: bytes


@dataclass(frozen=True, slots=True)
class CommitmentTransaction:
    """A commitment transaction, unsigned.

    Attributes:
        unsigned: serialized without witness.
        txid: internal order.
        sighash: digest that both sides sign.
        outputs, roles: in the transaction's order.
        htlc_transactions: one per untrimmed HTLC, in output order: the order of `htlc_signature`.
        fee_sat: funding less outputs. Below 0, and the transaction never valid, where the opener
            cannot pay for the anchors: BOLT 2's rules for adding HTLCs exclude that.
    """

    parameters: CommitmentParameters
    unsigned: bytes
    txid: bytes
    sighash: bytes
    outputs: tuple[Output, ...]
    roles: tuple[OutputRole, ...]
    htlc_transactions: tuple[HtlcTransaction, ...]
    fee_sat: int


@lru_cache(maxsize=8192)
def obscuring_factor(opener_payment_basepoint: bytes, accepter_payment_basepoint: bytes) -> int:
    """The 48 bits that hide commitment numbers."""
    digest = hashlib.sha256(opener_payment_basepoint + accepter_payment_basepoint).digest()
    return int.from_bytes(digest[26:], "big")


def commitment_number(
    locktime: int,
    sequence: int,
    opener_payment_basepoint: bytes,
    accepter_payment_basepoint: bytes,
) -> int | None:
    """Recover the number of a commitment seen on chain; None where it is no commitment."""
    if sequence >> 24 != SEQUENCE_MARK or locktime >> 24 != LOCKTIME_MARK:
        return None
    obscured = (sequence & 0xFFFFFF) << 24 | locktime & 0xFFFFFF
    return obscured ^ obscuring_factor(opener_payment_basepoint, accepter_payment_basepoint)


@dataclass(frozen=True, slots=True)
class _Planned:
    """An output with what its order and its HTLC transaction need."""

    output: Output
    role: OutputRole
    script: bytes = b""
    htlc: HtlcOutput | None = None

    @property
    def order(self) -> tuple[int, bytes, int]:
        """BIP 69, then cltv_expiry (BOLT 3 § Transaction Output Ordering)."""
        expiry = self.htlc.cltv_expiry if self.htlc else 0
        return (self.output.value_sat, self.output.script_pubkey, expiry)


def build_commitment(parameters: CommitmentParameters) -> CommitmentTransaction:
    """Build the transaction (BOLT 3 § Commitment Transaction Construction)."""
    untrimmed = [h for h in parameters.htlcs if not _is_trimmed(parameters, h)]
    planned = [_htlc_output(parameters, h) for h in untrimmed]
    planned += _balances(parameters, len(untrimmed))
    planned.sort(key=lambda p: p.order)
    outputs = tuple(p.output for p in planned)
    spent, locktime = _numbered_input(parameters)
    unsigned = legacy_bytes((spent,), outputs, locktime)
    txid = double_sha256(unsigned)
    keys = parameters.keys
    digest = segwit_digest(
        spent,
        scripts.funding_script(keys.local_funding_pubkey, keys.remote_funding_pubkey),
        parameters.funding_satoshis,
        outputs,
        locktime,
    )
    claims = tuple(
        _htlc_transaction(parameters, txid, index, p.htlc, p.script)
        for index, p in enumerate(planned)
        if p.htlc is not None
    )
    return CommitmentTransaction(
        parameters=parameters,
        unsigned=unsigned,
        txid=txid,
        sighash=digest,
        outputs=outputs,
        roles=tuple(p.role for p in planned),
        htlc_transactions=claims,
        fee_sat=parameters.funding_satoshis - sum(o.value_sat for o in outputs),
    )


def _numbered_input(parameters: CommitmentParameters) -> tuple[Input, int]:
    obscured = parameters.number ^ obscuring_factor(
        parameters.opener_payment_basepoint, parameters.accepter_payment_basepoint
    )
    sequence = SEQUENCE_MARK << 24 | obscured >> 24
    locktime = LOCKTIME_MARK << 24 | obscured & 0xFFFFFF
    return Input(parameters.funding_outpoint, sequence), locktime


def _htlc_fee_sat(parameters: CommitmentParameters, htlc: HtlcOutput) -> int:
    fee = htlc_timeout_fee_sat if htlc.offered else htlc_success_fee_sat
    return fee(parameters.commitment_type, parameters.feerate_per_kw)


def _is_trimmed(parameters: CommitmentParameters, htlc: HtlcOutput) -> bool:
    least_sat = parameters.dust_limit_satoshis + _htlc_fee_sat(parameters, htlc)
    return htlc.amount_msat // 1000 < least_sat


def _htlc_output(parameters: CommitmentParameters, htlc: HtlcOutput) -> _Planned:
    keys = parameters.keys
    anchors = parameters.commitment_type is CommitmentType.ANCHORS_ZERO_FEE_HTLC
    if htlc.offered:
        role = OutputRole.OFFERED_HTLC
        script = scripts.offered_htlc_script(
            keys.revocation_pubkey,
            keys.local_htlc_pubkey,
            keys.remote_htlc_pubkey,
            htlc.payment_hash,
            anchors=anchors,
        )
    else:
        role = OutputRole.RECEIVED_HTLC
        script = scripts.received_htlc_script(
            keys.revocation_pubkey,
            keys.local_htlc_pubkey,
            keys.remote_htlc_pubkey,
            htlc.payment_hash,
            htlc.cltv_expiry,
            anchors=anchors,
        )
    output = Output(htlc.amount_msat // 1000, scripts.p2wsh(script))
    return _Planned(output, role, script, htlc)


def _balances(parameters: CommitmentParameters, untrimmed_htlcs: int) -> list[_Planned]:
    """to_local, to_remote and the anchors, where they are not dust."""
    kind, keys = parameters.commitment_type, parameters.keys
    cost_sat = opener_cost_sat(kind, parameters.feerate_per_kw, untrimmed_htlcs)
    to_local_sat, to_remote_sat = (
        parameters.to_local_msat // 1000,
        parameters.to_remote_msat // 1000,
    )
    if parameters.holder_is_opener:
        to_local_sat = max(0, to_local_sat - cost_sat)
    else:
        to_remote_sat = max(0, to_remote_sat - cost_sat)
    anchors = kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC
    planned = []
    has_local = to_local_sat >= parameters.dust_limit_satoshis
    has_remote = to_remote_sat >= parameters.dust_limit_satoshis
    if has_local:
        script = scripts.to_local_script(
            keys.revocation_pubkey, parameters.to_self_delay, keys.local_delayed_pubkey
        )
        planned.append(
            _Planned(Output(to_local_sat, scripts.p2wsh(script)), OutputRole.TO_LOCAL, script)
        )
    if has_remote:
        script = scripts.to_remote_anchors_script(keys.remote_pubkey) if anchors else b""
        script_pubkey = scripts.p2wsh(script) if anchors else scripts.p2wpkh(keys.remote_pubkey)
        planned.append(_Planned(Output(to_remote_sat, script_pubkey), OutputRole.TO_REMOTE, script))
    if anchors and (has_local or untrimmed_htlcs):
        planned.append(_anchor(keys.local_funding_pubkey, OutputRole.TO_LOCAL_ANCHOR))
    if anchors and (has_remote or untrimmed_htlcs):
        planned.append(_anchor(keys.remote_funding_pubkey, OutputRole.TO_REMOTE_ANCHOR))
    return planned


def _anchor(funding_pubkey: bytes, role: OutputRole) -> _Planned:
    script = scripts.anchor_script(funding_pubkey)
    return _Planned(Output(ANCHOR_SAT, scripts.p2wsh(script)), role, script)


def _htlc_transaction(
    parameters: CommitmentParameters, txid: bytes, index: int, htlc: HtlcOutput, script: bytes
) -> HtlcTransaction:
    keys = parameters.keys
    anchors = parameters.commitment_type is CommitmentType.ANCHORS_ZERO_FEE_HTLC
    value_sat = htlc.amount_msat // 1000
    second = scripts.to_local_script(
        keys.revocation_pubkey, parameters.to_self_delay, keys.local_delayed_pubkey
    )
    output = Output(value_sat - _htlc_fee_sat(parameters, htlc), scripts.p2wsh(second))
    spent = Input(Outpoint(txid, index), 1 if anchors else 0)
    locktime = htlc.cltv_expiry if htlc.offered else 0
    local = segwit_digest(spent, script, value_sat, (output,), locktime)
    flag = SIGHASH_SINGLE_ANYONECANPAY if anchors else SIGHASH_ALL
    other = segwit_digest(spent, script, value_sat, (output,), locktime, flag) if anchors else local
    return HtlcTransaction(
        output_index=index,
        htlc=htlc,
        kind=HtlcKind.TIMEOUT if htlc.offered else HtlcKind.SUCCESS,
        script=script,
        unsigned=legacy_bytes((spent,), (output,), locktime),
        sighash=other,
        sighash_flag=flag,
        local_sighash=local,
    )
