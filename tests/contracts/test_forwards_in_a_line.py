"""HTLCs from the first of three nodes to the last: paid once, or failed at both ends."""

import hashlib
from pathlib import Path

import pytest
from support.payment_lines import Line, Node, Sent, ended, line_of_nodes, send
from support.waiting import until

from back.channel.effects import HtlcFailed, HtlcFulfilled
from back.channel.events import Close
from back.channel.model import Failed
from back.storage import forwards as stored
from shared import bolt11
from shared.crypto import sphinx
from shared.crypto.failures import decode_failure
from shared.wire import CommitmentSigned, RevokeAndAck, UpdateFailHtlc, UpdateFulfillHtlc

AMOUNT = 10_000_000
FEE = 1_000 + AMOUNT * 200 // 1_000_000


async def invoiced(node: Node, amount_msat: int = AMOUNT) -> tuple[bytes, bytes]:
    """Make an invoice; return its hash and secret."""
    invoice = bolt11.decode(await node.invoice(amount_msat))
    return invoice.payment_hash, invoice.payment_secret


def failure(line: Line, sent: Sent, outcome: object) -> tuple[int, str]:
    """Who failed an HTLC, and why."""
    assert isinstance(outcome, HtlcFailed)
    assert isinstance(outcome.htlc.resolution, Failed)
    error = sphinx.unwrap_error(sent.secrets, outcome.htlc.resolution.reason)
    assert error is not None
    return error.hop + 1, decode_failure(error.message).name


async def test_a_payment_through_a_node_earns_its_fee(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        before = line.balances()
        sent = send(line, *await invoiced(line.nodes[2]), AMOUNT)
        outcome = await ended(line, sent)
        assert isinstance(outcome, HtlcFulfilled)
        await line.quiet()
        assert line.balances() == [
            before[0] - AMOUNT - FEE,
            before[1] + FEE,
            before[2] + AMOUNT,
        ]
        assert line.nodes[1].relayed == ["fulfilled"]


async def test_the_ledger_keeps_what_was_earned_and_forgets_what_failed(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        middle = line.nodes[1]
        paid = send(line, *await invoiced(line.nodes[2]), AMOUNT)
        await ended(line, paid)
        wrong = send(line, bytes(32), bytes(32), AMOUNT, name="wrong")
        assert failure(line, wrong, await ended(line, wrong)) == (
            2,
            "incorrect_or_unknown_payment_details",
        )
        await line.quiet()
        await middle.relay._flush()
        rows = await middle.store.read(
            lambda c: c.exec_driver_sql(
                "SELECT in_amount_msat, out_amount_msat, state, is_noted FROM forwards"
            ).all()
        )
        assert [tuple(row) for row in rows] == [(AMOUNT + FEE, AMOUNT, "fulfilled", 1)]
        assert not await middle.store.read(lambda c: stored.load_forwards(c, range(65)))


async def test_payments_cross_in_both_directions_of_many_hops(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 5, push_msat=500_000_000) as line:
        sents = [
            send(line, *await invoiced(line.nodes[4], 5_000_000 + i), 5_000_000 + i)
            for i in range(20)
        ]
        for sent in sents:
            assert isinstance(await ended(line, sent), HtlcFulfilled)
        await line.quiet()
        assert sum(line.balances()) == 4 * 1_000_000_000


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"fees_msat": [FEE - 1]}, "fee_insufficient"),
        ({"deltas": [39]}, "incorrect_cltv_expiry"),
        ({"scids": [77]}, "unknown_next_peer"),
        ({"final_delta": 2}, "expiry_too_soon"),
        ({"final_delta": 2000}, "expiry_too_far"),
    ],
)
async def test_the_middle_node_says_what_is_wrong(
    tmp_path: Path, more: dict[str, object], code: str
) -> None:
    async with line_of_nodes(tmp_path) as line:
        sent = send(line, bytes(32), bytes(32), AMOUNT, **more)  # type: ignore[arg-type]
        assert failure(line, sent, await ended(line, sent)) == (1, code)
        await line.quiet()
        assert line.nodes[1].relayed == ["refused"]


