"""Force closes, and what the chain tells a channel (BOLT 2, BOLT 5)."""

from dataclasses import replace

import pytest
from support.channels import (
    ANCHORS,
    STATIC,
    End,
    Keys,
    deliver_all,
    messages_named,
    opened,
    secret,
    settle,
    stored,
    wired,
)
from support.closings import negotiating, offer
from support.openings import begun, funded

from back.channel import commitments, machine, onchain
from back.channel.effects import (
    Alarm,
    Answer,
    ChannelForgotten,
    PhaseChanged,
    Publish,
    Request,
    SignedCommitment,
    SignLocalCommitment,
    WatchConfirmed,
    WatchSpent,
)
from back.channel.events import (
    BlockConnected,
    Event,
    ForceClose,
    FundingSpent,
    Received,
    TransactionConfirmed,
)
from back.channel.model import Phase
from back.transactions.commitment import CommitmentTransaction, CommitmentType
from back.transactions.transaction import Input, Output, legacy_bytes, parse_transaction
from back.transactions.witness import signed_commitment
from shared.chain import Outpoint
from shared.crypto.signature import sign_compact
from shared.wire import Error, Shutdown, decode

KINDS = [STATIC, ANCHORS]


def published(end: End) -> list[str]:
    """What an end published, by its purpose."""
    return [effect.what for effect in end.took(Publish) if isinstance(effect, Publish)]


def commitment_of(end: End) -> bytes:
    """An end's current commitment as it would publish it."""
    local = end.channel.local_commitment
    unsigned = commitments.local_commitment(end.channel, local.number, local.current_point)
    return raw(unsigned, end, local.signature)


def raw(unsigned: CommitmentTransaction, holder: End, theirs: bytes) -> bytes:
    return signed_commitment(unsigned, sign_compact(holder.keys.funding, unsigned.sighash), theirs)


def reason_of(end: End) -> str:
    """Why the channel moved on last."""
    changed = end.took(PhaseChanged)[-1]
    assert isinstance(changed, PhaseChanged)
    return changed.reason


# --- force closes ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_force_close_tells_the_peer_and_publishes_our_commitment(kind: CommitmentType) -> None:
    opener, fundee = wired(opened(kind))
    opener.offer("p1", 5_000_000)
    deliver_all(opener, fundee)
    expected = commitment_of(opener)
    opener.do(ForceClose("the operator wants it"))
    assert opener.channel.phase is Phase.CLOSING
    (effect,) = opener.took(Publish)
    assert effect == Publish(expected, "commitment")
    error = opener.sent[-1]
    assert isinstance(error, Error)
    assert error.data == b"the operator wants it"
    # Stored: it is repeated in every connection, and the transaction at every start.
    assert opener.channel.sent_error is not None
    assert decode(opener.channel.sent_error) == error
    assert opener.channel.local_force_close == expected


def test_a_channel_is_force_closed_once() -> None:
    opener, _ = wired(opened())
    opener.do(ForceClose("first"))
    opener.do(ForceClose("second"))
    assert "is CLOSING already" in str(opener.refusals[0][1])
    assert published(opener) == ["commitment"]
    assert messages_named(opener.sent) == ["error"]


def test_an_opening_is_given_up_instead() -> None:
    opener, fundee = begun()
    for end in (opener, fundee):
        end.do(ForceClose("the operator wants it"))
        assert end.channel.phase is Phase.CLOSED
        assert messages_named(end.sent) == ["error"]
        assert not end.took(Publish)
        assert len(end.took(ChannelForgotten)) == 1


def test_an_unconfirmed_channel_publishes_its_commitment_and_waits() -> None:
    opener, _, _ = funded()
    opener.do(ForceClose("the operator wants it"))
    assert published(opener) == ["funding", "commitment"]
    # Both again at a start: one needs the other.
    again = [e.what for e in machine.resume(stored(opener.channel)) if isinstance(e, Publish)]
    assert again == ["funding", "commitment"]


def test_who_lost_data_publishes_nothing() -> None:
    opener, _ = wired(opened())
    opener.channel = replace(opener.channel, phase=Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT)
    opener.do(ForceClose("the operator wants it"))
    assert "we lost data" in str(opener.refusals[0][1])
    opener.do(Received(Error(channel_id=opener.channel.channel_id, data=b"bye")))
    assert not opener.took(Publish)


def test_what_the_signer_refuses_is_not_published() -> None:
    """In recovery nothing of ours is known to be current."""
    opener, _ = wired(opened())
    step = machine.apply_batch(opener.channel, [ForceClose("the operator wants it")])

    def refused(request: Request) -> Answer:
        assert isinstance(request, SignLocalCommitment)
        return SignedCommitment(b"")

    filled = machine.fill(step, refused)
    assert not [effect for effect in filled.effects if isinstance(effect, Publish)]
    assert filled.channel.local_force_close == b""
    assert filled.channel.phase is Phase.CLOSING


