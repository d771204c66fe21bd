"""Any commitment: sums, trimming, order and digests, each recomputed another way."""

from embit.script import Script
from embit.transaction import Transaction
from hypothesis import given, settings
from support.commitments import FUNDING_SATOSHIS, any_parameters

from back.transactions import scripts
from back.transactions.commitment import (
    CommitmentParameters,
    CommitmentType,
    HtlcKind,
    OutputRole,
    build_commitment,
    commitment_number,
)
from back.transactions.transaction import parse_transaction
from back.transactions.weights import anchors_sat
from shared.crypto.keys import is_valid_point

HTLC_ROLES = {OutputRole.OFFERED_HTLC, OutputRole.RECEIVED_HTLC}
ANCHOR_ROLES = {OutputRole.TO_LOCAL_ANCHOR, OutputRole.TO_REMOTE_ANCHOR}
EXAMPLES = settings(max_examples=60, deadline=None)


def has_anchors(parameters: CommitmentParameters) -> bool:
    return parameters.commitment_type is CommitmentType.ANCHORS_ZERO_FEE_HTLC


def least_untrimmed_sat(parameters: CommitmentParameters, *, offered: bool) -> int:
    """BOLT 3 § Trimmed Outputs, straight from its numbers."""
    weight = 0 if has_anchors(parameters) else (663 if offered else 703)
    return parameters.dust_limit_satoshis + parameters.feerate_per_kw * weight // 1000


@EXAMPLES
@given(any_parameters())
def test_outputs_and_fee_are_the_funding(parameters: CommitmentParameters) -> None:
    commitment = build_commitment(parameters)
    assert sum(o.value_sat for o in commitment.outputs) + commitment.fee_sat == FUNDING_SATOSHIS
    opener_msat = (
        parameters.to_local_msat if parameters.holder_is_opener else parameters.to_remote_msat
    )
    if opener_msat // 1000 >= anchors_sat(parameters.commitment_type):
        assert commitment.fee_sat >= 0


@EXAMPLES
@given(any_parameters())
def test_the_other_side_than_the_opener_pays_nothing(parameters: CommitmentParameters) -> None:
    commitment = build_commitment(parameters)
    role, msat = (
        (OutputRole.TO_REMOTE, parameters.to_remote_msat)
        if parameters.holder_is_opener
        else (OutputRole.TO_LOCAL, parameters.to_local_msat)
    )
    values = [
        o.value_sat for o, r in zip(commitment.outputs, commitment.roles, strict=True) if r is role
    ]
    assert values == ([msat // 1000] if msat // 1000 >= parameters.dust_limit_satoshis else [])


@EXAMPLES
@given(any_parameters())
def test_no_output_but_an_anchor_is_below_dust(parameters: CommitmentParameters) -> None:
    commitment = build_commitment(parameters)
    for output, role in zip(commitment.outputs, commitment.roles, strict=True):
        if role in ANCHOR_ROLES:
            assert output.value_sat == 330
            assert has_anchors(parameters)
        else:
            assert output.value_sat >= parameters.dust_limit_satoshis
    for claim in commitment.htlc_transactions:
        claimed = parse_transaction(claim.unsigned).outputs[0].value_sat
        assert claimed >= parameters.dust_limit_satoshis


@EXAMPLES
@given(any_parameters())
def test_exactly_the_htlcs_that_are_worth_it_have_an_output(
    parameters: CommitmentParameters,
) -> None:
    commitment = build_commitment(parameters)
    kept = {claim.htlc.id for claim in commitment.htlc_transactions}
    assert kept == {
        h.id
        for h in parameters.htlcs
        if h.amount_msat // 1000 >= least_untrimmed_sat(parameters, offered=h.offered)
    }
    assert sum(r in HTLC_ROLES for r in commitment.roles) == len(kept)


@EXAMPLES
@given(any_parameters())
def test_anchors_stand_beside_what_they_can_bump(parameters: CommitmentParameters) -> None:
    roles = set(build_commitment(parameters).roles)
    for anchor, balance in (
        (OutputRole.TO_LOCAL_ANCHOR, OutputRole.TO_LOCAL),
        (OutputRole.TO_REMOTE_ANCHOR, OutputRole.TO_REMOTE),
    ):
        wanted = has_anchors(parameters) and (balance in roles or bool(roles & HTLC_ROLES))
        assert (anchor in roles) == wanted


@EXAMPLES
@given(any_parameters())
def test_outputs_are_in_bip69_and_cltv_order(parameters: CommitmentParameters) -> None:
    commitment = build_commitment(parameters)
    expiries = {c.output_index: c.htlc.cltv_expiry for c in commitment.htlc_transactions}
    order = [
        (o.value_sat, o.script_pubkey, expiries.get(i, 0)) for i, o in enumerate(commitment.outputs)
    ]
    assert order == sorted(order)
    indexes = [c.output_index for c in commitment.htlc_transactions]
    assert indexes == sorted(set(indexes))
    for claim in commitment.htlc_transactions:
        output = commitment.outputs[claim.output_index]
        assert output.value_sat == claim.htlc.amount_msat // 1000
        assert output.script_pubkey == scripts.p2wsh(claim.script)


@EXAMPLES
@given(any_parameters())
def test_digests_are_those_of_an_independent_library(parameters: CommitmentParameters) -> None:
    commitment = build_commitment(parameters)
    transaction = Transaction.parse(commitment.unsigned)
    assert transaction.txid()[::-1] == commitment.txid
    funding = Script(
        scripts.funding_script(
            parameters.keys.local_funding_pubkey, parameters.keys.remote_funding_pubkey
        )
    )
    assert transaction.sighash_segwit(0, funding, FUNDING_SATOSHIS, 1) == commitment.sighash
    for claim in commitment.htlc_transactions:
        spend = Transaction.parse(claim.unsigned)
        value = commitment.outputs[claim.output_index].value_sat
        script = Script(claim.script)
        assert spend.vin[0].txid[::-1] == commitment.txid
        assert spend.vin[0].vout == claim.output_index
        flag = 0x83 if has_anchors(parameters) else 0x01
        assert claim.sighash_flag == flag
        assert spend.sighash_segwit(0, script, value, flag) == claim.sighash
        assert spend.sighash_segwit(0, script, value, 1) == claim.local_sighash
        is_timeout = claim.kind is HtlcKind.TIMEOUT
        assert is_timeout == claim.htlc.offered
        assert spend.locktime == (claim.htlc.cltv_expiry if is_timeout else 0)


@EXAMPLES
@given(any_parameters())
def test_its_number_is_read_back_by_both_sides_only(parameters: CommitmentParameters) -> None:
    transaction = parse_transaction(build_commitment(parameters).unsigned)
    basepoints = parameters.opener_payment_basepoint, parameters.accepter_payment_basepoint
    seen = transaction.locktime, transaction.inputs[0].sequence
    assert commitment_number(*seen, *basepoints) == parameters.number
    assert commitment_number(*seen, *reversed(basepoints)) != parameters.number
    assert commitment_number(0, 0xFFFFFFFF, *basepoints) is None
    assert all(is_valid_point(p) for p in basepoints)
