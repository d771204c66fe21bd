"""From funding_created to channel_ready, and all that can go wrong on the way (BOLT 2)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.channels import (
    ANCHORS,
    POLICY,
    STATIC,
    End,
    deliver_all,
    messages_named,
    secret,
    stored,
)
from support.openings import begun, funded, funding_transaction, opened_by_messages

from back.channel import funding, machine
from back.channel.effects import (
    ChannelForgotten,
    ChannelIdAssigned,
    ChannelReady,
    CloseConnection,
    FreeFunding,
    Publish,
    WatchConfirmed,
    WatchSpent,
)
from back.channel.events import (
    AbandonOpening,
    BlockConnected,
    Close,
    Disconnected,
    ForceClose,
    FundingConfirmed,
    FundingFailed,
    FundingSpent,
    FundingTransactionMade,
    Received,
)
from back.channel.model import Channel, Phase
from back.transactions.commitment import CommitmentType
from back.transactions.transaction import Input, Output, double_sha256, legacy_bytes
from shared.chain import Outpoint
from shared.wire import (
    ChannelReady as ChannelReadyMessage,
    Error,
    FundingCreated,
    FundingSigned,
    decode,
)

BAD_SIGNATURE = bytes(64)


def created(kind: CommitmentType = STATIC) -> tuple[End, End]:
    """The opener's funding_created is on the wire."""
    opener, fundee = begun(kind)
    opener.do(FundingTransactionMade(funding_transaction(opener), 0))
    return opener, fundee


def on_wire(end: End) -> Any:
    """The one message that is on its way to an end."""
    (data,) = end.wire
    end.wire.clear()
    return decode(data)


# --- channel_id --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "tail"), [(0, "0102"), (1, "0103"), (0x0102, "0000"), (0xFFFF, "fefd")]
)
def test_channel_id_is_the_txid_with_the_index_in_its_last_two_bytes(index: int, tail: str) -> None:
    txid = bytes(range(30)) + b"\x01\x02"
    assert funding.channel_id(Outpoint(txid, index)).hex() == txid[:30].hex() + tail


# --- opener: the wallet ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [STATIC, ANCHORS])
def test_funding_created_goes_out_before_anything_is_published(kind: CommitmentType) -> None:
    opener, fundee = begun(kind)
    transaction = funding_transaction(opener)
    opener.do(FundingTransactionMade(transaction, 0))
    (message,) = opener.sent
    assert isinstance(message, FundingCreated)
    assert message.funding_txid == double_sha256(transaction)
    assert message.funding_output_index == 0
    assert message.temporary_channel_id == opener.channel.parameters.temporary_channel_id
    (assigned,) = opener.took(ChannelIdAssigned)
    assert isinstance(assigned, ChannelIdAssigned)
    assert assigned.channel_id == opener.channel.channel_id
    assert opener.channel.phase is Phase.WAIT_FOR_FUNDING_SIGNED
    assert not opener.took(Publish)
    assert not opener.took(WatchSpent)
    fundee.receive()
    assert fundee.channel.channel_id == opener.channel.channel_id


def test_the_funding_is_published_and_watched_once_it_can_be_had_back() -> None:
    opener, fundee, transaction = funded()
    (published,) = opener.took(Publish)
    assert published == Publish(transaction, "funding")
    assert opener.channel.funding is not None
    assert opener.channel.funding.is_published
    assert opener.channel.local_commitment.signature
    for end in (opener, fundee):
        (spent,), (confirmed,) = end.took(WatchSpent), end.took(WatchConfirmed)
        assert isinstance(spent, WatchSpent)
        assert isinstance(confirmed, WatchConfirmed)
        assert spent.outpoint == Outpoint(double_sha256(transaction), 0)
        assert confirmed.txid == spent.outpoint.txid
        assert (confirmed.depth, confirmed.since_height) == (6, 100)
    assert not fundee.took(Publish)


def test_a_wallet_that_cannot_pay_ends_the_opening_and_tells_nobody_why() -> None:
    opener, _ = begun()
    opener.do(FundingFailed("Insufficient funds: 12 sat"))
    (error,) = opener.sent
    assert isinstance(error, Error)
    assert error.data == b"funding failed"
    assert error.channel_id == opener.channel.parameters.temporary_channel_id
    (forgotten,) = opener.took(ChannelForgotten)
    assert isinstance(forgotten, ChannelForgotten)
    assert "12 sat" in forgotten.reason
    # Other channels with this peer go on.
    assert not opener.took(CloseConnection)


def test_a_transaction_that_comes_too_late_is_freed() -> None:
    opener, _ = begun()
    transaction = funding_transaction(opener)
    opener.do(Disconnected(), FundingTransactionMade(transaction, 0))
    assert opener.took(FreeFunding) == [FreeFunding(transaction)]
    assert opener.channel.phase is Phase.CLOSED
    assert not opener.sent


