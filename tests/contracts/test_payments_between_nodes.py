"""Payments over real channels, stores and signers: both ways, again and again, over restarts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from support.payment_nodes import FULFIL_OR_FAIL, Pair, pair_of_nodes
from support.waiting import until

from back.channel.events import FulfillHtlc, OfferHtlc
from back.channel.model import Failed
from back.payment import send
from back.payment.decision import Fail, settlement
from back.payment.route import Hop, Route
from back.runner import ChannelRunner
from back.storage import invoices as stored_invoices, payments as stored_payments
from back.storage.invoices import InvoiceState
from back.storage.payments import PaymentState
from shared import bolt11
from shared.crypto import sphinx
from shared.crypto.failures import decode_failure
from shared.errors import CommandError, StorageUnavailable


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair_of_nodes(tmp_path) as pair:
        yield pair


@pytest.fixture
async def pair_with_three(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair_of_nodes(tmp_path, channels=3) as pair:
        yield pair


async def test_a_payment_moves_the_money_and_is_stored_on_both_sides(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    before = pair.balances()
    text = await bob.invoice(10_000_000)
    paid = await alice.pay(text)
    await pair.quiet()
    assert paid.payment.state is PaymentState.SENT
    assert sha256(paid.payment.preimage or b"").digest() == bolt11.decode(text).payment_hash
    assert pair.balances() == (before[0] - 10_000_000, before[1] + 10_000_000)
    [(payment, attempts)] = await alice.payments.find(paid.payment.id)
    assert (payment.state, payment.preimage) == (PaymentState.SENT, paid.payment.preimage)
    assert [a.state for a in attempts] == [PaymentState.SENT]
    assert attempts[0].htlc_id == 0
    hash_ = payment.payment_hash
    invoice = await bob.store.read(lambda c: stored_invoices.find_invoice(c, hash_))
    assert invoice is not None
    assert (invoice.state, invoice.received_msat) == (InvoiceState.PAID, 10_000_000)
    parts = await bob.store.read(lambda c: stored_invoices.list_received_htlcs(c, hash_))
    assert [(p.key_index, p.id, p.amount_msat) for p in parts] == [(0, 0, 10_000_000)]
    assert alice.outcomes == [("sent", "ok")]
    assert bob.outcomes == [("received", "ok")]


async def test_payments_go_both_ways_at_once(pair: Pair) -> None:
    before = pair.balances()
    to_bob = [await pair.bob.invoice(2_000_000 + i) for i in range(10)]
    to_alice = [await pair.alice.invoice(3_000_000 + i) for i in range(10)]
    paid = await asyncio.gather(
        *(pair.alice.pay(text) for text in to_bob), *(pair.bob.pay(text) for text in to_alice)
    )
    await pair.quiet()
    assert {p.payment.state for p in paid} == {PaymentState.SENT}
    moved = 10 * 2_000_000 - 10 * 3_000_000
    assert pair.balances() == (before[0] - moved, before[1] + moved)


async def test_many_payments_spread_over_the_channels(pair_with_three: Pair) -> None:
    pair = pair_with_three
    invoices = [await pair.bob.invoice(2_000_000) for _ in range(30)]
    paid = await asyncio.gather(*(pair.alice.pay(text) for text in invoices))
    await pair.quiet()
    assert {p.payment.state for p in paid} == {PaymentState.SENT}
    used = {part.key_index for p in paid for part in p.parts.values()}
    assert used == {0, 1, 2}


async def test_the_same_invoice_is_paid_once_however_often_it_is_asked_for(pair: Pair) -> None:
    before = pair.balances()
    text = await pair.bob.invoice(5_000_000)
    outcomes = await asyncio.gather(
        *(pair.alice.pay(text) for _ in range(20)), return_exceptions=True
    )
    await pair.quiet()
    refused = [o for o in outcomes if isinstance(o, CommandError)]
    assert len(refused) == 19
    with pytest.raises(CommandError, match="is paid"):
        await pair.alice.pay(text)
    assert pair.balances()[0] == before[0] - 5_000_000


async def test_an_invoice_paid_before_a_restart_is_not_paid_again(pair: Pair) -> None:
    text = await pair.bob.invoice(5_000_000)
    await pair.alice.pay(text)
    await pair.quiet()
    await pair.restart(pair.alice)
    pair.connect()
    await pair.online()
    with pytest.raises(CommandError, match="is paid, or being paid"):
        await pair.alice.pay(text)


async def test_the_payee_takes_one_htlc_for_an_invoice_and_fails_a_second(pair: Pair) -> None:
    """A payer that does not keep its own rules."""
    text = await pair.bob.invoice(5_000_000)
    await pair.alice.pay(text)
    await pair.quiet()
    before = pair.balances()
    failure = await offer_by_hand(pair, bolt11.decode(text))
    assert failure == "incorrect_or_unknown_payment_details"
    assert pair.balances() == before


async def offer_by_hand(pair: Pair, invoice: bolt11.Invoice, **changes: object) -> str:
    """Offer an HTLC past the sender's checks; return the failure's name."""
    order = send.order(
        replace(invoice, timestamp=invoice.timestamp + 10_000_000),
        invoice.amount_msat or 1_000_000,
        payer=pair.alice.node_id,
        chain=invoice.chain,
        unix_s=0,
    )
    order = replace(order, recipient=replace(order.recipient, **changes))
    hop = Hop(pair.alice.node_id, pair.bob.node_id, 0)
    onion = send.payment_onion(
        order,
        Route(order.amount_msat, (hop,)),
        height=110,
        session_key=b"\x11" * 32,
        shadow_blocks=1,
    )
    failures: list[bytes] = []
    told = pair.alice.channels.payments
    runner = pair.alice.runner()

    class Ear:
        def writes(self, _channel: object, _effect: object) -> list[object]:
            return []

        def perform(self, _runner: object, effect: object) -> None:
            resolution = getattr(getattr(effect, "htlc", None), "resolution", None)
            if isinstance(resolution, Failed):
                failures.append(resolution.reason)

    pair.alice.channels.payments = Ear()  # type: ignore[assignment]
    runner.post(
        OfferHtlc(onion.amount_msat, order.payment_hash, onion.cltv_expiry, onion.packet, "by hand")
    )
    await until(lambda: failures, "the HTLC fails")
    await pair.quiet()
    pair.alice.channels.payments = told
    error = sphinx.unwrap_error(onion.tried.shared_secrets, failures[0])
    assert error is not None
    return decode_failure(error.message).name


async def test_a_wrong_secret_is_refused_with_the_code_that_tells_nothing(pair: Pair) -> None:
    invoice = bolt11.decode(await pair.bob.invoice(5_000_000))
    failure = await offer_by_hand(pair, invoice, payment_secret=bytes(32))
    assert failure == "incorrect_or_unknown_payment_details"


async def test_an_invoice_that_is_not_at_hand_is_read_and_paid(pair: Pair) -> None:
    text = await pair.bob.invoice(5_000_000)
    pair.bob.payments.invoices._kept.clear()
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.SENT


async def test_an_invoice_survives_a_restart_of_the_payee(pair: Pair) -> None:
    text = await pair.bob.invoice(5_000_000)
    await pair.restart(pair.bob)
    pair.connect()
    await pair.online()
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.SENT


async def test_a_payment_in_the_air_survives_a_restart_of_the_payer(pair: Pair) -> None:
    assert pair.bob.wire is not None
    pair.bob.wire.held = FULFIL_OR_FAIL
    before = pair.balances()
    sending = await pair.alice.send(await pair.bob.invoice(5_000_000))
    await until(lambda: "update_fulfill_htlc" in pair.bob.wire.sent, "bob fulfils")
    await pair.restart(pair.alice)
    live = pair.alice.payments.sender._live.get(sending.payment.id)
    assert live.payment.state is PaymentState.PENDING
    pair.connect()
    await pair.online()
    await until(live.done.done, "the payment ends")
    assert live.payment.state is PaymentState.SENT
    await pair.quiet()
    assert pair.balances()[0] == before[0] - 5_000_000


async def test_a_fulfilled_htlc_stays_fulfilled_over_a_restart_of_the_payee(pair: Pair) -> None:
    assert pair.bob.wire is not None
    pair.bob.wire.held = FULFIL_OR_FAIL
    sending = await pair.alice.send(await pair.bob.invoice(5_000_000))
    await until(lambda: "update_fulfill_htlc" in pair.bob.wire.sent, "bob fulfils")
    await pair.restart(pair.bob)
    pair.connect()
    await pair.online()
    await until(sending.done.done, "the payment ends")
    assert sending.payment.state is PaymentState.SENT


async def test_a_payment_that_never_went_out_fails_at_the_next_start(pair: Pair) -> None:
    """Killed between the payment's row and its HTLC."""
    sender = pair.alice.payments.sender
    sender._rounds.go_on = lambda _sending: None  # type: ignore[method-assign]
    sending = await pair.alice.send(text := await pair.bob.invoice(5_000_000))
    await pair.restart(pair.alice)
    await until(lambda: ("sent", "failed") in pair.alice.outcomes, "it fails")
    [(payment, attempts)] = await pair.alice.payments.find(sending.payment.id)
    assert (payment.state, attempts) == (PaymentState.FAILED, [])
    assert "restarted" in payment.failures[0]["failureMessage"]
    pair.connect()
    await pair.online()
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.SENT