def test_peers_are_told_in_printable_ascii() -> None:
    opener, _ = wired(opened())
    opener.do(ForceClose("§ größer → " + "x" * 2_000))
    error = opener.sent[-1]
    assert isinstance(error, Error)
    assert len(error.data) == 1_000
    assert all(32 <= byte <= 126 for byte in error.data)


# --- what spends the funding output --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_peers_commitment_ends_the_channel_without_alarm(kind: CommitmentType) -> None:
    opener, fundee = wired(opened(kind))
    opener.do(FundingSpent(commitment_of(fundee), None))
    assert opener.channel.phase is Phase.CLOSING
    assert reason_of(opener) == "the funding output was spent by the peer's commitment"
    assert not opener.took(Alarm)
    assert not opener.took(Publish)


def test_our_own_commitment_is_recognised_whoever_published_it() -> None:
    opener, _ = wired(opened())
    opener.do(FundingSpent(commitment_of(opener), 300))
    assert reason_of(opener) == "the funding output was spent by our commitment"
    assert not opener.took(Alarm)


def test_both_commitments_are_the_peers_while_it_has_not_revoked() -> None:
    for number in (0, 1):
        opener, fundee = wired(opened())
        old = commitment_of(fundee)
        opener.offer("p1", 5_000_000)
        fundee.receive()  # its revocation is on its way
        seen = old if number == 0 else commitment_of(fundee)
        opener.do(FundingSpent(seen, None))
        assert reason_of(opener) == "the funding output was spent by the peer's commitment"
        assert not opener.took(Alarm)


@pytest.mark.parametrize("kind", KINDS)
def test_a_revoked_commitment_raises_an_alarm(kind: CommitmentType) -> None:
    opener, fundee = wired(opened(kind))
    old = commitment_of(fundee)
    opener.offer("p1", 5_000_000)
    settle(opener, fundee)
    opener.do(FundingSpent(old, None))
    (alarm,) = opener.took(Alarm)
    assert isinstance(alarm, Alarm)
    assert alarm.channel_id == opener.channel.channel_id
    assert "commitment 0, which is revoked" in alarm.what
    assert opener.channel.phase is Phase.CLOSING


def test_a_commitment_from_our_future_raises_an_alarm() -> None:
    """We lost data; the peer went on without us."""
    opener, fundee = wired(opened())
    past = opener.channel
    opener.offer("p1", 5_000_000)
    settle(opener, fundee)
    opener.channel = past
    opener.do(FundingSpent(commitment_of(fundee), None))
    (alarm,) = opener.took(Alarm)
    assert isinstance(alarm, Alarm)
    assert "which we do not know" in alarm.what


def test_a_spend_that_is_none_of_the_channels_raises_an_alarm() -> None:
    """BOLT 5: somebody has our key."""
    opener, _ = wired(opened())
    assert opener.channel.funding is not None
    stolen = legacy_bytes(
        (Input(opener.channel.funding.outpoint, 0xFFFFFFFD),), (Output(999_000, b"\x51"),), 0
    )
    opener.do(FundingSpent(stolen, None))
    (alarm,) = opener.took(Alarm)
    assert isinstance(alarm, Alarm)
    assert "none of this channel's" in alarm.what


def test_an_alarm_is_raised_in_any_phase_and_once() -> None:
    opener, fundee = wired(opened())
    old = commitment_of(fundee)
    opener.offer("p1", 5_000_000)
    settle(opener, fundee)
    opener.do(ForceClose("the operator wants it"))
    opener.do(FundingSpent(old, None), FundingSpent(old, 300))
    assert len(opener.took(Alarm)) == 1


def test_a_cooperative_close_is_recognised_before_we_agreed_to_it() -> None:
    opener, fundee = negotiating()
    first = opener.sent[-1].fee_satoshis  # type: ignore[attr-defined]
    fundee.do(Received(offer(opener, first)))
    (effect,) = fundee.took(Publish)
    assert isinstance(effect, Publish)
    opener.do(FundingSpent(effect.transaction, None))
    assert reason_of(opener) == "the funding output was spent by a cooperative close"


def test_a_spend_is_watched_from_the_mempool_on_and_moves_the_channel_once() -> None:
    opener, fundee = wired(opened())
    transaction = commitment_of(fundee)
    opener.do(FundingSpent(transaction, None))
    opener.do(FundingSpent(transaction, 300))
    watches = opener.took(WatchConfirmed)
    # The same watch again: whoever sets it sees that it is there.
    assert len(watches) == 2
    assert watches[0] == watches[1]
    assert isinstance(watches[0], WatchConfirmed)
    assert watches[0].txid == parse_transaction(transaction).txid
    assert watches[0].depth == onchain.FINAL_DEPTH
    assert len(opener.took(PhaseChanged)) == 1
    assert opener.channel.funding is not None
    assert opener.channel.funding.spent_by == watches[0].txid