def test_a_second_word_of_the_wallet_changes_nothing() -> None:
    opener, _, transaction = funded()
    before = opener.channel
    opener.do(FundingFailed("too late"))
    assert opener.channel == before
    opener.do(FundingTransactionMade(legacy_bytes((), (), 0), 0))
    assert opener.channel == before
    assert transaction not in [e.transaction for e in opener.took(FreeFunding)]  # type: ignore[union-attr]


# --- first signatures --------------------------------------------------------------------------


def test_a_bad_signature_in_funding_created_fails_the_channel() -> None:
    _, fundee = created()
    message = on_wire(fundee)
    fundee.do(Received(message.model_copy(update={"signature": BAD_SIGNATURE})))
    (error,) = fundee.sent
    assert isinstance(error, Error)
    # BOLT 1: before funding_signed a fundee's error has the temporary id.
    assert error.channel_id == fundee.channel.parameters.temporary_channel_id
    assert b"signature of the first commitment" in error.data
    assert len(fundee.took(ChannelForgotten)) == 1
    assert not fundee.took(WatchSpent)


def test_a_bad_signature_in_funding_signed_frees_the_coins() -> None:
    opener, fundee = created()
    fundee.receive()
    message = on_wire(opener)
    assert isinstance(message, FundingSigned)
    opener.do(Received(message.model_copy(update={"signature": BAD_SIGNATURE})))
    assert messages_named(opener.sent) == ["funding_created", "error"]
    assert len(opener.took(FreeFunding)) == len(opener.took(ChannelForgotten)) == 1
    assert not opener.took(Publish)


@pytest.mark.parametrize("kind", [STATIC, ANCHORS])
def test_a_signature_for_the_other_type_is_none(kind: CommitmentType) -> None:
    _, fundee = created(kind)
    other = ANCHORS if kind is STATIC else STATIC
    _, stranger = created(other)
    fundee.do(Received(on_wire(stranger)))
    assert messages_named(fundee.sent) == ["error"]


def test_funding_created_twice_costs_the_connection_only() -> None:
    _, fundee = created()
    message = on_wire(fundee)
    fundee.do(Received(message))
    fundee.do(Received(message))
    assert len(fundee.took(CloseConnection)) == 1
    assert fundee.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED


# --- ends before the funding is published -------------------------------------------------------


def errored(end: End) -> None:
    end.do(Received(Error(channel_id=end.channel.channel_id, data=b"no")))


def force_closed(end: End) -> None:
    end.do(ForceClose("the operator wants it"))


@pytest.mark.parametrize(
    "ended",
    [
        lambda end: end.do(Disconnected()),
        lambda end: end.do(AbandonOpening("too slow")),
        lambda end: end.do(BlockConnected(107)),
        lambda end: end.restart(),
        errored,
        force_closed,
    ],
    ids=["disconnected", "abandoned", "out of patience", "restarted", "error", "force closed"],
)
def test_an_unpublished_funding_is_forgotten_and_its_coins_are_free(
    ended: Callable[[End], None],
) -> None:
    opener, fundee = created()
    assert opener.channel.funding is not None
    transaction = opener.channel.funding.transaction
    fundee.receive()
    ended(opener)
    assert opener.channel.phase is Phase.CLOSED
    assert opener.took(FreeFunding) == [FreeFunding(transaction)]
    assert len(opener.took(ChannelForgotten)) == 1
    assert not opener.took(Publish)
    # The fundee signed: it cannot know, and remembers.
    assert fundee.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED
    assert not fundee.took(ChannelForgotten)


def test_giving_up_says_so_with_the_id_of_the_moment() -> None:
    """BOLT 1: after funding_created an opener's error has the channel_id."""
    opener, _ = created()
    opener.do(AbandonOpening("too slow"))
    error = opener.sent[-1]
    assert isinstance(error, Error)
    assert error.channel_id == opener.channel.channel_id
    assert error.channel_id != opener.channel.parameters.temporary_channel_id


def test_a_published_funding_is_never_abandoned() -> None:
    opener, fundee, _ = funded()
    for end in (opener, fundee):
        before = end.channel
        end.do(AbandonOpening("too slow"))
        assert end.channel == before
        end.do(Disconnected())
        assert end.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED


def test_an_opening_cannot_be_closed_cooperatively() -> None:
    _, fundee = begun()
    fundee.do(Close(b"\0\x14" + bytes(20)))
    assert "cannot close while WAIT_FOR_FUNDING_CREATED" in str(fundee.refusals[0][1])


# --- confirmation ------------------------------------------------------------------------------


