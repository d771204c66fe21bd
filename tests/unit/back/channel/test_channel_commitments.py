"""Signatures and revocations (BOLT 2 § Committing Updates So Far, § Completing the Transition)."""

from dataclasses import replace

import pytest
from support.channels import (
    ANCHORS,
    STATIC,
    End,
    Keys,
    deliver_all,
    messages_named,
    offered,
    opened,
    secret,
    settle,
    wired,
)

from back.channel import commitments, machine
from back.channel.effects import (
    CloseConnection,
    HtlcFulfilled,
    HtlcReceived,
    PhaseChanged,
    Publish,
    RevokeLocalCommitment,
    Send,
    SignRemoteCommitment,
)
from back.channel.events import Disconnected, FundingSpent, Received
from back.channel.model import HtlcState, Link, Phase
from back.channel.spec import local_spec, remote_spec
from back.transactions.transaction import parse_transaction
from shared.crypto.shachain import commitment_secret, index_of
from shared.errors import InvariantError
from shared.wire import (
    CommitmentSigned,
    Error,
    Message,
    RevokeAndAck,
    StartBatch,
    Stfu,
    UpdateFee,
    Warning as WarningMessage,
    decode,
)


def taken(end: End) -> list[Message]:
    """Take the messages that are on their way to an end off its wire."""
    messages = [decode(data) for data in end.wire]
    end.wire.clear()
    return [m for m in messages if m is not None]


def signed_add(opener: End) -> tuple[Message, CommitmentSigned]:
    """An add of the opener and its signature, not delivered."""
    opener.offer("p1", 50_000_000)
    assert opener.peer is not None
    add, signature = taken(opener.peer)
    assert isinstance(signature, CommitmentSigned)
    return add, signature


# --- the life of an HTLC ------------------------------------------------------------------------


def test_each_message_moves_an_htlc_one_state_on() -> None:
    opener, fundee = wired(opened())

    def states() -> tuple[HtlcState | None, HtlcState | None]:
        ours = opener.channel.htlcs.get((True, 0))
        theirs = fundee.channel.htlcs.get((False, 0))
        return ours and ours.state, theirs and theirs.state

    s = HtlcState
    opener.offer("p1", 50_000_000)
    fundee.receive(1)
    assert states() == (s.SENT_ADD_COMMIT, s.RCVD_ADD_HTLC)
    fundee.receive(1)  # commitment_signed: revoke_and_ack and our own signature leave at once
    assert states() == (s.SENT_ADD_COMMIT, s.SENT_ADD_ACK_COMMIT)
    opener.receive(1)
    assert states() == (s.RCVD_ADD_REVOCATION, s.SENT_ADD_ACK_COMMIT)
    opener.receive(1)
    assert states() == (s.SENT_ADD_ACK_REVOCATION, s.SENT_ADD_ACK_COMMIT)
    fundee.receive()
    assert states() == (s.SENT_ADD_ACK_REVOCATION, s.RCVD_ADD_ACK_REVOCATION)
    fundee.decide()
    assert states() == (s.SENT_ADD_ACK_REVOCATION, s.SENT_REMOVE_COMMIT)
    opener.receive(1)
    assert states() == (s.RCVD_REMOVE_HTLC, s.SENT_REMOVE_COMMIT)
    opener.receive(1)
    assert states() == (s.SENT_REMOVE_ACK_COMMIT, s.SENT_REMOVE_COMMIT)
    fundee.receive(1)
    assert states() == (s.SENT_REMOVE_ACK_COMMIT, s.RCVD_REMOVE_REVOCATION)
    fundee.receive(1)
    assert states() == (s.SENT_REMOVE_ACK_COMMIT, None)
    opener.receive()
    assert states() == (None, None)


def test_an_htlc_is_received_when_it_is_irrevocable_and_not_before() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    fundee.receive()
    opener.receive()
    assert not fundee.took(HtlcReceived)
    fundee.receive()
    (fact,) = fundee.took(HtlcReceived)
    assert fact.htlc.amount_msat == 50_000_000


