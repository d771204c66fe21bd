"""BOLT 12's streams: what each rule of reader and writer takes and refuses."""

from hashlib import sha256
from typing import Any

import coincurve
import pytest
from hypothesis import given, settings, strategies as st
from support.offers import (
    ISSUER,
    NOW,
    PAYER,
    offer,
    path_to,
    payment_path,
    request,
    signed_invoice,
    signed_request,
)

from shared.bolt12 import (
    Bip353Name,
    Invoice,
    InvoiceError,
    InvoiceRequest,
    Offer,
    Order,
    Refused,
    check_answers,
    check_offer_is_repeated,
    check_usable,
    decode_invoice,
    decode_invoice_text,
    decode_offer,
    decode_request,
    encode_invoice,
    encode_offer,
    expires_at,
    make_error,
    offer_id,
    records_of,
    takes_parts,
    usable_paths,
)
from shared.bolt12.merkle import is_signed, merkle_root, signature_digest
from shared.bolt12.text import decode_text, encode_text
from shared.chain import MAINNET, REGTEST
from shared.crypto.signature import public_key
from shared.errors import MalformedMessage, PeerError
from shared.wire.record import decode_stream, encode_stream
from shared.wire.tlv import write_records

OTHER = b"\x43" * 32
PRICED = {"offer_amount": 5_000, "offer_description": "coffee"}


# --- strings --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["lno", "lnr", "lni"]))
def test_a_string_is_read_as_it_was_written(data: bytes, prefix: str) -> None:
    text = encode_text(prefix, data)
    assert decode_text(text) == decode_text(text.upper()) == (prefix, data)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=2, max_size=60), st.data())
def test_a_string_may_be_cut_anywhere_by_a_plus(data: bytes, draw: st.DataObject) -> None:
    text = encode_text("lno", data)
    at = draw.draw(st.integers(1, len(text) - 1))
    space = draw.draw(st.sampled_from(["", " ", "\n", "\r\n  ", "\t"]))
    assert decode_text(f"{text[:at]}+{space}{text[at:]}") == ("lno", data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lno",
        "1qqqq",
        "lno1qb",
        "lno1qqQq",
        "lNO1qqqq",
        "lno1qqqq+",
        "lno1qqqq+ ",
        "+lno1qqqq",
        "ln++o1qqqq",
        "lno1qq qq",
        "lno1qqq",
        "lno1qp",
        "lno1qqq\u017f",
    ],
)
def test_what_is_no_string_of_bolt_12_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_text(text)


# --- trees ----------------------------------------------------------------------------------------


def tagged(tag: bytes, message: bytes) -> bytes:
    return sha256(sha256(tag).digest() * 2 + message).digest()


def branch(one: bytes, other: bytes) -> bytes:
    return tagged(b"LnBranch", b"".join(sorted((one, other))))


def test_a_tree_of_three_records_is_the_one_that_the_bolt_draws() -> None:
    records = [(0, b"first"), (1, b""), (300, b"not signed"), (2000, b"third")]
    nonce = b"LnNonce" + b"\0\5first"
    leaves = [
        branch(tagged(b"LnLeaf", raw), tagged(nonce, number))
        for raw, number in (
            (b"\0\5first", b"\0"),
            (b"\1\0", b"\1"),
            (b"\xfd\x07\xd0\5third", b"\xfd\x07\xd0"),
        )
    ]
    root = branch(branch(leaves[0], leaves[1]), leaves[2])
    assert merkle_root(records) == root
    digest = tagged(b"lightninginvoicesignature", root)
    assert signature_digest("invoice", records) == digest


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 19), st.binary(min_size=1, max_size=4))
def test_any_change_of_any_record_changes_the_root(count: int, at: int, value: bytes) -> None:
    records = [(2 * number, bytes([number])) for number in range(count)]
    changed = list(records)
    changed[at % count] = (2 * (at % count), b"x" + value)
    assert merkle_root(changed) != merkle_root(records)
    assert merkle_root([*records, (99, b"")]) != merkle_root(records)


