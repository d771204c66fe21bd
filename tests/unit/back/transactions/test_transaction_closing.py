"""The closing transaction of closing_signed (BOLT 2, BOLT 3)."""

from embit.script import Script
from embit.transaction import Transaction
from support.commitments import point, secret

from back.transactions.closing import (
    ClosingTransaction,
    build_closing,
    closing_variants,
    closing_weight,
    is_closing_signature_valid,
)
from back.transactions.scripts import funding_script
from back.transactions.transaction import parse_transaction
from back.transactions.witness import signed_funding_spend
from shared.chain import Outpoint
from shared.crypto.signature import sign_compact

OURS, THEIRS = b"\x00\x14" + secret("ours")[:20], b"\x00\x20" + secret("theirs")
LONGEST = b"\xff" * 32 + b"\x7f" * 32


def closing(**changes: object) -> ClosingTransaction:
    plain: dict[str, object] = {
        "funding_outpoint": Outpoint(secret("funding"), 3),
        "funding_satoshis": 1_000_000,
        "local_funding_pubkey": point("local funding"),
        "remote_funding_pubkey": point("remote funding"),
        "local_script": OURS,
        "remote_script": THEIRS,
        "local_sat": 600_000,
        "remote_sat": 400_000,
        "fee_satoshis": 1_000,
        "is_local_payer": True,
        "dust_limit_satoshis": 354,
    }
    return build_closing(**(plain | changes))  # type: ignore[arg-type]


def values(transaction: ClosingTransaction) -> dict[bytes, int]:
    return {o.script_pubkey: o.value_sat for o in transaction.outputs}


def test_the_opener_pays_the_fee() -> None:
    assert values(closing()) == {OURS: 599_000, THEIRS: 400_000}
    assert values(closing(is_local_payer=False)) == {OURS: 600_000, THEIRS: 399_000}


def test_both_sides_build_the_same_bytes() -> None:
    ours = closing()
    mirrored = closing(
        local_funding_pubkey=point("remote funding"),
        remote_funding_pubkey=point("local funding"),
        local_script=THEIRS,
        remote_script=OURS,
        local_sat=400_000,
        remote_sat=600_000,
        is_local_payer=False,
    )
    assert ours.unsigned == mirrored.unsigned
    assert ours.sighash == mirrored.sighash


def test_it_is_final_at_once_and_its_outputs_are_in_order() -> None:
    transaction = parse_transaction(closing().unsigned)
    assert (transaction.version, transaction.locktime) == (2, 0)
    assert transaction.inputs[0].sequence == 0xFFFFFFFF
    assert list(transaction.outputs) == sorted(transaction.outputs)
    equal = closing(local_sat=501_000, remote_sat=500_000)
    assert [o.script_pubkey for o in equal.outputs] == sorted((OURS, THEIRS))


def test_an_output_below_our_dust_limit_is_left_out() -> None:
    assert values(closing(local_sat=999_647, remote_sat=353)) == {OURS: 998_647}
    assert values(closing(local_sat=999_646, remote_sat=354)) == {OURS: 998_646, THEIRS: 354}
    assert values(closing(local_sat=1_353, remote_sat=998_647)) == {THEIRS: 998_647}
    assert values(closing(local_sat=500, remote_sat=999_500)) == {THEIRS: 999_500}


def test_dust_for_its_script_is_not_relayable() -> None:
    legacy = bytes.fromhex("76a914" + "11" * 20 + "88ac")
    assert not closing(remote_script=legacy, local_sat=999_600, remote_sat=400).is_relayable
    assert closing(remote_script=THEIRS, local_sat=999_600, remote_sat=400).is_relayable
    assert not closing(local_sat=100, remote_sat=100, funding_satoshis=200).is_relayable


def test_the_digest_is_that_of_an_independent_library() -> None:
    ours = closing()
    transaction = Transaction.parse(ours.unsigned)
    script = Script(funding_script(point("local funding"), point("remote funding")))
    assert transaction.sighash_segwit(0, script, 1_000_000, 1) == ours.sighash
    assert transaction.txid()[::-1] == ours.txid


def test_the_peer_may_leave_its_own_output_out_but_never_ours() -> None:
    whole, without = closing_variants(closing())
    assert whole == closing()
    assert values(without) == {OURS: 599_000}
    signature = sign_compact(secret("remote funding"), without.sighash)
    assert is_closing_signature_valid(without, point("remote funding"), signature)
    assert not is_closing_signature_valid(whole, point("remote funding"), signature)
    alone = closing(local_sat=1_000, remote_sat=999_000)
    assert closing_variants(alone) == (alone,)


def test_signed_it_weighs_almost_what_was_expected() -> None:
    ours = closing()
    pair = (point("local funding"), LONGEST), (point("remote funding"), LONGEST)
    signed = signed_funding_spend(ours.unsigned, *pair)
    assert signed == signed_funding_spend(ours.unsigned, *reversed(pair))
    assert closing_weight(OURS, THEIRS) - (3 * len(ours.unsigned) + len(signed)) == 2
    assert parse_transaction(signed).txid == ours.txid
