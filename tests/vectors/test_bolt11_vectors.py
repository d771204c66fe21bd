"""BOLT 11's examples, valid and invalid."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from embit.script import address_to_scriptpubkey

from shared.bolt11 import Fallback, Invoice, RouteHint, bits, decode, invoice
from shared.chain import MAINNET, TESTNET
from shared.crypto.signature import sign_recoverable
from shared.errors import MalformedMessage

VECTORS = json.loads(Path(__file__).with_name("bolt11_invoices.json").read_text())
PRIVATE = bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734")
HIGH_S_PAYEE = "02d0139ce7427d6dfffd26a326c18be754ef1e64672b42694ba5b23ef6e6e7803d"
PAYEE = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda c: c["name"][:60])
def test_a_valid_invoice_is_read_and_its_signer_recovered(case) -> None:
    decoded = decode(case["invoice"])
    # The high-S signature belongs to whichever key recovers from it, not to the usual one.
    payee = HIGH_S_PAYEE if "high-S" in case["name"] else PAYEE
    assert decoded.payee.hex() == payee
    assert decoded.payment_secret == b"\x11" * 32
    assert decoded.chain is (TESTNET if "on testnet" in case["name"] else MAINNET)
    assert decoded.payment_hash.hex().startswith(("00010203", "462264ede7e"))


REASONS = {
    "Same, but adding invalid unknown feature 100": "feature 100 is required and unknown",
    "Bech32 checksum is invalid.": "checksum is wrong",
    "Malformed bech32 string (no 1)": "not a bech32 string",
    "Malformed bech32 string (mixed case)": "mixed upper and lower case",
    "Signature is not recoverable.": "recovers to no public key",
    "String is too short.": "the string is too short",
    "Invalid multiplier": "prefix 'lnbc2500x' is not one that we know",
    "Invalid sub-millisatoshi precision.": "not a whole number of msat",
    "Missing required `s` field.": r"payment_secret \(s\) is missing",
    "Non canonical signature (high-S) with 'n' field defined": "not low-S",
}


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda c: c["name"][:60])
def test_an_invalid_invoice_is_refused_for_what_is_wrong_with_it(case) -> None:
    with pytest.raises(MalformedMessage, match=REASONS[case["name"]]):
        decode(case["invoice"])


BROKEN_DOWN = [case for case in VECTORS["valid"] if "digest" in case]


@pytest.mark.parametrize("case", BROKEN_DOWN, ids=lambda c: c["name"][:60])
def test_what_is_signed_and_the_signature_are_those_of_the_breakdown(case) -> None:
    prefix, groups = bits.bech32_decode(case["invoice"])
    data = groups[: -invoice.SIGNATURE_GROUPS]
    assert (prefix.encode() + bits.padded_bytes(data)).hex() == case["signed"]
    assert invoice._digest(prefix, data).hex() == case["digest"]
    signature = bits.from_groups(groups[-invoice.SIGNATURE_GROUPS :])
    assert signature.hex() == f"{case['signature']}{case['recovery']:02x}"
    if "high-S" not in case["name"]:
        assert sign_recoverable(PRIVATE, bytes.fromhex(case["digest"])) == signature


def test_eleven_examples_have_a_breakdown() -> None:
    assert len(BROKEN_DOWN) == 11


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


def test_the_hashed_description_of_the_examples_is_that_of_the_list() -> None:
    things = (
        "One piece of chocolate cake, one icecream cone, one pickle, one slice of swiss cheese, "
        "one slice of salami, one lollypop, one piece of cherry pie, one sausage, one cupcake, "
        "and one slice of watermelon"
    )
    listed = by_name("entire list of things (hashed)")
    assert listed.description is None
    assert listed.description_hash == hashlib.sha256(things.encode()).digest()


def test_fields_that_must_be_ignored_are() -> None:
    plain = by_name("supports features 8, 14 and 99")
    with_more = decode(VECTORS["valid"][13]["invoice"])
    assert "fields which must be ignored" in VECTORS["valid"][13]["name"]
    assert with_more.unknown == ((10, (0, 0, 0)),)
    assert replace(with_more, unknown=()) == plain


def test_an_invoice_in_upper_case_says_the_same() -> None:
    upper = next(c["invoice"] for c in VECTORS["valid"] if "all upper case" in c["name"])
    assert upper.isupper()
    assert decode(upper) == by_name("supports features 8, 14 and 99")


ADDRESSES = {
    match[1]: case["invoice"]
    for case in VECTORS["valid"]
    if (match := re.search(r"address (\S+)", case["name"]))
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_fallback_addresses_of_the_examples(address: str) -> None:
    (fallback,) = decode(ADDRESSES[address]).fallbacks
    program = fallback.program
    match fallback.version:
        case 17:
            expected = b"\x76\xa9\x14" + program + b"\x88\xac"
        case 18:
            expected = b"\xa9\x14" + program + b"\x87"
        case version:
            expected = bytes((version + 0x50 if version else 0, len(program))) + program
    assert address_to_scriptpubkey(address).data == expected


def test_six_examples_have_a_fallback_address() -> None:
    assert len(ADDRESSES) == 6
