"""Cooperative closes by closing_signed (BOLT 3 § Legacy Closing Transaction)."""

from dataclasses import dataclass

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
        is_relayable: False where an output is below its script's dust limit: BOLT 2 then asks for a
            force close.
    """

    unsigned: bytes
    txid: bytes
    sighash: bytes
    outputs: tuple[Output, ...]
    local_funding_pubkey: bytes
    remote_funding_pubkey: bytes
    is_relayable: bool


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
        local_sat, remote_sat: final balances, rounded down, before the fee.
        is_local_payer: the opener pays.
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
        local_funding_pubkey=local_funding_pubkey,
        remote_funding_pubkey=remote_funding_pubkey,
        is_relayable=bool(outputs)
        and all(o.value_sat >= dust_limit_of_script(o.script_pubkey) for o in outputs),
    )


def is_closing_signature_valid(
    closing: ClosingTransaction, funding_pubkey: bytes, signature: bytes
) -> bool:
    """Whether a signature of ``funding_pubkey`` is valid and low-S."""
    return verify_compact(funding_pubkey, closing.sighash, signature)
