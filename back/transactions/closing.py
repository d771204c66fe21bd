"""Cooperative closes by closing_signed (BOLT 3 § Legacy Closing Transaction)."""

from dataclasses import dataclass, replace

from back.transactions.scripts import funding_script
from back.transactions.transaction import (
    Input,
    Output,
    double_sha256,
    legacy_bytes,
    segwit_digest,
)
from back.transactions.weights import dust_limit_of_script
from shared.chain import Outpoint
from shared.crypto.signature import verify_compact

__all__ = [
    "ClosingTransaction",
    "build_closing",
    "closing_variants",
    "closing_weight",
    "is_closing_signature_valid",
]

SEQUENCE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ClosingTransaction:
    """A closing transaction, unsigned.

    Attributes:
        unsigned: serialized without witness.
        txid: internal order.
        sighash: digest that both sides sign.
        outputs: in the transaction's order.
        local_script: scriptpubkey of our output, which may have been left out.
        remote_script: of the peer's.
    """

    unsigned: bytes
    txid: bytes
    sighash: bytes
    outputs: tuple[Output, ...]
    funding_outpoint: Outpoint
    funding_satoshis: int
    local_funding_pubkey: bytes
    remote_funding_pubkey: bytes
    local_script: bytes
    remote_script: bytes

    @property
    def is_relayable(self) -> bool:
        """Whether no output is dust for its script; else BOLT 2 asks for a force close."""
        return bool(self.outputs) and all(
            o.value_sat >= dust_limit_of_script(o.script_pubkey) for o in self.outputs
        )


def closing_weight(local_script: bytes, remote_script: bytes) -> int:
    """Expected weight with both outputs and signatures of 73 bytes."""
    outputs = sum(8 + 1 + len(script) for script in (local_script, remote_script))
    base = 4 + 1 + 41 + 1 + outputs + 4
    witness = 2 + 1 + 1 + 2 * (1 + 73) + 1 + 71
    return base * 4 + witness


def build_closing(  # noqa: PLR0913 - a transaction of two sides
    *,
    funding_outpoint: Outpoint,
    funding_satoshis: int,
    local_funding_pubkey: bytes,
    remote_funding_pubkey: bytes,
    local_script: bytes,
    remote_script: bytes,
    local_sat: int,
    remote_sat: int,
    fee_satoshis: int,
    is_local_payer: bool,
    dust_limit_satoshis: int,
) -> ClosingTransaction:
    """Build the transaction; both sides must come to the same bytes.

    Args:
        funding_outpoint: what it spends.
        funding_satoshis: value of that output.
        local_funding_pubkey: our key in its script.
        remote_funding_pubkey: the peer's.
        local_script: scriptpubkey of our shutdown.
        remote_script: of the peer's.
        local_sat: our final balance, rounded down, before the fee.
        remote_sat: the peer's.
        fee_satoshis: of closing_signed.
        is_local_payer: we are the opener.
        dust_limit_satoshis: outputs below it are left out.
    """
    if is_local_payer:
        local_sat -= fee_satoshis
    else:
        remote_sat -= fee_satoshis
    candidates = (Output(local_sat, local_script), Output(remote_sat, remote_script))
    outputs = tuple(sorted(o for o in candidates if o.value_sat >= dust_limit_satoshis))
    spent = Input(funding_outpoint, SEQUENCE)
    unsigned = legacy_bytes((spent,), outputs, 0)
    script = funding_script(local_funding_pubkey, remote_funding_pubkey)
    return ClosingTransaction(
        unsigned=unsigned,
        txid=double_sha256(unsigned),
        sighash=segwit_digest(spent, script, funding_satoshis, outputs, 0),
        outputs=outputs,
        funding_outpoint=funding_outpoint,
        funding_satoshis=funding_satoshis,
        local_funding_pubkey=local_funding_pubkey,
        remote_funding_pubkey=remote_funding_pubkey,
        local_script=local_script,
        remote_script=remote_script,
    )


def closing_variants(closing: ClosingTransaction) -> tuple[ClosingTransaction, ...]:
    """What the peer may have signed: the transaction, or the same without the peer's own output.

    BOLT 3 § Legacy Closing Transaction lets each side eliminate its own output, and its signature
    tells which variant it chose. Never one without *our* output.
    """
    kept = tuple(o for o in closing.outputs if o.script_pubkey != closing.remote_script)
    if not kept or len(kept) == len(closing.outputs):
        return (closing,)
    spent = Input(closing.funding_outpoint, SEQUENCE)
    unsigned = legacy_bytes((spent,), kept, 0)
    script = funding_script(closing.local_funding_pubkey, closing.remote_funding_pubkey)
    digest = segwit_digest(spent, script, closing.funding_satoshis, kept, 0)
    other = replace(
        closing, unsigned=unsigned, txid=double_sha256(unsigned), sighash=digest, outputs=kept
    )
    return closing, other


def is_closing_signature_valid(
    closing: ClosingTransaction, funding_pubkey: bytes, signature: bytes
) -> bool:
    """Whether a signature of ``funding_pubkey`` is valid and low-S."""
    return verify_compact(funding_pubkey, closing.sighash, signature)
