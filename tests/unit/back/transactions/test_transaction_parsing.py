"""Reading transactions: whole and exact, or not at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from back.transactions.transaction import (
    Input,
    Output,
    legacy_bytes,
    parse_transaction,
    witness_bytes,
)
from shared.chain import Outpoint
from shared.errors import MalformedMessage

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "bolt3_commitments.json").read_text())
SIGNED = bytes.fromhex(VECTORS["cases"][0]["commitment"])
PLAIN = legacy_bytes((Input(Outpoint(b"\x11" * 32, 7), 5),), (Output(1_000, b"\x51"),), 9)

inputs = st.lists(
    st.builds(
        Input,
        st.builds(Outpoint, st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1)),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
outputs = st.lists(
    st.builds(Output, st.integers(0, 21 * 10**14), st.binary(max_size=300)), max_size=3
).map(tuple)


@settings(max_examples=100, deadline=None)
@given(inputs, outputs, st.integers(0, 2**32 - 1), st.data())
def test_what_was_written_is_read(
    spent: tuple[Input, ...], paid: tuple[Output, ...], locktime: int, data: st.DataObject
) -> None:
    raw = legacy_bytes(spent, paid, locktime)
    plain = parse_transaction(raw)
    assert (plain.inputs, plain.outputs, plain.locktime) == (spent, paid, locktime)
    item = st.binary(max_size=80)
    stacks = tuple(
        tuple(data.draw(st.lists(item, min_size=1, max_size=4))) for _ in range(len(spent))
    )
    signed = parse_transaction(witness_bytes(raw, stacks))
    assert signed.witnesses == stacks
    assert (signed.txid, signed.inputs, signed.outputs) == (plain.txid, spent, paid)


@pytest.mark.parametrize("raw", [SIGNED, PLAIN])
def test_every_truncation_and_every_addition_is_refused(raw: bytes) -> None:
    parse_transaction(raw)
    for size in range(len(raw)):
        with pytest.raises(MalformedMessage):
            parse_transaction(raw[:size])
    with pytest.raises(MalformedMessage):
        parse_transaction(raw + b"\0")


def test_numbers_that_are_not_minimal_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        parse_transaction(PLAIN[:4] + b"\xfd\x01\x00" + PLAIN[5:])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_is_a_transaction(raw: bytes) -> None:
    try:
        parse_transaction(raw)
    except MalformedMessage:
        return
    assert len(raw) >= 10
