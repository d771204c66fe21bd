"""Forwards when something breaks: no HTLC is failed that may still be paid, none is forgotten."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.payment_lines import (
    HEIGHT,
    Line,
    Node,
    Sent,
    ended,
    held,
    hold,
    line_of_nodes,
    send,
)
from support.waiting import until

from back.channel.effects import HtlcFailed, HtlcFulfilled
from back.channel.events import (
    Close,
    FailHtlc,
    ForceClose,
    FulfillHtlc,
    FundingSpent,
    OfferHtlc,
    Received,
)
from back.channel.model import Failed, Fulfilled, Htlc, Phase
from back.runner import ChannelRunner
from back.storage.statements import Write
from back.transactions.transaction import Input, Output, legacy_bytes
from shared import bolt11
from shared.crypto import sphinx
from shared.crypto.failures import decode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.errors import (
    InvariantError,
    LeaseLost,
    StorageUnavailable,
    WriteRefused,
)
from shared.wire import CommitmentSigned, Message, RevokeAndAck, UpdateFailHtlc

AMOUNT = 10_000_000
FEE = 1_000 + AMOUNT * 200 // 1_000_000
PREIMAGE = hashlib.sha256(b"held").digest()
HASH = hashlib.sha256(PREIMAGE).digest()


async def invoiced(node: Node, amount_msat: int = AMOUNT) -> tuple[bytes, bytes]:
    """Make an invoice; return its hash and secret."""
    invoice = bolt11.decode(await node.invoice(amount_msat))
    return invoice.payment_hash, invoice.payment_secret


async def arrived(line: Line, count: int = 1) -> list[Htlc]:
    """Wait until so many HTLCs are held by the last node."""
    last, before = line.nodes[-1], line.nodes[-2]
    await until(lambda: len(held(last, before)) == count, f"{count} HTLCs are at the end")
    return held(last, before)


async def nothing_is_told(line: Line, sent: Sent) -> None:
    """Give the middle node every chance to end an HTLC, and see that it does not.

    An HTLC that it fails at once, behind this one in the same channel, is the proof.
    """
    first, middle = line.nodes[:2]
    middle.relay.upstream.repeat()
    middle.relay.downstream.repeat()
    if first.channel(middle).phase is Phase.NORMAL:
        scids = [77] * (len(line.nodes) - 2)
        last = send(line, bytes(32), bytes(32), AMOUNT, scids=scids, name=sent.origin)
        await ended(line, last)
        await until(lambda: len(held(middle, first)) == 1, "only one is left")
    assert sent.outcome(first) is None
    assert held(middle, first)[0].resolution is None


def failure(sent: Sent, outcome: object) -> tuple[int, str]:
    """Who failed an HTLC, and why."""
    assert isinstance(outcome, HtlcFailed)
    assert isinstance(outcome.htlc.resolution, Failed)
    error = sphinx.unwrap_error(sent.secrets, outcome.htlc.resolution.reason)
    assert error is not None
    return error.hop + 1, decode_failure(error.message).name


class Delayed:
    """Holds back what a node says to another from one kind of message on, until it is let go."""

    def __init__(self, node: Node, other: Node, kind: type[Message]) -> None:
        self._wire = node.wires[other.node_id]
        self._send = self._wire.send
        self._kind = kind
        self.messages: list[Message] = []
        self._wire.send = self._hold  # type: ignore[method-assign]

    def _hold(self, message: Message) -> None:
        if self.messages or isinstance(message, self._kind):
            self.messages.append(message)
        else:
            self._send(message)

    def let_go(self) -> None:
        self._wire.send = self._send  # type: ignore[method-assign]
        for message in self.messages:
            self._send(message)


class Spoiled:
    """A runner's world in which commits fail.

    Attributes:
        errors: of the next commits that hold a forward.
        happens: they are durable all the same.
        refused: how many have failed.
    """

    def __init__(
        self, runner: ChannelRunner, errors: Iterable[BaseException], *, happens: bool = False
    ) -> None:
        self._world = runner.world
        self.errors = list(errors)
        self.happens = happens
        self.refused = 0
        runner.world = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    async def commit(self, channel: Any, writes: list[Write]) -> None:
        if not self.errors or not any(w.statement.table.name == "forwards" for w in writes):
            await self._world.commit(channel, writes)
            return
        if self.happens:
            await self._world.commit(channel, writes)
        self.refused += 1
        raise self.errors.pop(0)


# --- commits that fail ----------------------------------------------------------------------------


LOST = [
    pytest.param(lambda: LeaseLost((1,)), id="lease lost"),
    pytest.param(lambda: InvariantError("the committer broke"), id="committer broke"),
    pytest.param(asyncio.CancelledError, id="the process ends"),
]


@pytest.mark.parametrize("error", LOST)
@pytest.mark.parametrize("waits", [True, False])
async def test_a_forward_whose_commit_may_have_happened_is_not_failed(
    tmp_path: Path, error: Callable[[], BaseException], waits: bool
) -> None:
    """The add is in the database and no word of it came back: the next owner will send it."""
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        runner = middle.runner(last)
        if waits:
            # Another HTLC is being added: ours waits in the channel for the revocation.
            delayed = Delayed(last, middle, RevokeAndAck)
            before = send(line, *await invoiced(last), AMOUNT)
            await until(lambda: bool(delayed.messages), "the first one is being added")
        Spoiled(runner, [error()], happens=True)
        sent = send(line, *await invoiced(last), AMOUNT)
        if waits:
            await until(lambda: bool(runner.channel.queue), "ours waits")
            delayed.let_go()
        await until(lambda: runner.is_stopped, "the outgoing channel is given up")
        if not waits:
            await nothing_is_told(line, sent)
        else:
            for _ in range(50):
                middle.relay.upstream.repeat()
                await first.store.read(lambda c: None)
            assert sent.outcome(first) is None
        await line.restart(middle)
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        if waits:
            assert isinstance(await ended(line, before), HtlcFulfilled)
        await line.quiet()


@pytest.mark.parametrize("channels", [1, 2])
async def test_a_forward_that_the_database_refuses_fails(tmp_path: Path, channels: int) -> None:
    """The refused step ended the connection: no other channel with that peer can take it."""
    async with line_of_nodes(tmp_path, channels=channels) as line:
        first, middle, last = line.nodes
        before = line.balances()
        Spoiled(middle.runner(last), [WriteRefused("a constraint")])
        sent = send(line, *await invoiced(last), AMOUNT)
        assert failure(sent, await ended(line, sent)) == (1, "temporary_channel_failure")
        await until(lambda: not first.channel(middle).htlcs, "it is gone")
        assert line.balances() == before
        assert not middle.relay.downstream.pending
        assert not len(middle.relay.market.pending)
        assert not middle.channel(last).htlcs


async def test_innocent_forwards_survive_a_refused_one_of_their_commit(tmp_path: Path) -> None:
    """What one step took is tried again one by one; nothing is lost and nothing goes twice."""
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        before = line.balances()
        Spoiled(middle.runner(last), [WriteRefused("a constraint")])
        amounts = [AMOUNT + number for number in range(6)]
        sents = [send(line, *await invoiced(last, amount), amount) for amount in amounts]
        await until(lambda: not middle.wires.get(last.node_id), "the connection is reset")
        line.connect(middle, last)
        outcomes = [await ended(line, sent) for sent in sents]
        await line.quiet()
        paid = [
            amount
            for amount, outcome in zip(amounts, outcomes, strict=True)
            if isinstance(outcome, HtlcFulfilled)
        ]
        after = line.balances()
        assert after[2] - before[2] == sum(paid)
        assert after[1] - before[1] == sum(middle.terms.fee_msat(amount) for amount in paid)
        assert not middle.relay.upstream.pending
        assert not middle.relay.downstream.pending


async def test_while_the_database_is_away_a_forward_waits(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        away = [StorageUnavailable("away")] * 3
        Spoiled(middle.runner(last), away)
        sent = send(line, *await invoiced(last), AMOUNT)
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        await line.quiet()
        assert middle.relayed == ["fulfilled"]


async def test_what_was_noted_is_stored_also_when_the_outgoing_channel_is_over(
    tmp_path: Path,
) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        await ended(line, send(line, *await invoiced(last), AMOUNT))
        await line.quiet()
        await until(lambda: not middle.relay.upstream.pending, "upstream noted it")
        middle.channels._remove(middle.runner(last))
        await middle.relay._flush()
        noted = await middle.store.read(
            lambda c: c.exec_driver_sql("SELECT is_noted FROM forwards").scalars().all()
        )
        assert noted == [1]


# --- channels that stop or close ------------------------------------------------------------------


async def test_a_channel_that_a_bug_stops_keeps_its_forwards_open(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        runner = middle.runner(last)
        runner.post(object())  # type: ignore[arg-type]  # no event: the machine knows no rule for it
        await until(lambda: runner.is_stopped, "the channel stops")
        last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
        await nothing_is_told(line, sent)
        await line.restart(middle)
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        await line.quiet()


async def test_a_settlement_waits_for_the_start_where_the_incoming_channel_has_stopped(
    tmp_path: Path,
) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        runner = middle.runner(first)
        runner.post(object())  # type: ignore[arg-type]
        await until(lambda: runner.is_stopped, "the channel stops")
        last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
        await until(lambda: not last.channel(middle).htlcs, "downstream is settled")
        for _ in range(3):
            middle.relay.downstream.repeat()
        assert middle.relay.downstream.pending == 1
        await line.restart(middle)
        assert isinstance(await ended(line, sent), HtlcFulfilled)


def spending(runner: ChannelRunner) -> FundingSpent:
    """Somebody spends the funding output."""
    assert runner.channel.funding is not None
    outpoint = runner.channel.funding.outpoint
    output = Output(900_000, b"\0\x14" + bytes(20))
    return FundingSpent(legacy_bytes((Input(outpoint, 0xFFFFFFFD),), (output,), 0), HEIGHT + 1)


@pytest.mark.parametrize("whose", ["ours", "the chain's"])
async def test_a_forward_stays_open_while_its_outgoing_channel_goes_on_chain(
    tmp_path: Path, whose: str
) -> None:
    """The peer may still take it there: only what the chain says can end it."""
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        await arrived(line)
        runner = middle.runner(last)
        event = ForceClose("a test") if whose == "ours" else spending(runner)
        runner.post(event)
        await until(lambda: runner.channel.phase is Phase.CLOSING, "it is on chain")
        await nothing_is_told(line, sent)
        assert middle.relay.upstream.pending == 1
        line.cut(middle, last)
        await middle.stop()
        await middle.start()
        line.connect(line.nodes[0], middle)
        await until(lambda: middle.relay.upstream.pending == 1, "it is taken up again")
        assert middle.relay.downstream.pending == 1
        assert not held(middle, line.nodes[0])[0].resolution


async def test_a_preimage_is_kept_for_an_incoming_channel_that_goes_on_chain(
    tmp_path: Path,
) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        hold(last)
        send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        runner = middle.runner(first)
        await runner.request(ForceClose("a test"))
        assert runner.channel.phase is Phase.CLOSING
        last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
        await until(
            lambda: [h.resolution for h in held(middle, first)] == [Fulfilled(PREIMAGE)],
            "what may be claimed on chain is known",
        )
        line.cut(middle, last)
        await middle.stop()
        await middle.start()
        assert [h.resolution for h in held(middle, first)] == [Fulfilled(PREIMAGE)]


async def test_nothing_new_is_forwarded_for_an_incoming_channel_that_goes_on_chain(
    tmp_path: Path,
) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        sink = middle.channels.payments
        sink._relay = SimpleNamespace(received=lambda *_, **__: None)  # type: ignore[attr-defined]
        send(line, *await invoiced(last), AMOUNT)
        await until(lambda: bool(held(middle, first)), "it came in")
        await middle.runner(first).request(ForceClose("a test"))
        line.cut(first, middle)
        line.cut(middle, last)
        await middle.stop()
        await middle.start()
        line.connect(middle, last)
        await until(lambda: middle.relay.upstream.pending == 1, "it was looked at")
        middle.relay.upstream.repeat()
        assert not middle.relay.downstream.pending
        assert not last.channel(middle).htlcs


async def test_an_incoming_channel_that_shuts_down_still_gets_its_preimage(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        runner = middle.runner(first)
        runner.post(Close(runner.channel.parameters.default_shutdown_script))
        await until(lambda: runner.channel.phase is Phase.SHUTDOWN, "it shuts down")
        last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
        assert isinstance(await ended(line, sent), HtlcFulfilled)


# --- the words of the next peer -------------------------------------------------------------------


async def test_a_preimage_settles_upstream_before_it_is_signed_for(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        last.wires[middle.node_id].held = (CommitmentSigned,)
        middle.wires[last.node_id].sent.clear()
        last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        assert not middle.wires[last.node_id].sent, "nothing was signed or revoked for it"
        state, preimage = (
            await middle.store.read(
                lambda c: c.exec_driver_sql("SELECT state, preimage FROM forwards").all()
            )
        )[0]
        assert (state, preimage) == ("fulfilled", PREIMAGE)
        await line.restart(middle)
        await line.quiet()


@pytest.mark.parametrize("kind", [CommitmentSigned, RevokeAndAck])
async def test_a_failure_goes_upstream_once_it_is_irrevocable(
    tmp_path: Path, kind: type[Message]
) -> None:
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        delayed = Delayed(last, middle, kind)
        last.runner(middle).post(FailHtlc(htlc.id, bytes(292)))
        await until(lambda: bool(delayed.messages), "the failure is not signed for")
        await nothing_is_told(line, sent)
        delayed.let_go()
        assert isinstance(await ended(line, sent), HtlcFailed)
        await line.quiet()


async def test_a_failure_that_was_not_signed_for_may_become_a_payment(tmp_path: Path) -> None:
    """The peer says that it fails, goes away before it signs, and comes back with the preimage."""
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        hold(last)
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        channel_id = middle.channel(last).channel_id
        said = UpdateFailHtlc(channel_id=channel_id, id=htlc.id, reason=bytes(292))
        middle.runner(last).post(Received(said))
        await until(
            lambda: middle.channel(last).htlcs[True, htlc.id].resolution is not None, "it is heard"
        )
        line.cut(middle, last)
        line.connect(middle, last)
        await line.online()
        last.runner(middle).post(FulfillHtlc(htlc.id, PREIMAGE))
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        await line.quiet()


@pytest.mark.parametrize("blocks", [37, 38, 90])
async def test_an_htlc_that_waited_too_long_for_a_revocation_is_not_added_any_more(
    tmp_path: Path, blocks: int
) -> None:
    """Who pays and who is paid may be one: a late preimage would find us without time to use it."""
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        runner = middle.runner(last)
        delayed = Delayed(last, middle, RevokeAndAck)
        before = send(line, *await invoiced(last), AMOUNT, final_delta=1_500)
        await until(lambda: bool(delayed.messages), "the first one is being added")
        sent = send(line, *await invoiced(last), AMOUNT)
        await until(lambda: bool(runner.channel.queue), "ours waits")
        middle.channels.block_connected(HEIGHT + blocks)
        await until(lambda: runner.channel.height == HEIGHT + blocks, "time goes by")
        delayed.let_go()
        assert isinstance(await ended(line, before), HtlcFulfilled)
        outcome = await ended(line, sent)
        if blocks == 37:
            assert isinstance(outcome, HtlcFulfilled)
        else:
            assert failure(sent, outcome) == (1, "temporary_channel_failure")
        await line.quiet()


@pytest.mark.parametrize("reason", [b"", b"x", bytes(60_000)])
async def test_an_error_of_any_length_is_passed_on(tmp_path: Path, reason: bytes) -> None:
    async with line_of_nodes(tmp_path) as line:
        hold(line.nodes[2])
        sent = send(line, HASH, bytes(32), AMOUNT)
        (htlc,) = await arrived(line)
        line.nodes[2].runner(line.nodes[1]).post(FailHtlc(htlc.id, reason))
        outcome = await ended(line, sent)
        assert isinstance(outcome, HtlcFailed)
        assert isinstance(outcome.htlc.resolution, Failed)
        assert len(outcome.htlc.resolution.reason) == len(reason)
        await line.quiet()


async def test_htlcs_with_one_hash_end_each_by_its_own(tmp_path: Path) -> None:
    """Whoever shows a preimage once has paid once: the others are not settled by it."""
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        before = line.balances()
        hold(last)
        sents = [send(line, HASH, bytes(32), AMOUNT, name=str(n)) for n in range(4)]
        one, *others = await arrived(line, 4)
        last.runner(middle).post(FulfillHtlc(one.id, PREIMAGE))
        await until(lambda: any(sent.outcome(first) for sent in sents), "one is paid")
        assert sum(sent.outcome(first) is not None for sent in sents) == 1
        await line.restart(middle)
        hold(last)
        for htlc in others:
            last.runner(middle).post(FailHtlc(htlc.id, bytes(292)))
        outcomes = [await ended(line, sent) for sent in sents]
        assert sum(isinstance(outcome, HtlcFulfilled) for outcome in outcomes) == 1
        await line.quiet()
        assert line.balances() == [before[0] - AMOUNT - FEE, before[1] + FEE, before[2] + AMOUNT]


# --- disconnections -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_paid", [True, False])
@pytest.mark.parametrize("left", range(14))
async def test_a_connection_that_ends_at_any_message_loses_nothing(
    tmp_path: Path, left: int, is_paid: bool
) -> None:
    """The middle node may say so many messages to one side; then that side reconnects."""
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        before = line.balances()
        payment_hash, secret = await invoiced(last)
        if not is_paid:
            payment_hash = hashlib.sha256(payment_hash).digest()
        other = [last, first][left % 2]
        wire = middle.wires[other.node_id]
        wire.left = left // 2
        sent = send(line, payment_hash, secret, AMOUNT)
        await until(
            lambda: not wire.is_open or sent.outcome(first) is not None, "the wire is cut, or over"
        )
        line.cut(middle, other)
        line.connect(middle, other)
        await line.online()
        outcome = await ended(line, sent)
        await line.quiet()
        if isinstance(outcome, HtlcFulfilled):
            assert is_paid
            assert line.balances() == [
                before[0] - AMOUNT - FEE,
                before[1] + FEE,
                before[2] + AMOUNT,
            ]
        else:
            assert line.balances() == before
        assert not middle.relay.upstream.pending
        assert not middle.relay.downstream.pending
        assert not len(middle.relay.market.pending)


# --- loops ----------------------------------------------------------------------------------------


def send_in_a_circle(line: Line, payment_hash: bytes, secret: bytes, scid: int) -> Sent:
    """The first node pays itself through the second one, out of the channel that it came by."""
    first, second = line.nodes
    final = Payload(
        amt_to_forward=AMOUNT,
        outgoing_cltv_value=HEIGHT + 40,
        payment_data=PaymentData(payment_secret=secret, total_msat=AMOUNT),
    )
    relayed = Payload(amt_to_forward=AMOUNT, outgoing_cltv_value=HEIGHT + 40, short_channel_id=scid)
    hops = [
        sphinx.Hop(second.node_id, encode_payload(relayed)),
        sphinx.Hop(first.node_id, encode_payload(final)),
    ]
    onion = sphinx.build(hashlib.sha256(payment_hash).digest(), hops, payment_hash)
    origin = f"test:{payment_hash.hex()}"
    offer = OfferHtlc(AMOUNT + FEE, payment_hash, HEIGHT + 80, onion.packet, origin)
    first.runner(second).post(offer)
    return Sent(origin, payment_hash, onion.shared_secrets)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("is_paid", [True, False])
async def test_an_htlc_may_go_back_by_the_channel_by_which_it_came(
    tmp_path: Path, channels: int, is_paid: bool
) -> None:
    async with line_of_nodes(tmp_path, 2, channels, push_msat=400_000_000) as line:
        first, middle = line.nodes
        before = line.balances()
        payment_hash, secret = await invoiced(first)
        if not is_paid:
            secret = bytes(32)
        sent = send_in_a_circle(line, payment_hash, secret, line.scids[0][channels - 1])
        outcome = await ended(line, sent)
        assert isinstance(outcome, HtlcFulfilled) is is_paid
        await line.quiet()
        earned = FEE if is_paid else 0
        assert line.balances() == [before[0] - earned, before[1] + earned]
        assert not middle.relay.upstream.pending
        assert not middle.relay.downstream.pending


async def test_a_circle_is_paid_after_a_restart_in_its_middle(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path, 2, push_msat=400_000_000) as line:
        first, middle = line.nodes
        hold(first)
        sent = send_in_a_circle(line, HASH, bytes(32), line.scids[0][0])
        await until(lambda: bool(held(first, middle)), "it came back")
        await line.restart(middle)
        assert len(held(first, middle)) == 1
        first.runner(middle).post(FulfillHtlc(held(first, middle)[0].id, PREIMAGE))
        assert isinstance(await ended(line, sent), HtlcFulfilled)
        await line.quiet()
