"""Transactions as bytes: read, write, digest (BIP 141, BIP 143)."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

from embit.transaction import Transaction as EmbitTransaction

from shared.chain import Outpoint
from shared.errors import MalformedMessage

__all__ = [
    "SIGHASH_ALL",
    "SIGHASH_SINGLE_ANYONECANPAY",
    "Input",
    "Output",
    "Transaction",
    "compact_size",
    "double_sha256",
    "legacy_bytes",
    "parse_transaction",
    "push",
    "segwit_digest",
    "witness_bytes",
]

SIGHASH_ALL = 0x01
SIGHASH_SINGLE_ANYONECANPAY = 0x83


class Output(NamedTuple):
    """An output.

    Attributes:
        value_sat: amount.
        script_pubkey: raw script.
    """

    value_sat: int
    script_pubkey: bytes

    def serialize(self) -> bytes:
        """Consensus encoding."""
        script = self.script_pubkey
        return self.value_sat.to_bytes(8, "little") + compact_size(len(script)) + script


class Input(NamedTuple):
    """An input without its signature."""

    outpoint: Outpoint
    sequence: int

    def serialize(self) -> bytes:
        """Consensus encoding with an empty scriptsig."""
        return _outpoint(self.outpoint) + b"\0" + self.sequence.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as we read it.

    Attributes:
        txid: internal order.
        witnesses: one stack per input, empty where it has none.
    """

    txid: bytes
    version: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    locktime: int
    witnesses: tuple[tuple[bytes, ...], ...]


def double_sha256(data: bytes) -> bytes:
    """Bitcoin's hash."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def compact_size(number: int) -> bytes:
    """Bitcoin's variable-length integer, little-endian."""
    if number < 0xFD:
        return number.to_bytes(1, "little")
    if number <= 0xFFFF:
        return b"\xfd" + number.to_bytes(2, "little")
    return b"\xfe" + number.to_bytes(4, "little")


def push(data: bytes) -> bytes:
    """Script opcode that pushes up to 75 bytes."""
    return bytes((len(data),)) + data


def parse_transaction(raw: bytes) -> Transaction:
    """Read a transaction, with or without witnesses.

    Raises:
        MalformedMessage: not one transaction.
    """
    try:
        parsed = EmbitTransaction.read_from(BytesIO(raw))
        # embit reads what is cut short or not minimally encoded; its own bytes tell.
        if parsed.serialize() != raw:
            raise ValueError("not the bytes of one whole transaction")
    except Exception as error:
        # embit lets IndexError, TypeError and its own errors out on bad input.
        raise MalformedMessage(f"not a transaction: {error}", bolt="BIP 141") from error
    return Transaction(
        txid=parsed.txid()[::-1],
        version=parsed.version,
        inputs=tuple(Input(Outpoint(i.txid[::-1], i.vout), i.sequence) for i in parsed.vin),
        outputs=tuple(Output(o.value, o.script_pubkey.data) for o in parsed.vout),
        locktime=parsed.locktime,
        witnesses=tuple(tuple(i.witness.items) for i in parsed.vin),
    )


def _outpoint(outpoint: Outpoint) -> bytes:
    return outpoint.txid + outpoint.index.to_bytes(4, "little")


def legacy_bytes(
    inputs: tuple[Input, ...], outputs: tuple[Output, ...], locktime: int, version: int = 2
) -> bytes:
    """Serialize without witnesses: what the txid hashes."""
    return b"".join(
        (
            version.to_bytes(4, "little"),
            compact_size(len(inputs)),
            *(i.serialize() for i in inputs),
            compact_size(len(outputs)),
            *(o.serialize() for o in outputs),
            locktime.to_bytes(4, "little"),
        )
    )


def witness_bytes(legacy: bytes, stacks: tuple[tuple[bytes, ...], ...]) -> bytes:
    """Add marker, flag and witness stacks to a serialization without them."""
    witness = b"".join(
        compact_size(len(stack)) + b"".join(compact_size(len(item)) + item for item in stack)
        for stack in stacks
    )
    return legacy[:4] + b"\x00\x01" + legacy[4:-4] + witness + legacy[-4:]


def segwit_digest(
    spent: Input,
    script_code: bytes,
    value_sat: int,
    outputs: tuple[Output, ...],
    locktime: int,
    sighash: int = SIGHASH_ALL,
) -> bytes:
    """BIP 143 digest of a version 2 transaction with this one input.

    Args:
        spent: the input, the only one of the transaction when it is signed.
        script_code: the witness script.
        value_sat: of the spent output.
        outputs: all of them; for SINGLE|ANYONECANPAY the one that matches.
        locktime: of the transaction.
        sighash: SIGHASH_ALL or SIGHASH_SINGLE_ANYONECANPAY.
    """
    prevout = _outpoint(spent.outpoint)
    sequence = spent.sequence.to_bytes(4, "little")
    if sighash == SIGHASH_ALL:
        hash_prevouts, hash_sequence = double_sha256(prevout), double_sha256(sequence)
        hash_outputs = double_sha256(b"".join(o.serialize() for o in outputs))
    else:
        hash_prevouts = hash_sequence = bytes(32)
        hash_outputs = double_sha256(outputs[0].serialize())
    return double_sha256(
        b"".join(
            (
                b"\x02\x00\x00\x00",
                hash_prevouts,
                hash_sequence,
                prevout,
                compact_size(len(script_code)),
                script_code,
                value_sat.to_bytes(8, "little"),
                sequence,
                hash_outputs,
                locktime.to_bytes(4, "little"),
                sighash.to_bytes(4, "little"),
            )
        )
    )
