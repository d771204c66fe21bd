"""A payment in several parts, in channels that commit apart, with crashes anywhere between.

The oracle is what is durable: an HTLC is fulfilled only where the invoice says that it paid, what
paid brings what was promised, and none of it ever fails.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from sqlalchemy import create_engine, pool, text
from sqlalchemy.exc import IntegrityError
from support.channels import secret

from back.channel.events import FulfillHtlc
from back.channel.model import Htlc, HtlcState, Phase
from back.payment import receiver as shell
from back.payment.invoices import Invoices
from back.payment.receive import ACCEPTED_CLTV_EXPIRY_DELTA, ReceivePolicy
from back.payment.receiver import Receiver
from back.relay.onion import Final
from back.storage import invoices as stored
from back.storage.invoices import Invoice, InvoiceState
from back.storage.statements import Write, grouped
from back.storage.tables import metadata
from shared.crypto.payload import Payload, PaymentData
from shared.errors import CommandError, StorageUnavailable, WriteRefused

PREIMAGE, SECRET = secret("preimage"), secret("payment secret")
HASH = sha256(PREIMAGE).digest()
ASKED = 1_000
HEIGHT = 500
CHANNELS = 3
TIMEOUT_S = 60.0


class Database:
    """Real tables in memory; commits happen when the test says so."""

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=pool.StaticPool, paramstyle="named")
        metadata.create_all(engine)
        self.connection = engine.connect()
        self.waiting: list[tuple[Sequence[Write], asyncio.Future[None]]] = []
        self.committer = self
        self.decided: Callable[[Sequence[Write]], None] = lambda _: None

    def submit(self, _shards: object, writes: Sequence[Write]) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.decided(writes)
        self.waiting.append((writes, done))
        return done

    async def read(self, query: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return query(self.connection)

    def commit(self, writes: Sequence[Write]) -> None:
        """Write all or nothing."""
        try:
            for group in grouped([writes]):
                sql = group.statement.sql(self.connection.dialect)
                for row in group.rows:
                    count = self.connection.exec_driver_sql(sql, dict(row)).rowcount
                    if group.statement.rows is not None and count != group.statement.rows:
                        raise WriteRefused(f"{count} rows")
        except IntegrityError as error:
            self.connection.rollback()
            raise WriteRefused(str(error)) from None
        except WriteRefused:
            self.connection.rollback()
            raise
        self.connection.commit()

    def close(self) -> None:
        self.connection.close()
        self.connection.engine.dispose()


@dataclass
class Channel:
    """As a runner: what is posted is durable with the channel's next commit only."""

    key_index: int
    decided: Callable[[Sequence[Write]], None]
    inbox: list[tuple[Any, Sequence[Write], Any]] = field(default_factory=list)
    undecided: dict[int, Final] = field(default_factory=dict)
    is_stopped: bool = False

    def __post_init__(self) -> None:
        local = SimpleNamespace(max_accepted_htlcs=8)
        parameters = SimpleNamespace(
            key_index=self.key_index, node_id=b"\x02" + bytes(32), local=local
        )
        self.channel = SimpleNamespace(
            phase=Phase.NORMAL, channel_id=bytes([self.key_index]) * 32, parameters=parameters
        )

    def post(self, event: Any, writes: Sequence[Write] = ()) -> None:
        self.inbox.append((event, writes, None))

    def request(self, event: Any, writes: Sequence[Write] = ()) -> "asyncio.Future[Any]":
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.decided(writes)
        self.inbox.append((event, writes, done))
        return done


@dataclass(frozen=True)
class Plan:
    """An HTLC to come."""

    channel: int
    forwarded_msat: int
    surplus_msat: int
    total_msat: int
    is_proven: bool
    blocks: int


