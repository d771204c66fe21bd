"""The signer: valid signatures, deterministic and low-S; refusals; nothing secret in sight."""

import copy
import json
import logging
from dataclasses import replace

import coincurve
import pytest
import structlog
from support.channels import opened
from support.commitments import htlc, parameters, point, secret

from back.channel.effects import (
    CheckSecret,
    ClosingSignature,
    CommitmentSignatures,
    Revocation,
    RevokeLocalCommitment,
    SecretCheck,
    SignClosing,
    SignedCommitment,
    SignFundingCreated,
    SignFundingSigned,
    SignLocalCommitment,
    SignRemoteCommitment,
)
from back.channel.model import Channel, LocalCommitment
from back.signer.signer import Signer
from back.transactions.closing import ClosingTransaction, build_closing
from back.transactions.commitment import CommitmentTransaction, build_commitment, commitment_keys
from back.transactions.scripts import funding_script
from back.transactions.transaction import double_sha256, parse_transaction
from shared.chain import REGTEST, Outpoint
from shared.crypto import noise
from shared.crypto.keys import derive_public_key
from shared.crypto.signature import (
    from_der,
    public_key,
    recover,
    sign_compact,
    verify_compact,
)
from shared.errors import HandshakeFailed, InvalidOnion, InvariantError, SigningRefused
from shared.wire import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement, encode

SEED = secret("seed") * 2
INDEX = 4_000_000_000_000_000_007
CURRENT = 5
THEIR_POINT = point("their per commitment")


@pytest.fixture
def signer() -> Signer:
    return Signer(SEED, REGTEST.coin_type)


HTLCS = (htlc(0, 5_000_000), htlc(1, 6_000_000, offered=False), htlc(2, 300_000))


def remote_commitment(signer: Signer) -> CommitmentTransaction:
    """Held by the peer: we are its remote side."""
    ours = signer.channel_keys(INDEX)
    return build_commitment(
        parameters(
            htlcs=HTLCS,
            to_local_msat=6_988_700_000,
            keys=commitment_keys(
                THEIR_POINT,
                local_delayed_payment_basepoint=point("remote delayed"),
                local_htlc_basepoint=point("remote htlc"),
                local_funding_pubkey=point("remote funding"),
                remote_payment_basepoint=ours.payment_basepoint,
                remote_htlc_basepoint=ours.htlc_basepoint,
                remote_revocation_basepoint=ours.revocation_basepoint,
                remote_funding_pubkey=ours.funding_pubkey,
            ),
        )
    )


def local_commitment(signer: Signer, number: int = CURRENT) -> CommitmentTransaction:
    """Held by us."""
    ours = signer.channel_keys(INDEX)
    return build_commitment(
        parameters(
            number=number,
            htlcs=HTLCS,
            to_local_msat=6_988_700_000,
            keys=commitment_keys(
                signer.per_commitment_point(INDEX, number),
                local_delayed_payment_basepoint=ours.delayed_payment_basepoint,
                local_htlc_basepoint=ours.htlc_basepoint,
                local_funding_pubkey=ours.funding_pubkey,
                remote_payment_basepoint=point("remote payment"),
                remote_htlc_basepoint=point("remote htlc"),
                remote_revocation_basepoint=point("remote revocation"),
                remote_funding_pubkey=point("remote funding"),
            ),
        )
    )


def closing(signer: Signer) -> ClosingTransaction:
    return build_closing(
        funding_outpoint=Outpoint(secret("funding"), 1),
        funding_satoshis=1_000_000,
        local_funding_pubkey=signer.channel_keys(INDEX).funding_pubkey,
        remote_funding_pubkey=point("remote funding"),
        local_script=b"\x00\x14" + bytes(20),
        remote_script=b"\x00\x14" + bytes([1] * 20),
        local_sat=500_000,
        remote_sat=500_000,
        fee_satoshis=500,
        is_local_payer=True,
        dust_limit_satoshis=354,
    )


