"""HTLCs that pay together, by keysend and by blinded paths, over real channels and stores."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.channels import secret
from support.payment_lines import HEIGHT, Line, Node, Sent, ended, line_of_nodes
from support.waiting import until

from back.channel.effects import HtlcFailed, HtlcFulfilled
from back.channel.events import FulfillHtlc, OfferHtlc
from back.channel.model import Failed, Malformed
from back.payment import invoices as invoices_at_hand, multipart
from back.payment.decision import Decision, Fulfil
from back.payment.invoices import BlindedInvoice, Invoices
from back.payment.kind import InvoiceKind
from back.payment.receive import ReceivePolicy
from back.payment.receiver import Receiver
from back.storage import invoices as stored_invoices
from back.storage.invoices import Invoice, InvoiceState
from back.storage.tables import outbox
from shared import bolt11
from shared.crypto import blinding, sphinx
from shared.crypto.failures import INVALID_ONION_BLINDING, decode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.crypto.recipient_data import RecipientData, encode_recipient_data
from shared.errors import CommandError

TOTAL = 9_000_000
PREIMAGE = secret("keysend")
HASH = hashlib.sha256(PREIMAGE).digest()
DETAILS = "incorrect_or_unknown_payment_details"


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with line_of_nodes(tmp_path, 2, 3) as line:
        yield line


class Offers:
    """HTLCs from the first node to the second with onions by hand."""

    def __init__(self, line: Line, payment_hash: bytes) -> None:
        self.line, self.payment_hash = line, payment_hash
        self.count = 0

    def offer(
        self,
        through: int,
        amount_msat: int,
        *,
        final_delta: int = 40,
        path_key: bytes | None = None,
        to: bytes = b"",
        **fields: Any,
    ) -> Sent:
        payer, payee = self.line.nodes
        self.count += 1
        cltv = HEIGHT + final_delta
        payload = Payload(amt_to_forward=amount_msat, outgoing_cltv_value=cltv, **fields)
        key = hashlib.sha256(self.payment_hash + bytes([self.count])).digest()
        hop = sphinx.Hop(to or payee.node_id, encode_payload(payload))
        onion = sphinx.build(key, [hop], self.payment_hash)
        origin = f"test:{self.payment_hash.hex()}:{self.count}"
        event = OfferHtlc(
            amount_msat, self.payment_hash, cltv, onion.packet, origin, path_key=path_key
        )
        payer.runner(payee, through).post(event)
        return Sent(origin, self.payment_hash, onion.shared_secrets)


class Parts(Offers):
    """HTLCs for one invoice."""

    def __init__(self, line: Line, text: str) -> None:
        self.invoice = bolt11.decode(text)
        super().__init__(line, self.invoice.payment_hash)

    def send(self, through: int, amount_msat: int, total_msat: int = TOTAL, **more: Any) -> Sent:
        data = PaymentData(payment_secret=self.invoice.payment_secret, total_msat=total_msat)
        return self.offer(through, amount_msat, payment_data=data, **more)


async def fulfilled(line: Line, *sent: Sent) -> None:
    for each in sent:
        assert isinstance(await ended(line, each), HtlcFulfilled)


async def failure(line: Line, sent: Sent) -> str:
    outcome = await ended(line, sent)
    assert isinstance(outcome, HtlcFailed)
    assert isinstance(outcome.htlc.resolution, Failed)
    error = sphinx.unwrap_error(sent.secrets, outcome.htlc.resolution.reason)
    assert error is not None
    return decode_failure(error.message).name


async def held(node: Node, count: int) -> None:
    await until(lambda: node.payments.receiver.held == count, f"{count} HTLCs wait")


async def stored(node: Node, payment_hash: bytes) -> Invoice | None:
    return await node.store.read(lambda c: stored_invoices.find_invoice(c, payment_hash))


async def told(node: Node) -> list[dict[str, Any]]:
    """Return the events payment-received of a node."""
    rows = await node.store.read(lambda c: list(c.execute(select(outbox.c.payload))))
    events = [json.loads(row.payload) for row in rows]
    return [event for event in events if event["type"] == "payment-received"]


# --- sets -----------------------------------------------------------------------------------------


async def test_parts_in_several_channels_are_paid_together(line: Line) -> None:
    payee = line.nodes[1]
    before = line.balances()
    parts = Parts(line, await payee.invoice(TOTAL))
    first = [parts.send(0, 4_000_000), parts.send(1, 3_000_000)]
    await held(payee, 2)
    assert all(sent.outcome(line.nodes[0]) is None for sent in first)
    await fulfilled(line, *first, parts.send(2, 2_000_000))
    await line.quiet()
    invoice = await stored(payee, parts.payment_hash)
    assert invoice is not None
    assert (invoice.state, invoice.received_msat) == (InvoiceState.PAID, TOTAL)
    htlcs = await payee.store.read(
        lambda c: stored_invoices.list_received_htlcs(c, parts.payment_hash)
    )
    assert sorted(htlc.amount_msat for htlc in htlcs) == [2_000_000, 3_000_000, 4_000_000]
    assert line.balances() == [before[0] - TOTAL, before[1] + TOTAL]
    assert payee.payments.receiver.held == 0
    assert payee.outcomes == [("received", "ok")]
    [event] = await told(payee)
    assert event["paymentHash"] == parts.payment_hash.hex()
    assert sorted(part["amount"] for part in event["parts"]) == [2_000_000, 3_000_000, 4_000_000]
    assert {part["channelId"] for part in event["parts"]} == {
        payee.channel(line.nodes[0], index).channel_id.hex() for index in range(3)
    }


async def test_several_parts_may_come_through_one_channel(line: Line) -> None:
    parts = Parts(line, await line.nodes[1].invoice(TOTAL))
    await fulfilled(line, *(parts.send(0, TOTAL // 3) for _ in range(3)))


async def test_a_payer_may_bring_more_than_it_promised_and_promise_more_than_was_asked(
    line: Line,
) -> None:
    parts = Parts(line, await line.nodes[1].invoice(TOTAL))
    total = TOTAL + 500
    await fulfilled(line, parts.send(0, TOTAL, total), parts.send(1, 501, total))
    invoice = await stored(line.nodes[1], parts.payment_hash)
    assert invoice is not None
    assert invoice.received_msat == TOTAL + 501


async def test_what_comes_alone_waits_and_fails_when_the_rest_does_not_come(line: Line) -> None:
    payee = line.nodes[1]
    payee.payments.receiver._policy = ReceivePolicy(mpp_timeout_s=0.3)
    parts = Parts(line, await payee.invoice(TOTAL))
    both = [parts.send(0, 4_000_000), parts.send(1, 4_999_999)]
    assert [await failure(line, sent) for sent in both] == ["mpp_timeout"] * 2
    # Nothing of it remains: the payer may try again.
    assert payee.payments.receiver.held == 0
    await fulfilled(line, parts.send(0, 5_000_000), parts.send(1, 4_000_000))


async def test_parts_that_promise_different_totals_fail_together(line: Line) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    first = parts.send(0, 1_000_000)
    await held(payee, 1)
    second = parts.send(1, 1_000_000, TOTAL + 1)
    assert [await failure(line, sent) for sent in (first, second)] == [DETAILS] * 2
    assert payee.payments.receiver.held == 0


async def test_a_part_with_a_wrong_secret_leaves_the_others_alone(line: Line) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    first = parts.send(0, 4_000_000)
    await held(payee, 1)
    forged = PaymentData(payment_secret=bytes(32), total_msat=TOTAL)
    assert await failure(line, parts.offer(1, 5_000_000, payment_data=forged)) == DETAILS
    await fulfilled(line, first, parts.send(1, 5_000_000))


async def test_a_part_far_above_what_was_promised_fails_alone(line: Line) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    first = parts.send(0, 4_000_000)
    await held(payee, 1)
    assert await failure(line, parts.send(1, 2 * TOTAL)) == DETAILS
    await fulfilled(line, first, parts.send(1, 5_000_000))


async def test_a_part_that_ends_too_soon_ends_its_set(line: Line) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    late = parts.send(0, 4_000_000, final_delta=30)
    other = parts.send(1, 4_000_000)
    await held(payee, 2)
    payee.channels.height += 4
    assert [await failure(line, sent) for sent in (late, other)] == ["mpp_timeout"] * 2


async def test_an_invoice_that_expires_while_its_parts_come_is_paid(line: Line) -> None:
    payee = line.nodes[1]
    now = [1_000.0]
    payee.payments.invoices._clock = lambda: now[0]
    payee.payments.receiver._clock = lambda: now[0]
    parts = Parts(line, await payee.invoice(TOTAL, expiry_s=60))
    now[0] += 59
    first = parts.send(0, 4_000_000)
    await held(payee, 1)
    now[0] += 2
    await fulfilled(line, first, parts.send(1, 5_000_000))


async def test_parts_that_wait_outlive_a_restart(line: Line) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    first = [parts.send(0, 3_000_000), parts.send(1, 3_000_000)]
    await held(payee, 2)
    await line.restart(payee)
    await held(payee, 2)
    await fulfilled(line, *first, parts.send(2, 3_000_000))
    await line.quiet()


async def test_a_decision_outlives_a_crash_before_the_channels_hear_of_it(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    post = Receiver._post

    def lost(receiver: Receiver, asked: Any, decision: Decision) -> None:
        if not isinstance(decision, Fulfil):
            post(receiver, asked, decision)

    with monkeypatch.context() as patch:
        patch.setattr(Receiver, "_post", lost)
        sent = [parts.send(index, 3_000_000) for index in range(3)]
        await until(lambda: payee.outcomes == [("received", "ok")], "it is decided")
        await payee.stop()
    line.cut(*line.nodes)
    await payee.start()
    payee.channels.height += 20
    line.connect(*line.nodes)
    await fulfilled(line, *sent)
    assert len(await told(payee)) == 1


async def test_a_crash_between_two_channels_gives_one_part_and_then_the_other(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    post = Receiver._post
    posted: list[int] = []

    def once(receiver: Receiver, asked: Any, decision: Decision) -> None:
        if not posted:
            posted.append(asked.key_index)
            post(receiver, asked, decision)

    with monkeypatch.context() as patch:
        patch.setattr(Receiver, "_post", once)
        sent = [parts.send(0, 5_000_000), parts.send(1, 4_000_000)]
        await until(lambda: payee.outcomes == [("received", "ok")], "it is decided")
        await fulfilled(line, sent[posted[0]])
    await line.restart(payee)
    await fulfilled(line, *sent)
    await line.quiet()


async def test_a_set_of_too_many_parts_is_given_up(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "MAX_PARTS", 3)
    parts = Parts(line, await line.nodes[1].invoice(TOTAL))
    sent = [parts.send(index, 1_000) for index in range(3)]
    assert [await failure(line, each) for each in sent] == ["mpp_timeout"] * 3


async def test_what_waits_leaves_half_of_a_channel_to_others(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 2, 2) as line:
        payee = line.nodes[1]
        slots = payee.channel(line.nodes[0]).parameters.local.max_accepted_htlcs
        payee.payments.receiver._count(0, slots // 2)
        parts = Parts(line, await payee.invoice(TOTAL))
        assert await failure(line, parts.send(0, 4_000_000)) == "temporary_node_failure"
        # What completes a payment waits for nothing, and other channels have room.
        first = parts.send(1, 4_000_000)
        await until(lambda: payee.payments.receiver.held == slots // 2 + 1, "one waits")
        await fulfilled(line, first, parts.send(0, 5_000_000))


async def test_an_invoice_is_deleted_only_while_nothing_pays_it(line: Line) -> None:
    payee = line.nodes[1]
    invoices = payee.payments.invoices
    parts = Parts(line, await payee.invoice(TOTAL))
    first = parts.send(0, 4_000_000)
    await held(payee, 1)
    with pytest.raises(CommandError, match="being paid"):
        await invoices.delete(parts.payment_hash)
    await fulfilled(line, first, parts.send(1, 5_000_000))
    with pytest.raises(CommandError, match="paid"):
        await invoices.delete(parts.payment_hash)
    unpaid = Parts(line, await payee.invoice(TOTAL))
    await invoices.delete(unpaid.payment_hash)
    assert await stored(payee, unpaid.payment_hash) is None
    assert await failure(line, unpaid.send(0, TOTAL)) == DETAILS
    with pytest.raises(CommandError, match="no such"):
        await invoices.delete(unpaid.payment_hash)


async def test_nothing_is_taken_while_the_chain_is_not_known(line: Line) -> None:
    """Our height says when an HTLC ends: an old one would promise too much."""
    payee = line.nodes[1]
    parts = Parts(line, await payee.invoice(TOTAL))
    payee.payments.receiver._is_tip_safe = lambda: False
    assert await failure(line, parts.send(0, TOTAL)) == "temporary_node_failure"
    payee.payments.receiver._is_tip_safe = lambda: True
    await fulfilled(line, parts.send(0, TOTAL))


async def test_an_invoice_that_parts_wait_for_stays_at_hand(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two objects for one invoice could both say that it is unpaid."""
    payee = line.nodes[1]
    monkeypatch.setattr(invoices_at_hand, "KEPT", 1)
    parts = Parts(line, await payee.invoice(TOTAL))
    first = parts.send(0, 4_000_000)
    await held(payee, 1)
    known = payee.payments.invoices.at_hand(parts.payment_hash)
    for _ in range(3):
        await payee.invoice(TOTAL)
    assert payee.payments.invoices.at_hand(parts.payment_hash) is known
    await fulfilled(line, first, parts.send(1, 5_000_000))


