"""Payments over several hops and in several parts: real stores, channels, onions and relays."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from support.payment_lines import TERMS, Line, Node, line_of_nodes
from support.waiting import until

from back.payment.decision import Fail, settlement
from back.payment.route import Hop, Route
from back.payment.sending import Sending, SendLimits
from back.storage.payments import PaymentState
from shared import bolt11
from shared.crypto.failures import encode_failure
from shared.errors import CommandError

AMOUNT = 10_000_000
FEE = 1_000 + AMOUNT * 200 // 1_000_000


def messages(sending: Sending) -> list[str]:
    return [failure["failureMessage"].partition(" (")[0] for failure in sending.payment.failures]


async def test_a_payment_finds_its_way_and_pays_the_fees(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 4) as line:
        first, _, _, last = line.nodes
        before = line.balances()
        paid = await first.pay(await last.invoice(AMOUNT))
        await line.quiet()
        assert paid.payment.state is PaymentState.SENT
        fee_of_second = TERMS.fee_msat(AMOUNT + FEE)
        assert paid.payment.fees_msat == FEE + fee_of_second
        assert [a - b for a, b in zip(line.balances(), before, strict=True)] == [
            -AMOUNT - FEE - fee_of_second,
            fee_of_second,
            FEE,
            AMOUNT,
        ]
        [(stored, attempts)] = await first.payments.find(paid.payment.id)
        assert stored.fees_msat == paid.payment.fees_msat
        assert [a.state for a in attempts] == [PaymentState.SENT]


async def test_an_amount_too_large_for_one_channel_goes_in_parts(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 3, channels=3) as line:
        first, middle, last = line.nodes
        before = line.balances()
        amount = 1_300_000_000
        paid = await first.pay(await last.invoice(amount))
        await line.quiet()
        assert paid.payment.state is PaymentState.SENT, paid.payment.failures
        assert len(paid.parts) > 1
        earned = paid.payment.fees_msat
        assert earned == sum(middle.terms.fee_msat(p.attempt.amount_msat)
                             for p in paid.parts.values() if p.is_paid)  # fmt: skip
        assert [a - b for a, b in zip(line.balances(), before, strict=True)] == [
            -amount - earned,
            earned,
            amount,
        ]
        assert sum(p.attempt.amount_msat for p in paid.parts.values() if p.is_paid) == amount


async def test_parts_go_to_a_direct_peer_too(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 2, channels=3) as line:
        first, last = line.nodes
        paid = await first.pay(await last.invoice(1_500_000_000))
        assert paid.payment.state is PaymentState.SENT, paid.payment.failures
        assert paid.payment.fees_msat == 0
        await line.quiet()


async def test_a_channel_on_the_way_that_is_full_is_learned_and_avoided(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 3, channels=2) as line:
        first, middle, last = line.nodes
        # Both channels of the middle node look alike from afar; the first payments empty one.
        drained = await first.pay(await last.invoice(550_000_000))
        assert drained.payment.state is PaymentState.SENT
        paid = await first.pay(await last.invoice(560_000_000))
        await line.quiet()
        assert paid.payment.state is PaymentState.SENT, paid.payment.failures
        assert first.finder is not None
        assert first.finder.experience.bounds
        del middle


async def test_fees_above_the_limit_are_not_paid(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        text = await line.nodes[2].invoice(AMOUNT)
        failed = await line.nodes[0].pay(text, limits=SendLimits(max_fee_msat=FEE - 1))
        assert failed.payment.state is PaymentState.FAILED
        assert messages(failed) == [
            "route not found: every way is dearer, longer or slower than allowed"
        ]
        paid = await line.nodes[0].pay(text, limits=SendLimits(max_fee_msat=FEE))
        assert paid.payment.state is PaymentState.SENT


async def test_a_node_that_became_dearer_is_told_of_and_left_alone(tmp_path: Path) -> None:
    """It gives no update with its error, so there is no other way: the payment fails."""
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        middle.terms = replace(TERMS, fee_base_msat=50_000)
        failed = await first.pay(await last.invoice(AMOUNT))
        assert failed.payment.state is PaymentState.FAILED
        assert messages(failed)[0] == "fee_insufficient"
        await line.quiet()


async def test_keysend_needs_no_invoice(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, _, last = line.nodes
        before = line.balances()
        sending = await first.payments.sender.keysend(last.node_id, AMOUNT)
        paid = await asyncio.wait_for(asyncio.shield(sending.done), 15)
        await line.quiet()
        assert paid.payment.state is PaymentState.SENT, paid.payment.failures
        assert line.balances()[2] - before[2] == AMOUNT
        with pytest.raises(CommandError, match="our own"):
            await first.payments.sender.keysend(first.node_id, AMOUNT)


async def test_a_given_route_is_taken_and_no_other(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 3, channels=2) as line:
        first, middle, last = line.nodes
        chosen = (
            Hop(first.node_id, middle.node_id, line.scids[0][1]),
            Hop(middle.node_id, last.node_id, line.scids[1][1], 1_000, 200, 40),
        )
        route = Route(AMOUNT, chosen)
        paid = await first.pay(await last.invoice(AMOUNT), routes=(route,))
        assert paid.payment.state is PaymentState.SENT, paid.payment.failures
        assert first.finder is not None
        assert not first.finder.asked
        too_cheap = Route(AMOUNT, (chosen[0], chosen[1]._replace(fee_base_msat=0)))
        failed = await first.pay(await last.invoice(AMOUNT), routes=(too_cheap,))
        assert messages(failed) == ["fee_insufficient"]
        assert not first.finder.asked


async def test_a_recipient_that_refuses_ends_the_payment_at_once(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 3, channels=2) as line:
        first, _, last = line.nodes
        text = await last.invoice(AMOUNT)
        known = last.payments.invoices.at_hand(bolt11.decode(text).payment_hash)
        assert known is not None
        known.invoice = replace(known.invoice, payment_secret=bytes(32))
        failed = await first.pay(text)
        assert messages(failed) == ["incorrect_or_unknown_payment_details"]
        assert len(failed.parts) == 1
        await line.quiet()


async def test_a_payment_waits_for_room_that_is_about_to_come(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 2) as line:
        first, last = line.nodes
        receiver, held = last.payments.receiver, []
        decide = receiver.received
        receiver.received = lambda *args, **_: held.append(args)  # type: ignore[method-assign]
        doomed = await first.send(await last.invoice(500_000_000))
        await until(lambda: bool(held), "most of the channel is taken")
        receiver.received = decide  # type: ignore[method-assign]
        paying = asyncio.create_task(first.pay(await last.invoice(400_000_000)))
        assert first.finder is not None
        finder = first.finder
        await until(lambda: len(finder.asked) >= 2, "it waits")
        (runner, final) = held[0]
        failure = Fail(encode_failure("temporary_node_failure"))
        runner.post(settlement(final.htlc, failure, final.shared_secret))
        paid = await paying
        assert paid.payment.state is PaymentState.SENT, paid.payment.failures
        await until(doomed.done.done, "the other has failed")
        await line.quiet()


# --- restarts -----------------------------------------------------------------------------------


async def fees_add_up(line: Line, before: list[int], first: Node, sendings: list[Sending]) -> None:
    """What was sent, by the payer's database, is what moved, to the millisatoshi."""
    spent = received = 0
    for sending in sendings:
        [(payment, attempts)] = await first.payments.find(sending.payment.id)
        assert payment.state is not PaymentState.PENDING
        sent = [a for a in attempts if a.state is PaymentState.SENT]
        assert bool(sent) == (payment.state is PaymentState.SENT)
        if sent:
            assert sum(a.amount_msat for a in sent) == payment.amount_msat
            assert payment.fees_msat == sum(a.fees_msat for a in sent)
            spent += payment.amount_msat + payment.fees_msat
            received += payment.amount_msat
    after = line.balances()
    assert before[0] - after[0] == spent
    assert after[-1] - before[-1] == received


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_payments_in_parts_survive_the_restart_of_any_node(
    tmp_path: Path, place: int
) -> None:
    async with line_of_nodes(tmp_path, 3, channels=3) as line:
        first, _, last = line.nodes
        before = line.balances()
        sendings = [
            await first.send(await last.invoice(amount))
            for amount in (700_000_000, 30_000_000, 40_000_000, 50_000_000)
        ]
        await until(
            lambda: any(line.nodes[1].channel(last, n).htlcs for n in range(3)), "they are going"
        )
        await line.restart(line.nodes[place])
        live = first.payments.sender._live
        await until(lambda: not live, "all have ended")
        await line.quiet()
        await fees_add_up(line, before, first, sendings)
