"""Going on after a reconnection (BOLT 2 § Message Retransmission), case by case."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from support.channels import (
    End,
    Keys,
    deliver_all,
    messages_named,
    opened,
    settle,
    stored,
    wired,
)

from back.channel import machine
from back.channel.effects import ChannelReady, CloseConnection, HtlcReceived, Publish, Request
from back.channel.events import BlockConnected, Close, Connected, ForceClose, Received
from back.channel.model import Link, Phase
from shared.crypto.shachain import commitment_secret
from shared.errors import InvariantError
from shared.wire import ChannelReestablish, CommitmentSigned, Error, MyCurrentFundingLocked, decode


def reconnected(opener: End, fundee: End) -> tuple[list[str], list[str]]:
    """Connect, exchange channel_reestablish; return what each end then sends again."""
    opener.connect()
    counts = len(opener.sent), len(fundee.sent)
    fundee.receive(1)
    opener.receive(1)
    return messages_named(opener.sent[counts[0] :]), messages_named(fundee.sent[counts[1] :])


def reestablish_of(end: End) -> ChannelReestablish:
    return [m for m in end.sent if isinstance(m, ChannelReestablish)][-1]


def used() -> tuple[End, End]:
    """A channel in which one payment was made."""
    opener, fundee = wired(opened())
    opener.offer("p0", 5_000_000)
    settle(opener, fundee)
    return opener, fundee


# --- nothing or something was lost --------------------------------------------------------------


def test_a_fresh_channel_exchanges_channel_ready_again() -> None:
    opener, fundee = wired(opened())
    opener.cut()
    assert reconnected(opener, fundee) == (["channel_ready"], ["channel_ready"])
    message = reestablish_of(opener)
    assert (message.next_commitment_number, message.next_revocation_number) == (1, 0)
    assert message.your_last_per_commitment_secret == bytes(32)
    assert message.my_current_per_commitment_point == Keys("opener").point(0)


def test_a_used_channel_exchanges_nothing_when_nothing_was_lost() -> None:
    opener, fundee = used()
    opener.cut()
    assert reconnected(opener, fundee) == ([], [])
    message = reestablish_of(opener)
    assert (message.next_commitment_number, message.next_revocation_number) == (3, 2)
    assert message.your_last_per_commitment_secret == commitment_secret(Keys("fundee").seed, 1)
    assert len(opener.took(ChannelReady)) == 1


def test_a_lost_batch_is_sent_again_byte_for_byte() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    lost = list(fundee.wire)
    opener.cut()
    again, _ = reconnected(opener, fundee)
    assert again == ["update_add_htlc", "commitment_signed"]
    assert list(fundee.wire) == lost
    settle(opener, fundee)
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_a_lost_batch_survives_a_restart_byte_for_byte() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    lost = list(fundee.wire)
    opener.restart()
    reconnected(opener, fundee)
    assert list(fundee.wire) == lost


def test_updates_that_arrived_without_their_signature_are_sent_again() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    fundee.receive(1)
    opener.cut()
    assert not fundee.channel.htlcs
    assert reconnected(opener, fundee)[0] == ["update_add_htlc", "commitment_signed"]
    settle(opener, fundee)
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_a_lost_revocation_is_sent_again_byte_for_byte() -> None:
    opener, fundee = used()
    fundee.channel = replace(fundee.channel)
    opener.offer("p1", 5_000_000)
    fundee.receive()
    lost = opener.wire[0]
    opener.wire.pop()  # its signature too
    opener.cut()
    _, again = reconnected(opener, fundee)
    assert again == ["revoke_and_ack", "commitment_signed"]
    assert opener.wire[0] == lost
    settle(opener, fundee)
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_a_revocation_that_arrived_is_not_sent_again() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    fundee.receive()
    opener.receive(1)  # the revocation; the signature is lost
    opener.cut()
    _, again = reconnected(opener, fundee)
    assert again == ["commitment_signed"]


def both_lost(revoke_last: bool) -> tuple[End, End]:
    """The fundee's revocation and signature are lost, sent in either order."""
    opener, fundee = used()
    if revoke_last:
        fundee.offer("p2", 5_000_000)
        opener.wire.clear()
        opener.offer("p1", 5_000_000)
        fundee.receive()
    else:
        opener.offer("p1", 5_000_000)
        fundee.receive()
    opener.cut()
    return opener, fundee


