"""A store of revocation secrets gives back what was revealed, in 49 entries; it finds lies out."""

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from shared.crypto.shachain import (
    FIRST_INDEX,
    ShachainStore,
    commitment_secret,
    generate_secret,
    index_of,
)
from shared.errors import Action, ProtocolViolation

seeds = st.binary(min_size=32, max_size=32)


def filled(seed: bytes, count: int) -> ShachainStore:
    """Return a store after ``count`` commitments."""
    store = ShachainStore()
    for number in range(count):
        store = store.insert(index_of(number), commitment_secret(seed, number))
    return store


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 300))
@example(bytes(32), 256)
@example(b"\xff" * 32, 1)
def test_every_revealed_secret_comes_back_and_no_other(seed: bytes, count: int) -> None:
    store = filled(seed, count)
    for number in range(count):
        assert store.get(index_of(number)) == commitment_secret(seed, number)
    for number in (count, count + 1, count + 1000, FIRST_INDEX):
        assert store.get(index_of(number)) is None
    assert len(store.entries) == count.bit_length()


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, FIRST_INDEX), st.data())
def test_a_store_that_was_filled_long_ago_derives_any_old_secret(seed, newest, data) -> None:
    """Only the entries that would remain after 2^48 commitments are inserted."""
    store, index = ShachainStore(), newest
    remaining = []
    while index <= FIRST_INDEX:
        remaining.append(index)
        index += index & -index if index else FIRST_INDEX + 1
    for kept in reversed(remaining):
        store = store.insert(kept, generate_secret(seed, kept))
    assert len(store.entries) <= 49
    old = data.draw(st.integers(newest, FIRST_INDEX))
    assert store.get(old) == generate_secret(seed, old)
    if newest:
        assert store.get(data.draw(st.integers(0, newest - 1))) is None


@settings(max_examples=60, deadline=None)
@given(seeds, seeds, st.integers(0, 200))
@example(bytes(32), b"\xff" * 32, 0)
def test_a_false_secret_is_found_out_when_its_parent_is_revealed(
    seed: bytes, other: bytes, false: int
) -> None:
    """The liar is careful: all that the false secret would derive is false alike."""
    assume(seed != other)
    index = index_of(false)
    bit = index & -index
    store = ShachainStore()
    for number in range(false + 1):
        is_derived = index_of(number) & -bit == index
        secret = commitment_secret(other if is_derived else seed, number)
        store = store.insert(index_of(number), secret)
    parent = index - bit
    with pytest.raises(ProtocolViolation) as refused:
        store.insert(parent, generate_secret(seed, parent))
    assert refused.value.action is Action.FAIL_CHANNEL


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 200).map(lambda half: 2 * half - 1), st.integers(0, 255))
def test_a_secret_that_does_not_derive_the_one_before_is_refused_at_once(
    seed: bytes, number: int, bit: int
) -> None:
    store = filled(seed, number)
    secret = bytearray(commitment_secret(seed, number))
    secret[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolViolation):
        store.insert(index_of(number), bytes(secret))


def test_inserting_leaves_the_store_before_it_as_it_was() -> None:
    before = filled(bytes(32), 3)
    after = before.insert(index_of(3), commitment_secret(bytes(32), 3))
    assert before.get(index_of(3)) is None
    assert after.get(index_of(3)) is not None


def test_neither_a_store_nor_a_refusal_shows_a_secret() -> None:
    store = filled(bytes(32), 2)
    secret = commitment_secret(bytes(32), 1)
    with pytest.raises(ProtocolViolation) as refused:
        store.insert(index_of(3), secret)
    for shown in (repr(store), str(refused.value), repr(refused.value)):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
