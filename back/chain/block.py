"""Blocks and transactions in their raw form: only what watching needs, and fast. Pure.

A block of 4 MB is walked in some tens of milliseconds; asking bitcoind for the same as JSON takes
seconds.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct

from shared.chain import Outpoint

__all__ = [
    "BlockHeader",
    "Match",
    "Output",
    "header",
    "inputs",
    "is_all_segwit",
    "outpoint_bytes",
    "outputs",
    "p2wsh_outputs",
    "scan",
    "txid",
]

HEADER_SIZE = 80
OUTPOINT_SIZE = 36
P2WSH_SIZE = 34
_U16, _U32, _U64 = Struct("<H"), Struct("<I"), Struct("<Q")


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The fields of a block header that link it; ``time`` in unix seconds."""

    hash: bytes
    previous_hash: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a transaction."""

    amount_sat: int
    script_pubkey: bytes


@dataclass(frozen=True, slots=True)
class Match:
    """A transaction of a block that somebody waits for.

    Attributes:
        transaction_index: its place in the block.
        spends: those of its inputs that were asked for.
    """

    transaction_index: int
    txid: bytes
    spends: tuple[Outpoint, ...]
    transaction: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Span:
    """Where the parts of one transaction are."""

    start: int
    inputs: int
    outputs: int
    witness: int
    """Where the outputs end: the witness, or the locktime."""
    end: int
    spent: list[bytes]
    """Each input's outpoint, as on the wire."""


def header(block: bytes) -> BlockHeader:
    """Read the header at the start of a raw block."""
    if len(block) < HEADER_SIZE:
        raise ValueError("not a block: too short")
    raw = block[:HEADER_SIZE]
    return BlockHeader(_sha256d(raw), raw[4:36], _U32.unpack_from(raw, 68)[0])


def scan(block: bytes, outpoints: Collection[bytes], txids: Collection[bytes]) -> list[Match]:
    """Return the transactions that spend one of ``outpoints`` or are one of ``txids``.

    Args:
        block: raw.
        outpoints: in wire form, 36 bytes: :func:`outpoint_bytes`. A set.
        txids: internal order. A set.

    Raises:
        ValueError: these bytes are no block.
    """
    found: list[Match] = []
    try:
        count, position = _compact_size(block, HEADER_SIZE)
        for index in range(count):
            span = _walk(block, position)
            position = span.end
            hits = [raw for raw in span.spent if raw in outpoints]
            name = _txid(block, span) if hits or txids else b""
            if hits or name in txids:
                spends = tuple(map(_outpoint, hits))
                found.append(Match(index, name, spends, block[span.start : span.end]))
    except (IndexError, ValueError) as error:
        raise ValueError(f"not a block: {error}") from error
    if position != len(block):
        raise ValueError("not a block: bytes left over or missing")
    return found


def p2wsh_outputs(block: bytes) -> Iterator[tuple[bytes, list[tuple[int, Output]]]]:
    """Go through a raw block's transactions: txid and P2WSH outputs, by place, of each.

    The txid is empty where there are no such outputs. It takes some ten milliseconds for a large
    block: a caller may pause between transactions.

    Raises:
        ValueError: these bytes are no block.
    """
    try:
        count, position = _compact_size(block, HEADER_SIZE)
        for _ in range(count):
            span = _walk(block, position)
            position = span.end
            found = _p2wsh(block, span.outputs)
            yield (_txid(block, span) if found else b""), found
    except (IndexError, ValueError) as error:
        raise ValueError(f"not a block: {error}") from error
    if position != len(block):
        raise ValueError("not a block: bytes left over or missing")


def outpoint_bytes(outpoint: Outpoint) -> bytes:
    """Return an outpoint as it stands in a transaction."""
    return outpoint.txid + _U32.pack(outpoint.index)


def txid(transaction: bytes) -> bytes:
    """Return the txid of a raw transaction, internal order."""
    return _txid(transaction, _whole(transaction))