def channel(number: int = CURRENT) -> Channel:
    """A channel whose row says that our commitment ``number`` is current."""
    ours, _ = opened()
    return replace(
        ours,
        parameters=replace(ours.parameters, key_index=INDEX),
        local_commitment=LocalCommitment(number),
    )


def test_the_same_seed_gives_the_same_node_and_channel_keys(signer: Signer) -> None:
    again = Signer(SEED, REGTEST.coin_type)
    assert again.node_id == signer.node_id
    assert again.channel_keys(INDEX) == signer.channel_keys(INDEX)
    assert Signer(SEED, 0).node_id != signer.node_id


def test_channel_keys_are_six_different_points(signer: Signer) -> None:
    keys = signer.channel_keys(INDEX)
    points = {
        keys.funding_pubkey,
        keys.revocation_basepoint,
        keys.payment_basepoint,
        keys.delayed_payment_basepoint,
        keys.htlc_basepoint,
        keys.first_point,
        keys.second_point,
    }
    assert len(points) == 7
    assert all(coincurve.PublicKey(p).format() == p for p in points)
    assert keys.first_point == signer.per_commitment_point(INDEX, 0)
    assert keys.second_point == signer.per_commitment_point(INDEX, 1)


# --- signatures ---------------------------------------------------------------------------------


def test_a_remote_commitment_is_signed_with_its_htlcs_in_output_order(signer: Signer) -> None:
    commitment = remote_commitment(signer)
    keys = signer.channel_keys(INDEX)
    signature, htlc_signatures = signer.sign_remote_commitment(INDEX, commitment, THEIR_POINT)
    assert verify_compact(keys.funding_pubkey, commitment.sighash, signature)
    assert [t.htlc.id for t in commitment.htlc_transactions] == [0, 1]
    htlc_key = derive_public_key(keys.htlc_basepoint, THEIR_POINT)
    for transaction, ours in zip(commitment.htlc_transactions, htlc_signatures, strict=True):
        assert verify_compact(htlc_key, transaction.sighash, ours)


def test_signatures_are_the_same_at_each_asking_and_after_a_restart(signer: Signer) -> None:
    commitment = remote_commitment(signer)
    first = signer.sign_remote_commitment(INDEX, commitment, THEIR_POINT)
    assert signer.sign_remote_commitment(INDEX, commitment, THEIR_POINT) == first
    assert Signer(SEED, 1).sign_remote_commitment(INDEX, commitment, THEIR_POINT) == first


def test_a_commitment_of_another_channel_point_or_holder_is_not_signed(signer: Signer) -> None:
    theirs, ours = remote_commitment(signer), local_commitment(signer)
    with pytest.raises(InvariantError):
        signer.sign_remote_commitment(INDEX + 1, theirs, THEIR_POINT)
    with pytest.raises(InvariantError):
        signer.sign_remote_commitment(INDEX, theirs, point("another"))
    with pytest.raises(InvariantError):
        signer.sign_remote_commitment(INDEX, ours, signer.per_commitment_point(INDEX, CURRENT))
    with pytest.raises(InvariantError):
        signer.sign_local_commitment(INDEX, theirs, current=CURRENT)
    with pytest.raises(InvariantError):
        signer.sign_local_commitment(INDEX + 1, ours, current=CURRENT)
    with pytest.raises(InvariantError):
        signer.sign_closing(INDEX + 1, closing(signer))


def test_our_commitment_and_htlc_transactions_are_signed(signer: Signer) -> None:
    commitment = local_commitment(signer)
    keys = signer.channel_keys(INDEX)
    signature = signer.sign_local_commitment(INDEX, commitment, current=CURRENT)
    assert verify_compact(keys.funding_pubkey, commitment.sighash, signature)
    htlc_key = derive_public_key(keys.htlc_basepoint, signer.per_commitment_point(INDEX, CURRENT))
    for transaction in commitment.htlc_transactions:
        ours = signer.sign_local_htlc(INDEX, commitment, transaction, current=CURRENT)
        assert verify_compact(htlc_key, transaction.local_sighash, ours)


