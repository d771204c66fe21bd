"""What a channel's life looks like to who listens."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.channels import End, deliver_all
from support.closings import pair
from support.openings import begun, funding_transaction, opened_by_messages

from back.channel.events import (
    AbandonOpening,
    BlockConnected,
    Close,
    ForceClose,
    FundingConfirmed,
    FundingSpent,
    FundingTransactionMade,
    TransactionConfirmed,
)
from back.channel.model import Link, Phase
from back.channel.policy import FUNDEE_PATIENCE_BLOCKS
from back.events.channels import ChannelEvents
from back.transactions.transaction import parse_transaction

Told = Callable[[End], list[dict[str, Any]]]
MOVED = "channel-state-changed"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Everything that is told of an end's channel, from the start of the test on."""
    tellers: dict[int, ChannelEvents] = {}
    logs: dict[int, list[dict[str, Any]]] = {}
    do = End.do

    def recorded(end: End, *events: Any) -> Any:
        before = end.channel
        step = do(end, *events)
        teller = tellers.setdefault(id(end), ChannelEvents(clock=lambda: 1.0))
        rows = teller.writes(before, step)
        if before.link is not step.channel.link:
            rows += teller.link_changed(step.channel)
        logs.setdefault(id(end), []).extend(json.loads(str(r.values["payload"])) for r in rows)
        return step

    monkeypatch.setattr(End, "do", recorded)
    return lambda end: logs.get(id(end), [])


def types(log: list[dict[str, Any]]) -> list[str]:
    return [each["type"] for each in log]


def states(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(e["previousState"], e["currentState"]) for e in log if e["type"] == MOVED]


def test_an_opening_is_told_at_both_ends_from_the_funding_output_on(told: Told) -> None:
    opener, fundee = opened_by_messages()
    for end, waits in ((opener, ["WAIT_FOR_FUNDING_SIGNED"]), (fundee, [])):
        log = told(end)
        whole = ["channel-created", *([MOVED] if waits else []), "channel-funding-created", MOVED]
        whole += ["channel-confirmed", MOVED, MOVED, "channel-ready", "channel-opened"]
        assert types(log) == whole
        path = [after for _, after in states(log)]
        assert path == [
            *waits,
            "WAIT_FOR_FUNDING_CONFIRMED",
            "WAIT_FOR_CHANNEL_READY",
            "NORMAL",
        ]
        channel = end.channel
        assert channel.funding is not None
        created, ready = log[0], log[-2]
        assert created["isOpener"] is (end is opener)
        assert created["temporaryChannelId"] == channel.parameters.temporary_channel_id.hex()
        assert ready["channelId"] == channel.channel_id.hex()
        assert ready["fundingTxId"] == channel.funding.outpoint.rpc_txid
        assert ready["remoteNodeId"] == channel.parameters.node_id.hex()


def test_before_the_funding_output_is_known_nothing_is_told(told: Told) -> None:
    opener, fundee = begun()
    opener.do(AbandonOpening("never mind"))
    fundee.cut()
    assert told(opener) == told(fundee) == []


def test_a_funding_that_never_confirms_is_told_as_over_but_not_as_closed(told: Told) -> None:
    opener, fundee = begun()
    opener.do(FundingTransactionMade(funding_transaction(opener), 0))
    fundee.receive()
    fundee.do(BlockConnected(FUNDEE_PATIENCE_BLOCKS + 10_000))
    assert fundee.channel.phase is Phase.CLOSED
    assert states(told(fundee))[-1] == ("WAIT_FOR_FUNDING_CONFIRMED", "CLOSED")
    assert "channel-closed" not in types(told(fundee))


def test_a_reorganisation_tells_the_new_height(told: Told) -> None:
    opener, _ = opened_by_messages()
    transaction = opener.channel.funding.transaction  # type: ignore[union-attr]
    for height in (101, 105, 105):
        opener.do(FundingConfirmed(height, 1, transaction))
    heights = [e["blockHeight"] for e in told(opener) if e["type"] == "channel-confirmed"]
    assert heights == [101, 105]


def test_a_cooperative_close_is_told_to_its_end(told: Told) -> None:
    opener, fundee = pair()
    fundee.do(Close(fundee.channel.parameters.default_shutdown_script))
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        closing = end.channel.closing
        assert closing is not None
        transaction = closing.transaction
        txid = parse_transaction(transaction).txid
        end.do(FundingSpent(transaction, None))
        end.do(TransactionConfirmed(txid, 200))
        assert end.channel.phase is Phase.CLOSED
        path = [after for _, after in states(told(end))]
        assert path == ["SHUTDOWN", "NEGOTIATING", "CLOSING", "CLOSED"]
        closed = told(end)[-1]
        assert closed["type"] == "channel-closed"
        assert (closed["closingType"], closed["closingTxId"]) == ("MutualClose", txid[::-1].hex())


def test_a_peer_that_goes_and_comes_is_told(told: Told) -> None:
    opener, fundee = pair()
    for _ in range(2):
        opener.cut()
        opener.connect()
        deliver_all(opener, fundee)
    for end in (opener, fundee):
        assert end.channel.link is Link.ONLINE
        assert states(told(end))[-3:] == [
            ("NORMAL", "OFFLINE"),
            ("OFFLINE", "SYNCING"),
            ("SYNCING", "NORMAL"),
        ]


def test_a_force_close_is_told_once_and_a_peer_that_comes_back_changes_nothing(
    told: Told,
) -> None:
    opener, _ = pair()
    opener.do(ForceClose("asked to"))
    opener.cut()
    assert states(told(opener)) == [("NORMAL", "CLOSING")]


def test_a_channel_that_a_start_found_is_told_from_offline_on() -> None:
    opener, _ = pair()
    teller = ChannelEvents(clock=lambda: 1.0)
    offline = replace(opener.channel, link=Link.OFFLINE)
    assert teller.link_changed(offline) == []
    (row,) = teller.link_changed(replace(offline, link=Link.SYNCING))
    assert json.loads(str(row.values["payload"]))["previousState"] == "OFFLINE"
    closing = replace(offline, phase=Phase.CLOSING)
    assert ChannelEvents().link_changed(replace(closing, link=Link.SYNCING)) == []
