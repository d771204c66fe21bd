"""Public and private derivations of BOLT 3 meet, for all keys."""

import pytest
from hypothesis import assume, given, settings, strategies as st

from shared.crypto import keys
from shared.crypto.signature import ORDER, public_key
from shared.errors import ProtocolViolation

private_keys = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


@settings(max_examples=60, deadline=None)
@given(private_keys, private_keys)
def test_a_derived_private_key_belongs_to_the_derived_public_key(base, secret) -> None:
    point = public_key(secret)
    derived = keys.derive_private_key(base, point)
    assert public_key(derived) == keys.derive_public_key(public_key(base), point)


@settings(max_examples=60, deadline=None)
@given(private_keys, private_keys)
def test_a_revocation_private_key_belongs_to_the_revocation_public_key(base, secret) -> None:
    derived = keys.derive_revocation_private_key(base, secret)
    expected = keys.derive_revocation_public_key(public_key(base), public_key(secret))
    assert public_key(derived) == expected


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=65), private_keys)
def test_what_is_no_point_is_refused(garbage, secret) -> None:
    assume(not keys.is_valid_point(garbage))
    point = public_key(secret)
    for derive in (keys.derive_public_key, keys.derive_revocation_public_key):
        with pytest.raises(ProtocolViolation):
            derive(garbage, point)


@given(private_keys)
def test_a_public_key_is_valid_and_no_other_form_of_it_is(secret) -> None:
    point = public_key(secret)
    assert keys.is_valid_point(point)
    assert not keys.is_valid_point(point[1:])
    assert not keys.is_valid_point(b"\x04" + point[1:])
    assert not keys.is_valid_point(bytes(33))