@pytest.mark.parametrize("msat", [1, -1])
def test_a_commitment_that_does_not_add_up_is_not_signed(signer: Signer, msat: int) -> None:
    theirs, ours = remote_commitment(signer).parameters, local_commitment(signer).parameters
    theirs = replace(theirs, to_remote_msat=theirs.to_remote_msat + msat)
    ours = replace(ours, to_local_msat=ours.to_local_msat + msat)
    with pytest.raises(InvariantError, match="shares out"):
        signer.sign_remote_commitment(INDEX, build_commitment(theirs), THEIR_POINT)
    with pytest.raises(InvariantError, match="shares out"):
        signer.sign_local_commitment(INDEX, build_commitment(ours), current=CURRENT)


def test_a_commitment_whose_opener_cannot_pay_for_the_anchors_is_not_signed(
    signer: Signer,
) -> None:
    plain = remote_commitment(signer).parameters
    poor = replace(plain, to_local_msat=100_000, to_remote_msat=9_988_600_000)
    commitment = build_commitment(poor)
    assert commitment.fee_sat < 0
    with pytest.raises(InvariantError, match="fee of -"):
        signer.sign_remote_commitment(INDEX, commitment, THEIR_POINT)


def test_an_htlc_transaction_of_another_commitment_is_not_signed(signer: Signer) -> None:
    other = remote_commitment(signer).htlc_transactions[0]
    with pytest.raises(InvariantError):
        signer.sign_local_htlc(INDEX, local_commitment(signer), other, current=CURRENT)


# --- refusals -------------------------------------------------------------------------------------


def test_a_commitment_below_the_row_s_current_one_is_never_signed(signer: Signer) -> None:
    commitment = local_commitment(signer, CURRENT - 1)
    with pytest.raises(InvariantError, match="revoked"):
        signer.sign_local_commitment(INDEX, commitment, current=CURRENT)
    with pytest.raises(InvariantError, match="revoked"):
        signer.sign_local_htlc(INDEX, commitment, commitment.htlc_transactions[0], current=CURRENT)


def test_a_released_secret_forbids_its_commitment_whatever_the_row_says(signer: Signer) -> None:
    signer.release_secret(INDEX, CURRENT, current=CURRENT + 1)
    with pytest.raises(InvariantError, match="revoked"):
        signer.sign_local_commitment(INDEX, local_commitment(signer), current=CURRENT)
    later = local_commitment(signer, CURRENT + 1)
    assert signer.sign_local_commitment(INDEX, later, current=CURRENT)


def test_an_older_release_does_not_allow_what_a_later_one_forbade(signer: Signer) -> None:
    signer.release_secret(INDEX, CURRENT, current=CURRENT + 1)
    signer.release_secret(INDEX, 0, current=CURRENT + 1)
    with pytest.raises(InvariantError, match="revoked"):
        signer.sign_local_commitment(INDEX, local_commitment(signer), current=0)


def test_a_release_in_one_channel_forbids_nothing_in_another(signer: Signer) -> None:
    signer.release_secret(INDEX + 1, CURRENT, current=CURRENT + 1)
    assert signer.sign_local_commitment(INDEX, local_commitment(signer), current=CURRENT)


def test_a_release_that_was_never_durable_is_forgotten_with_the_reload(signer: Signer) -> None:
    signer.release_secret(INDEX, CURRENT, current=CURRENT + 1)
    signer.reloaded(INDEX)
    assert signer.sign_local_commitment(INDEX, local_commitment(signer), current=CURRENT)