class World:
    """All that is durable, and the process as it runs now."""

    def __init__(self, plans: list[Plan], *, asked_msat: int | None) -> None:
        self.database = Database()
        self.database.decided = self.decided
        self.channels = [Channel(number, self.decided) for number in range(CHANNELS)]
        self.coming = list(enumerate(plans))
        self.plans = plans
        self.height, self.now = HEIGHT, 0.0
        self.resolutions: dict[tuple[int, int], bool] = {}
        invoice = Invoice(HASH, PREIMAGE, SECRET, "", asked_msat, "", 0, 10_000)
        self.database.commit([stored.add_invoice(invoice)])
        self.start()

    def start(self) -> None:
        """A process begins: nothing in memory, every undecided HTLC is told."""
        self.database.waiting.clear()
        signer = chain = SimpleNamespace()
        clock = {"clock": lambda: self.now}
        self.invoices = Invoices(self.database, signer, chain, list, **clock)  # type: ignore[arg-type]
        self.receiver = Receiver(
            self.invoices,
            lambda: self.height,
            lambda _: None,
            ReceivePolicy(mpp_timeout_s=TIMEOUT_S),
            monotonic=lambda: self.now,
            **clock,
        )
        for channel in self.channels:
            channel.inbox.clear()
            for final in channel.undecided.values():
                self.tell(channel, final)

    def tell(self, channel: Channel, final: Final) -> None:
        self.receiver.received(channel, final)  # type: ignore[arg-type]

    async def restart(self) -> None:
        await self.receiver.stop()
        self.start()

    # --- steps ------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """The next HTLC is irrevocably committed."""
        if not self.coming:
            return
        number, plan = self.coming.pop(0)
        channel = self.channels[plan.channel]
        if channel.channel.phase is not Phase.NORMAL:
            return
        data = PaymentData(
            payment_secret=SECRET if plan.is_proven else bytes(32), total_msat=plan.total_msat
        )
        cltv = HEIGHT + ACCEPTED_CLTV_EXPIRY_DELTA + plan.blocks
        htlc = Htlc(
            offered=False,
            id=number,
            amount_msat=plan.forwarded_msat + plan.surplus_msat,
            payment_hash=HASH,
            cltv_expiry=cltv,
            state=HtlcState.RCVD_ADD_ACK_REVOCATION,
            onion_routing_packet=bytes(1366),
        )
        payload = Payload(
            amt_to_forward=plan.forwarded_msat, outgoing_cltv_value=cltv, payment_data=data
        )
        channel.undecided[number] = Final(htlc, payload, bytes(32))
        self.tell(channel, channel.undecided[number])

    def tell_again(self, chance: random.Random) -> None:
        channel = self.channels[chance.randrange(CHANNELS)]
        if channel.undecided:
            self.tell(channel, channel.undecided[chance.choice(list(channel.undecided))])

    def commit_channel(self, number: int) -> None:
        """A channel takes what waits in its inbox."""
        channel = self.channels[number]
        inbox, channel.inbox = channel.inbox, []
        for event, writes, done in inbox:
            try:
                self.database.commit(writes)
            except WriteRefused as error:
                done.set_exception(CommandError(str(error)))
                continue
            if channel.undecided.pop(event.id, None) is not None:
                self.resolutions[number, event.id] = isinstance(event, FulfillHtlc)
            if done is not None:
                done.set_result(None)

    def store(self, outcome: str) -> None:
        """The committer does what was submitted first."""
        if not self.database.waiting:
            return
        writes, done = self.database.waiting.pop(0)
        if done.done():
            return
        if outcome == "away":
            done.set_exception(StorageUnavailable("away"))
            return
        try:
            self.database.commit(writes)
        except WriteRefused as error:
            done.set_exception(error)
        else:
            if outcome == "well":
                done.set_result(None)

    # --- the oracle -------------------------------------------------------------------------------

    def decided(self, writes: Sequence[Write]) -> None:
        """At the moment of a decision every HTLC of it can still be claimed, here."""
        for statement, values in writes:
            if statement.table.name != "received_htlcs":
                continue
            plan = self.plans[values["id"]]  # type: ignore[call-overload]
            assert HEIGHT + plan.blocks >= self.height, "too late to claim"
            assert self.channels[plan.channel].channel.phase is Phase.NORMAL, "out of our hands"

    def paid_by(self) -> set[tuple[int, int]]:
        rows = stored.list_received_htlcs(self.database.connection, HASH)
        return {(row.key_index, row.id) for row in rows}

    def check(self) -> None:
        paid_by = self.paid_by()
        for key, is_fulfilled in self.resolutions.items():
            assert is_fulfilled == (key in paid_by), f"{key} {is_fulfilled}, {paid_by} paid"
        invoice = stored.find_invoice(self.database.connection, HASH)
        assert invoice is not None
        told = self.database.connection.execute(text("select count(*) from outbox")).scalar()
        self.database.connection.rollback()
        if not paid_by:
            assert (invoice.state, told) == (InvoiceState.UNPAID, 0)
            return
        plans = [self.plans[number] for _, number in paid_by]
        assert (invoice.state, told) == (InvoiceState.PAID, 1)
        assert len({plan.total_msat for plan in plans}) == 1
        assert all(plan.is_proven for plan in plans)
        total_msat = plans[0].total_msat
        assert (invoice.amount_msat or 1) <= total_msat <= 2 * (invoice.amount_msat or total_msat)
        assert sum(plan.forwarded_msat for plan in plans) >= total_msat
        brought = sum(plan.forwarded_msat + plan.surplus_msat for plan in plans)
        assert invoice.received_msat == brought