def test_channel_ready_needs_both_sides_in_any_order() -> None:
    opener, fundee, transaction = funded()
    confirmed = FundingConfirmed(101, 7, transaction)
    opener.do(confirmed)
    assert opener.channel.phase is Phase.WAIT_FOR_CHANNEL_READY
    fundee.receive()
    assert fundee.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED
    assert not fundee.took(ChannelReady)
    fundee.do(confirmed)
    assert fundee.channel.phase is Phase.NORMAL
    opener.receive()
    assert opener.channel.phase is Phase.NORMAL
    for end in (opener, fundee):
        assert len(end.took(ChannelReady)) == 1
        assert end.channel.funding is not None
        assert end.channel.funding.short_channel_id == (101 << 40) | (7 << 16)
        assert end.channel.funding.confirmed_height == 101
        assert end.channel.remote_commitment.next_point == end.peer.keys.point(1)  # type: ignore[union-attr]


def test_channel_ready_gives_an_alias_and_the_second_point() -> None:
    opener, _, transaction = funded()
    opener.do(FundingConfirmed(101, 7, transaction))
    message = opener.sent[-1]
    assert isinstance(message, ChannelReadyMessage)
    assert message.short_channel_id == opener.channel.local_alias == 1
    assert message.second_per_commitment_point == opener.keys.point(1)


def test_later_channel_readys_only_bring_another_alias() -> None:
    opener, fundee = opened_by_messages()
    again = ChannelReadyMessage(
        channel_id=opener.channel.channel_id,
        second_per_commitment_point=fundee.keys.point(9),
        short_channel_id=4_711,
    )
    before = opener.channel
    opener.do(Received(again))
    assert opener.channel == replace(before, remote_alias=4_711)
    opener.do(Received(again.model_copy(update={"short_channel_id": None})))
    assert opener.channel.remote_alias == 4_711


def test_a_second_point_off_the_curve_fails_the_channel() -> None:
    opener, _, _ = funded()
    bad = ChannelReadyMessage(
        channel_id=opener.channel.channel_id, second_per_commitment_point=b"\x02" + b"\xff" * 32
    )
    opener.do(Received(bad))
    assert opener.sent[-1].NAME == "error"
    assert opener.channel.phase is Phase.CLOSING


@pytest.mark.parametrize(
    "spoil",
    [
        lambda outputs: (outputs[0]._replace(value_sat=outputs[0].value_sat - 1),),
        lambda outputs: (outputs[0]._replace(value_sat=outputs[0].value_sat + 1),),
        lambda outputs: (outputs[0]._replace(script_pubkey=b"\0\x20" + bytes(32)),),
        lambda outputs: (Output(1, b"\x51"), outputs[0]),
    ],
    ids=["a satoshi less", "a satoshi more", "another script", "another place"],
)
def test_a_funding_that_does_not_pay_the_channel_is_never_ready(
    spoil: Callable[[tuple[Output, ...]], tuple[Output, ...]],
) -> None:
    """A fundee signs for an outpoint before it has seen the transaction."""
    opener, fundee = begun()
    wanted = Output(
        1_000_000,
        funding.funding_script_pubkey(
            opener.keys.party().funding_pubkey, fundee.keys.party().funding_pubkey
        ),
    )
    transaction = legacy_bytes((Input(Outpoint(secret("coin"), 0), 0),), spoil((wanted,)), 0)
    opener.do(FundingTransactionMade(transaction, 0))
    fundee.receive()
    fundee.do(FundingConfirmed(101, 1, transaction))
    assert messages_named(fundee.sent) == ["funding_signed", "error"]
    assert b"does not pay 1000000 sat" in fundee.sent[-1].data  # type: ignore[attr-defined]
    assert not fundee.channel.is_channel_ready_sent
    assert fundee.channel.phase is Phase.CLOSING


def test_an_output_that_is_not_there_is_no_funding() -> None:
    opener, fundee = begun()
    transaction = funding_transaction(opener)
    opener.do(FundingTransactionMade(transaction, 3))
    fundee.receive()
    fundee.do(FundingConfirmed(101, 1, transaction))
    assert fundee.sent[-1].NAME == "error"


def test_a_confirmation_while_the_peer_is_away_is_told_at_the_next_connection() -> None:
    opener, fundee, transaction = funded()
    opener.cut()
    for end in (opener, fundee):
        count = len(end.sent)
        end.do(FundingConfirmed(101, 1, transaction))
        assert end.channel.phase is Phase.WAIT_FOR_CHANNEL_READY
        assert len(end.sent) == count
    opener.connect()
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        assert end.channel.phase is Phase.NORMAL
        assert messages_named(end.sent)[-2:] == ["channel_reestablish", "channel_ready"]