async def test_nobody_is_told_of_a_payment_before_it_is_durable(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    payee = line.nodes[1]
    invoices = payee.payments.invoices
    parts = Parts(line, await payee.invoice(TOTAL))
    waiting = asyncio.Event()
    commit = Invoices.commit

    async def late(self: Invoices, *what: Any) -> None:
        await waiting.wait()
        await commit(self, *what)

    monkeypatch.setattr(Invoices, "commit", late)
    sent = [parts.send(0, 5_000_000), parts.send(1, 4_000_000)]
    known = invoices.at_hand(parts.payment_hash)
    assert known is not None
    await until(lambda: known.settling, "it is decided")
    shown = await invoices.find(parts.payment_hash)
    assert shown is not None
    assert shown.state is InvoiceState.UNPAID
    assert all(each.outcome(line.nodes[0]) is None for each in sent)
    waiting.set()
    await fulfilled(line, *sent)


# --- keysend --------------------------------------------------------------------------------------


async def test_keysend_is_paid_at_once_and_stored_like_an_invoice(line: Line) -> None:
    payee = line.nodes[1]
    offers = Offers(line, HASH)
    await fulfilled(line, offers.offer(0, 5_000_000, keysend_preimage=PREIMAGE))
    invoice = await stored(payee, HASH)
    assert invoice is not None
    assert (invoice.kind, invoice.state) == (InvoiceKind.KEYSEND, InvoiceState.PAID)
    assert (invoice.preimage, invoice.bolt11) == (PREIMAGE, "")
    assert (invoice.amount_msat, invoice.received_msat) == (5_000_000, 5_000_000)
    assert len(await told(payee)) == 1
    # The same again, also after a restart, is not taken twice.
    assert await failure(line, offers.offer(1, 5_000_000, keysend_preimage=PREIMAGE)) == DETAILS
    await line.restart(payee)
    assert await failure(line, offers.offer(1, 5_000_000, keysend_preimage=PREIMAGE)) == DETAILS


async def test_keysend_may_come_in_parts(line: Line) -> None:
    payee = line.nodes[1]
    offers = Offers(line, HASH)
    data = PaymentData(payment_secret=secret("of the payer"), total_msat=TOTAL)
    fields = {"payment_data": data, "keysend_preimage": PREIMAGE}
    first = offers.offer(0, 4_000_000, **fields)
    await held(payee, 1)
    await line.restart(payee)
    await held(payee, 1)
    assert await stored(payee, HASH) is None
    await fulfilled(line, first, offers.offer(1, 5_000_000, **fields))
    invoice = await stored(payee, HASH)
    assert invoice is not None
    assert (invoice.amount_msat, invoice.received_msat) == (TOTAL, TOTAL)


async def test_two_keysends_at_once_with_one_preimage_are_paid_once(line: Line) -> None:
    offers = Offers(line, HASH)
    both = [offers.offer(index, 5_000_000, keysend_preimage=PREIMAGE) for index in (0, 1)]
    kinds = {type(await ended(line, sent)) for sent in both}
    assert kinds == {HtlcFulfilled, HtlcFailed}
    await line.quiet()


async def test_keysend_is_refused_where_the_operator_wants_none(line: Line) -> None:
    payee = line.nodes[1]
    payee.payments.receiver._policy = ReceivePolicy(accepts_keysend=False)
    offers = Offers(line, HASH)
    sent = offers.offer(0, 5_000_000, keysend_preimage=PREIMAGE)
    assert await failure(line, sent) == DETAILS
    assert await stored(payee, HASH) is None


async def test_keysend_of_a_preimage_that_an_invoice_has_pays_nothing(line: Line) -> None:
    payee = line.nodes[1]
    await payee.invoice(5_000_000, preimage=PREIMAGE)
    sent = Offers(line, HASH).offer(0, 5_000_000, keysend_preimage=PREIMAGE)
    assert await failure(line, sent) == DETAILS


# --- blinded paths --------------------------------------------------------------------------------


PATH_ID = secret("path id")


def blinded(node: Node, path_id: bytes = PATH_ID) -> tuple[bytes, dict[str, Any]]:
    """Return the path key of a path that begins and ends at a node, and its payload's fields."""
    data = encode_recipient_data(RecipientData(path_id=path_id))
    path = blinding.blind(secret("session"), [(node.node_id, data)])
    return path.first_path_key, {
        "encrypted_recipient_data": path.path[0].encrypted_recipient_data,
        "total_amount_msat": TOTAL,
    }


def blinded_invoice(path_id: bytes = PATH_ID) -> BlindedInvoice:
    return BlindedInvoice(PREIMAGE, path_id, TOTAL, "an offer", 1, 10**10, "lni1")


async def test_a_blinded_payment_is_known_by_its_path(line: Line) -> None:
    payee = line.nodes[1]
    await payee.payments.invoices.create_blinded(blinded_invoice())
    offers = Offers(line, HASH)
    path_key, fields = blinded(payee)
    fields["current_path_key"] = path_key
    first = offers.offer(0, 4_000_000, **fields)
    await held(payee, 1)
    await line.restart(payee)
    await fulfilled(line, first, offers.offer(1, 5_000_000, **fields))
    invoice = await stored(payee, HASH)
    assert invoice is not None
    assert (invoice.kind, invoice.state) == (InvoiceKind.BOLT12, InvoiceState.PAID)
    with pytest.raises(CommandError, match="already"):
        await payee.payments.invoices.create_blinded(blinded_invoice())


async def test_a_path_of_another_invoice_pays_nothing(line: Line) -> None:
    payee = line.nodes[1]
    await payee.payments.invoices.create_blinded(blinded_invoice(secret("another path")))
    path_key, fields = blinded(payee)
    sent = Offers(line, HASH).offer(0, TOTAL, current_path_key=path_key, **fields)
    assert await failure(line, sent) == DETAILS


async def test_nobody_inside_a_blinded_path_hears_what_went_wrong(line: Line) -> None:
    """Even that the rest of a payment did not come in time."""
    payee = line.nodes[1]
    payee.payments.receiver._policy = ReceivePolicy(mpp_timeout_s=0.2)
    await payee.payments.invoices.create_blinded(blinded_invoice())
    path_key, fields = blinded(payee)
    to = blinding.hop_keys(secret("session"), [payee.node_id])[0].blinded_node_id
    sent = Offers(line, HASH).offer(0, 4_000_000, path_key=path_key, to=to, **fields)
    outcome = await ended(line, sent)
    assert isinstance(outcome, HtlcFailed)
    assert isinstance(outcome.htlc.resolution, Malformed)
    assert outcome.htlc.resolution.failure_code == INVALID_ONION_BLINDING


async def test_a_blinded_invoice_may_need_no_row_before_it_is_paid(line: Line) -> None:
    payee = line.nodes[1]
    asked: list[tuple[bytes, bytes]] = []

    def recognise(path_id: bytes, payment_hash: bytes) -> BlindedInvoice | None:
        asked.append((path_id, payment_hash))
        return blinded_invoice(path_id) if path_id == PATH_ID else None

    payee.payments.invoices.recognise = recognise
    offers = Offers(line, HASH)
    path_key, fields = blinded(payee, secret("foreign"))
    sent = offers.offer(0, TOTAL, current_path_key=path_key, **fields)
    assert await failure(line, sent) == DETAILS
    path_key, fields = blinded(payee)
    fields["current_path_key"] = path_key
    await fulfilled(
        line, offers.offer(0, 5_000_000, **fields), offers.offer(1, 4_000_000, **fields)
    )
    invoice = await stored(payee, HASH)
    assert invoice is not None
    assert (invoice.state, invoice.description) == (InvoiceState.PAID, "an offer")
    assert (PATH_ID, HASH) in asked
    assert await failure(line, offers.offer(2, TOTAL, **fields)) == DETAILS


def test_a_preimage_is_never_shown() -> None:
    shown = repr((blinded_invoice(), FulfillHtlc(0, PREIMAGE)))
    assert PREIMAGE.hex() not in shown
    assert repr(PREIMAGE) not in shown
    assert repr(PATH_ID) not in shown
