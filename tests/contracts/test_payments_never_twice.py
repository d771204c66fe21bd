"""Parts that the asker splits itself, restarts, and what they must not pay a second time."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest
from support.payment_lines import Line, Node, line_of_nodes
from support.waiting import until

from back.payment.decision import Fail, settlement
from back.payment.route import Hop, Route
from back.payment.sending import Sending
from back.storage.payments import PaymentState
from shared.crypto.failures import encode_failure
from shared.errors import CommandError

AMOUNT = 10_000_000


def way(line: Line, amount_msat: int, channel: int = 0) -> tuple[Route, ...]:
    first, last = line.nodes
    return (Route(amount_msat, (Hop(first.node_id, last.node_id, line.scids[0][channel]),)),)


async def part(line: Line, text: str, amount_msat: int, parent: UUID | None = None) -> Sending:
    return await line.nodes[0].send(text, routes=way(line, amount_msat), parent=parent)


async def ended(sending: Sending) -> PaymentState:
    await asyncio.wait_for(asyncio.shield(sending.done), 15)
    return sending.payment.state


async def test_parts_of_one_invoice_bring_what_it_asks_for_and_no_more(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 2) as line:
        first, last = line.nodes
        text = await last.invoice(AMOUNT)
        one = await part(line, text, AMOUNT // 2)
        with pytest.raises(CommandError, match="would bring"):
            await part(line, text, AMOUNT // 2 + 1, one.payment.id)
        with pytest.raises(CommandError, match="being paid"):
            await part(line, text, AMOUNT // 2)
        with pytest.raises(CommandError, match="being paid"):
            await first.send(text)
        other = await part(line, text, AMOUNT // 2, one.payment.id)
        assert [await ended(one), await ended(other)] == [PaymentState.SENT] * 2
        for parent in (None, one.payment.id):
            with pytest.raises(CommandError, match="is paid"):
                await part(line, text, AMOUNT, parent)
        await line.quiet()


async def test_a_route_brings_no_more_than_was_asked_for(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 2) as line:
        text = await line.nodes[1].invoice(AMOUNT)
        with pytest.raises(CommandError, match="would bring"):
            await part(line, text, AMOUNT + 1)
        assert await ended(await line.nodes[0].send(text)) is PaymentState.SENT


async def test_parts_are_known_after_a_restart_too(tmp_path: Path) -> None:
    """The database itself takes any number of payments with a parent."""
    async with line_of_nodes(tmp_path, 2) as line:
        first, last = line.nodes
        text = await last.invoice(AMOUNT)
        parent = UUID(int=7)
        paid = await part(line, text, AMOUNT, parent)
        assert await ended(paid) is PaymentState.SENT
        await line.quiet()
        await line.restart(first)
        for another in (None, parent, UUID(int=8)):
            with pytest.raises(CommandError, match="is paid"):
                await part(line, text, AMOUNT, another)


async def held_at(node: Node) -> list[tuple]:
    held: list[tuple] = []
    node.payments.receiver.received = lambda *args, **_: held.append(args)  # type: ignore[method-assign]
    return held


@pytest.mark.parametrize("kind", ["invoice", "keysend", "route"])
async def test_after_a_restart_a_payment_waits_for_its_htlcs_and_tries_nothing_new(
    tmp_path: Path, kind: str
) -> None:
    """What it may cost, and by which ways, was said to a process that is gone."""
    async with line_of_nodes(tmp_path, 2, channels=2) as line:
        first, last = line.nodes
        held = await held_at(last)
        if kind == "keysend":
            sending = await first.payments.sender.keysend(last.node_id, AMOUNT)
        else:
            text = await last.invoice(AMOUNT)
            routes = way(line, AMOUNT) if kind == "route" else ()
            sending = await first.send(text, routes=routes)
        await until(lambda: bool(held), "the HTLC is there")
        await line.restart(first)
        live = first.payments.sender._live.get(sending.payment.id)
        assert live is not None
        runner, final = held[0]
        failure = Fail(encode_failure("temporary_node_failure"))
        runner.post(settlement(final.htlc, failure, final.shared_secret))
        assert await ended(live) is PaymentState.FAILED
        [(payment, attempts)] = await first.payments.find(sending.payment.id)
        assert (payment.state, len(attempts), len(held)) == (PaymentState.FAILED, 1, 1)
        await line.quiet()