def test_nothing_has_no_root() -> None:
    with pytest.raises(ValueError, match="no record"):
        merkle_root([(240, bytes(64))])


def test_a_signature_is_of_one_key_and_one_digest() -> None:
    digest, other = bytes(32), b"\1" * 32
    signature = coincurve.PrivateKey(PAYER).sign_schnorr(digest, bytes(32))
    assert is_signed(public_key(PAYER), digest, signature)
    assert not is_signed(public_key(PAYER), other, signature)
    assert not is_signed(public_key(OTHER), digest, signature)
    assert not is_signed(public_key(PAYER), digest, None)
    assert not is_signed(b"\2" + b"\xff" * 32, digest, signature)


# --- offers ---------------------------------------------------------------------------------------

FULL = {
    **PRICED,
    "offer_metadata": b"meta",
    "offer_features": b"\x02",
    "offer_absolute_expiry": NOW,
    "offer_issuer": "somebody ☕",
    "offer_quantity_max": 0,
    "unknown_tlvs": {33: b"?", 1_000_000_001: b"!", 1_999_999_999: b""},
}


def test_an_offer_is_read_as_it_was_written() -> None:
    full = offer(offer_paths=[path_to(OTHER, ISSUER), path_to(ISSUER)], **FULL)
    assert decode_offer(encode_offer(full)) == full
    assert decode_offer(encode_offer(full).upper()) == full
    assert len(records_of(full)) == 13


def test_a_path_may_name_its_first_node_by_a_channel() -> None:
    path = path_to(ISSUER).model_copy(update={"first_node_id": b"\1" + bytes(7) + b"\5"})
    named = offer(offer_paths=[path], offer_issuer_id=None)
    assert decode_offer(encode_offer(named)).offer_paths == [path]


@pytest.mark.parametrize(
    "fields",
    [
        {"offer_features": b"\x01"},
        {"offer_features": b"\x40" + bytes(15)},
        {"offer_amount": 5},
        {"offer_amount": 0, "offer_description": "free"},
        {"offer_currency": "EUR"},
        {"offer_currency": "EURO", **PRICED},
        {"offer_currency": "eur", **PRICED},
        {"offer_issuer_id": None},
        {"unknown_tlvs": {81: b""}},
        {"unknown_tlvs": {999_999_999: b""}},
        {"unknown_tlvs": {2_000_000_001: b""}},
    ],
)
def test_an_offer_that_breaks_a_rule_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        decode_offer(encode_offer(offer(**fields)))


@pytest.mark.parametrize(
    "records",
    [
        [(22, b"\2" + b"\xff" * 32)],
        [(22, public_key(ISSUER)), (1_000_000_002, b"")],
        [(10, b"\xff"), (22, public_key(ISSUER))],
        [(8, b"\0\1"), (10, b"x"), (22, public_key(ISSUER))],
        [(2, b""), (22, public_key(ISSUER))],
        [(2, bytes(33)), (22, public_key(ISSUER))],
        [(16, b""), (22, public_key(ISSUER))],
        [(16, public_key(OTHER) * 2 + b"\0"), (22, public_key(ISSUER))],
        [(16, public_key(OTHER) + b"\2" + b"\xff" * 32 + b"\1" + public_key(OTHER) + b"\0\0")],
        [(22, public_key(ISSUER)), (10, b"x")],
    ],
)
def test_an_offer_that_does_not_parse_is_refused(records: list[tuple[int, bytes]]) -> None:
    with pytest.raises(MalformedMessage):
        decode_offer(encode_text("lno", write_records(records)))


def test_an_invoice_is_no_offer() -> None:
    text = encode_text("lni", encode_stream(offer()))
    with pytest.raises(Refused):
        decode_offer(text)


def test_an_offer_without_chains_is_for_bitcoin_only() -> None:
    plain = offer(offer_chains=None)
    check_usable(plain, MAINNET.chain_hash, NOW)
    with pytest.raises(Refused, match="chain"):
        check_usable(plain, REGTEST.chain_hash, NOW)


