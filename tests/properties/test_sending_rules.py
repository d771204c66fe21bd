"""A payment under any order of outcomes: never too much, never too dear, ended once and for sure.

The world is a bad one: path-finding lies and breaks, channels refuse, HTLCs fail and are paid in
any order, and what one commit decides is heard only after another one was decided.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from support.channels import opened, secret

from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcOffered, OfferRefused
from back.channel.events import OfferHtlc
from back.channel.model import Failed, Fulfilled, Htlc, HtlcState, Resolution
from back.payment import failures
from back.payment.recipient import ClearRecipient
from back.payment.route import Hop, Route, RouteRequest
from back.payment.send import Order, name_of
from back.payment.sender import Sender
from back.payment.sending import Sending, SendLimits, parse_origin
from back.storage import payments as stored
from back.storage.payments import PaymentState
from shared.chain import REGTEST
from shared.crypto import sphinx
from shared.crypto.failures import encode_failure
from shared.crypto.signature import public_key
from shared.errors import BackendError, CommandError

NODES = [public_key(secret("node", number)) for number in range(3)]
PREIMAGE = secret("preimage")
AMOUNT, MAX_FEE = 1_000_000, 3_000
FINAL = encode_failure("incorrect_or_unknown_payment_details", htlc_msat=1, height=1)
PASSING = encode_failure("temporary_node_failure")
FULL = encode_failure("temporary_channel_failure")


@dataclass
class Added:
    """One HTLC that a channel was asked for.

    Attributes:
        state: asked, pending, failed, paid, or gone (never offered).
        told: what was decided and not heard yet.
    """

    offer: OfferHtlc
    number: int
    done: "asyncio.Future[Any]"
    state: str = "asked"
    told: Callable[[], None] | None = None

    @property
    def counts(self) -> bool:
        return self.state in {"asked", "pending", "paid"}


@dataclass
class World:
    """Channels, the database and path-finding, as the sender sees them."""

    added: list[Added] = field(default_factory=list)
    asked: list[tuple[RouteRequest, "asyncio.Future[tuple[Route, ...]]"]] = field(
        default_factory=list
    )
    rows: dict[int, str] = field(default_factory=dict)
    payment: str = ""
    events: int = 0
    outcomes: list[str] = field(default_factory=list)
    is_database_away: bool = False

    def __post_init__(self) -> None:
        runners = {}
        for number in range(2):
            channel = opened()[0]
            parameters = replace(channel.parameters, key_index=number, node_id=NODES[1])
            channel = replace(channel, parameters=parameters, local_alias=7 + number, funding=None)
            runners[bytes([number])] = SimpleNamespace(
                channel=channel, is_stopped=False, request=self._request
            )
        self.names = [name_of(runner.channel) for runner in runners.values()]
        channels = SimpleNamespace(
            runners=runners,
            peers=SimpleNamespace(known={}),
            height=100,
            by_key_index=lambda index: runners[bytes([index])],
        )
        self.channel = runners[b"\x00"].channel
        store = SimpleNamespace(committer=SimpleNamespace(submit=self._submit))
        self.sender = Sender(store, NODES[0], REGTEST, channels, self.outcomes.append)  # type: ignore[arg-type]
        self.sender.finder = self

    # --- path-finding -----------------------------------------------------------------------------

    async def find(self, request: RouteRequest) -> tuple[Route, ...]:
        done: asyncio.Future[tuple[Route, ...]] = asyncio.get_running_loop().create_future()
        self.asked.append((request, done))
        return await done

    def learned(self, lessons: Any) -> None:
        del lessons
        raise RuntimeError("path-finding broke")

    def answer(self, shares: list[int], fees: list[int], lie_msat: int) -> None:
        """Give routes whose amounts are as the shares, or no true ones."""
        request, done = self.asked.pop(0)
        amounts = [request.amount_msat * share // sum(shares) for share in shares]
        amounts[-1] += request.amount_msat - sum(amounts) + lie_msat
        routes = [
            Route(
                amount,
                (
                    Hop(NODES[0], NODES[1], self.names[place % 2]),
                    Hop(NODES[1], NODES[2], 50 + place, fees[place % len(fees)], 0, 40),
                ),
            )
            for place, amount in enumerate(amounts)
        ]
        done.set_result(tuple(routes))

    # --- the database -----------------------------------------------------------------------------

    def _submit(self, shard: int, writes: list[Any]) -> "asyncio.Future[None]":
        del shard
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.write(writes)
        done.set_result(None)
        return done

    def write(self, writes: list[Any], ending: Added | None = None) -> None:
        for statement, values in writes:
            if statement is stored._ADD:
                self.payment = "pending"
            elif statement is stored._ADD_ATTEMPT:
                assert values["number"] not in self.rows, "one row for each part"
                self.rows[values["number"]] = "pending"
            elif statement is stored._END_ATTEMPT:
                assert self.rows[values["number"]] == "pending"
                self.rows[values["number"]] = values["state"]
            elif statement is stored._SENT and self.payment == "pending":
                self.payment = "sent"
            elif statement is stored._FAILED and self.payment == "pending":
                assert not any(a.counts for a in self.added if a is not ending), "it may be paid"
                self.payment = "failed"
            elif statement.table.name == "outbox":
                self.events += 1

    # --- channels ---------------------------------------------------------------------------------

    def _request(self, offer: OfferHtlc) -> "asyncio.Future[Any]":
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.added.append(Added(offer, parse_origin(offer.origin)[1], done))
        return done

    def _htlc(self, one: Added, resolution: Resolution | None = None) -> Htlc:
        return Htlc(
            True,
            one.number,
            one.offer.amount_msat,
            one.offer.payment_hash,
            one.offer.cltv_expiry,
            HtlcState.SENT_ADD_ACK_REVOCATION,
            resolution=resolution,
            origin=one.offer.origin,
        )

    def commit(self, one: Added) -> None:
        one.state = "pending"
        effect = HtlcOffered(self._htlc(one))
        self.write(self.sender.offered(self.channel, effect))
        one.done.set_result(None)
        self.sender.was_offered(effect)

    def refuse(self, one: Added, *, late: bool) -> None:
        one.state = "gone"
        if late:
            one.done.set_result(None)
            self.sender.was_refused(OfferRefused(one.offer.origin, "no room"))
        else:
            one.done.set_exception(CommandError("the channel is stopped"))

    def fail(self, one: Added, why: bytes, layer: int) -> None:
        """Decide; it is heard of by :meth:`hear`."""
        payment_id, number = parse_origin(one.offer.origin)
        sending = self.sender._live.get(payment_id)
        assert sending is not None
        shared = sending.parts[number].tried.shared_secrets
        packet = sphinx.create_error(shared[layer], why) if why else b"junk"
        for each in reversed(shared[:layer]):
            packet = sphinx.wrap_error(each, packet)
        effect = HtlcFailed(self._htlc(one, Failed(packet)))
        rows = self.sender.failed(effect)
        one.state = "failed"
        self.write(rows, one)
        one.told = lambda: self.sender.was_failed(effect)

    def pay(self, one: Added) -> None:
        effect = HtlcFulfilled(self._htlc(one, Fulfilled(PREIMAGE)), PREIMAGE)
        self.write(self.sender.fulfilled(effect))
        one.state = "paid"
        one.told = lambda: self.sender.was_fulfilled(effect)

    def hear(self) -> bool:
        for one in self.added:
            if one.told is not None:
                told, one.told = one.told, None
                told()
                return True
        return False

    # --- what must hold ---------------------------------------------------------------------------

    def check(self, sending: Sending) -> None:
        counting = [sending.parts[one.number].attempt for one in self.added if one.counts]
        assert sum(attempt.amount_msat for attempt in counting) <= AMOUNT
        assert sum(attempt.fees_msat for attempt in counting) <= MAX_FEE
        carried = sum(one.offer.amount_msat for one in self.added if one.counts)
        assert carried <= AMOUNT + MAX_FEE
        assert len(self.outcomes) <= 1
        if sending.done.done():
            assert not any(one.state in {"asked", "pending"} for one in self.added)


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def states(world: World, *names: str) -> list[Added]:
    return [one for one in world.added if one.state in names]


def step(world: World, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    what = draw(
        st.sampled_from(["answer", "no", "broke", "commit", "refuse", "fail", "pay", "hear"])
    )
    match what:
        case "answer" if world.asked:
            shares = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
            fees = draw(st.lists(st.sampled_from([0, 500, 1_500, 2_900]), min_size=1, max_size=3))
            world.answer(shares, fees, draw(st.sampled_from([0, 0, 0, 0, 1, -1, -10])))
        case "no" | "broke" if world.asked:
            errors = [CommandError("none"), BackendError("away"), RuntimeError("a bug")]
            error = errors[0] if what == "no" else draw(st.sampled_from(errors[1:]))
            world.asked.pop(0)[1].set_exception(error)
        case "commit" if found := states(world, "asked"):
            world.commit(draw(st.sampled_from(found)))
        case "refuse" if found := states(world, "asked"):
            world.refuse(draw(st.sampled_from(found)), late=draw(st.booleans()))
        case "fail" if found := states(world, "pending"):
            one = draw(st.sampled_from(found))
            how = [(FINAL, 1), (PASSING, 1), (FULL, 0), (FULL, 0), (b"", 0)]
            world.fail(one, *draw(st.sampled_from(how)))
        case "pay" if found := states(world, "pending"):
            world.pay(draw(st.sampled_from(found)))
        case "hear":
            world.hear()


async def begun(world: World) -> Sending:
    recipient = ClearRecipient(NODES[2], secret("secret"), 18, takes_parts=True)
    order = Order(recipient, sha256(PREIMAGE).digest(), AMOUNT, 1 << 40)
    return await world.sender.pay_order(order, limits=SendLimits(max_fee_msat=MAX_FEE))


async def run(draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    world = World()
    sending = await begun(world)
    for _ in range(draw(st.integers(0, 40))):
        step(world, draw)
        await settled()
        world.check(sending)
    # At last everything comes to its end.
    while not sending.done.done():
        before = [one.state for one in world.added], len(world.asked)
        if world.asked:
            world.asked.pop(0)[1].set_exception(CommandError("none"))
        for one in states(world, "asked"):
            world.refuse(one, late=True)
        for one in states(world, "pending"):
            world.fail(one, FULL, 0)
        heard = world.hear()
        await settled()
        world.check(sending)
        stands_still = before == ([one.state for one in world.added], len(world.asked))
        assert sending.done.done() or heard or not stands_still, "it hangs"
    while world.hear():
        world.check(sending)
    paid = states(world, "paid")
    outcome = "sent" if paid else "failed"
    assert (world.payment, world.outcomes, world.events) == (outcome, [outcome], 1)
    assert sending.payment.state is (PaymentState.SENT if paid else PaymentState.FAILED)
    fees_msat = sum(sending.parts[one.number].attempt.fees_msat for one in paid)
    assert sending.payment.fees_msat == fees_msat
    assert (len(world.sender._live), world.sender.exits._reserved) == (0, {})
    offered = {one.number: one.state for one in world.added if one.state != "gone"}
    assert world.rows == {n: "sent" if s == "paid" else s for n, s in offered.items()}
    await world.sender.stop()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_payment_keeps_its_rules_whatever_happens(data: st.DataObject) -> None:
    asyncio.run(run(data.draw))


async def in_two_parts(world: World) -> tuple[Sending, Added, Added]:
    sending = await begun(world)
    await settled()
    world.answer([1, 1], [0], 0)
    await settled()
    for one in world.added:
        world.commit(one)
    return sending, world.added[0], world.added[1]


async def test_two_parts_that_fail_for_good_at_once_end_the_payment_in_the_database_too() -> None:
    world = World()
    sending, one, other = await in_two_parts(world)
    world.fail(one, FINAL, 1)
    world.fail(other, FINAL, 1)
    while world.hear():
        pass
    await settled()
    assert sending.done.done()
    assert (world.payment, world.outcomes, world.events) == ("failed", ["failed"], 1)


async def test_a_payment_that_is_paid_while_ways_are_looked_for_ends_once() -> None:
    world = World()
    sending, one, other = await in_two_parts(world)
    world.fail(one, FULL, 0)
    world.hear()
    await settled()
    assert world.asked
    world.pay(other)
    world.hear()
    await settled()
    world.answer([1], [0], 0)
    await settled()
    assert sending.done.done()
    assert (world.payment, world.outcomes, len(world.added)) == ("sent", ["sent"], 2)


async def test_a_bug_of_path_finding_ends_the_payment() -> None:
    world = World()
    sending = await begun(world)
    await settled()
    world.asked.pop()[1].set_exception(RuntimeError("a bug"))
    await settled()
    assert sending.done.done()
    assert (world.payment, world.outcomes) == ("failed", ["failed"])
    assert sending.payment.failures[0]["failureMessage"] == "an internal error"


async def test_an_error_that_breaks_its_reader_does_not_keep_the_channel_from_its_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    world = World()
    sending, one, other = await in_two_parts(world)
    monkeypatch.setattr(failures, "judge", broken)
    for each in (one, other):
        world.fail(each, FULL, 0)
        world.hear()
    await settled()
    assert (world.payment, sending.done.done()) == ("failed", True)
