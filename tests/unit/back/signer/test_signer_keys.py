"""Derivation paths: as documented, and enough to recover to_remote from the chain."""

from dataclasses import astuple

import pytest
from embit import bip32
from hypothesis import given, settings, strategies as st
from support.commitments import parameters, point, secret

from back.signer.keys import (
    MAX_KEY_INDEX,
    ExtendedKey,
    channel_secrets,
    draw_key_index,
    funding_secret,
    node_secret,
    offers_secret,
    recover_payment_key,
    root_key,
)
from back.signer.signer import Signer
from back.transactions.commitment import CommitmentType, OutputRole, build_commitment
from back.transactions.transaction import parse_transaction
from back.transactions.witness import signed_commitment
from shared.crypto.signature import public_key
from shared.errors import MalformedMessage

SEED = secret("seed") * 2
ROOT = root_key(SEED, 1)


def reference(path: str) -> bytes:
    return bip32.HDKey.from_seed(SEED).derive(path).key.secret


def test_the_paths_are_those_of_the_documentation() -> None:
    assert node_secret(ROOT) == reference("m/9735'/1'/0'")
    assert offers_secret(ROOT) == reference("m/9735'/1'/3'")
    index = (123 << 31) | 456
    assert funding_secret(ROOT, index) == reference("m/9735'/1'/1'/123'/456'")
    from hashlib import sha256

    funding_pubkey = public_key(funding_secret(ROOT, index))
    digest = sha256(funding_pubkey).digest()
    words = [int.from_bytes(digest[i : i + 4], "big") & 0x7FFFFFFF for i in range(0, 32, 4)]
    base = "m/9735'/1'/2'/" + "/".join(f"{w}'" for w in words)
    expected = tuple(reference(f"{base}/{n}'") for n in range(5))
    assert astuple(channel_secrets(ROOT, funding_pubkey)) == expected


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=16, max_size=64), st.lists(st.integers(0, 2**31 - 1), max_size=4))
def test_hardened_children_are_those_of_bip_32(seed: bytes, path: list[int]) -> None:
    theirs = bip32.HDKey.from_seed(seed).derive([step | 1 << 31 for step in path])
    assert ExtendedKey.of_seed(seed).child(*path).secret == theirs.key.secret


def test_chains_seeds_and_indexes_share_no_key() -> None:
    roots = [ROOT, root_key(SEED, 0), root_key(secret("other") * 2, 1)]
    keys = [node_secret(r) for r in roots]
    for root in roots:
        for index in (0, 1, 2**31, MAX_KEY_INDEX):
            funding = funding_secret(root, index)
            keys += [funding, *astuple(channel_secrets(root, public_key(funding)))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("index", [-1, MAX_KEY_INDEX + 1])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="key index"):
        funding_secret(ROOT, index)


def test_drawn_indexes_are_in_range_and_all_over_it() -> None:
    drawn = [draw_key_index() for _ in range(64)]
    assert all(0 <= index <= MAX_KEY_INDEX for index in drawn)
    assert len(set(drawn)) == 64
    assert max(drawn) > MAX_KEY_INDEX // 2 > min(drawn)


@pytest.mark.parametrize("kind", CommitmentType)
def test_to_remote_is_recovered_from_seed_and_chain_alone(kind: CommitmentType) -> None:
    ours = Signer(SEED, 1).channel_keys(draw_key_index())
    plain = parameters()
    commitment = build_commitment(
        parameters(
            commitment_type=kind,
            keys=type(plain.keys)(
                per_commitment_point=plain.keys.per_commitment_point,
                local_delayed_pubkey=plain.keys.local_delayed_pubkey,
                remote_pubkey=ours.payment_basepoint,
                local_htlc_pubkey=plain.keys.local_htlc_pubkey,
                remote_htlc_pubkey=plain.keys.remote_htlc_pubkey,
                revocation_pubkey=plain.keys.revocation_pubkey,
                local_funding_pubkey=plain.keys.local_funding_pubkey,
                remote_funding_pubkey=ours.funding_pubkey,
            ),
        )
    )
    # What the chain shows, and nothing else.
    published = signed_commitment(commitment, bytes(63) + b"\1", bytes(63) + b"\1")
    seen = parse_transaction(published)
    found = recover_payment_key(
        root_key(SEED, 1), seen.witnesses[0][-1], {o.script_pubkey for o in seen.outputs}
    )
    assert found is not None
    key, script_pubkey = found
    assert public_key(key) == ours.payment_basepoint
    index = commitment.roles.index(OutputRole.TO_REMOTE)
    assert commitment.outputs[index].script_pubkey == script_pubkey
    other = root_key(secret("other") * 2, 1)
    outputs = {o.script_pubkey for o in seen.outputs}
    assert recover_payment_key(other, seen.witnesses[0][-1], outputs) is None


def test_a_script_that_is_no_funding_script_recovers_nothing() -> None:
    with pytest.raises(MalformedMessage):
        recover_payment_key(ROOT, point("x"), set())
