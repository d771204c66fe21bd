"""Offers of one node, paid by another: over real channels, stores and onions."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.offer_nodes import Desk, offer_line
from support.payment_lines import Line
from support.waiting import until

from back.offers.book import NewOffer
from back.offers.rules import OfferRules
from back.payment.kind import InvoiceKind
from back.storage import offers as stored
from back.storage.invoices import InvoiceState
from back.storage.payments import PaymentState
from shared.bolt12 import InvoiceError, decode_invoice, decode_invoice_text, decode_offer
from shared.crypto.onion_message import INVOICE, INVOICE_ERROR, INVOICE_REQUEST
from shared.errors import CommandError
from shared.wire.record import decode_stream, encode_stream

COFFEE = NewOffer(amount_msat=5_000_000, description="coffee")
GIFT = NewOffer(description="gift")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[tuple[Line, list[Desk]]]:
    async with offer_line(tmp_path) as scene:
        yield scene


Scene = tuple[Line, list[Desk]]


async def invoices_of(desk: Desk) -> list[Any]:
    return await desk.node.payments.invoices.listed(since=0, until=1 << 40)


async def paid(line: Line, payer: Desk, payee: Desk, text: str, **more: Any) -> Any:
    """Pay, and see that both ends agree."""
    before = line.balances()
    sending = await payer.pay(text, **more)
    assert sending.payment.state is PaymentState.SENT, sending.payment.failures
    await line.quiet()
    payment = sending.payment
    (invoice,) = [
        each for each in await invoices_of(payee) if each.payment_hash == payment.payment_hash
    ]
    assert invoice.state is InvoiceState.PAID
    assert invoice.kind is InvoiceKind.BOLT12
    assert invoice.received_msat >= payment.amount_msat
    assert hashlib.sha256(payment.preimage or b"").digest() == invoice.payment_hash
    after = line.balances()
    at = line.nodes.index(payee.node)
    assert after[at] - before[at] == invoice.received_msat
    assert before[0] - after[0] == invoice.received_msat + payment.fees_msat
    assert sum(after) == sum(before)
    return invoice, payment


# --- paying and being paid ------------------------------------------------------------------------


async def test_an_offer_is_paid_over_a_node_between(scene: Scene) -> None:
    line, (alice, _, carol) = scene
    own = await carol.service.create(COFFEE)
    invoice, payment = await paid(line, alice, carol, own.row.text, external_id="order 1")
    assert payment.external_id == "order 1"
    assert payment.bolt11 == invoice.bolt11
    kept = decode_invoice_text(invoice.bolt11)
    assert kept.offer_issuer_id == kept.invoice_node_id == carol.node.node_id
    assert kept.invoice_paths is not None
    assert [path.first_node_id for path in kept.invoice_paths] == [carol.node.node_id]
    assert invoice.description == "coffee"
    assert carol.told == ["answered"]


async def test_a_peer_is_paid(scene: Scene) -> None:
    line, (alice, bob, _) = scene
    own = await bob.service.create(GIFT)
    await paid(line, alice, bob, own.row.text, amount_msat=1_234_567)


async def test_an_offer_behind_a_peer_shows_nobody_who_is_paid(scene: Scene) -> None:
    line, (alice, bob, carol) = scene
    own = await carol.service.create(COFFEE, bob.node.node_id)
    invoice, _ = await paid(line, alice, carol, own.row.text)
    offer, kept = decode_offer(own.row.text), decode_invoice_text(invoice.bolt11)
    hidden = carol.node.node_id
    assert hidden not in encode_stream(offer)
    assert hidden not in encode_stream(kept)
    assert offer.offer_issuer_id == kept.invoice_node_id
    assert kept.invoice_paths is not None
    assert [path.first_node_id for path in kept.invoice_paths] == [bob.node.node_id]
    again, _ = await paid(line, alice, carol, own.row.text)
    assert again.payment_hash != invoice.payment_hash


async def test_a_path_that_begins_at_the_payer_is_paid(scene: Scene) -> None:
    line, (_, bob, carol) = scene
    own = await carol.service.create(COFFEE, bob.node.node_id)
    before = line.balances()
    sending = await bob.pay(own.row.text)
    assert sending.payment.state is PaymentState.SENT, sending.payment.failures
    assert sending.payment.fees_msat == 0
    await line.quiet()
    after = line.balances()
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, -5_000_000, 5_000_000]


async def test_a_node_with_private_channels_only_is_paid_through_its_peer(tmp_path: Path) -> None:
    async with offer_line(tmp_path, is_public=False) as (line, (alice, bob, carol)):
        carol.post.door = bob.node
        own = await carol.service.create(GIFT)
        offer = decode_offer(own.row.text)
        assert [p.first_node_id for p in offer.offer_paths or ()] == [bob.node.node_id]
        invoice, payment = await paid(line, alice, carol, own.row.text, amount_msat=7_000_000)
        # What bob takes for the last hop, and nobody else takes anything.
        assert payment.fees_msat in range(1_000 + 1_400, 1_000 + 1_410)
        paths = decode_invoice_text(invoice.bolt11).invoice_paths or ()
        assert [path.first_node_id for path in paths] == [bob.node.node_id]


async def test_an_amount_larger_than_any_channel_is_paid_in_parts(tmp_path: Path) -> None:
    async with offer_line(tmp_path, channels=3) as (line, (alice, bob, carol)):
        room = max(r.channel.local_msat for r in alice.node.runners(bob.node))
        own = await carol.service.create(GIFT, bob.node.node_id)
        await paid(line, alice, carol, own.row.text, amount_msat=room + 50_000_000)


async def test_quantity_and_note_reach_the_payee(scene: Scene) -> None:
    line, (alice, _, carol) = scene
    own = await carol.service.create(
        NewOffer(amount_msat=2_000_000, description="bun", quantity_max=5)
    )
    invoice, _ = await paid(
        line,
        alice,
        carol,
        own.row.text,
        amount_msat=6_000_000,
        quantity=3,
        payer_note="without ☕",
    )
    kept = decode_invoice_text(invoice.bolt11)
    assert (kept.invreq_quantity, kept.invreq_payer_note) == (3, "without ☕")
    assert invoice.amount_msat == 6_000_000


async def test_an_invoice_is_stored_before_it_is_told(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(GIFT)
    seen = []

    def looked(contents: dict[int, bytes]) -> Mapping[int, bytes]:
        invoice = decode_invoice(contents[INVOICE])
        seen.append(carol.node.payments.invoices.at_hand(invoice.invoice_payment_hash or b""))
        return contents

    carol.post.changes = looked
    await alice.pay(own.row.text)
    assert seen[0] is not None
    assert await carol.node.store.read(stored.count_offer_invoices) == 1


async def test_the_same_request_has_the_same_invoice(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(GIFT)
    await alice.pay(own.row.text)
    question = carol.post.heard[-1]
    carol.post.take(question)
    await until(lambda: len(carol.told) == 2, "a second answer")
    answers = [d.contents[INVOICE] for d in alice.post.heard if INVOICE in d.contents]
    await until(lambda: len(alice.post.heard) == 2, "both answers")
    assert carol.told == ["answered", "answered"]
    assert len(await invoices_of(carol)) == 1
    assert all(answer == answers[0] for answer in answers)


# --- offers ---------------------------------------------------------------------------------------


async def test_a_disabled_offer_gives_no_invoice_but_one_given_out_is_paid(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(GIFT)
    await carol.service.book.disable(own.row.offer_id)
    with pytest.raises(CommandError, match="no longer valid"):
        await alice.pay(own.row.text)
    assert await invoices_of(carol) == []
    with pytest.raises(CommandError, match="disabled"):
        await carol.service.create(GIFT)


async def test_offers_are_there_after_a_restart(scene: Scene) -> None:
    line, (alice, bob, carol) = scene
    shown = await carol.service.create(COFFEE)
    hidden = await carol.service.create(GIFT, bob.node.node_id)
    over = await carol.service.create(NewOffer(description="over"))
    await carol.service.book.disable(over.row.offer_id)
    assert await carol.service.create(COFFEE) == shown
    await carol.service.stop()
    await line.restart(carol.node)
    await carol.start()
    active = carol.service.book.listed(active_only=True)
    assert [own.row.text for own in active] == [shown.row.text, hidden.row.text]
    assert len(carol.service.book.listed(active_only=False)) == 3
    for own in (shown, hidden):
        await paid(line, alice, carol, own.row.text)


SENSELESS = [
    NewOffer(amount_msat=5),
    NewOffer(amount_msat=0, description="x"),
    NewOffer(amount_msat=22 * 10**17, description="x"),
    NewOffer(expires_in_s=0),
    NewOffer(description="x" * 1001),
    NewOffer(issuer="é" * 501),
]


async def test_an_offer_that_makes_no_sense_is_not_made(scene: Scene) -> None:
    _, (alice, _, _) = scene
    for new in SENSELESS:
        with pytest.raises(CommandError):
            await alice.service.create(new)
    assert alice.service.book.listed(active_only=False) == []


async def test_a_stranger_cannot_hide_us(scene: Scene) -> None:
    _, (alice, _, _) = scene
    with pytest.raises(CommandError, match="not connected"):
        await alice.service.create(GIFT, b"\2" * 33)


# --- what is not answered -------------------------------------------------------------------------


async def ignored(payer: Desk, payee: Desk, text: str) -> None:
    """Ask, and be ignored."""
    with pytest.raises(CommandError, match="nobody answered"):
        await payer.pay(text)
    assert payee.told == ["ignored"]
    assert await invoices_of(payee) == []


async def test_a_hidden_offer_is_not_known_to_who_asks_us_directly(scene: Scene) -> None:
    _, (alice, bob, carol) = scene
    own = await carol.service.create(GIFT, bob.node.node_id)
    asked = []

    def directly(destination: Any, contents: Any, reply_path: Any) -> None:
        asked.append(destination)
        type(alice.post).send(alice.post, carol.node.node_id, contents, reply_path)

    alice.post.send = directly  # type: ignore[method-assign]
    await ignored(alice, carol, own.row.text)
    assert len(asked) == 1


async def test_a_shown_offer_is_not_answered_through_a_path_of_another(scene: Scene) -> None:
    _, (alice, bob, carol) = scene
    own = await carol.service.create(GIFT)
    hidden = await carol.service.create(COFFEE, bob.node.node_id)

    def through(destination: Any, contents: Any, reply_path: Any) -> None:
        path = (hidden.offer.offer_paths or [])[0]
        type(alice.post).send(alice.post, path, contents, reply_path)

    alice.post.send = through  # type: ignore[method-assign]
    await ignored(alice, carol, own.row.text)


async def test_an_offer_of_nobody_is_not_answered(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(GIFT)
    carol.service.book._offers.clear()
    await ignored(alice, carol, own.row.text)


async def test_garbage_is_not_answered(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    garbage = [b"", b"\0", b"\xff" * 20, bytes(7_000)]
    asked = [alice.post.ask(carol.node.node_id, {INVOICE_REQUEST: data}) for data in garbage]
    assert await asyncio.gather(*asked) == [None] * 4
    assert carol.told == ["ignored"] * 4


async def test_who_wants_no_answer_gets_none(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(GIFT)
    await alice.pay(own.row.text)
    request = carol.post.heard[0].contents
    alice.post.send(carol.node.node_id, request, None)
    await until(lambda: len(carol.told) == 2, "the second request")
    assert carol.told == ["answered", "ignored"]


# --- what is refused in words ---------------------------------------------------------------------


async def test_a_payee_whose_clock_is_ahead_says_that_the_offer_is_over(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(NewOffer(description="x", expires_in_s=60))
    carol.ahead_s = 61.5
    with pytest.raises(CommandError, match="gives no invoice: the offer has expired"):
        await alice.pay(own.row.text)
    error = decode_stream(InvoiceError, alice.post.heard[-1].contents[INVOICE_ERROR])
    assert error.erroneous_field == 14
    assert carol.told == ["refused"]
    assert await invoices_of(carol) == []
    assert carol.service.issuer.kept == 0


async def test_who_cannot_be_paid_says_so(scene: Scene) -> None:
    line, (alice, bob, carol) = scene
    own = await carol.service.create(GIFT, bob.node.node_id)
    line.cut(carol.node, bob.node)
    await until(
        lambda: (
            not any(r.channel.link.name == "ONLINE" for r in carol.node.channels.runners.values())
        ),
        "carol is alone",
    )
    with pytest.raises(CommandError, match="cannot be paid now"):
        await alice.pay(own.row.text)
    assert await invoices_of(carol) == []


NOT_SOLD: list[tuple[dict[str, Any], str]] = [
    ({"amount_msat": 4_999_999}, "takes 5000000"),
    ({"quantity": 2}, "no quantities"),
    ({"external_id": "x" * 67}, "externalId"),
]


async def test_a_payer_asks_for_nothing_that_the_offer_does_not_sell(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(COFFEE)
    for purchase, why in NOT_SOLD:
        with pytest.raises(CommandError, match=why):
            await alice.pay(own.row.text, **purchase)
    assert carol.post.heard == []


async def test_a_payer_refuses_its_own_offer_and_one_that_is_over(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await alice.service.create(GIFT)
    with pytest.raises(CommandError, match="our own"):
        await alice.pay(own.row.text)
    other = await carol.service.create(NewOffer(description="x", expires_in_s=60))
    alice.ahead_s = 62.0
    with pytest.raises(CommandError, match="expired"):
        await alice.pay(other.row.text)


# --- invoices that are wrong ----------------------------------------------------------------------


def spoilt(**fields: Any) -> Any:
    """What makes an invoice say something else, with the signature that it had."""

    def spoil(contents: dict[int, bytes]) -> Mapping[int, bytes]:
        invoice = decode_invoice(contents[INVOICE]).model_copy(update=fields)
        return {INVOICE: encode_stream(invoice)}

    return spoil


WRONG: list[tuple[Any, str]] = [
    (spoilt(invoice_amount=5_000_001), "signature"),
    (spoilt(invreq_payer_note="other"), "signature"),
    (lambda _: {INVOICE: b""}, "wrong"),
    (lambda _: {INVOICE: b"\xff" * 40}, "wrong"),
    (lambda _: {INVOICE: bytes(20_001)}, "no invoice"),
    (lambda _: {99: b""}, "no invoice"),
    (lambda _: {INVOICE_ERROR: b"\xff"}, "does not say why"),
    (lambda _: {INVOICE_ERROR: b"\5\3a\nb"}, r"a\?b"),
]


async def test_a_wrong_answer_is_not_paid(scene: Scene) -> None:
    line, (alice, _, carol) = scene
    own = await carol.service.create(COFFEE)
    before = line.balances()
    for change, why in WRONG:
        carol.post.changes = change
        with pytest.raises(CommandError, match=why):
            await alice.pay(own.row.text)
    assert line.balances() == before
    assert alice.node.outcomes == []
    assert len(await invoices_of(carol)) == len(WRONG)


async def test_an_invoice_for_another_request_is_not_paid(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(COFFEE)
    await alice.pay(own.row.text)
    former = alice.post.heard[-1].contents
    carol.post.changes = lambda _: former
    with pytest.raises(CommandError, match="does not repeat"):
        await alice.pay(own.row.text)


async def test_an_expired_invoice_is_not_paid(scene: Scene) -> None:
    _, (alice, _, carol) = scene
    own = await carol.service.create(COFFEE)
    carol.ahead_s = -7_300.0
    with pytest.raises(CommandError, match="expired"):
        await alice.pay(own.row.text)


async def test_a_payee_that_is_silent_costs_nothing(scene: Scene) -> None:
    line, (alice, _, carol) = scene
    own = await carol.service.create(COFFEE)
    carol.post.loses = 1
    before = line.balances()
    with pytest.raises(CommandError, match="nobody answered"):
        await alice.pay(own.row.text)
    assert line.balances() == before


async def test_a_payer_connects_to_whom_it_asks_if_it_is_told_to(scene: Scene) -> None:
    _, (alice, bob, carol) = scene
    shown = await carol.service.create(COFFEE)
    hidden = await carol.service.create(GIFT, bob.node.node_id)
    alice.away = {carol.node.node_id}
    for own in (shown, hidden):
        await alice.pay(own.row.text, connects_directly=True)
    assert alice.connected == [carol.node.node_id]


# --- limits ---------------------------------------------------------------------------------------


async def test_more_requests_than_the_rate_allows_are_dropped(tmp_path: Path) -> None:
    rules = OfferRules(requests_per_s=0.4)
    async with offer_line(tmp_path, rules=rules) as (_, (alice, _, carol)):
        own = await carol.service.create(GIFT)
        other = await carol.service.create(COFFEE)
        await alice.pay(own.row.text)
        request = carol.post.heard[0].contents
        for _ in range(3):
            alice.post.send(carol.node.node_id, request, None)
            alice.post.send(carol.node.node_id, request, alice.post.path_to_us(b"x" * 32))
        await until(lambda: len(carol.told) == 7, "all requests")
        # One offer has half of the rate: its burst was one; the rest of the whole was one.
        assert carol.told.count("answered") == 1
        assert carol.told.count("over_rate") == 3
        assert carol.told.count("ignored") == 3
        assert len(await invoices_of(carol)) == 1
        del other


async def test_only_so_many_invoices_are_kept(tmp_path: Path) -> None:
    rules = OfferRules(max_invoices=2)
    async with offer_line(tmp_path, rules=rules) as (_, (alice, _, carol)):
        own = await carol.service.create(GIFT)
        await asyncio.gather(alice.pay(own.row.text), alice.pay(own.row.text))
        with pytest.raises(CommandError, match="too many invoices"):
            await alice.pay(own.row.text)
        assert carol.service.issuer.kept == 2


async def test_unpaid_invoices_are_forgotten_and_make_room(tmp_path: Path) -> None:
    rules = OfferRules(max_invoices=2, invoice_expiry_s=60)
    async with offer_line(tmp_path, rules=rules) as (_, (alice, _, carol)):
        own = await carol.service.create(GIFT)
        await alice.pay(own.row.text)
        alice.post.changes = dict
        carol.post.changes = lambda _: {INVOICE_ERROR: b""}
        with pytest.raises(CommandError):
            await alice.pay(own.row.text)
        issuer = carol.service.issuer
        await issuer.forget()
        assert issuer.kept == 2
        carol.ahead_s = 60 + 901
        await issuer.forget()
        assert issuer.kept == 0
        (left,) = await invoices_of(carol)
        assert left.state is InvoiceState.PAID