@pytest.mark.parametrize("number", [CURRENT, CURRENT + 1, -1])
def test_the_secret_of_what_is_not_revoked_stays_here(signer: Signer, number: int) -> None:
    with pytest.raises(InvariantError):
        signer.release_secret(INDEX, number, current=CURRENT)
    assert signer.sign_local_commitment(INDEX, local_commitment(signer), current=CURRENT)


def test_in_recovery_nothing_of_ours_is_signed_and_the_rest_is(signer: Signer) -> None:
    signer = Signer(SEED, 1, in_recovery=True)
    commitment = local_commitment(signer)
    with pytest.raises(SigningRefused):
        signer.sign_local_commitment(INDEX, commitment, current=CURRENT)
    with pytest.raises(SigningRefused):
        signer.sign_local_htlc(INDEX, commitment, commitment.htlc_transactions[0], current=CURRENT)
    assert signer.sign_closing(INDEX, closing(signer))
    assert signer.in_recovery


def test_recovery_can_be_entered_and_not_left(signer: Signer) -> None:
    signer.enter_recovery()
    assert signer.in_recovery
    with pytest.raises(SigningRefused):
        signer.sign_local_commitment(INDEX, local_commitment(signer), current=CURRENT)
    with pytest.raises(AttributeError):
        signer.in_recovery = False  # type: ignore[misc]


# --- requests of a step ---------------------------------------------------------------------


def test_a_revocation_is_the_secret_and_the_point_after_next(signer: Signer) -> None:
    revocation = signer.answer(channel(), RevokeLocalCommitment(CURRENT - 1))
    assert isinstance(revocation, Revocation)
    secret_point = public_key(revocation.per_commitment_secret)
    assert secret_point == signer.per_commitment_point(INDEX, CURRENT - 1)
    assert revocation.next_per_commitment_point == signer.per_commitment_point(INDEX, CURRENT + 1)
    with pytest.raises(InvariantError):
        signer.answer(channel(), RevokeLocalCommitment(CURRENT))


def test_requests_for_the_peer_s_commitment_are_answered_alike(signer: Signer) -> None:
    commitment = remote_commitment(signer)
    expected = signer.sign_remote_commitment(INDEX, commitment, THEIR_POINT)
    for request in (
        SignRemoteCommitment(commitment, THEIR_POINT, 5, ()),
        SignFundingCreated(commitment, THEIR_POINT),
        SignFundingSigned(commitment, THEIR_POINT),
    ):
        assert signer.answer(channel(), request) == CommitmentSignatures(*expected)


def test_our_commitment_comes_back_signed_by_both(signer: Signer) -> None:
    commitment = local_commitment(signer)
    theirs = sign_compact(secret("remote funding"), commitment.sighash)
    request = SignLocalCommitment(commitment, CURRENT, theirs)
    signed = signer.answer(channel(), request)
    assert isinstance(signed, SignedCommitment)
    transaction = parse_transaction(signed.transaction)
    assert transaction.txid == commitment.txid
    empty, first, second, script = transaction.witnesses[0]
    keys = (signer.channel_keys(INDEX).funding_pubkey, point("remote funding"))
    assert empty == b""
    assert script == funding_script(*keys)
    for key, signature in zip(sorted(keys), (first, second), strict=True):
        assert signature[-1] == 1
        assert verify_compact(key, commitment.sighash, from_der(signature[:-1]))


def test_our_revoked_commitment_is_a_bug_to_ask_for(signer: Signer) -> None:
    request = SignLocalCommitment(local_commitment(signer, CURRENT - 1), CURRENT - 1, bytes(64))
    with pytest.raises(InvariantError, match="revoked"):
        signer.answer(channel(), request)


def test_in_recovery_our_commitment_comes_back_empty_and_the_log_says_so(
    signer: Signer,
) -> None:
    signer.enter_recovery()
    request = SignLocalCommitment(local_commitment(signer), CURRENT, bytes(64))
    with structlog.testing.capture_logs() as events:
        assert signer.answer(channel(), request) == SignedCommitment(b"")
    assert [event["event"] for event in events] == ["signing_refused"]


