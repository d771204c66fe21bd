"""Cooperative closes, rule by rule (BOLT 2 § Closing Initiation, § Legacy Closing Negotiation)."""

from dataclasses import replace

import pytest
from support.channels import (
    ANCHORS,
    STATIC,
    End,
    deliver_all,
    messages_named,
    offered,
    settle,
    stored,
)
from support.closings import (
    SCRIPT,
    TAPROOT,
    left_out,
    negotiating,
    offer,
    pair,
    shutdown,
    warning_of,
)
from support.openings import funded, opened_by_messages

from back.channel import closing, machine
from back.channel.effects import (
    ChannelForgotten,
    CloseConnection,
    Publish,
    SignClosing,
    WatchConfirmed,
)
from back.channel.events import (
    BlockConnected,
    Close,
    FundingConfirmed,
    FundingSpent,
    Received,
    TransactionConfirmed,
)
from back.channel.model import Phase
from back.transactions.transaction import parse_transaction
from back.transactions.witness import signed_funding_spend
from shared.crypto.signature import sign_compact
from shared.wire import Warning as WarningMessage

BLOCKS = 144


# --- shutdown ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", [STATIC, ANCHORS])
def test_either_side_closes_and_both_publish_the_same_transaction(kind: object, side: int) -> None:
    ends = pair(kind=kind)
    ends[side].do(Close(SCRIPT))
    deliver_all(*ends)
    published = {p.transaction for end in ends for p in end.took(Publish)}  # type: ignore[union-attr]
    assert len(published) == 1
    assert all(end.channel.phase is Phase.CLOSING for end in ends)
    scripts = {output.script_pubkey for output in parse_transaction(published.pop()).outputs}
    assert SCRIPT in scripts
    assert ends[1 - side].channel.parameters.default_shutdown_script in scripts


def test_shutdown_waits_until_our_updates_are_in_the_peers_commitment() -> None:
    opener, fundee = pair()
    opener.offer("p1", 5_000_000)
    opener.do(Close(SCRIPT))
    assert messages_named(opener.sent) == ["update_add_htlc", "commitment_signed"]
    fundee.receive()
    opener.receive()
    assert opener.sent[-1].NAME == "shutdown"


def test_an_offer_in_the_same_breath_as_a_close_is_refused() -> None:
    opener, _ = pair()
    opener.do(offered("p1", 5_000_000), Close(SCRIPT))
    assert messages_named(opener.sent) == ["shutdown"]
    assert opener.outcomes["p1"] == ["refused"]


def test_htlcs_are_settled_before_fees_are_negotiated() -> None:
    opener, fundee = pair()
    opener.offer("p1", 5_000_000)
    opener.do(Close(SCRIPT))
    deliver_all(opener, fundee)
    assert opener.channel.phase is fundee.channel.phase is Phase.SHUTDOWN
    assert "closing_signed" not in messages_named(opener.sent)
    settle(opener, fundee)
    assert opener.channel.phase is fundee.channel.phase is Phase.CLOSING
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_nothing_is_offered_after_a_shutdown_of_either_side() -> None:
    opener, fundee = pair()
    fundee.do(Close(SCRIPT))
    opener.receive()
    opener.offer("p1", 5_000_000)
    fundee.offer("p2", 5_000_000)
    assert opener.outcomes["p1"] == fundee.outcomes["p2"] == ["refused"]