def test_a_settled_htlc_leaves_with_the_remote_commitments_that_held_it() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    settle(opener, fundee)
    (ours,), (theirs,) = opener.history, fundee.history
    # The fundee holds it from its commitment 1 on; its 2 is without it again.
    assert (ours.remote_first, ours.remote_last) == (1, 1)
    assert (theirs.remote_first, theirs.remote_last) == (1, 1)
    assert ours.offered
    assert not theirs.offered


def test_balances_always_add_up_and_move_when_an_htlc_is_gone_from_both() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    deliver_all(opener, fundee)
    assert opener.channel.local_msat == 600_000_000
    assert local_spec(opener.channel).local_msat == 550_000_000
    assert remote_spec(opener.channel).remote_msat == 400_000_000
    settle(opener, fundee)
    assert (opener.channel.local_msat, opener.channel.remote_msat) == (550_000_000, 450_000_000)
    assert (fundee.channel.local_msat, fundee.channel.remote_msat) == (450_000_000, 550_000_000)


# --- signing ----------------------------------------------------------------------------------


def test_one_signature_covers_a_whole_batch() -> None:
    opener, fundee = wired(opened())
    opener.do(*(offered(f"p{i}", 5_000_000) for i in range(20)))
    names = messages_named(opener.sent)
    assert names.count("update_add_htlc") == 20
    assert names.count("commitment_signed") == 1
    settle(opener, fundee)
    assert all(what == ["offered", "fulfilled"] for what in opener.outcomes.values())


@pytest.mark.parametrize("kind", [STATIC, ANCHORS])
def test_signatures_follow_the_order_of_the_outputs(kind: object) -> None:
    opener, fundee = wired(opened(kind))
    amounts = [30_000_000, 10_000_000, 20_000_000, 10_000_000, 500]
    opener.do(*(offered(f"p{i}", amount, 500 - i) for i, amount in enumerate(amounts)))
    fundee.receive()
    assert len(fundee.channel.local_commitment.htlc_signatures) == 4
    settle(opener, fundee)
    assert not fundee.took(CloseConnection)


def test_nothing_is_signed_when_nothing_is_new() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    settle(opener, fundee)
    for end in (opener, fundee):
        assert commitments.sign_if_due(end.channel).effects == ()


@pytest.mark.parametrize(
    "change",
    [
        {"link": Link.OFFLINE},
        {"link": Link.SYNCING},
        {"phase": Phase.NEGOTIATING},
        {"phase": Phase.CLOSING},
    ],
)
def test_nothing_is_signed_while_it_could_not_be_sent(change: dict[str, object]) -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    fundee.receive(1)
    (signature,) = taken(fundee)
    signed = machine.apply(fundee.channel, Received(signature)).channel
    due = commitments.sign_if_due(signed).effects
    assert any(isinstance(effect, SignRemoteCommitment) for effect in due)
    assert commitments.sign_if_due(replace(signed, **change)).effects == ()


def test_a_revocation_goes_out_before_the_signature_that_answers() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    fundee.receive()
    assert messages_named(fundee.sent) == ["revoke_and_ack", "commitment_signed"]
    assert not fundee.channel.is_revoke_last
    opener.receive()
    assert opener.channel.is_revoke_last


def test_what_was_signed_is_stored_byte_for_byte() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    assert opener.channel.unrevoked is not None
    assert opener.channel.unrevoked.messages == tuple(fundee.wire)
    assert opener.channel.unrevoked.number == 1


def test_a_commitment_signed_names_its_funding_transaction() -> None:
    opener, _ = wired(opened())
    _, signature = signed_add(opener)
    assert opener.channel.funding is not None
    assert signature.funding_txid == opener.channel.funding.outpoint.txid


# --- a peer's signature ---------------------------------------------------------------------------


def fails(end: End, *messages: Message, why: str) -> None:
    """The messages cost the channel: an error is stored and sent, our commitment published."""
    before = end.channel.local_commitment
    end.do(*map(Received, messages))
    assert end.channel.phase is Phase.CLOSING
    (error,) = [m for m in end.sent if isinstance(m, Error)]
    assert why in error.data.decode()
    assert end.channel.sent_error is not None
    (published,) = end.took(Publish)
    transaction = parse_transaction(published.transaction)
    built = commitments.local_commitment(end.channel, before.number, before.current_point)
    assert transaction.txid == built.txid
    assert len(transaction.witnesses[0]) == 4
    assert end.channel.local_force_close == published.transaction