def test_an_offer_is_used_until_its_last_second() -> None:
    ending = offer(offer_absolute_expiry=NOW)
    check_usable(ending, REGTEST.chain_hash, NOW)
    with pytest.raises(Refused, match="expired"):
        check_usable(ending, REGTEST.chain_hash, NOW + 0.5)


# --- requests -------------------------------------------------------------------------------------


def judged(asked: InvoiceRequest, of: Offer, now: float = NOW) -> int:
    """Send a request over the wire and let the issuer look at it."""
    arrived = decode_request(encode_stream(asked))
    return check_offer_is_repeated(arrived, of, REGTEST.chain_hash, now)


def test_a_request_repeats_the_offer_with_what_it_does_not_know() -> None:
    full = offer(offer_paths=[path_to(ISSUER)], **FULL)
    asked = request(full, Order(10_000, 2, "for two"))
    assert judged(asked, full) == 10_000
    assert offer_id(asked) == offer_id(full)
    assert asked.unknown_tlvs == full.unknown_tlvs
    own = records_of(asked)
    assert own[0][0] == 0
    assert {*records_of(full)} < {*own}


@pytest.mark.parametrize(
    ("fields", "order", "amount_msat"),
    [
        ({}, Order(1), 1),
        (PRICED, Order(), 5_000),
        (PRICED, Order(5_000), 5_000),
        (PRICED, Order(9_000), 9_000),
        ({**PRICED, "offer_quantity_max": 0}, Order(None, 1_000), 5_000_000),
        ({**PRICED, "offer_quantity_max": 3}, Order(None, 3), 15_000),
        ({"offer_quantity_max": 1}, Order(7, 1), 7),
    ],
)
def test_what_an_offer_sells_may_be_asked_for(
    fields: dict[str, Any], order: Order, amount_msat: int
) -> None:
    sold = offer(**fields)
    assert judged(request(sold, order), sold) == amount_msat


WRONG_ORDERS: list[tuple[dict[str, Any], Order, int]] = [
    ({}, Order(), 82),
    ({}, Order(0), 82),
    ({}, Order(22 * 10**17), 82),
    (PRICED, Order(4_999), 82),
    (PRICED, Order(5_000, 1), 86),
    ({**PRICED, "offer_quantity_max": 0}, Order(5_000), 86),
    ({**PRICED, "offer_quantity_max": 0}, Order(5_000, 0), 86),
    ({**PRICED, "offer_quantity_max": 0}, Order(None, 1 << 60), 86),
    ({**PRICED, "offer_quantity_max": 3}, Order(20_000, 4), 86),
    ({**PRICED, "offer_quantity_max": 3}, Order(14_999, 3), 82),
    ({**PRICED, "offer_currency": "EUR"}, Order(5_000), 6),
]


@pytest.mark.parametrize(("fields", "order", "field"), WRONG_ORDERS)
def test_what_an_offer_does_not_sell_is_not_asked_for(
    fields: dict[str, Any], order: Order, field: int
) -> None:
    with pytest.raises(Refused) as refused:
        request(offer(**fields), order)
    assert refused.value.field == field


@pytest.mark.parametrize(("fields", "order", "field"), WRONG_ORDERS)
def test_what_an_offer_does_not_sell_is_not_given(
    fields: dict[str, Any], order: Order, field: int
) -> None:
    sold = offer(**fields)
    asked = request(
        offer(),
        **{**dict(sold), "invreq_amount": order.amount_msat, "invreq_quantity": order.quantity},
    )
    with pytest.raises(Refused) as refused:
        judged(asked, sold)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"invreq_metadata": None}, 0),
        ({"invreq_payer_id": None}, 88),
        ({"unknown_tlvs": {161: b""}}, 161),
        ({"unknown_tlvs": {3_000_000_001: b""}}, 3_000_000_001),
        ({"invreq_features": b"\x01"}, 84),
        ({"invreq_bip_353_name": Bip353Name(name=b"a@b", domain=b"c")}, 91),
        ({"invreq_bip_353_name": Bip353Name(name=b"a", domain=b"c\xc3\xa9")}, 91),
        ({"invreq_payer_id": public_key(OTHER)}, 240),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused(fields: dict[str, Any], field: int) -> None:
    with pytest.raises(Refused) as refused:
        decode_request(encode_stream(request(offer(), **fields)))
    assert refused.value.field == field