@pytest.mark.parametrize(
    ("revoke_last", "expected"),
    [
        (True, ["update_add_htlc", "commitment_signed", "revoke_and_ack"]),
        (False, ["revoke_and_ack", "commitment_signed"]),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_revocation_and_signature_keep_their_order(
    revoke_last: bool, restart: bool, expected: list[str]
) -> None:
    opener, fundee = both_lost(revoke_last)
    if restart:
        fundee.restart()
    assert reconnected(opener, fundee)[1] == expected
    settle(opener, fundee)
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_new_updates_wait_for_the_next_number() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    opener.cut()
    opener.connect()
    opener.receive()
    opener.offer("p2", 5_000_000)
    names = messages_named([m for data in fundee.wire if (m := decode(data))])
    assert names == ["channel_reestablish", "update_add_htlc", "commitment_signed"]
    settle(opener, fundee)
    assert opener.outcomes["p2"] == ["offered", "fulfilled"]


def test_what_was_decided_while_the_peer_was_away_leaves_after_the_reestablish() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    deliver_all(opener, fundee)
    opener.cut()
    fundee.decide()
    assert reconnected(opener, fundee)[1] == ["update_fulfill_htlc", "commitment_signed"]


def test_nothing_but_the_reestablish_is_said_before_the_peers() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    opener.cut()
    count = len(opener.sent)
    opener.connect()
    opener.offer("p2", 5_000_000)
    assert messages_named(opener.sent[count:]) == ["channel_reestablish"]
    assert opener.channel.link is Link.SYNCING
    assert opener.outcomes["p2"] == ["refused"]
    assert fundee.channel.link is Link.SYNCING


def test_a_message_before_the_reestablish_costs_the_connection() -> None:
    opener, fundee = used()
    fundee.offer("p1", 5_000_000)
    early = [decode(data) for data in opener.wire]
    opener.cut()
    opener.connect()
    opener.do(*(Received(m) for m in early if m is not None))
    assert opener.took(CloseConnection)
    assert not opener.channel.htlcs


def test_an_early_channel_ready_is_taken() -> None:
    """Some peers send it before their channel_reestablish."""
    opener, fundee = wired(opened())
    ready = []
    opener.cut()
    reconnected(opener, fundee)
    ready = [m for data in opener.wire if (m := decode(data))]
    opener.cut()
    opener.connect()
    opener.do(*map(Received, ready))
    assert not opener.took(CloseConnection)


def test_a_shutdown_is_sent_again() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    deliver_all(opener, fundee)
    opener.do(Close(opener.channel.parameters.default_shutdown_script))
    opener.cut()
    again, _ = reconnected(opener, fundee)
    assert "shutdown" in again
    settle(opener, fundee)
    assert opener.channel.phase is Phase.CLOSING
    assert opener.channel.closing is not None
    assert fundee.channel.closing is not None
    assert opener.channel.closing.transaction == fundee.channel.closing.transaction


# --- somebody lost data, or lies ----------------------------------------------------------------


def test_we_lost_data_so_we_never_publish_and_ask_the_peer_to() -> None:
    opener, fundee = used()
    backup = opener.channel
    opener.offer("p1", 5_000_000)
    settle(opener, fundee)
    opener.cut()
    opener.channel = stored(backup)
    opener.connect()
    opener.receive()
    lost = Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT
    assert opener.channel.phase is lost
    assert messages_named(opener.sent)[-1] == "error"
    assert not opener.took(Publish)
    # Not by the operator, not by an error, not by time.
    opener.do(ForceClose("now"))
    assert len(opener.refusals) == 1
    error = Error(channel_id=opener.channel.channel_id, data=b"you are behind")
    opener.do(Received(error), BlockConnected(10_000))
    assert not opener.took(Publish)
    assert opener.channel.phase is lost
    # The peer, told so, publishes its own.
    fundee.receive()
    assert [p.what for p in fundee.took(Publish)] == ["commitment"]
    # At each reconnection it is told again.
    opener.cut()
    count = len(opener.sent)
    opener.connect()
    assert messages_named(opener.sent[count:]) == ["channel_reestablish", "error"]
    assert not opener.took(Publish)


Change = Callable[[ChannelReestablish], dict[str, object]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: {"next_commitment_number": 0}, "next_commitment_number is 0"),
        (lambda m: {"next_commitment_number": m.next_commitment_number - 1}, "we signed"),
        (lambda m: {"next_commitment_number": m.next_commitment_number + 1}, "we signed"),
        (lambda _: {"next_revocation_number": 0}, "next_revocation_number is 0"),
        (lambda _: {"your_last_per_commitment_secret": b"\1" * 32}, "not ours"),
        (lambda _: {"next_revocation_number": 9}, "not ours"),
    ],
)
def test_a_peer_that_is_behind_or_lies_costs_the_channel(change: Change, why: str) -> None:
    opener, fundee = used()
    opener.cut()
    opener.connect()
    opener.wire.clear()
    message = reestablish_of(fundee)
    opener.do(Received(message.model_copy(update=change(message))))
    assert opener.channel.phase is Phase.CLOSING
    (error,) = [m for m in opener.sent if isinstance(m, Error)]
    assert why in error.data.decode()
    assert [p.what for p in opener.took(Publish)] == ["commitment"]