async def test_a_passing_trouble_of_the_payee_is_tried_on_another_channel(
    pair_with_three: Pair,
) -> None:
    pair = pair_with_three
    text = await pair.bob.invoice(5_000_000)
    receiver = pair.bob.payments.receiver
    decide = receiver.received
    refused: list[int] = []

    def trouble(runner, final, *, exceeds_dust=False) -> None:  # type: ignore[no-untyped-def]
        if refused:
            decide(runner, final, exceeds_dust=exceeds_dust)
            return
        refused.append(runner.channel.parameters.key_index)
        decision = Fail(bytes.fromhex("2002"))
        runner.post(settlement(final.htlc, decision, final.shared_secret))

    receiver.received = trouble  # type: ignore[method-assign]
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.SENT
    [(_, attempts)] = await pair.alice.payments.find(paid.payment.id)
    assert [a.state for a in attempts] == [PaymentState.FAILED, PaymentState.SENT]
    assert attempts[0].key_index == refused[0] != attempts[1].key_index
    assert "temporary_node_failure" in (attempts[0].failure or "")


async def test_what_the_payee_refuses_for_good_is_not_tried_again(pair_with_three: Pair) -> None:
    pair = pair_with_three
    text = await pair.bob.invoice(5_000_000)
    known = pair.bob.payments.invoices.at_hand(bolt11.decode(text).payment_hash)
    assert known is not None
    known.invoice = replace(known.invoice, payment_secret=bytes(32))
    before = pair.balances()
    paid = await pair.alice.pay(text)
    await pair.quiet()
    assert paid.payment.state is PaymentState.FAILED
    assert len(paid.parts) == 1
    [failure] = paid.payment.failures
    assert failure["failureType"] == "Remote"
    assert failure["failureMessage"].startswith("incorrect_or_unknown_payment_details")
    assert failure["failedNode"] == pair.bob.node_id.hex()
    assert pair.balances() == before
    [(payment, _)] = await pair.alice.payments.find(paid.payment.id)
    assert payment.failures == paid.payment.failures