def test_a_bad_signature_costs_the_channel() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    other = signature.htlc_signature[0]
    fails(fundee, add, signature.model_copy(update={"signature": other}), why="signature is not")


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_htlc_signatures_costs_the_channel(count: int) -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    wrong = signature.model_copy(update={"htlc_signature": signature.htlc_signature * count})
    fails(fundee, add, wrong, why=f"{count} htlc_signatures for 1")


def test_a_bad_htlc_signature_costs_the_channel() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    wrong = signature.model_copy(update={"htlc_signature": [signature.signature]})
    fails(fundee, add, wrong, why="htlc_signature 0")


def test_a_missing_update_makes_the_signature_invalid() -> None:
    opener, fundee = wired(opened())
    _, signature = signed_add(opener)
    fails(fundee, signature, why="signature is not valid")


def test_a_signature_without_any_change_is_tolerated() -> None:
    """BOLT 2 forbids to send one and says nothing of its receiver; some programs send one."""
    opener, fundee = wired(opened())
    number, point = 1, opener.channel.remote_commitment.next_point
    built = commitments.local_commitment(fundee.channel, number, point)
    answer = opener.keys.answer(SignRemoteCommitment(built, point, number, ()))
    message = CommitmentSigned(
        channel_id=fundee.channel.channel_id, signature=answer.signature, htlc_signature=[]
    )
    fundee.do(Received(message))
    assert messages_named(fundee.sent) == ["revoke_and_ack"]
    assert fundee.channel.local_commitment.number == 1


def test_a_second_signature_before_our_revocation_costs_the_connection() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    fundee.do(Received(add), Received(signature), Received(signature))
    assert fundee.took(CloseConnection)
    assert fundee.channel.phase is Phase.NORMAL
    assert fundee.channel.local_commitment.number == 1


# --- a peer's revocation --------------------------------------------------------------------------


def revoked(kind: object = STATIC) -> tuple[End, RevokeAndAck]:
    """An opener that waits for a revocation, and the one that the peer sent."""
    opener, fundee = wired(opened(kind))
    opener.offer("p1", 5_000_000)
    fundee.receive()
    revocation = taken(opener)[0]
    assert isinstance(revocation, RevokeAndAck)
    return opener, revocation


def test_a_revocation_stores_the_secret_and_moves_to_the_next_point() -> None:
    opener, revocation = revoked()
    opener.do(Received(revocation))
    channel, theirs = opener.channel, Keys("fundee")
    assert channel.unrevoked is None
    assert channel.remote_secrets.get(index_of(0)) == commitment_secret(theirs.seed, 0)
    remote = channel.remote_commitment
    assert (remote.number, remote.current_point, remote.next_point) == (
        1,
        theirs.point(1),
        theirs.point(2),
    )


@pytest.mark.parametrize("wrong", [bytes(32), b"\xff" * 32, secret("another")])
def test_a_wrong_secret_costs_the_channel(wrong: bytes) -> None:
    opener, revocation = revoked()
    bad = revocation.model_copy(update={"per_commitment_secret": wrong})
    fails(opener, bad, why="not that of commitment 0")


def test_a_next_point_off_the_curve_costs_the_connection() -> None:
    opener, revocation = revoked()
    bad = revocation.model_copy(update={"next_per_commitment_point": b"\2" + b"\xff" * 32})
    opener.do(Received(bad))
    assert opener.took(CloseConnection)
    assert opener.channel.unrevoked is not None


def test_a_revocation_that_nobody_asked_for_costs_the_connection() -> None:
    opener, revocation = revoked()
    opener.do(Received(revocation), Received(revocation))
    assert opener.took(CloseConnection)
    assert opener.channel.remote_commitment.number == 1


