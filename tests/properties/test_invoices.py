"""Any invoice comes back as it was written; whatever is changed on its way is noticed."""

from dataclasses import replace

import pytest
from embit import bech32
from hypothesis import assume, example, given, settings, strategies as st

from shared.bolt11 import Fallback, Invoice, RouteHint, assemble, bits, decode, signing_digest
from shared.chain import CHAINS
from shared.crypto.signature import public_key, sign_recoverable
from shared.errors import MalformedMessage
from shared.features import Feature, FeatureSet

PRIVATE = b"\x2a" * 32
PAYEE = public_key(PRIVATE)
BASIC = FeatureSet.of(
    required=[Feature.var_onion_optin, Feature.payment_secret], optional=[Feature.basic_mpp]
)

hashes = st.binary(min_size=32, max_size=32)
hints = st.builds(
    RouteHint,
    st.sampled_from([public_key(bytes([number]) * 32) for number in range(1, 6)]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)
fallbacks = st.one_of(
    st.builds(Fallback, st.sampled_from([0, 17, 18]), st.binary(min_size=20, max_size=20)),
    st.builds(Fallback, st.sampled_from([0, 1]), hashes),
    st.builds(Fallback, st.integers(1, 16), st.binary(min_size=2, max_size=40)),
)
unknown_fields = st.tuples(
    st.sampled_from([0, 2, 4, 7, 31]), st.lists(st.integers(0, 31), max_size=9).map(tuple)
)


@st.composite
def invoices(draw: st.DrawFn) -> Invoice:
    is_hashed = draw(st.booleans())
    return Invoice(
        chain=draw(st.sampled_from(list(CHAINS.values()))),
        timestamp=draw(st.integers(0, 2**35 - 1)),
        payment_hash=draw(hashes),
        payment_secret=draw(hashes),
        amount_msat=draw(st.none() | st.integers(1, 21_000_000 * 10**11)),
        description=None if is_hashed else draw(st.text(max_size=100)),
        description_hash=draw(hashes) if is_hashed else None,
        expiry_s=draw(st.integers(0, 2**53 - 1)),
        min_final_cltv_expiry_delta=draw(st.integers(0, 5000)),
        payee=PAYEE,
        features=draw(st.sampled_from([FeatureSet(), BASIC, FeatureSet(frozenset({8, 14, 999}))])),
        routes=tuple(
            draw(st.lists(st.lists(hints, min_size=1, max_size=3).map(tuple), max_size=3))
        ),
        fallbacks=tuple(draw(st.lists(fallbacks, max_size=3))),
        payment_metadata=draw(st.none() | st.binary(max_size=60)),
        unknown=tuple(draw(st.lists(unknown_fields, max_size=3))),
        has_payee_field=draw(st.booleans()),
    )


def written(invoice: Invoice) -> str:
    return assemble(invoice, sign_recoverable(PRIVATE, signing_digest(invoice)))


PLAIN = Invoice(
    chain=CHAINS["regtest"],
    timestamp=1_700_000_000,
    payment_hash=b"\x01" * 32,
    payment_secret=b"\x02" * 32,
    amount_msat=123_000,
    description="coffee",
    payee=PAYEE,
    features=BASIC,
)
TEXT = written(PLAIN)


@settings(max_examples=120, deadline=None)
@given(invoices())
@example(PLAIN)
def test_any_invoice_comes_back_as_it_was_written(invoice: Invoice) -> None:
    text = written(invoice)
    assert decode(text) == invoice
    assert decode(text.upper()) == invoice
    assert decode(f"  lightning:{text}\n") == invoice


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 21_000_000 * 10**11))
@example(1)
@example(10**11)
@example(21_000_000 * 10**11)
def test_an_amount_is_written_in_the_largest_unit_that_holds_it(amount_msat: int) -> None:
    text = written(replace(PLAIN, amount_msat=amount_msat))
    amount = text.removeprefix("lnbcrt").rpartition("1")[0]
    digits, unit = (amount[:-1], amount[-1]) if amount[-1] in "munp" else (amount, "")
    per_btc = {"": 1, "m": 10**3, "u": 10**6, "n": 10**9, "p": 10**12}
    assert int(digits) * 10**11 == amount_msat * per_btc[unit]
    larger = [size for size in per_btc.values() if size < per_btc[unit]]
    assert all(amount_msat * size % 10**11 for size in larger)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.sampled_from(bech32.CHARSET + "1b"))
def test_any_changed_character_is_noticed(at: int, character: str) -> None:
    assume(TEXT[at] != character)
    with pytest.raises(MalformedMessage):
        decode(TEXT[:at] + character + TEXT[at + 1 :])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_forger_who_repairs_the_checksum_is_another_payee_or_is_refused(data) -> None:
    """The signature covers the prefix, the time and every field."""
    prefix, groups = bits.bech32_decode(TEXT)
    at = data.draw(st.integers(0, len(groups) - 1))
    changed = list(groups)
    changed[at] ^= data.draw(st.integers(1, 31))
    try:
        forged = decode(bits.bech32_encode(prefix, changed))
    except MalformedMessage:
        return
    assert forged.payee != PAYEE


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_where_the_payee_is_named_a_forgery_is_always_refused(data) -> None:
    prefix, groups = bits.bech32_decode(written(replace(PLAIN, has_payee_field=True)))
    # The last two groups hold the recovery id, which is not looked at then.
    at = data.draw(st.integers(0, len(groups) - 3))
    changed = list(groups)
    changed[at] ^= data.draw(st.integers(1, 31))
    try:
        forged = decode(bits.bech32_encode(prefix, changed))
    except MalformedMessage:
        return
    assert forged.payee != PAYEE


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["lnbc", "lnbcrt20m", "lntbs1p", "lntb0u", "lnbc99999999999999999999"]),
    st.lists(st.integers(0, 31), max_size=300),
)
def test_garbage_with_a_right_checksum_is_read_or_refused(prefix: str, groups: list[int]) -> None:
    try:
        invoice = decode(bits.bech32_encode(prefix, groups))
    except MalformedMessage:
        return
    assert len(invoice.payment_hash) == len(invoice.payment_secret) == 32


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
@example("")
@example("lightning:")
@example("1" * 40)
@example("LNBC\u212a1" + "Q" * 120)
def test_text_that_is_no_invoice_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        decode(text)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_groups_hold_bytes(data: bytes) -> None:
    groups = bits.to_groups(data)
    assert bits.from_groups(groups) == data
    assert bits.padded_bytes(groups)[: len(data)] == data
    assert bits.to_number(bits.minimal(bits.to_number(groups))) == bits.to_number(groups)