@pytest.mark.parametrize(
    ("script", "is_allowed"),
    [
        (b"\0\x14" + bytes(20), True),
        (b"\0\x20" + bytes(32), True),
        (b"\x51\x02\x4e\x73", True),
        (TAPROOT, True),
        (b"\x60\x28" + bytes(40), True),
        (b"", False),
        (b"\0\x14" + bytes(19), False),
        (b"\0\x15" + bytes(21), False),
        (b"\x51\x29" + bytes(41), False),
        (b"\x51\x01\x00", False),
        (b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", False),
        (b"\xa9\x14" + bytes(20) + b"\x87", False),
        (b"\x6a\x06" + bytes(6), False),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else None,
)
def test_a_script_has_one_of_the_forms_that_relay(script: bytes, is_allowed: bool) -> None:
    opener, _ = pair()
    opener.do(Received(shutdown(opener, script)))
    assert (opener.channel.remote_shutdown_script == script) is is_allowed
    if not is_allowed:
        # BOLT 2 asks for a warning; the channel goes on.
        assert isinstance(opener.sent[-1], WarningMessage)
        assert opener.channel.phase is Phase.NORMAL
        assert not opener.took(CloseConnection)


def test_other_witness_versions_need_the_feature() -> None:
    opener, _ = pair()
    opener.channel = replace(opener.channel, features=frozenset())
    opener.do(Received(shutdown(opener, TAPROOT)))
    assert opener.channel.remote_shutdown_script is None
    assert isinstance(opener.sent[-1], WarningMessage)


def test_a_script_that_was_promised_is_kept_by_both() -> None:
    opener, _ = opened_by_messages()
    promised = opener.channel.parameters.local.upfront_shutdown_script
    assert promised
    opener.do(Close(SCRIPT))
    assert "promised another script" in str(opener.refusals[0][1])
    opener.do(Received(shutdown(opener, SCRIPT)))
    assert "differs from upfront_shutdown_script" in warning_of(opener)
    assert opener.channel.remote_shutdown_script is None
    opener, fundee = opened_by_messages()
    opener.do(Close(promised))
    fundee.receive()
    assert fundee.channel.remote_shutdown_script == promised


def test_a_second_shutdown_with_another_script_costs_the_connection() -> None:
    opener, fundee = pair()
    opener.offer("p1", 5_000_000)
    deliver_all(opener, fundee)
    opener.do(Received(shutdown(opener, SCRIPT)))
    opener.do(Received(shutdown(opener, SCRIPT)))
    assert not opener.took(CloseConnection)
    opener.do(Received(shutdown(opener, TAPROOT)))
    assert "differs from the one before" in warning_of(opener)
    assert opener.channel.remote_shutdown_script == SCRIPT


def test_a_shutdown_with_unsigned_adds_costs_the_connection() -> None:
    opener, fundee = pair()
    opener.offer("p1", 5_000_000)
    fundee.receive(1)
    fundee.do(Received(shutdown(fundee, SCRIPT)))
    assert "not signed" in warning_of(fundee)


def test_a_channel_may_close_before_it_is_ready() -> None:
    opener, fundee, transaction = funded()
    opener.do(Close(opener.channel.parameters.default_shutdown_script))
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        assert end.channel.phase is Phase.CLOSING
        assert [p.what for p in end.took(Publish)][-1] == "closing"  # type: ignore[union-attr]
        end.do(FundingConfirmed(101, 1, transaction))
        assert end.channel.phase is Phase.CLOSING


def test_a_close_while_the_peer_is_away_happens_at_the_next_connection() -> None:
    opener, fundee = pair()
    opener.cut()
    opener.do(Close(SCRIPT))
    assert not opener.sent
    opener.connect()
    deliver_all(opener, fundee)
    assert opener.channel.phase is fundee.channel.phase is Phase.CLOSING


def test_the_operator_may_not_close_twice_nor_what_is_over() -> None:
    opener, fundee = pair()
    opener.offer("p1", 5_000_000)
    opener.do(Close(SCRIPT))
    opener.do(Close(SCRIPT))
    assert "already under way" in str(opener.refusals[-1][1])
    settle(opener, fundee)
    opener.do(Close(SCRIPT))
    assert "cannot close while CLOSING" in str(opener.refusals[-1][1])


def test_the_operators_script_has_an_allowed_form_too() -> None:
    opener, _ = pair()
    opener.do(Close(b"\x6a"))
    assert "form that BOLT 2 does not allow" in str(opener.refusals[0][1])
    assert opener.channel.local_shutdown_script is None


# --- time and connections ----------------------------------------------------------------------


def test_a_negotiation_starts_anew_at_each_connection() -> None:
    opener, fundee = negotiating()
    opener.cut()
    opener.connect()
    deliver_all(opener, fundee)
    assert opener.channel.phase is fundee.channel.phase is Phase.CLOSING
    assert messages_named(opener.sent).count("shutdown") == 2
    # The same fee again is remembered once, however often the connection breaks.
    assert opener.channel.closing is not None
    assert len(opener.channel.closing.sent_fees_satoshis) == 1


def test_a_negotiation_without_an_end_becomes_a_forced_close() -> None:
    opener, fundee = negotiating()
    for end in (opener, fundee):
        end.wire.clear()
        end.do(BlockConnected(200), BlockConnected(200 + BLOCKS - 1))
        assert end.channel.phase is Phase.NEGOTIATING
    opener.cut()
    opener.connect()
    for end in (opener, fundee):
        end.wire.clear()
        end.channel = replace(stored(end.channel), link=end.channel.link)
        end.do(BlockConnected(200 + BLOCKS))
        assert end.channel.phase is Phase.CLOSING
        assert [p.what for p in end.took(Publish)] == ["commitment"]  # type: ignore[union-attr]
        assert end.sent[-1].NAME == "error"


def test_an_agreement_in_time_forces_nothing() -> None:
    opener, fundee = negotiating()
    for end in (opener, fundee):
        end.do(BlockConnected(200))
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        end.do(BlockConnected(200 + BLOCKS))
        assert [p.what for p in end.took(Publish)] == ["closing"]  # type: ignore[union-attr]


def test_what_is_due_may_break_a_rule_and_only_costs_the_channel() -> None:
    """No fee leaves an output: nobody's fault, and no bug of ours."""
    opener, _ = pair()
    opener.channel = replace(
        opener.channel,
        local_msat=353_000,
        remote_msat=353_000,
        parameters=replace(opener.channel.parameters, funding_satoshis=706),
    )
    opener.do(Close(SCRIPT))
    opener.do(Received(shutdown(opener, SCRIPT)))
    assert opener.sent[-1].NAME == "error"
    assert opener.channel.phase is Phase.CLOSING


# --- the end -----------------------------------------------------------------------------------


def closed(leave_out: bool = False) -> tuple[End, bytes]:
    """A fundee that agreed, and the closing transaction."""
    opener, fundee = negotiating()
    message = left_out(fundee, opener, 700) if leave_out else offer(opener, 700, (100, 900))
    fundee.do(Received(message))
    (published,) = fundee.took(Publish)
    assert isinstance(published, Publish)
    return fundee, published.transaction


@pytest.mark.parametrize("leave_out", [False, True])
def test_a_cooperative_close_is_over_when_it_is_deep(leave_out: bool) -> None:
    end, transaction = closed(leave_out)
    end.do(FundingSpent(transaction, None))
    (watch,) = end.took(WatchConfirmed)
    assert isinstance(watch, WatchConfirmed)
    assert watch.depth == 6
    end.do(FundingSpent(transaction, 300), TransactionConfirmed(watch.txid, 300))
    assert end.channel.phase is Phase.CLOSED
    (forgotten,) = end.took(ChannelForgotten)
    assert isinstance(forgotten, ChannelForgotten)
    assert forgotten.reason == "closed cooperatively"


def test_a_close_that_only_the_other_side_finished_is_recognised() -> None:
    opener, fundee = negotiating()
    agreed = offer(fundee, opener.channel.closing.last_sent_fee_satoshis)  # type: ignore[union-attr, arg-type]
    unsigned = closing.transaction(fundee.channel, agreed.fee_satoshis)
    ours = sign_compact(opener.keys.funding, unsigned.sighash)
    pairs = (
        (unsigned.local_funding_pubkey, agreed.signature),
        (unsigned.remote_funding_pubkey, ours),
    )
    raw = signed_funding_spend(unsigned.unsigned, *pairs)
    opener.do(FundingSpent(raw, 300))
    assert opener.channel.phase is Phase.CLOSING
    opener.do(TransactionConfirmed(unsigned.txid, 300))
    assert opener.channel.phase is Phase.CLOSED


def test_a_start_in_the_middle_of_a_close_finds_its_way_to_the_end() -> None:
    """The watch of its confirmations is not stored: the spend is told again, and sets it again."""
    end, transaction = closed()
    end.do(FundingSpent(transaction, 300))
    restarted = End(stored(end.channel), end.keys, peer=end.peer)
    assert Publish(transaction, "closing") in machine.resume(restarted.channel)
    restarted.do(FundingSpent(transaction, 300))
    (watch,) = restarted.took(WatchConfirmed)
    assert isinstance(watch, WatchConfirmed)
    restarted.do(TransactionConfirmed(watch.txid, 300))
    assert restarted.channel.phase is Phase.CLOSED


def test_a_late_closing_signed_changes_nothing() -> None:
    opener, fundee = negotiating()
    deliver_all(opener, fundee)
    before = opener.channel
    opener.do(Received(offer(fundee, 700)))
    assert opener.channel == before


def test_requests_never_ask_to_sign_what_was_not_agreed() -> None:
    opener, fundee = negotiating()
    step = machine.apply_batch(fundee.channel, [Received(offer(opener, 700, (100, 900)))])
    (request,) = [e for e in step.effects if isinstance(e, SignClosing)]
    assert request.fee_satoshis == 700
    assert request.remote_signature is not None
    assert request.closing == closing.transaction(fundee.channel, 700)
