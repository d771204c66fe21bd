from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.bolt11 import Invoice, RouteHint, assemble, bits, decode, invoice, signing_digest
from shared.chain import MAINNET, REGTEST, SIGNET, TESTNET, Chain
from shared.crypto.signature import ORDER, public_key, sign_recoverable
from shared.errors import MalformedMessage
from shared.features import FeatureSet

PRIVATE = b"\x2a" * 32
PAYEE = public_key(PRIVATE)
HASH, SECRET = b"\x01" * 32, b"\x02" * 32
PLAIN = Invoice(REGTEST, 1_700_000_000, HASH, SECRET, description="coffee", payee=PAYEE)

Field = tuple[str, list[int]]
P: Field = ("p", bits.to_groups(HASH))
S: Field = ("s", bits.to_groups(SECRET))
D: Field = ("d", bits.to_groups(b"coffee"))
H: Field = ("h", bits.to_groups(b"\x03" * 32))


def signed(*fields: Field, prefix: str = "lnbcrt", change: Callable[[bytes], bytes] = bytes) -> str:
    """Return an invoice of exactly these fields."""
    groups = bits.number(1_700_000_000, 7)
    for name, content in fields:
        groups += [bits.bech32.CHARSET.index(name), *bits.number(len(content), 2), *content]
    signature = sign_recoverable(PRIVATE, invoice._digest(prefix, groups))
    return bits.bech32_encode(prefix, [*groups, *bits.to_groups(change(signature))])


def written(made: Invoice) -> str:
    return assemble(made, sign_recoverable(PRIVATE, signing_digest(made)))


def test_the_least_that_an_invoice_must_have_and_the_defaults_of_the_rest() -> None:
    decoded = decode(signed(P, S, D))
    assert decoded == PLAIN
    assert (decoded.expiry_s, decoded.min_final_cltv_expiry_delta) == (3600, 18)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([S, D], "payment_hash"),
        ([P, D], "payment_secret"),
        ([P, S], "exactly one of description"),
        ([P, S, D, H], "exactly one of description"),
        ([("p", P[1][:-1]), S, D], "payment_hash"),
        ([P, ("s", [*S[1], 0]), D], "payment_secret"),
        ([P, S, ("h", H[1][:-1])], "exactly one of description"),
    ],
)
def test_a_missing_or_contradicting_field_is_refused(fields: list[Field], reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        decode(signed(*fields))


def test_a_field_of_another_length_is_skipped_where_a_right_one_is_there() -> None:
    skipped = [("p", P[1][:-1]), ("s", [*S[1], 0]), ("h", H[1][:-1]), ("n", [0] * 52)]
    assert decode(signed(*skipped, P, S, D)) == PLAIN


@pytest.mark.parametrize("name", ["x", "c", "9"])
def test_a_number_with_leading_zeros_is_refused(name: str) -> None:
    with pytest.raises(MalformedMessage, match=f"field {name} is longer"):
        decode(signed(P, S, D, (name, [0, 8])))


@pytest.mark.parametrize("name", ["x", "c"])
def test_a_number_that_nobody_can_mean_is_refused(name: str) -> None:
    assert decode(signed(P, S, D, (name, bits.minimal(2**53 - 1))))
    with pytest.raises(MalformedMessage, match="54 bits"):
        decode(signed(P, S, D, (name, bits.minimal(2**53))))
    with pytest.raises(MalformedMessage, match="5115 bits"):
        decode(signed(P, S, D, (name, [31] * 1023)))


def test_of_several_fields_the_first_counts() -> None:
    twice = [
        ("x", [7]),
        ("x", [8]),
        ("c", [9]),
        ("c", [10]),
        ("m", bits.to_groups(b"first")),
        ("m", bits.to_groups(b"second")),
        ("9", [1, 0]),
        ("9", [2, 0]),
        ("d", bits.to_groups(b"second")),
        ("p", H[1]),
        ("s", H[1]),
    ]
    decoded = decode(signed(P, S, D, *twice))
    assert (decoded.expiry_s, decoded.min_final_cltv_expiry_delta) == (7, 9)
    assert (decoded.payment_hash, decoded.payment_secret) == (HASH, SECRET)
    assert (decoded.description, decoded.payment_metadata) == ("coffee", b"first")
    assert decoded.features == FeatureSet(frozenset({5}))


def test_an_unknown_odd_feature_is_kept_and_an_unknown_even_one_refused() -> None:
    assert decode(signed(P, S, D, ("9", bits.minimal(1 << 201)))).features.bits == {201}
    with pytest.raises(MalformedMessage, match="feature 200 is required and unknown"):
        decode(signed(P, S, D, ("9", bits.minimal(1 << 200))))


def test_unknown_fields_are_kept_and_written_again() -> None:
    decoded = decode(signed(P, S, D, ("q", [1, 2, 3]), ("l", [])))
    assert decoded.unknown == ((0, (1, 2, 3)), (31, ()))
    assert decode(written(decoded)) == decoded


@pytest.mark.parametrize(
    "content",
    [
        [],
        [0, *bits.to_groups(bytes(21))],
        [17, *bits.to_groups(bytes(19))],
        [18, *bits.to_groups(bytes(32))],
        [1, *bits.to_groups(bytes(41))],
        [1],
        [19, *bits.to_groups(bytes(20))],
        [31],
    ],
)
def test_a_fallback_that_is_no_address_is_skipped(content: list[int]) -> None:
    assert decode(signed(P, S, D, ("f", content))).fallbacks == ()


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (b"", "another size"),
        (bytes(50), "another size"),
        (bytes(51), "node id that is none"),
        (PAYEE + bytes(18) + bytes(33) + bytes(18), "node id that is none"),
    ],
)
def test_a_route_hint_that_leads_nowhere_is_refused(hint: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        decode(signed(P, S, D, ("r", bits.to_groups(hint))))


def test_a_description_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="UTF-8"):
        decode(signed(P, S, ("d", bits.to_groups(b"\xff\xfe"))))