def test_a_rival_that_confirms_replaces_what_was_in_the_mempool() -> None:
    opener, fundee = wired(opened())
    opener.do(FundingSpent(commitment_of(opener), None))
    rival = commitment_of(fundee)
    opener.do(FundingSpent(rival, 300))
    assert opener.channel.funding is not None
    assert opener.channel.funding.spent_by == parse_transaction(rival).txid
    assert len({watch.txid for watch in opener.took(WatchConfirmed)}) == 2  # type: ignore[union-attr]


def test_a_spend_that_was_taken_back_by_a_reorg_may_come_again() -> None:
    opener, fundee = wired(opened())
    ours, theirs = commitment_of(opener), commitment_of(fundee)
    opener.do(FundingSpent(ours, 300), FundingSpent(theirs, 301), FundingSpent(ours, 302))
    assert opener.channel.funding is not None
    assert opener.channel.funding.spent_by == parse_transaction(ours).txid
    assert opener.channel.phase is Phase.CLOSING


def test_a_spent_channel_says_nothing_about_updates() -> None:
    opener, fundee = wired(opened())
    opener.do(FundingSpent(commitment_of(fundee), None))
    count = len(opener.sent)
    fundee.offer("p1", 5_000_000)
    opener.receive()
    opener.offer("p2", 5_000_000)
    assert len(opener.sent) == count
    assert opener.outcomes["p2"] == ["refused"]
    opener.do(Received(Shutdown(channel_id=opener.channel.channel_id, scriptpubkey=b"\x6a")))
    assert opener.channel.phase is Phase.CLOSING


# --- the end -----------------------------------------------------------------------------------


def test_a_forced_close_stays_until_its_outputs_are_claimed() -> None:
    opener, _ = wired(opened())
    opener.do(ForceClose("the operator wants it"))
    transaction = commitment_of(opener)
    txid = parse_transaction(transaction).txid
    opener.do(FundingSpent(transaction, 300), TransactionConfirmed(txid, 300))
    assert opener.channel.phase is Phase.CLOSING
    assert not opener.took(ChannelForgotten)


def test_another_transactions_depth_means_nothing() -> None:
    opener, _ = wired(opened())
    opener.do(TransactionConfirmed(secret("other"), 300))
    assert opener.channel.phase is Phase.NORMAL


def test_a_start_watches_and_publishes_again() -> None:
    opener, fundee = wired(opened())
    opener.do(ForceClose("the operator wants it"))
    again = machine.resume(stored(opener.channel))
    assert {type(effect) for effect in again} == {WatchSpent, WatchConfirmed, Publish}
    # And the watch of the spend's own confirmations, once the spend is told again.
    opener.do(FundingSpent(commitment_of(fundee), 300))
    restarted = End(stored(opener.channel), Keys("opener"))
    restarted.do(FundingSpent(commitment_of(fundee), 300))
    assert len(restarted.took(WatchConfirmed)) == 1


@pytest.mark.parametrize("height", [502, 600])
def test_an_overdue_htlc_is_told_to_the_peer_and_settled_on_chain(height: int) -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000, cltv_expiry=500)
    deliver_all(opener, fundee)
    opener.do(BlockConnected(501))
    assert opener.channel.phase is Phase.NORMAL
    opener.do(BlockConnected(height))
    assert published(opener) == ["commitment"]
    assert b"is overdue" in opener.sent[-1].data  # type: ignore[attr-defined]


def test_the_height_is_followed_down_as_well() -> None:
    opener, _ = wired(opened())
    opener.do(BlockConnected(120), BlockConnected(119))
    assert opener.channel.height == 119


def test_a_channel_without_a_funding_hears_of_no_spend() -> None:
    opener, _ = begun()
    before = opener.channel
    spend = legacy_bytes((Input(Outpoint(secret("x"), 0), 0),), (Output(1, b"\x51"),), 0)
    opener.do(FundingSpent(spend, 5))
    assert opener.channel == before


@pytest.mark.parametrize("what", ["force close", "late block", "error"])
def test_nothing_is_published_against_a_spend_that_is_there(what: str) -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    settle(opener, fundee)
    opener.do(FundingSpent(commitment_of(fundee), None))
    events: dict[str, Event] = {
        "force close": ForceClose("again"),
        "late block": BlockConnected(10_000),
        "error": Received(Error(channel_id=opener.channel.channel_id, data=b"x")),
    }
    opener.do(events[what])
    assert not opener.took(Publish)
    assert opener.channel.phase is Phase.CLOSING