def test_a_secret_that_does_not_derive_the_earlier_ones_costs_the_channel() -> None:
    opener, fundee = wired(opened())
    # A peer that draws a fresh secret each time instead of deriving them.
    fundee.keys.seed = secret("another seed")
    strange = {0: fundee.keys.point(0), 1: fundee.keys.point(1)}
    assert strange[0] != opener.channel.remote_commitment.current_point
    liar = replace(
        opener.channel,
        remote_commitment=replace(
            opener.channel.remote_commitment,
            number=1,
            current_point=strange[1],
            next_point=fundee.keys.point(2),
        ),
        remote_secrets=opener.channel.remote_secrets.insert(index_of(0), secret("fresh")),
    )
    opener.channel = liar
    opener.offer("p1", 5_000_000)
    revocation = RevokeAndAck(
        channel_id=liar.channel_id,
        per_commitment_secret=commitment_secret(fundee.keys.seed, 1),
        next_per_commitment_point=fundee.keys.point(3),
    )
    fails(opener, revocation, why="does not derive")


# --- the error state -----------------------------------------------------------------------------


def test_a_failed_channel_ignores_all_but_repeats_its_error() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    fundee.do(Received(signature))
    count = len(fundee.sent)
    fundee.do(Received(add), Received(signature))
    assert len(fundee.sent) == count
    fundee.cut()
    fundee.connect()
    assert messages_named(fundee.sent[count:]) == ["error"]
    fundee.receive()
    assert len(fundee.took(Publish)) == 1


def test_events_of_a_batch_after_a_failure_meet_the_state_it_left() -> None:
    opener, fundee = wired(opened())
    _, signature = signed_add(opener)
    fundee.do(Received(signature), offered("p9", 5_000_000))
    assert fundee.outcomes["p9"] == ["refused"]
    assert len(fundee.took(PhaseChanged)) == 1


def test_messages_after_a_broken_rule_are_not_of_this_world_any_more() -> None:
    """What follows in the same batch may build on the message that we refused."""
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    fee = UpdateFee(channel_id=fundee.channel.channel_id, feerate_per_kw=1)
    fundee.do(Received(fee), Received(add), Received(signature))
    assert len(fundee.took(CloseConnection)) == 1
    assert not fundee.channel.htlcs
    assert fundee.channel.link is Link.OFFLINE


def test_an_error_of_the_peer_is_stored_and_publishes_our_commitment() -> None:
    opener, _ = wired(opened())
    error = Error(channel_id=opener.channel.channel_id, data=b"no more")
    opener.do(Received(error))
    assert opener.channel.phase is Phase.CLOSING
    assert opener.channel.received_error is not None
    assert [p.what for p in opener.took(Publish)] == ["commitment"]
    assert not opener.sent


@pytest.mark.parametrize(("local_msat", "phase"), [(0, Phase.CLOSED), (1, Phase.CLOSING)])
def test_a_fundee_without_a_stake_forgets_what_the_opener_gave_up(
    local_msat: int, phase: Phase
) -> None:
    _, fundee = wired(opened())
    fundee.channel = replace(
        fundee.channel,
        phase=Phase.WAIT_FOR_FUNDING_CONFIRMED,
        local_msat=local_msat,
        is_channel_ready_received=False,
    )
    fundee.do(Received(Error(channel_id=fundee.channel.channel_id, data=b"unknown channel")))
    assert fundee.channel.phase is phase
    assert bool(fundee.took(Publish)) == (phase is Phase.CLOSING)


def test_a_message_that_is_not_legal_now_costs_the_connection() -> None:
    opener, _ = wired(opened())
    opener.do(Received(Stfu(channel_id=opener.channel.channel_id, initiator=1)))
    (closed,) = opener.took(CloseConnection)
    assert "stfu is not legal in NORMAL" in closed.warning


# --- batches ------------------------------------------------------------------------------------


def a_batch(end: End, size: int, message_type: int | None = 132) -> StartBatch:
    return StartBatch(channel_id=end.channel.channel_id, batch_size=size, message_type=message_type)


def elsewhere(signature: CommitmentSigned) -> CommitmentSigned:
    """A commitment_signed for another funding transaction."""
    return signature.model_copy(update={"funding_txid": secret("splice")})


def test_a_batch_counts_only_the_signature_for_our_funding_transaction() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    messages = [add, a_batch(fundee, 3), elsewhere(signature), signature, elsewhere(signature)]
    fundee.do(*map(Received, messages))
    assert messages_named(fundee.sent) == ["revoke_and_ack", "commitment_signed"]
    assert fundee.channel.batch is None


