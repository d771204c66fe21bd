"""BOLT 11's examples, valid and invalid."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from shared.bolt11 import Fallback, Invoice, RouteHint, assemble, decode, signing_digest
from shared.chain import MAINNET, REGTEST
from shared.crypto.signature import public_key, sign_recoverable
from shared.errors import MalformedMessage
from shared.features import Feature, FeatureSet

VECTORS = json.loads(Path(__file__).with_name("bolt11_invoices.json").read_text())
PRIVATE = bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734")
HIGH_S_PAYEE = "02d0139ce7427d6dfffd26a326c18be754ef1e64672b42694ba5b23ef6e6e7803d"
PAYEE = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda c: c["name"][:60])
def test_a_valid_invoice_is_read_and_its_signer_recovered(case) -> None:
    invoice = decode(case["invoice"])
    # The high-S signature belongs to whichever key recovers from it, not to the usual one.
    payee = HIGH_S_PAYEE if "high-S" in case["name"] else PAYEE
    assert invoice.payee.hex() == payee
    assert invoice.payment_secret == b"\x11" * 32
    assert invoice.payment_hash.hex().startswith(("00010203", "462264ede7e"))


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda c: c["name"][:60])
def test_an_invalid_invoice_is_refused(case) -> None:
    with pytest.raises(MalformedMessage):
        decode(case["invoice"])


def by_name(part: str) -> Invoice:
    return decode(next(c["invoice"] for c in VECTORS["valid"] if part in c["name"]))


def test_amounts_and_times_of_the_examples() -> None:
    donation = by_name("donation of any amount")
    assert (donation.amount_msat, donation.timestamp, donation.expiry_s) == (None, 1496314658, 3600)
    coffee = by_name("cup of coffee")
    assert (coffee.amount_msat, coffee.expiry_s) == (250_000_000, 60)
    assert coffee.description == "1 cup coffee"
    assert coffee.chain is MAINNET
    listed = by_name("0.00967878534 BTC")
    assert (listed.amount_msat, listed.expiry_s) == (967_878_534, 604_800)
    assert listed.min_final_cltv_expiry_delta == 10


def test_route_hints_fallbacks_features_and_metadata_of_the_examples() -> None:
    routed = by_name("extra routing info")
    assert routed.routes == (
        (
            RouteHint(
                bytes.fromhex("029e03a901b85534ff1e92c43c74431f7ce72046060fcf7a95c37e148f78c77255"),
                66051 << 40 | 263430 << 16 | 1800,
                1,
                20,
                3,
            ),
            RouteHint(
                bytes.fromhex("039e03a901b85534ff1e92c43c74431f7ce72046060fcf7a95c37e148f78c77255"),
                197637 << 40 | 395016 << 16 | 2314,
                2,
                30,
                4,
            ),
        ),
    )
    assert routed.fallbacks == (
        Fallback(17, bytes.fromhex("04b61f7dc1ea0dc99424464cc4064dc564d91e89")),
    )
    beans = by_name("supports features 8, 14 and 99")
    assert beans.features.bits == {8, 14, 99}
    assert by_name("payment metadata").payment_metadata == bytes.fromhex("01fafaf0")


def test_a_signature_that_is_not_the_named_payees_is_refused() -> None:
    invoice = Invoice(
        REGTEST,
        1,
        bytes(32),
        bytes(32),
        description="",
        payee=public_key(b"\x02" * 32),
        has_payee_field=True,
    )
    text = assemble(invoice, sign_recoverable(PRIVATE, signing_digest(invoice)))
    with pytest.raises(MalformedMessage, match="not the payee's"):
        decode(text)


hashes = st.binary(min_size=32, max_size=32)
hints = st.builds(
    RouteHint,
    st.just(bytes.fromhex(PAYEE)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)


@settings(max_examples=100, deadline=None)
@given(
    invoice=st.builds(
        Invoice,
        chain=st.sampled_from([MAINNET, REGTEST]),
        timestamp=st.integers(0, 2**35 - 1),
        payment_hash=hashes,
        payment_secret=hashes,
        amount_msat=st.none() | st.integers(1, 21_000_000 * 10**11),
        description=st.text(max_size=100),
        expiry_s=st.integers(0, 2**40),
        min_final_cltv_expiry_delta=st.integers(0, 5000),
        payee=st.just(bytes.fromhex(PAYEE)),
        features=st.just(FeatureSet.of(required=[Feature.var_onion_optin, Feature.payment_secret])),
        routes=st.lists(st.lists(hints, min_size=1, max_size=3).map(tuple), max_size=2).map(tuple),
        payment_metadata=st.none() | st.binary(max_size=50),
    )
)
def test_any_invoice_comes_back_as_it_was_written(invoice: Invoice) -> None:
    text = assemble(invoice, sign_recoverable(PRIVATE, signing_digest(invoice)))
    assert decode(text) == invoice
    assert decode(text.upper()) == invoice