def inputs(transaction: bytes) -> list[Outpoint]:
    """Return what a raw transaction spends."""
    return [_outpoint(raw) for raw in _whole(transaction).spent]


def outputs(transaction: bytes) -> list[Output]:
    """Return the outputs of a raw transaction."""
    span = _whole(transaction)
    count, position = _compact_size(transaction, span.outputs)
    result = []
    for _ in range(count):
        amount_sat = _U64.unpack_from(transaction, position)[0]
        size, position = _compact_size(transaction, position + 8)
        result.append(Output(amount_sat, transaction[position : position + size]))
        position += size
    return result


def _p2wsh(data: bytes, position: int) -> list[tuple[int, Output]]:
    found = []
    count, position = _compact_size(data, position)
    for index in range(count):
        size = data[position + 8]
        start = position + 9
        if size > 0xFC:
            size, start = _compact_size(data, start - 1)
        elif size == P2WSH_SIZE and data[start] == 0 and data[start + 1] == P2WSH_SIZE - 2:
            amount_sat = _U64.unpack_from(data, position)[0]
            found.append((index, Output(amount_sat, data[start : start + size])))
        position = start + size
    return found


def is_all_segwit(transaction: bytes) -> bool:
    """Whether every input of a signed raw transaction has a witness."""
    span = _whole(transaction)
    position = span.witness
    if position == span.end - 4:
        return False
    for _ in span.spent:
        if transaction[position] == 0:
            return False
        position = _skip_witness(transaction, position)
    return True


def _whole(transaction: bytes) -> _Span:
    try:
        span = _walk(transaction, 0)
    except (IndexError, ValueError) as error:
        raise ValueError(f"not a transaction: {error}") from error
    if span.end != len(transaction):
        raise ValueError("not a transaction: bytes left over or missing")
    return span


def _walk(data: bytes, start: int) -> _Span:
    # written out flat: this runs for every transaction of every block
    position = start + 4
    is_segwit = data[position] == 0 and data[position + 1] != 0
    if is_segwit:
        position += 2
    inputs_at = position
    count = data[position]
    position += 1
    if count > 0xFC:
        count, position = _compact_size(data, position - 1)
    spent = []
    for _ in range(count):
        spent.append(data[position : position + OUTPOINT_SIZE])
        position += OUTPOINT_SIZE
        size = data[position]
        position += 1
        if size > 0xFC:
            size, position = _compact_size(data, position - 1)
        position += size + 4
    outputs_at = position
    count, position = _compact_size(data, position)
    for _ in range(count):
        size = data[position + 8]
        position += 9
        if size > 0xFC:
            size, position = _compact_size(data, position - 1)
        position += size
    witness_at = position
    if is_segwit:
        for _ in spent:
            position = _skip_witness(data, position)
    return _Span(start, inputs_at, outputs_at, witness_at, position + 4, spent)


def _skip_witness(data: bytes, position: int) -> int:
    items, position = _compact_size(data, position)
    for _ in range(items):
        size = data[position]
        position += 1
        if size > 0xFC:
            size, position = _compact_size(data, position - 1)
        position += size
    return position


def _compact_size(data: bytes, position: int) -> tuple[int, int]:
    first = data[position]
    if first < 0xFD:
        return first, position + 1
    layout = (_U16, _U32, _U64)[first - 0xFD]
    end = position + 1 + layout.size
    if end > len(data):
        raise ValueError("truncated")
    return layout.unpack_from(data, position + 1)[0], end


def _outpoint(raw: bytes) -> Outpoint:
    if len(raw) != OUTPOINT_SIZE:
        raise ValueError("truncated")
    return Outpoint(raw[:32], _U32.unpack_from(raw, 32)[0])


def _txid(data: bytes, span: _Span) -> bytes:
    version = data[span.start : span.start + 4]
    body = data[span.inputs : span.witness]
    return _sha256d(version + body + data[span.end - 4 : span.end])


def _sha256d(data: bytes) -> bytes:
    return sha256(sha256(data).digest()).digest()