async def test_a_peer_that_is_away_is_a_passing_trouble(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        line.cut(line.nodes[1], line.nodes[2])
        sent = send(line, bytes(32), bytes(32), AMOUNT)
        assert failure(line, sent, await ended(line, sent)) == (1, "temporary_channel_failure")


async def test_a_channel_that_closes_takes_no_more(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        runner = middle.runner(last)
        await runner.request(Close(runner.channel.parameters.default_shutdown_script))
        sent = send(line, bytes(32), bytes(32), AMOUNT)
        assert failure(line, sent, await ended(line, sent)) == (1, "permanent_channel_failure")


async def test_another_channel_to_the_same_peer_does_where_the_named_one_is_full(
    tmp_path: Path,
) -> None:
    async with line_of_nodes(tmp_path, channels=2) as line:
        _, middle, last = line.nodes
        amount = 400_000_000
        first = send(line, *await invoiced(last, amount), amount)
        assert isinstance(await ended(line, first), HtlcFulfilled)
        await line.quiet()
        alias = middle.channel(last).local_alias
        assert alias is not None
        # The named channel has some 190,000 sat left and its reserve: one more fits, two do not.
        for number in range(2):
            payment = await invoiced(last, 150_000_000)
            name = str(number)
            sent = send(line, *payment, 150_000_000, scids=[alias], name=name, through=1)
            assert isinstance(await ended(line, sent), HtlcFulfilled), number
        await line.quiet()
        assert middle.channel(last, 1).local_msat < 600_000_000


async def test_no_room_anywhere_is_a_passing_trouble(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, push_msat=20_000_000) as line:
        amount = 975_000_000
        sent = send(line, bytes(32), bytes(32), amount, fees_msat=[0])
        outcome = await ended(line, sent)
        assert not isinstance(outcome, HtlcFulfilled)


# --- restarts -----------------------------------------------------------------------------------

STAGES = (CommitmentSigned, RevokeAndAck, UpdateFulfillHtlc, UpdateFailHtlc)


@pytest.mark.parametrize("is_paid", [True, False])
@pytest.mark.parametrize("left", range(12))
async def test_the_middle_node_dies_at_any_message_and_nothing_is_lost(
    tmp_path: Path, left: int, is_paid: bool
) -> None:
    """It may say so many messages to the next peer; then it is restarted from its database."""
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        before = line.balances()
        payment_hash, secret = await invoiced(last)
        if not is_paid:
            payment_hash = hashlib.sha256(payment_hash).digest()
        middle.wires[[last, first][left % 2].node_id].left = left // 2
        sent = send(line, payment_hash, secret, AMOUNT)
        await until(
            lambda: (
                any(not wire.is_open for wire in middle.wires.values())
                or sent.outcome(first) is not None
            ),
            "the wire is cut, or the payment over",
        )
        await line.restart(middle)
        outcome = await ended(line, sent)
        await line.quiet()
        after = line.balances()
        if isinstance(outcome, HtlcFulfilled):
            assert after == [before[0] - AMOUNT - FEE, before[1] + FEE, before[2] + AMOUNT]
        else:
            assert after == before
        if is_paid and left // 2 > 2:
            assert isinstance(outcome, HtlcFulfilled)


async def test_a_preimage_waits_for_a_peer_that_is_away(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        middle.wires[first.node_id].held = (UpdateFulfillHtlc,)
        sent = send(line, *await invoiced(last), AMOUNT)
        await until(lambda: not middle.wires[first.node_id].is_open, "the preimage is on its way")
        await line.restart(middle)
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        await line.quiet()


async def test_many_payments_survive_restarts_of_all_in_turn(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 4) as line:
        before = line.balances()
        sents = []
        for number in range(30):
            amount = 5_000_000 + number
            sents.append(send(line, *await invoiced(line.nodes[3], amount), amount))
            if number % 10 == 5:
                await line.restart(line.nodes[1 + number // 10 % 2])
        outcomes = [await ended(line, sent) for sent in sents]
        await line.quiet()
        paid = [
            5_000_000 + number
            for number, outcome in enumerate(outcomes)
            if isinstance(outcome, HtlcFulfilled)
        ]
        after = line.balances()
        assert after[3] - before[3] == sum(paid)
        fees = [a - b for a, b in zip(after[1:3], before[1:3], strict=True)]
        assert fees[1] == sum(line.nodes[2].terms.fee_msat(amount) for amount in paid)
        assert sum(after) == sum(before)