STEPS: dict[str, Callable[[World, random.Random], Any]] = {
    "arrive": lambda w, _: w.arrive(),
    "arrive too": lambda w, _: w.arrive(),
    "arrive now": lambda w, _: w.arrive(),
    "again": lambda w, r: w.tell_again(r),
    "commit": lambda w, r: w.commit_channel(r.randrange(CHANNELS)),
    "store": lambda w, _: w.store("well"),
    "away": lambda w, _: w.store("away"),
    "store and never say so": lambda w, _: w.store("unheard"),
    "wait": lambda w, r: setattr(w, "now", w.now + r.choice([1, 20, 61])),
    "block": lambda w, r: setattr(w, "height", w.height + r.choice([1, 4])),
    "close": lambda w, r: (
        setattr(w.channels[r.randrange(CHANNELS)].channel, "phase", Phase.CLOSING)
        if r.random() < 0.2
        else None
    ),
    "restart": lambda w, _: w.restart(),
}

plans = st.builds(
    Plan,
    channel=st.integers(0, CHANNELS - 1),
    forwarded_msat=st.sampled_from([100, 250, 300, 400, 500, 500, 1_000]),
    surplus_msat=st.sampled_from([0, 0, 0, 7]),
    total_msat=st.sampled_from([ASKED] * 12 + [ASKED + 200, 2 * ASKED, 2 * ASKED + 1, ASKED - 1]),
    is_proven=st.sampled_from([True] * 9 + [False]),
    blocks=st.sampled_from([0, 1, 3, 3, 10, 10]),
)


def whole(count: int) -> list[Plan]:
    """A payment in equal parts."""
    return [
        Plan(number % CHANNELS, -(-ASKED // count), 0, ASKED, True, 3) for number in range(count)
    ]


@contextmanager
def without_sleep() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell, "TICK_S", 0)
        patch.setattr(shell, "RETRY_S", 0)
        yield


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


@settings(max_examples=250, deadline=None)
@given(
    plans=st.one_of(st.lists(plans, min_size=1, max_size=8), st.integers(2, 5).map(whole)),
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=5, max_size=60),
    seed=st.integers(0, 2**32),
    asked_msat=st.sampled_from([ASKED, ASKED, None]),
)
def test_all_of_what_pays_is_fulfilled_and_nothing_else(
    plans: list[Plan], steps: list[str], seed: int, asked_msat: int | None
) -> None:
    with without_sleep():
        asyncio.run(play(World(plans, asked_msat=asked_msat), steps, seed))


