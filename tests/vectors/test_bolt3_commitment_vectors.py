"""BOLT 3 Appendices C and F: commitment and HTLC transactions, byte for byte."""

import hashlib
import json
from pathlib import Path

import pytest

from back.transactions.commitment import (
    CommitmentKeys,
    CommitmentParameters,
    CommitmentTransaction,
    CommitmentType,
    HtlcKind,
    HtlcOutput,
    build_commitment,
    commitment_number,
)
from back.transactions.transaction import parse_transaction
from back.transactions.witness import signed_commitment, signed_htlc
from shared.chain import Outpoint
from shared.crypto.signature import from_der, sign_compact, verify_compact

VECTORS = json.loads(Path(__file__).with_name("bolt3_commitments.json").read_text())
CASES = VECTORS["cases"]

LOCAL_PAYMENT = "034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa"
REMOTE_PAYMENT = "032c0b7cf95324a07d05398b240174dc0c2be444d96b159aa6c7f7b1e668680991"
LOCAL_FUNDING_PRIVATE = "30ff4956bbdd3222d44cc5e8a1261dab1e07957bdac5ae88fe3261ef321f3749"
LOCAL_HTLC_PRIVATE = "bb13b121cdc357cd2e608b0aea294afca36e2b34cf958e2e6451a2f274694491"
KEYS = CommitmentKeys(
    per_commitment_point=bytes.fromhex(
        "025f7117a78150fe2ef97db7cfc83bd57b2e2c0d0dd25eaf467a4a1c2a45ce1486"
    ),
    local_delayed_pubkey=bytes.fromhex(
        "03fd5960528dc152014952efdb702a88f71e3c1653b2314431701ec77e57fde83c"
    ),
    remote_pubkey=bytes.fromhex(REMOTE_PAYMENT),
    local_htlc_pubkey=bytes.fromhex(
        "030d417a46946384f88d5f3337267c5e579765875dc4daca813e21734b140639e7"
    ),
    remote_htlc_pubkey=bytes.fromhex(
        "0394854aa6eab5b2a8122cc726e9dded053a2184d88256816826d6231c068d4a5b"
    ),
    revocation_pubkey=bytes.fromhex(
        "0212a140cd0c6539d07cd08dfe09984dec3251ea808b892efeac3ede9402bf2b19"
    ),
    local_funding_pubkey=bytes.fromhex(
        "023da092f6980e58d2c037173180e9a465476026ee50f96695963e8efe436f54eb"
    ),
    remote_funding_pubkey=bytes.fromhex(
        "030e9f7b623d2ccc7c9bd44d66d5ce21ce504c0acf6385a132cec6d3c39fa711c1"
    ),
)
FUNDING = Outpoint(
    bytes.fromhex("8984484a580b825b9972d7adb15050b3ab624ccd731946b3eeddb92f4e7ef6be")[::-1], 0
)


def htlcs(case) -> tuple[HtlcOutput, ...]:
    known = {h["id"]: h for h in VECTORS["htlcs"]}
    return tuple(
        HtlcOutput(
            id=h["id"],
            offered=h["offered"],
            amount_msat=h["amount_msat"],
            payment_hash=hashlib.sha256(bytes.fromhex(h["payment_preimage"])).digest(),
            cltv_expiry=h["cltv_expiry"],
        )
        for h in (known[i] for i in case["htlcs"])
    )


def built(case) -> CommitmentTransaction:
    return build_commitment(
        CommitmentParameters(
            commitment_type=CommitmentType(case["type"]),
            funding_outpoint=FUNDING,
            funding_satoshis=10_000_000,
            number=42,
            opener_payment_basepoint=bytes.fromhex(LOCAL_PAYMENT),
            accepter_payment_basepoint=bytes.fromhex(REMOTE_PAYMENT),
            holder_is_opener=True,
            to_self_delay=144,
            dust_limit_satoshis=case["dust_limit_satoshis"],
            feerate_per_kw=case["local_feerate_per_kw"],
            to_local_msat=case["to_local_msat"],
            to_remote_msat=case["to_remote_msat"],
            htlcs=htlcs(case),
            keys=KEYS,
        )
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['type']}: {c['name']}")
def test_the_signed_commitment_is_the_one_of_the_bolt(case) -> None:
    commitment = built(case)
    remote = from_der(bytes.fromhex(case["remote_signature"]))
    assert verify_compact(KEYS.remote_funding_pubkey, commitment.sighash, remote)
    local = sign_compact(bytes.fromhex(LOCAL_FUNDING_PRIVATE), commitment.sighash)
    assert signed_commitment(commitment, local, remote).hex() == case["commitment"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['type']}: {c['name']}")
def test_the_signed_htlc_transactions_are_those_of_the_bolt(case) -> None:
    commitment = built(case)
    preimages = {h["id"]: bytes.fromhex(h["payment_preimage"]) for h in VECTORS["htlcs"]}
    assert len(commitment.htlc_transactions) == len(case["htlc_transactions"])
    for transaction, expected in zip(
        commitment.htlc_transactions, case["htlc_transactions"], strict=True
    ):
        remote = from_der(bytes.fromhex(expected["remote_signature"]))
        assert verify_compact(KEYS.remote_htlc_pubkey, transaction.sighash, remote)
        local = sign_compact(bytes.fromhex(LOCAL_HTLC_PRIVATE), transaction.local_sighash)
        is_success = transaction.kind is HtlcKind.SUCCESS
        preimage = preimages[transaction.htlc.id] if is_success else b""
        signed = signed_htlc(transaction, local, remote, preimage)
        assert signed.hex() == expected["transaction"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['type']}: {c['name']}")
def test_the_commitment_number_is_read_back_from_the_transaction(case) -> None:
    transaction = parse_transaction(bytes.fromhex(case["commitment"]))
    number = commitment_number(
        transaction.locktime,
        transaction.inputs[0].sequence,
        bytes.fromhex(LOCAL_PAYMENT),
        bytes.fromhex(REMOTE_PAYMENT),
    )
    assert number == 42
    assert transaction.txid == built(case).txid