async def test_an_invoice_that_failed_may_be_paid_again(pair: Pair) -> None:
    text = await pair.bob.invoice(5_000_000)
    pair.cut()
    failed = await pair.alice.pay(text)
    assert failed.payment.state is PaymentState.FAILED
    pair.connect()
    await pair.online()
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.SENT
    found = await pair.alice.payments.find(payment_hash=paid.payment.payment_hash)
    assert {payment.state for payment, _ in found} == {PaymentState.FAILED, PaymentState.SENT}


async def test_a_channel_that_stops_before_the_offer_leaves_the_others_to_try(
    pair_with_three: Pair,
) -> None:
    pair = pair_with_three
    for index in (0, 1):
        pair.alice.runner(index).stop()
    paid = await pair.alice.pay(await pair.bob.invoice(5_000_000))
    assert paid.payment.state is PaymentState.SENT
    assert {part.key_index for part in paid.parts.values()} == {2}


async def test_a_payment_too_large_for_any_channel_fails_and_says_so(pair: Pair) -> None:
    paid = await pair.alice.pay(await pair.bob.invoice(999_000_000))
    assert paid.payment.state is PaymentState.FAILED
    assert "route not found" in paid.payment.failures[0]["failureMessage"]


async def test_nothing_is_reserved_once_all_is_settled(pair_with_three: Pair) -> None:
    pair = pair_with_three
    invoices = [await pair.bob.invoice(30_000_000) for _ in range(30)]
    await asyncio.gather(*(pair.alice.pay(text) for text in invoices))
    await pair.quiet()
    sender = pair.alice.payments.sender
    assert (sender.exits._reserved, sender._live._by_id, sender._live._by_hash) == ({}, {}, {})


async def test_pending_payments_of_a_stopped_node_are_all_found_again(pair: Pair) -> None:
    assert pair.bob.wire is not None
    pair.bob.wire.held = FULFIL_OR_FAIL
    invoices = [await pair.bob.invoice(2_000_000) for _ in range(5)]
    sendings = await asyncio.gather(*(pair.alice.send(text) for text in invoices))
    await until(lambda: "update_fulfill_htlc" in pair.bob.wire.sent, "bob fulfils")
    await until(
        lambda: all(part.is_offered for s in sendings for part in s.parts.values()),
        "all are offered",
    )
    await pair.restart(pair.alice)
    pending = await pair.alice.store.read(stored_payments.load_open_payments)
    assert len(pending) == len(pair.alice.payments.sender._live) == 5
    pair.connect()
    await until(lambda: pair.alice.outcomes.count(("sent", "ok")) == 5, "all are sent")