def test_a_closing_comes_back_signed_and_final_once_both_agree(signer: Signer) -> None:
    transaction = closing(signer)
    key = signer.channel_keys(INDEX).funding_pubkey
    offer = signer.answer(channel(), SignClosing(transaction, 500, is_sent=True))
    assert isinstance(offer, ClosingSignature)
    assert verify_compact(key, transaction.sighash, offer.signature)
    assert offer.transaction == b""
    theirs = sign_compact(secret("remote funding"), transaction.sighash)
    final = signer.answer(
        channel(), SignClosing(transaction, 500, is_sent=True, remote_signature=theirs)
    )
    assert isinstance(final, ClosingSignature)
    assert final.signature == offer.signature
    assert parse_transaction(final.transaction).txid == transaction.txid


def test_only_our_own_secret_of_that_number_is_recognised(signer: Signer) -> None:
    ours = signer.release_secret(INDEX, 3, current=4)
    assert signer.answer(channel(), CheckSecret(3, ours)) == SecretCheck(is_ours=True)
    assert signer.answer(channel(), CheckSecret(2, ours)) == SecretCheck(is_ours=False)
    for number in (3, 2**48, 2**64 - 2):
        none = SecretCheck(is_ours=False)
        assert signer.answer(channel(), CheckSecret(number, bytes(32))) == none


# --- node key --------------------------------------------------------------------------------


def test_handshakes_are_answered_with_the_node_key_and_garbage_is_not(signer: Signer) -> None:
    _, act_one = noise.initiate(point("peer"), secret("ephemeral"), signer.node_id)
    answer = signer.answer_responder(act_one)
    waiting = noise.AwaitActOne(signer.node_id, secret("ours")).receive(act_one)
    _, act_two = waiting.answer(answer)
    assert len(act_two) == noise.ACT_TWO
    with pytest.raises(HandshakeFailed):
        signer.answer_responder(act_one[:-1] + bytes([act_one[-1] ^ 1]))
    with pytest.raises(HandshakeFailed):
        signer.answer_initiator(point("peer"), secret("ephemeral"), bytes(50))


def test_an_onion_that_is_not_for_us_is_not_peeled(signer: Signer) -> None:
    packet = b"\0" + point("x") + bytes(1300) + bytes(32)
    with pytest.raises(InvalidOnion):
        signer.peel_onion(packet, secret("hash"))


def test_an_invoice_s_signature_recovers_to_the_node(signer: Signer) -> None:
    digest = secret("invoice")
    signature = signer.sign_invoice(digest)
    assert len(signature) == 65
    assert recover(signature, digest) == signer.node_id


def announcement(signer: Signer) -> ChannelAnnouncement:
    funding = signer.channel_keys(INDEX).funding_pubkey
    pairs = sorted(((signer.node_id, funding), (point("peer"), point("remote funding"))))
    return ChannelAnnouncement(
        node_signature_1=bytes(64),
        node_signature_2=bytes(64),
        bitcoin_signature_1=bytes(64),
        bitcoin_signature_2=bytes(64),
        features=b"",
        chain_hash=REGTEST.chain_hash,
        short_channel_id=1 << 40,
        node_id_1=pairs[0][0],
        node_id_2=pairs[1][0],
        bitcoin_key_1=pairs[0][1],
        bitcoin_key_2=pairs[1][1],
    )


def test_a_channel_announcement_is_signed_by_node_and_funding_key(signer: Signer) -> None:
    message = announcement(signer)
    node_signature, bitcoin_signature = signer.sign_channel_announcement(INDEX, message)
    digest = double_sha256(encode(message)[2 + 256 :])
    assert verify_compact(signer.node_id, digest, node_signature)
    funding = signer.channel_keys(INDEX).funding_pubkey
    assert verify_compact(funding, digest, bitcoin_signature)
    with pytest.raises(InvariantError):
        signer.sign_channel_announcement(INDEX + 1, message)
    with pytest.raises(InvariantError):
        Signer(secret("other"), 1).sign_channel_announcement(INDEX, message)


