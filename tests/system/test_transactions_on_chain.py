"""bitcoind's word on our transactions: standard, valid, and spendable as BOLT 3 says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from embit.networks import NETWORKS
from embit.script import Script

from back.chain import regtest
from back.chain.regtest import Regtest
from back.signer.keys import recover_payment_key, root_key
from back.signer.signer import Signer
from back.transactions.closing import build_closing, closing_weight
from back.transactions.commitment import (
    CommitmentParameters,
    CommitmentTransaction,
    CommitmentType,
    HtlcKind,
    HtlcOutput,
    OutputRole,
    build_commitment,
    commitment_keys,
)
from back.transactions.scripts import (
    funding_script_pubkey,
    hash160,
    p2wpkh,
    to_remote_anchors_script,
)
from back.transactions.transaction import (
    Input,
    Output,
    legacy_bytes,
    parse_transaction,
    segwit_digest,
    witness_bytes,
)
from back.transactions.witness import signed_commitment, signed_funding_spend, signed_htlc
from shared.chain import REGTEST, Outpoint
from shared.crypto.keys import derive_public_key
from shared.crypto.signature import public_key, sign_compact, to_der, verify_compact

FUNDING_SATOSHIS = 10_000_000
NUMBER = 3
INDEX = 77
PREIMAGE = bytes(range(32))
SEEDS = b"\x01" * 64, b"\x02" * 64
ANCHORS = CommitmentType.ANCHORS_ZERO_FEE_HTLC


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Regtest]:
    """Relays also what pays no fee: HTLC transactions on anchors pay none of their own."""
    options = ("-minrelaytxfee=0", "-blockmintxfee=0")
    async with regtest.running(tmp_path / "bitcoind", options) as running:
        yield running


@dataclass
class Channel:
    """A funding output on chain and the signers of its two sides; the first holds and opened."""

    node: Regtest
    outpoint: Outpoint
    height: int
    signers: tuple[Signer, Signer]

    @classmethod
    async def funded(cls, node: Regtest) -> "Channel":
        signers = Signer(SEEDS[0], REGTEST.coin_type), Signer(SEEDS[1], REGTEST.coin_type)
        keys = [signer.channel_keys(INDEX).funding_pubkey for signer in signers]
        script_pubkey = funding_script_pubkey(*keys)
        address = Script(script_pubkey).address(NETWORKS["regtest"])
        rpc_txid = await node.send_to(address, "0.1")
        raw = bytes.fromhex(await node.call("getrawtransaction", rpc_txid))
        await node.mine()
        transaction = parse_transaction(raw)
        index = transaction.outputs.index(Output(FUNDING_SATOSHIS, script_pubkey))
        return cls(node, Outpoint(transaction.txid, index), await node.height(), signers)

    async def verdict(self, raw: bytes) -> str:
        """Empty where the mempool would take it, else the reason why not."""
        [result] = await self.node.call("testmempoolaccept", [raw.hex()])
        return str(result.get("reject-reason", ""))

    async def confirm(self, raw: bytes) -> None:
        assert await self.verdict(raw) == ""
        await self.node.call("sendrawtransaction", raw.hex())
        assert await self.node.mempool_is_not_empty()
        await self.node.mine()
        assert not await self.node.mempool_is_not_empty()

    def commitment(self, kind: CommitmentType) -> CommitmentTransaction:
        ours, theirs = (signer.channel_keys(INDEX) for signer in self.signers)
        payment_hash = sha256(PREIMAGE).digest()
        # The first two differ by their expiry only: their outputs are the same.
        htlcs = (
            HtlcOutput(0, True, 50_000_000, payment_hash, self.height + 8),
            HtlcOutput(1, True, 50_000_000, payment_hash, self.height + 4),
            HtlcOutput(0, False, 60_000_999, payment_hash, self.height + 400),
            HtlcOutput(1, False, 70_000, payment_hash, self.height + 400),
        )
        return build_commitment(
            CommitmentParameters(
                commitment_type=kind,
                funding_outpoint=self.outpoint,
                funding_satoshis=FUNDING_SATOSHIS,
                number=NUMBER,
                opener_payment_basepoint=ours.payment_basepoint,
                accepter_payment_basepoint=theirs.payment_basepoint,
                holder_is_opener=True,
                to_self_delay=144,
                dust_limit_satoshis=354,
                feerate_per_kw=1_000,
                to_local_msat=6_839_929_001,
                to_remote_msat=3_000_000_000,
                htlcs=htlcs,
                keys=commitment_keys(
                    self.signers[0].per_commitment_point(INDEX, NUMBER),
                    local_delayed_payment_basepoint=ours.delayed_payment_basepoint,
                    local_htlc_basepoint=ours.htlc_basepoint,
                    local_funding_pubkey=ours.funding_pubkey,
                    remote_payment_basepoint=theirs.payment_basepoint,
                    remote_htlc_basepoint=theirs.htlc_basepoint,
                    remote_revocation_basepoint=theirs.revocation_basepoint,
                    remote_funding_pubkey=theirs.funding_pubkey,
                ),
            )
        )


@pytest.mark.parametrize("kind", CommitmentType)
async def test_a_force_close_pays_out_every_output(node: Regtest, kind: CommitmentType) -> None:
    channel = await Channel.funded(node)
    commitment = channel.commitment(kind)
    holder, peer = channel.signers
    point = commitment.parameters.keys.per_commitment_point
    theirs, their_htlcs = peer.sign_remote_commitment(INDEX, commitment, point)
    htlc_key = derive_public_key(peer.channel_keys(INDEX).htlc_basepoint, point)
    ours = holder.sign_local_commitment(INDEX, commitment, current=NUMBER)
    published = signed_commitment(commitment, ours, theirs)
    await channel.confirm(published)

    claims = dict(zip(commitment.htlc_transactions, their_htlcs, strict=True))
    assert len(claims) == 3
    expiries = [c.htlc.cltv_expiry for c in claims if c.kind is HtlcKind.TIMEOUT]
    assert expiries == sorted(expiries)
    for claim, their_signature in claims.items():
        assert verify_compact(htlc_key, claim.sighash, their_signature)
        our_signature = holder.sign_local_htlc(INDEX, commitment, claim, current=NUMBER)
        if claim.kind is HtlcKind.SUCCESS:
            signed = signed_htlc(claim, our_signature, their_signature, PREIMAGE)
            wrong = signed_htlc(claim, our_signature, their_signature, bytes(32))
            assert await channel.verdict(wrong) != ""
        else:
            signed = signed_htlc(claim, our_signature, their_signature)
            height = await node.height()
            if height < claim.htlc.cltv_expiry:
                assert await channel.verdict(signed) == "non-final"
                await node.mine(claim.htlc.cltv_expiry - height)
        await channel.confirm(signed)

    await channel.confirm(sweep_to_remote(commitment, published, kind))


def sweep_to_remote(
    commitment: CommitmentTransaction, published: bytes, kind: CommitmentType
) -> bytes:
    """Claim to_remote with what a peer has that lost everything but its seed."""
    seen = parse_transaction(published)
    found = recover_payment_key(
        root_key(SEEDS[1], REGTEST.coin_type),
        seen.witnesses[0][-1],
        {output.script_pubkey for output in seen.outputs},
    )
    assert found is not None
    key, script_pubkey = found
    index = commitment.roles.index(OutputRole.TO_REMOTE)
    value_sat = seen.outputs[index].value_sat
    assert seen.outputs[index].script_pubkey == script_pubkey
    pubkey = public_key(key)
    output = Output(value_sat - 1_000, p2wpkh(pubkey))
    if kind is ANCHORS:
        spent, script = Input(Outpoint(seen.txid, index), 1), to_remote_anchors_script(pubkey)
        last = script
    else:
        spent = Input(Outpoint(seen.txid, index), 0)
        script, last = b"\x76\xa9\x14" + hash160(pubkey) + b"\x88\xac", pubkey
    digest = segwit_digest(spent, script, value_sat, (output,), 0)
    witness = (to_der(sign_compact(key, digest)) + b"\x01", last)
    return witness_bytes(legacy_bytes((spent,), (output,), 0), (witness,))


async def test_a_cooperative_close_confirms_at_the_fee_that_was_meant(node: Regtest) -> None:
    channel = await Channel.funded(node)
    ours, theirs = (signer.channel_keys(INDEX) for signer in channel.signers)
    scripts = b"\x00\x14" + b"\x07" * 20, b"\x51\x20" + ours.funding_pubkey[1:]
    fee_satoshis = closing_weight(*scripts) * 253 // 1000
    closing = build_closing(
        funding_outpoint=channel.outpoint,
        funding_satoshis=FUNDING_SATOSHIS,
        local_funding_pubkey=ours.funding_pubkey,
        remote_funding_pubkey=theirs.funding_pubkey,
        local_script=scripts[0],
        remote_script=scripts[1],
        local_sat=6_000_000,
        remote_sat=4_000_000,
        fee_satoshis=fee_satoshis,
        is_local_payer=True,
        dust_limit_satoshis=354,
    )
    first = (ours.funding_pubkey, channel.signers[0].sign_closing(INDEX, closing))
    forged = (theirs.funding_pubkey, sign_compact(b"\x01" * 32, closing.sighash))
    wrong = signed_funding_spend(closing.unsigned, first, forged)
    assert await channel.verdict(wrong) != ""
    mirrored = build_closing(
        funding_outpoint=channel.outpoint,
        funding_satoshis=FUNDING_SATOSHIS,
        local_funding_pubkey=theirs.funding_pubkey,
        remote_funding_pubkey=ours.funding_pubkey,
        local_script=scripts[1],
        remote_script=scripts[0],
        local_sat=4_000_000,
        remote_sat=6_000_000,
        fee_satoshis=fee_satoshis,
        is_local_payer=False,
        dust_limit_satoshis=354,
    )
    second = (theirs.funding_pubkey, channel.signers[1].sign_closing(INDEX, mirrored))
    signed = signed_funding_spend(closing.unsigned, first, second)
    [result] = await node.call("testmempoolaccept", [signed.hex()])
    assert round(result["fees"]["base"] * 100_000_000) == fee_satoshis
    # Not below the feerate that it was made for: the expected weight is an upper bound.
    assert fee_satoshis * 1000 // (result["vsize"] * 4) >= 250
    await channel.confirm(signed)