def test_a_request_with_what_nobody_needs_to_know_is_taken() -> None:
    asked = request(
        offer(),
        invreq_features=b"\x02",
        invreq_bip_353_name=Bip353Name(name=b"Al-ice_1", domain=b"example.com"),
        unknown_tlvs={101: b"x", 2_500_000_001: b"y"},
    )
    assert judged(asked, offer()) == 10_000


@pytest.mark.parametrize("change", [{"signature": None}, {"invreq_payer_note": "gift"}])
def test_a_request_that_the_payer_did_not_sign_is_refused(change: dict[str, Any]) -> None:
    changed = request(offer()).model_copy(update=change)
    with pytest.raises(Refused, match="signature"):
        decode_request(encode_stream(changed))


@pytest.mark.parametrize(
    "change",
    [
        {"offer_description": "cheaper"},
        {"offer_metadata": b"x"},
        {"unknown_tlvs": {33: b"x"}},
        {"unknown_tlvs": {1_500_000_001: b"x"}},
        {"offer_issuer": None},
    ],
)
def test_a_request_for_a_changed_offer_is_refused(change: dict[str, Any]) -> None:
    sold = offer(offer_issuer="us")
    with pytest.raises(Refused, match="those of the offer"):
        judged(request(sold, **change), sold)


def test_a_request_is_for_our_chain_and_a_valid_offer() -> None:
    sold = offer(offer_absolute_expiry=NOW)
    with pytest.raises(Refused, match="chain"):
        judged(request(sold, invreq_chain=MAINNET.chain_hash), sold)
    with pytest.raises(Refused, match="chain"):
        judged(request(sold, invreq_chain=None), sold)
    with pytest.raises(Refused, match="expired"):
        judged(request(sold), sold, NOW + 1)


def alone(**fields: Any) -> InvoiceRequest:
    """A request that offers money by itself."""
    return InvoiceRequest.model_validate(
        {
            "invreq_metadata": b"m",
            "invreq_payer_id": public_key(PAYER),
            "invreq_amount": 5,
            "offer_description": "refund",
            **fields,
        }
    )


def test_a_request_without_an_offer_needs_no_signature() -> None:
    decode_request(encode_stream(alone()))
    decode_request(encode_stream(signed_request(alone())))


@pytest.mark.parametrize(
    "fields",
    [
        {"offer_chains": [REGTEST.chain_hash]},
        {"offer_features": b""},
        {"offer_quantity_max": 1},
        {"invreq_amount": None},
        {"signature": bytes(64)},
    ],
)
def test_a_request_without_an_offer_that_breaks_a_rule_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        decode_request(encode_stream(alone(**fields)))


# --- invoices -------------------------------------------------------------------------------------


def accepted(invoice: Invoice, of: InvoiceRequest, now: float = NOW, key: bytes = ISSUER) -> None:
    """Send an invoice over the wire and let the payer look at it."""
    arrived = decode_invoice(encode_stream(invoice))
    check_answers(arrived, of, asked=public_key(key), chain_hash=REGTEST.chain_hash, unix_s=now)


def test_an_invoice_repeats_the_request_with_what_it_does_not_know() -> None:
    asked = request(offer(**FULL), Order(10_000, 2), unknown_tlvs={**FULL["unknown_tlvs"], 99: b""})
    invoice = signed_invoice(asked)
    accepted(invoice, asked)
    assert decode_invoice_text(encode_invoice(invoice)) == invoice
    assert invoice.unknown_tlvs == asked.unknown_tlvs
    assert invoice.signature != asked.signature
    assert takes_parts(invoice)


