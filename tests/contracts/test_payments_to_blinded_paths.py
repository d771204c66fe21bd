"""Payments into blinded paths: through the introduction node, along the path, to us at its end."""

import asyncio
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from support.payment_lines import HEIGHT, TERMS, Line, Node, line_of_nodes

from back.payment.invoices import BlindedInvoice
from back.payment.recipient import BlindedPayPath, BlindedRecipient
from back.payment.send import Order
from back.payment.sending import Sending, SendLimits
from back.storage.invoices import InvoiceState
from back.storage.payments import PaymentState
from shared.crypto.blinding import blind
from shared.crypto.recipient_data import (
    PaymentConstraints,
    PaymentRelay,
    RecipientData,
    encode_padded,
    payinfo,
)

AMOUNT = 20_000_000
RELAY = PaymentRelay(
    cltv_expiry_delta=TERMS.cltv_expiry_delta,
    fee_proportional_millionths=TERMS.fee_proportional_millionths,
    fee_base_msat=TERMS.fee_base_msat,
)
FINAL_DELTA = 40


def blinded_to(
    line: Line, start: int, path_id: bytes, *, relay: PaymentRelay = RELAY, until: int = 10_000
) -> BlindedPayPath:
    """A path from the node at ``start`` to the last one, along the line."""
    nodes = line.nodes[start:]
    limits = PaymentConstraints(max_cltv_expiry=HEIGHT + until, htlc_minimum_msat=1)
    hops = [
        RecipientData(
            short_channel_id=line.scids[node.place][0],
            payment_relay=relay,
            payment_constraints=limits,
        )
        for node in nodes[:-1]
    ]
    hops.append(RecipientData(path_id=path_id, payment_constraints=limits))
    sealed = list(zip((node.node_id for node in nodes), encode_padded(hops), strict=True))
    path = blind(sha256(path_id).digest(), sealed)
    cost = payinfo(
        [relay] * (len(nodes) - 1),
        min_final_cltv_expiry_delta=FINAL_DELTA,
        htlc_minimum_msat=1,
        htlc_maximum_msat=900_000_000,
    )
    return BlindedPayPath(
        path,
        nodes[0].node_id,
        cost.fee_base_msat,
        cost.fee_proportional_millionths,
        cost.cltv_expiry_delta,
        cost.htlc_minimum_msat,
        cost.htlc_maximum_msat,
    )


async def invoiced(node: Node, amount_msat: int, path_id: bytes) -> bytes:
    """Store an invoice that is paid by a path with this id; return its payment_hash."""
    invoice = BlindedInvoice(
        preimage=sha256(b"preimage" + path_id).digest(),
        path_id=path_id,
        amount_msat=amount_msat,
        description="blinded",
        created_at=int(node.payments.invoices._clock()),
        expiry_s=3600,
    )
    return (await node.payments.invoices.create_blinded(invoice)).payment_hash


async def paid(
    node: Node, recipient: BlindedRecipient, payment_hash: bytes, amount_msat: int, **more: int
) -> Sending:
    """Pay and wait for the end."""
    order = Order(recipient, payment_hash, amount_msat, 1 << 40)
    sending = await node.payments.sender.pay_order(order, limits=SendLimits(**more))
    return await asyncio.wait_for(asyncio.shield(sending.done), 20)


@pytest.mark.parametrize("start", [1, 2, 3])
async def test_a_path_of_any_length_is_paid(tmp_path: Path, start: int) -> None:
    async with line_of_nodes(tmp_path, 4) as line:
        first, last = line.nodes[0], line.nodes[3]
        path_id = b"\x05" * 32
        payment_hash = await invoiced(last, AMOUNT, path_id)
        recipient = BlindedRecipient(last.node_id, (blinded_to(line, start, path_id),))
        before = line.balances()
        sending = await paid(first, recipient, payment_hash, AMOUNT)
        assert sending.payment.state is PaymentState.SENT, sending.payment.failures
        await line.quiet()
        gained = [a - b for a, b in zip(line.balances(), before, strict=True)]
        # A path's terms are rounded up to whole millionths: the payee may get a little more.
        assert gained[3] in range(AMOUNT, AMOUNT + 2 * AMOUNT // 1_000_000 + 3)
        assert sum(gained) == 0
        assert all(fee >= TERMS.fee_msat(AMOUNT) for fee in gained[1:3])
        found = await last.payments.invoices.find(payment_hash)
        assert found is not None
        assert found.state is InvoiceState.PAID


async def test_several_paths_carry_what_one_does_not(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 3, channels=2) as line:
        first, _, last = line.nodes
        path_id, amount = b"\x06" * 32, 800_000_000
        payment_hash = await invoiced(last, amount, path_id)
        paths = (blinded_to(line, 1, path_id), blinded_to(line, 1, path_id))
        narrow = tuple(replace(path, htlc_maximum_msat=500_000_000) for path in paths)
        recipient = BlindedRecipient(last.node_id, narrow)
        sending = await paid(first, recipient, payment_hash, amount)
        assert sending.payment.state is PaymentState.SENT, sending.payment.failures
        assert len([part for part in sending.parts.values() if part.is_paid]) > 1
        await line.quiet()


async def test_every_error_on_the_path_is_told_alike_and_another_path_is_tried(
    tmp_path: Path,
) -> None:
    async with line_of_nodes(tmp_path, 4) as line:
        first, last = line.nodes[0], line.nodes[3]
        path_id = b"\x07" * 32
        payment_hash = await invoiced(last, AMOUNT, path_id)
        cheap = RELAY.model_copy(update={"fee_base_msat": 0})
        wrong = (
            blinded_to(line, 1, path_id, relay=cheap),
            blinded_to(line, 1, path_id, until=50),
            blinded_to(line, 1, b"\x08" * 32),
        )
        failed = await paid(
            first, BlindedRecipient(last.node_id, wrong), payment_hash, AMOUNT, max_attempts=9
        )
        assert failed.payment.state is PaymentState.FAILED
        told = {f["failureMessage"].partition(" (")[0] for f in failed.payment.failures[:3]}
        assert told == {"invalid_onion_blinding"}
        assert {f.get("failedNode") for f in failed.payment.failures[:3]} == {
            line.nodes[1].node_id.hex()
        }
        right = BlindedRecipient(last.node_id, (*wrong, blinded_to(line, 1, path_id)))
        sending = await paid(first, right, payment_hash, AMOUNT, max_attempts=9)
        assert sending.payment.state is PaymentState.SENT, sending.payment.failures
        await line.quiet()