MESSAGES_OF_A_PAYMENT = 5
"""That each side sends, at most: add, commitment_signed, revoke_and_ack, and the like."""


@pytest.mark.parametrize("side", ["alice", "bob"])
async def test_wherever_the_wire_breaks_a_payment_ends_the_same_for_both(
    pair: Pair, side: str
) -> None:
    for left in range(MESSAGES_OF_A_PAYMENT):
        before = pair.balances()
        wire = getattr(pair, side).wire
        wire.left = left
        text = await pair.bob.invoice(3_000_000)
        sending = await pair.alice.send(text)
        await until(lambda wire=wire, s=sending: not wire.is_open or s.done.done(), "it breaks")
        pair.cut()
        pair.connect()
        await pair.online()
        await until(sending.done.done, "it ends")
        await pair.quiet()
        await check_both_agree(pair, text, before)


async def check_both_agree(pair: Pair, text: str, before: tuple[int, int]) -> None:
    """What the payer stored, what the payee stored and where the money is."""
    payment_hash = bolt11.decode(text).payment_hash
    [(payment, _)] = await pair.alice.payments.find(payment_hash=payment_hash)
    invoice = await pair.bob.store.read(lambda c: stored_invoices.find_invoice(c, payment_hash))
    assert invoice is not None
    is_paid = payment.state is PaymentState.SENT
    assert payment.state is not PaymentState.PENDING
    assert (invoice.state is InvoiceState.PAID) is is_paid
    moved = 3_000_000 if is_paid else 0
    assert pair.balances() == (before[0] - moved, before[1] + moved)


@pytest.mark.parametrize("victim", ["alice", "bob"])
async def test_whenever_a_node_is_killed_a_payment_ends_the_same_for_both(
    pair: Pair, victim: str
) -> None:
    for left in range(MESSAGES_OF_A_PAYMENT):
        before = pair.balances()
        node = getattr(pair, victim)
        other = pair.bob if node is pair.alice else pair.alice
        assert other.wire is not None
        other.wire.left = left
        text = await pair.bob.invoice(3_000_000)
        sending = await pair.alice.send(text)
        wire = other.wire
        await until(lambda wire=wire, s=sending: not wire.is_open or s.done.done(), "it breaks")
        await pair.restart(node)
        pair.connect()
        await pair.online()
        await until(lambda: not pair.alice.payments.sender._live, "it ends")
        await pair.quiet()
        await check_both_agree(pair, text, before)


async def test_a_payment_that_cannot_be_stored_may_be_asked_for_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await pair.bob.invoice(3_000_000)

    def away(_shards: object, _writes: object = ()) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(StorageUnavailable("the database is away"))
        return future

    with monkeypatch.context() as patch:
        patch.setattr(pair.alice.store.committer, "submit", away)
        with pytest.raises(StorageUnavailable):
            await pair.alice.pay(text)
        with pytest.raises(StorageUnavailable):
            await pair.alice.invoice()
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.SENT


async def test_an_htlc_waits_for_the_database_to_come_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await pair.bob.invoice(3_000_000)
    pair.bob.payments.invoices._kept.clear()
    read, asked = pair.bob.store.read, []

    async def flaky(_self: object, query):  # type: ignore[no-untyped-def]
        asked.append(query)
        if len(asked) == 1:
            raise StorageUnavailable("the database is away")
        return await read(query)

    monkeypatch.setattr(type(pair.bob.store), "read", flaky)
    paid = await pair.alice.pay(text)
    monkeypatch.undo()
    assert paid.payment.state is PaymentState.SENT
    assert len(asked) > 1


async def test_an_invoice_whose_fulfilment_was_not_stored_is_unpaid_still(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database says that it is not as we thought: nothing was done, and the payer hears it."""
    text = await pair.bob.invoice(3_000_000)
    payment_hash = bolt11.decode(text).payment_hash
    request = ChannelRunner.request

    def refused(runner: ChannelRunner, event: object, writes: object = ()) -> object:
        if not isinstance(event, FulfillHtlc):
            return request(runner, event, writes)  # type: ignore[arg-type]
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        done.set_exception(CommandError("nothing was done"))
        return done

    monkeypatch.setattr(ChannelRunner, "request", refused)
    paid = await pair.alice.pay(text)
    assert paid.payment.state is PaymentState.FAILED
    assert pair.bob.payments.invoices.at_hand(payment_hash) is None
    again = await pair.bob.payments.invoices.find(payment_hash)
    assert again is not None
    assert again.state is InvoiceState.UNPAID
    await pair.quiet()