def test_an_invoice_is_valid_for_two_hours_or_as_it_says() -> None:
    asked = request(offer())
    invoice = signed_invoice(asked)
    assert invoice.invoice_relative_expiry is None
    accepted(invoice, asked, NOW + 7200)
    with pytest.raises(Refused, match="expired"):
        accepted(invoice, asked, NOW + 7201)
    short = signed_invoice(asked, invoice_relative_expiry=60)
    assert expires_at(short) == NOW + 60
    accepted(short, asked, NOW + 60)
    with pytest.raises(Refused, match="expired"):
        accepted(short, asked, NOW + 61)


@pytest.mark.parametrize(
    "fields",
    [
        {"invoice_amount": None},
        {"invoice_amount": 0},
        {"invoice_created_at": None},
        {"invoice_payment_hash": None},
        {"invoice_paths": None},
        {"invoice_blindedpay": None},
        {"invoice_blindedpay": [payment_path()[1]] * 2},
        {"invoice_blindedpay": [payment_path(features=b"\x01")[1]]},
        {"invoice_features": b"\x01"},
        {"invoice_features": b"\x01\x00\x00"},
    ],
)
def test_an_invoice_that_breaks_a_rule_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        decode_invoice(encode_stream(signed_invoice(request(offer()), **fields)))


def test_an_invoice_without_a_node_id_is_refused() -> None:
    invoice = signed_invoice(request(offer())).model_copy(update={"invoice_node_id": None})
    with pytest.raises(Refused, match="node_id"):
        decode_invoice(encode_stream(invoice))


def test_a_path_that_requires_what_we_do_not_know_is_not_used() -> None:
    good, bad = payment_path(), payment_path(features=b"\x01")
    odd = payment_path(features=b"\x02")
    invoice = signed_invoice(
        request(offer()),
        invoice_paths=[bad[0], good[0], odd[0]],
        invoice_blindedpay=[bad[1], good[1], odd[1]],
    )
    assert usable_paths(decode_invoice(encode_stream(invoice))) == [good, odd]


@pytest.mark.parametrize("change", [{"signature": None}, {"invoice_amount": 9_999}])
def test_an_invoice_that_the_payee_did_not_sign_is_refused(change: dict[str, Any]) -> None:
    changed = signed_invoice(request(offer())).model_copy(update=change)
    with pytest.raises(Refused, match="signature"):
        decode_invoice(encode_stream(changed))


@pytest.mark.parametrize(
    "fields",
    [
        {"invreq_metadata": b"other"},
        {"invreq_payer_note": "changed"},
        {"offer_description": "changed"},
        {"unknown_tlvs": {99: b""}},
        {"unknown_tlvs": {2_900_000_001: b""}},
        {"invoice_amount": 10_001},
        {"invoice_amount": 9_999},
    ],
)
def test_an_invoice_for_something_else_is_refused(fields: dict[str, Any]) -> None:
    asked = request(offer())
    with pytest.raises(Refused):
        accepted(signed_invoice(asked, **fields), asked)


def test_an_invoice_may_say_what_was_not_asked_about_the_invoice() -> None:
    asked = request(offer())
    accepted(signed_invoice(asked, unknown_tlvs={179: b"", 3_000_000_001: b""}), asked)


def test_an_invoice_is_of_the_issuer_or_of_the_end_of_the_path() -> None:
    asked = request(offer())
    with pytest.raises(Refused, match="another node"):
        accepted(signed_invoice(asked, OTHER), asked, key=OTHER)
    nameless = request(offer(offer_issuer_id=None, offer_paths=[path_to(OTHER)]))
    accepted(signed_invoice(nameless, OTHER), nameless, key=OTHER)
    with pytest.raises(Refused, match="another node"):
        accepted(signed_invoice(nameless), nameless, key=OTHER)


def test_an_error_says_which_field_was_wrong() -> None:
    error = make_error("x" * 500, 82)
    again = decode_stream(InvoiceError, encode_stream(error))
    assert again.erroneous_field == 82
    assert again.error == "x" * 200
    assert encode_stream(make_error("no")) == b"\5\2no"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_in_words(data: bytes) -> None:
    for read in (decode_request, decode_invoice):
        with pytest.raises(PeerError):
            read(data)
    with pytest.raises(PeerError):
        decode_offer(encode_text("lno", data))