@pytest.mark.parametrize("tail", [[1], [1, 0], [1, 0, 5], [1, 31, 31, 0]])
def test_a_field_that_is_cut_off_is_refused(tail: list[int]) -> None:
    groups = [*invoice._data(PLAIN), *tail]
    signature = sign_recoverable(PRIVATE, invoice._digest("lnbcrt", groups))
    text = bits.bech32_encode("lnbcrt", [*groups, *bits.to_groups(signature)])
    with pytest.raises(MalformedMessage, match="cut off"):
        decode(text)


# --- prefix ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "chain"),
    [("lnbc", MAINNET), ("lntb", TESTNET), ("lntbs", SIGNET), ("lnbcrt", REGTEST)],
)
def test_the_prefix_names_the_chain(prefix: str, chain: Chain) -> None:
    assert decode(signed(P, S, D, prefix=prefix)).chain is chain
    assert decode(signed(P, S, D, prefix=f"{prefix}2m")).chain is chain
    assert written(replace(PLAIN, chain=chain)).startswith(f"{prefix}1")


@pytest.mark.parametrize(
    ("amount", "msat"),
    [
        ("1", 10**11),
        ("20m", 2 * 10**9),
        ("2500u", 250_000_000),
        ("1n", 100),
        ("10p", 1),
        ("967878534n", 96_787_853_400),
        ("21000000", 21_000_000 * 10**11),
        # Not the shortest form, but met in the wild.
        ("1000000u", 10**11),
    ],
)
def test_amounts_are_read(amount: str, msat: int) -> None:
    assert decode(signed(P, S, D, prefix=f"lnbcrt{amount}")).amount_msat == msat


@pytest.mark.parametrize(
    "amount",
    ["0", "0m", "01m", "1p", "11p", "1x", "m", "1mm", "-1m", "1.5m", "21000001", "9" * 5000],
)
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(MalformedMessage, match=r"amount|prefix"):
        decode(signed(P, S, D, prefix=f"lnbcrt{amount}"))


@pytest.mark.parametrize("prefix", ["lnxx", "lnltc", "bcrt", "ln", "lnbcrtbcrt", "lnsb"])
def test_an_unknown_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(MalformedMessage, match="prefix"):
        decode(signed(P, S, D, prefix=prefix))


# --- signature -------------------------------------------------------------------------------


def high_s(signature: bytes) -> bytes:
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([signature[64] ^ 1])


def test_high_s_is_taken_without_and_refused_with_a_named_payee() -> None:
    assert decode(signed(P, S, D, change=high_s)).payee == PAYEE
    named = ("n", bits.to_groups(PAYEE))
    assert decode(signed(P, S, D, named)).payee == PAYEE
    with pytest.raises(MalformedMessage, match="not low-S"):
        decode(signed(P, S, D, named, change=high_s))


@pytest.mark.parametrize("payee", [public_key(b"\x02" * 32), bytes(33), b"\x02" + b"\xff" * 32])
def test_a_signature_that_is_not_the_named_payees_is_refused(payee: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not the payee's"):
        decode(signed(P, S, D, ("n", bits.to_groups(payee))))


@pytest.mark.parametrize("recovery", [4, 31, 255])
def test_a_recovery_id_that_is_none_is_refused(recovery: int) -> None:
    with pytest.raises(MalformedMessage, match="no public key"):
        decode(signed(P, S, D, change=lambda s: s[:64] + bytes([recovery])))


# --- writing ---------------------------------------------------------------------------------

HINT = RouteHint(PAYEE, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_msat": 0},
        {"amount_msat": -1},
        {"amount_msat": 21_000_000 * 10**11 + 1},
        {"description": None},
        {"description_hash": HASH},
        {"description": "x" * 640},
        {"timestamp": -1},
        {"timestamp": 2**35},
        {"payment_metadata": bytes(640)},
        {"routes": ((HINT,) * 13,)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_bolt_11_cannot_say_is_not_written(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        signing_digest(replace(PLAIN, **wrong))


def test_the_longest_fields_fit() -> None:
    longest = replace(PLAIN, description="x" * 639, routes=((HINT,) * 12,))
    assert decode(written(longest)) == longest


def test_zero_is_written_without_groups_and_no_features_without_a_field() -> None:
    text = written(replace(PLAIN, expiry_s=0))
    _, groups = bits.bech32_decode(text)
    fields: dict[int, list[int]] = {}
    rest = groups[7:-104]
    while rest:
        size = bits.to_number(rest[1:3])
        fields[rest[0]], rest = rest[3 : 3 + size], rest[3 + size :]
    assert fields[invoice.X] == []
    assert invoice.NINE not in fields
    assert decode(text).expiry_s == 0


def test_an_invoice_shows_its_secret_nowhere() -> None:
    shown = repr(replace(PLAIN, payment_secret=b"secret".ljust(32, b"!")))
    assert "secret!!" not in shown


def test_expiry_counts_from_the_timestamp() -> None:
    assert PLAIN.expires_at == 1_700_003_600
    assert not PLAIN.is_expired(1_700_003_599.9)
    assert PLAIN.is_expired(1_700_003_600)