def test_a_batch_without_ours_costs_the_channel() -> None:
    opener, fundee = wired(opened())
    _, signature = signed_add(opener)
    other = elsewhere(signature)
    fails(fundee, a_batch(fundee, 2), other, other, why="none for the current funding")


def test_a_batch_member_without_funding_txid_costs_the_channel() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    bare = signature.model_copy(update={"funding_txid": None})
    fails(fundee, add, a_batch(fundee, 2), bare, why="funding_txid is missing")


def test_a_batch_of_one_is_ignored_with_a_warning() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    fundee.do(*map(Received, [add, a_batch(fundee, 1), signature]))
    assert messages_named(fundee.sent) == ["warning", "revoke_and_ack", "commitment_signed"]
    assert isinstance(fundee.sent[0], WarningMessage)


def test_a_batch_of_another_kind_is_ignored() -> None:
    opener, fundee = wired(opened())
    add, signature = signed_add(opener)
    fundee.do(*map(Received, [add, a_batch(fundee, 2, None), signature]))
    assert messages_named(fundee.sent) == ["revoke_and_ack", "commitment_signed"]


def test_a_huge_or_interrupted_batch_costs_the_connection() -> None:
    opener, fundee = wired(opened())
    add, _ = signed_add(opener)
    fundee.do(Received(a_batch(fundee, 21)))
    assert len(fundee.took(CloseConnection)) == 1
    _, other = wired(opened())
    other.do(Received(a_batch(other, 2)), Received(add))
    assert len(other.took(CloseConnection)) == 1
    assert other.channel.batch is None
    assert not other.channel.htlcs


# --- what others ask ------------------------------------------------------------------------------


def test_a_channel_is_clean_only_when_all_is_settled() -> None:
    opener, fundee = wired(opened())
    assert commitments.is_empty_and_clean(opener.channel)
    opener.offer("p1", 5_000_000)
    assert commitments.has_pending_remote_updates(opener.channel)
    fundee.receive(1)
    assert commitments.has_uncommitted_remote_adds(fundee.channel)
    fundee.receive()
    assert not commitments.has_uncommitted_remote_adds(fundee.channel)
    assert not commitments.is_empty_and_clean(fundee.channel)
    settle(opener, fundee)
    assert commitments.is_empty_and_clean(fundee.channel)
    assert not commitments.has_pending_remote_updates(opener.channel)


def test_the_peers_commitments_are_recognised_also_while_two_are_valid() -> None:
    opener, fundee = wired(opened())
    old = commitments.local_commitment(fundee.channel, 0, fundee.keys.point(0))
    opener.offer("p1", 5_000_000)
    fundee.receive()  # its revocation is on its way
    new = commitments.local_commitment(fundee.channel, 1, fundee.keys.point(1))
    remote = opener.channel.remote_commitment
    assert commitments.remote_commitment(opener.channel, 0, remote.current_point).txid == old.txid
    assert commitments.remote_commitment(opener.channel, 1, remote.next_point).txid == new.txid
    with pytest.raises(InvariantError):
        commitments.remote_commitment(opener.channel, 2, remote.next_point)


def test_a_spend_of_the_funding_output_ends_the_use_of_the_channel() -> None:
    opener, fundee = wired(opened())
    fundee.do(Received(Error(channel_id=fundee.channel.channel_id, data=b"bye")))
    (published,) = fundee.took(Publish)
    opener.do(FundingSpent(published.transaction, None))
    assert opener.channel.phase is Phase.CLOSING


def test_an_unfilled_request_never_becomes_an_effect() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    step = machine.apply_batch(fundee.channel, [Received(m) for m in taken(fundee)])
    kinds = [type(effect) for effect in step.effects]
    assert kinds == [RevokeLocalCommitment, SignRemoteCommitment]
    filled = machine.fill(step, fundee.keys.answer)
    assert {type(effect) for effect in filled.effects} == {Send}
    with pytest.raises(InvariantError):
        machine.fill(step, lambda _: fundee.keys.answer(RevokeLocalCommitment(0)))


def test_a_disconnection_is_idempotent() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    fundee.receive(1)
    once = machine.apply(fundee.channel, Disconnected()).channel
    assert machine.apply(once, Disconnected()).channel == once
    assert not opener.took(HtlcFulfilled)