def test_a_peer_that_claims_an_unsent_revocation_needs_its_secret() -> None:
    """next_revocation_number one too high with an old secret proves nothing."""
    opener, fundee = used()
    opener.cut()
    opener.connect()
    message = reestablish_of(fundee)
    lie = message.model_copy(update={"next_revocation_number": message.next_revocation_number + 1})
    opener.do(Received(lie))
    assert opener.channel.phase is Phase.CLOSING


def test_a_reestablish_must_be_prepared() -> None:
    opener, fundee = used()
    opener.cut()
    opener.connect()
    with pytest.raises(InvariantError, match="prepare"):
        machine.apply(opener.channel, Received(reestablish_of(fundee)))


def test_a_second_reestablish_costs_the_connection() -> None:
    opener, fundee = used()
    opener.cut()
    reconnected(opener, fundee)
    opener.do(Received(reestablish_of(fundee)))
    assert opener.took(CloseConnection)
    assert opener.channel.phase is Phase.NORMAL


def test_records_that_we_do_not_use_are_ignored() -> None:
    opener, fundee = used()
    opener.cut()
    opener.connect()
    locked = MyCurrentFundingLocked(my_current_funding_locked_txid=bytes(32), retransmit_flags=1)
    message = reestablish_of(fundee).model_copy(
        update={"my_current_funding_locked": locked, "unknown_tlvs": {7: b"x"}}
    )
    opener.do(Received(message))
    assert opener.channel.link is Link.ONLINE


# --- resume -----------------------------------------------------------------------------------


def test_resume_asks_again_for_open_decisions_and_holds_no_request() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    deliver_all(opener, fundee)
    effects = machine.resume(stored(fundee.channel))
    assert [e.htlc.id for e in effects if isinstance(e, HtlcReceived)] == [0]
    assert not any(isinstance(effect, Request) for effect in effects)


def test_resume_publishes_a_force_close_again() -> None:
    opener, _ = used()
    opener.do(ForceClose("test"))
    again = [e for e in machine.resume(stored(opener.channel)) if isinstance(e, Publish)]
    assert again == opener.took(Publish)


def test_a_new_connection_without_a_word_of_the_old_ones_end_starts_clean() -> None:
    opener, fundee = used()
    fundee.offer("p1", 5_000_000)
    opener.receive(1)
    assert opener.channel.htlcs
    opener.do(Connected(frozenset()))
    assert not opener.channel.htlcs
    assert opener.channel.link is Link.SYNCING


def test_a_signature_is_never_made_twice_for_one_number() -> None:
    opener, fundee = used()
    opener.offer("p1", 5_000_000)
    for _ in range(3):
        opener.cut()
        opener.connect()
        deliver_all(fundee)
        opener.receive(1)
    settle(opener, fundee)
    signatures: dict[bytes, int] = {}
    for message in opener.sent:
        if isinstance(message, CommitmentSigned):
            signatures[message.signature] = signatures.get(message.signature, 0) + 1
    assert len(signatures) == 4, "two for the first payment, two for the second"