async def play(world: World, steps: list[str], seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seed makes it the same again
    try:
        for step in steps:
            result = STEPS[step](world, chance)
            if asyncio.iscoroutine(result):
                await result
            await settle()
            world.check()
        await finish(world)
    finally:
        await world.receiver.stop()
        world.database.close()


async def finish(world: World) -> None:
    """Restart, and let everything end."""
    await world.restart()
    for _ in range(4):
        await settle()
        while world.database.waiting:
            world.store("well")
            await settle()
        for number in range(CHANNELS):
            world.commit_channel(number)
        world.now += TIMEOUT_S
        await settle()
        world.check()
    for channel in world.channels:
        if channel.channel.phase is Phase.NORMAL:
            assert not channel.undecided, "an HTLC was forgotten"
    assert world.receiver.held == 0
    assert not world.receiver._payments
    if world.resolutions and not world.paid_by():
        assert not any(world.resolutions.values())


@settings(max_examples=60, deadline=None)
@given(
    count=st.sampled_from([1, 2, 4, 5, 8]), order=st.randoms(use_true_random=False), data=st.data()
)
def test_a_payment_that_comes_in_time_is_paid_in_any_order_over_any_restart(
    count: int, order: random.Random, data: st.DataObject
) -> None:
    parts = whole(count)
    order.shuffle(parts)
    restarts = data.draw(st.sets(st.integers(0, count)))

    async def run() -> None:
        world = World(parts, asked_msat=ASKED)
        try:
            for number in range(count):
                world.arrive()
                await settle()
                if number in restarts:
                    await world.restart()
                    await settle()
            await finish(world)
            assert len(world.paid_by()) == count
            assert list(world.resolutions.values()) == [True] * count
        finally:
            await world.receiver.stop()
            world.database.close()

    with without_sleep():
        asyncio.run(run())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with without_sleep():
        world = World(whole(2), asked_msat=ASKED)
        yield world
        await world.receiver.stop()
        world.database.close()


async def test_a_set_is_given_up_where_the_time_to_claim_it_has_gone_by(world: World) -> None:
    world.arrive()
    await settle()
    world.height += 4
    await settle()
    world.commit_channel(0)
    assert world.resolutions == {(0, 0): False}


async def test_a_set_that_is_decided_on_too_late_is_given_up(world: World) -> None:
    """The database was away meanwhile."""
    world.arrive()
    world.arrive()
    await settle()
    world.height += 4
    world.store("away")
    await finish(world)
    assert not any(world.resolutions.values())
    assert len(world.resolutions) == 2


async def test_what_the_chain_has_taken_meanwhile_pays_nothing(world: World) -> None:
    world.arrive()
    world.arrive()
    await settle()
    world.channels[0].channel.phase = Phase.CLOSING
    world.store("away")
    await settle()
    world.commit_channel(1)
    assert world.resolutions == {(1, 1): False}
    assert not world.paid_by()


async def test_a_decision_outlives_the_process_before_any_channel_hears_of_it(
    world: World,
) -> None:
    world.arrive()
    world.arrive()
    await settle()
    world.store("unheard")
    await world.restart()
    await settle()
    # Whatever else holds now: nothing of it may fail.
    world.height += 100
    world.now += 1_000_000
    for number in range(2):
        world.commit_channel(number)
    assert world.resolutions == {(0, 0): True, (1, 1): True}
    world.check()


async def test_one_htlc_more_than_it_takes_fails(world: World) -> None:
    """The payer was told to send nothing once all is on its way; nobody is paid twice."""
    world.plans.append(Plan(2, ASKED // 2, 0, ASKED, True, 10))
    world.coming.append((2, world.plans[2]))
    for _ in range(3):
        world.arrive()
        await settle()
    await finish(world)
    assert world.resolutions == {(0, 0): True, (1, 1): True, (2, 2): False}