def test_no_depth_asked_for_is_one_block_for_us() -> None:
    """Zero would be a channel on an unconfirmed promise, which nobody negotiated."""
    opener, _, _ = funded(policy=replace(POLICY, minimum_depth=0))
    (watch,) = opener.took(WatchConfirmed)
    assert isinstance(watch, WatchConfirmed)
    assert watch.depth == 1


# --- reorganisations ----------------------------------------------------------------------------


def test_a_funding_in_another_block_after_a_reorg_moves_the_scid_and_nothing_else() -> None:
    opener, fundee, transaction = funded()
    for end in (opener, fundee):
        end.do(FundingConfirmed(101, 7, transaction))
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        before, said = end.channel, len(end.sent)
        end.do(BlockConnected(100), FundingConfirmed(103, 2, transaction))
        assert end.channel.phase is Phase.NORMAL
        assert len(end.sent) == said
        assert end.channel.funding is not None
        assert end.channel.funding.short_channel_id == (103 << 40) | (2 << 16)
        assert end.channel.local_alias == before.local_alias


def test_the_same_confirmation_again_changes_nothing() -> None:
    opener, _, transaction = funded()
    confirmed = FundingConfirmed(101, 7, transaction)
    opener.do(confirmed)
    before, said = opener.channel, len(opener.sent)
    opener.do(confirmed)
    assert opener.channel == before
    assert len(opener.sent) == said


# --- patience ----------------------------------------------------------------------------------

LAST = 100 + 2016 + 6  # made at 100; in a block of the 2016th it would be 6 deep by then


def test_a_fundee_forgets_after_2016_blocks_and_an_opener_never() -> None:
    opener, fundee, _ = funded()
    for end in (opener, fundee):
        end.do(Disconnected(), BlockConnected(LAST))
        assert end.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED
        end.do(BlockConnected(LAST + 1))
    assert fundee.channel.phase is Phase.CLOSED
    assert len(fundee.took(ChannelForgotten)) == 1
    assert opener.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED


def test_a_fundee_forgets_whatever_was_done_with_a_channel_without_money() -> None:
    """Else a peer could leave rows and watches behind for ever, for nothing."""
    shut = funded()[:2]
    shut[0].do(Close(b"\0\x14" + bytes(20)))
    deliver_all(*shut)
    failed = funded()[:2]
    failed[1].do(ForceClose("the operator wants it"))
    for _, fundee in (shut, failed):
        assert fundee.channel.phase is not Phase.WAIT_FOR_FUNDING_CONFIRMED
        fundee.do(BlockConnected(LAST + 1))
        assert fundee.channel.phase is Phase.CLOSED


@pytest.mark.parametrize(
    "seen",
    [
        lambda channel, raw: replace(channel.funding, confirmed_height=150, transaction=raw),
        lambda channel, _raw: replace(channel.funding, spent_by=secret("spend")),
    ],
    ids=["confirmed", "spent"],
)
def test_a_funding_that_was_seen_is_never_forgotten(seen: Callable[[Channel, bytes], Any]) -> None:
    _, fundee, transaction = funded()
    fundee.channel = replace(fundee.channel, funding=seen(fundee.channel, transaction))
    fundee.do(BlockConnected(LAST + 1_000))
    assert fundee.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED


def test_an_opener_that_gives_up_lets_the_fundee_forget_at_once() -> None:
    _, fundee, _ = funded(push_msat=0)
    fundee.do(Received(Error(channel_id=fundee.channel.channel_id, data=b"gave up")))
    (forgotten,) = fundee.took(ChannelForgotten)
    assert isinstance(forgotten, ChannelForgotten)
    assert forgotten.reason == "error of the peer: gave up"


# --- restarts ----------------------------------------------------------------------------------


def test_a_start_publishes_the_funding_again_until_it_is_confirmed() -> None:
    opener, fundee, transaction = funded()
    again = machine.resume(stored(opener.channel))
    assert again[0] == Publish(transaction, "funding")
    assert {type(effect) for effect in again[1:]} == {WatchSpent, WatchConfirmed}
    assert {type(e) for e in machine.resume(stored(fundee.channel))} == {WatchSpent, WatchConfirmed}
    opener.do(FundingConfirmed(101, 1, transaction))
    assert not [e for e in machine.resume(opener.channel) if isinstance(e, Publish)]


def test_a_start_does_not_publish_a_funding_that_is_spent_already() -> None:
    opener, _, _ = funded()
    opener.do(ForceClose("the operator wants it"))
    (commitment,) = [p for p in opener.took(Publish) if p.what == "commitment"]  # type: ignore[union-attr]
    assert isinstance(commitment, Publish)
    opener.do(FundingSpent(commitment.transaction, None))
    assert [e.what for e in machine.resume(opener.channel) if isinstance(e, Publish)] == [
        "commitment"
    ]