def test_our_updates_and_node_announcements_are_signed_over_all_that_follows(
    signer: Signer,
) -> None:
    update = signer.sign_channel_update(
        ChannelUpdate(
            signature=bytes(64),
            chain_hash=REGTEST.chain_hash,
            short_channel_id=1,
            timestamp=1,
            message_flags=1,
            channel_flags=0,
            cltv_expiry_delta=40,
            htlc_minimum_msat=1,
            fee_base_msat=1,
            fee_proportional_millionths=1,
            htlc_maximum_msat=1_000,
            extension=b"\x07\x01\x01",
        )
    )
    digest = double_sha256(encode(update)[2 + 64 :])
    assert verify_compact(signer.node_id, digest, update.signature)
    node = NodeAnnouncement(
        signature=bytes(64),
        features=b"",
        timestamp=1,
        node_id=signer.node_id,
        rgb_color=bytes(3),
        alias=bytes(32),
        addresses=b"",
    )
    signed = signer.sign_node_announcement(node)
    digest = double_sha256(encode(signed)[2 + 64 :])
    assert verify_compact(signer.node_id, digest, signed.signature)
    with pytest.raises(InvariantError):
        signer.sign_node_announcement(node.model_copy(update={"node_id": point("other")}))


# --- nothing secret in sight ----------------------------------------------------------------------


def secrets_of(signer: Signer) -> list[bytes]:
    from back.signer.keys import channel_secrets, funding_secret, node_secret, root_key

    root = root_key(SEED, 1)
    funding = funding_secret(root, INDEX)
    channel = channel_secrets(root, public_key(funding))
    return [
        SEED,
        SEED[:32],
        root.secret,
        root.chain_code,
        node_secret(root),
        funding,
        channel.revocation_basepoint,
        channel.payment_basepoint,
        channel.delayed_payment_basepoint,
        channel.htlc_basepoint,
        channel.shachain_seed,
        signer.release_secret(INDEX, 0, current=1),
    ]


def test_no_repr_shows_a_secret(signer: Signer) -> None:
    from back.signer.channel_signer import ChannelSigner
    from back.signer.keys import channel_secrets, root_key

    hidden = secrets_of(signer)
    root = root_key(SEED, 1)
    revocation = signer.answer(channel(), RevokeLocalCommitment(0))
    shown = " ".join(
        form(thing)
        for thing in (
            signer,
            root,
            channel_secrets(root, point("x")),
            ChannelSigner(root, INDEX),
            signer.channel_keys(INDEX),
            revocation,
            CheckSecret(0, hidden[-1]),
            vars(signer),
        )
        for form in (repr, str, "{!r}".format)
    )
    for value in hidden:
        assert value.hex() not in shown
        assert repr(value)[2:-1] not in shown


def test_nothing_secret_is_logged_whatever_is_asked(
    signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = secrets_of(signer)
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events:
        signer.enter_recovery()
        signer.answer(channel(), RevokeLocalCommitment(1))
        signer.answer(channel(), SignLocalCommitment(local_commitment(signer), CURRENT, bytes(64)))
        for failing in (
            lambda: signer.answer_responder(bytes(50)),
            lambda: signer.release_secret(INDEX, CURRENT, current=CURRENT),
        ):
            with pytest.raises((HandshakeFailed, InvariantError)) as error:
                failing()
            logging.getLogger("test").error("failed", exc_info=error.value)
    logged = json.dumps(copy.deepcopy(events), default=repr) + caplog.text
    assert "signing_refused" in logged
    for value in hidden:
        assert value.hex() not in logged
        assert repr(value)[2:-1] not in logged
