"""The two sides of a forward, with messages lost, doubled and late, and either side restarted.

The oracle is the money: an incoming HTLC is paid if and only if the outgoing one was, and fails
only where no outgoing one is or will be there.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings, strategies as st

from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcOffered
from back.channel.events import FulfillHtlc, OfferHtlc
from back.channel.model import Failed, Htlc, HtlcState, Phase
from back.relay.downstream import Downstream, origin_of
from back.relay.handoff import ForwardId, Noted, Offer
from back.relay.onion import Forward
from back.relay.upstream import REPEAT_S, Upstream
from back.storage.forwards import ForwardState, OpenForward, StoredForward
from back.storage.statements import Write
from shared.errors import CommandError

IN_KEY, OUT_KEY = 1, 2
IN_PEER, OUT_PEER = b"\x02" + bytes(32), b"\x03" + bytes(32)


def preimage_of(number: int) -> bytes:
    return sha256(b"preimage%d" % number).digest()


def htlc_of(number: int, *, offered: bool, resolution: Any = None) -> Htlc:
    return Htlc(
        offered=offered,
        id=number,
        amount_msat=1_000_000,
        payment_hash=sha256(preimage_of(number)).digest(),
        cltv_expiry=500,
        state=HtlcState.RCVD_ADD_ACK_REVOCATION,
        resolution=resolution,
    )


@dataclass
class World:
    """Everything durable, the messages on their way, and both sides as they run now."""

    count: int
    resolutions: dict[int, Any] = field(default_factory=dict)
    """Of incoming HTLCs, durable."""
    ledger: dict[ForwardId, StoredForward] = field(default_factory=dict)
    noted: set[ForwardId] = field(default_factory=set)
    adds: dict[int, str] = field(default_factory=dict)
    """Outgoing HTLCs by the number of the incoming one: pending, fulfilled, failed."""
    down: list[Any] = field(default_factory=list)
    up: list[Any] = field(default_factory=list)
    now: float = 0.0
    has_room: bool = True
    waiting: list[tuple[OfferHtlc, asyncio.Future[Any]]] = field(default_factory=list)
    """Adds that wait for their commit: they are lost with a restart."""

    def __post_init__(self) -> None:
        self.start_downstream()
        self.start_upstream()

    # --- the two sides ------------------------------------------------------------------------

    def start_upstream(self) -> None:
        self.up.clear()
        self.incoming = SimpleNamespace(
            is_stopped=False,
            request=self._settle,
            channel=SimpleNamespace(phase=Phase.NORMAL, htlcs=self),
        )
        self.upstream = Upstream(
            self,
            lambda _: None,
            lambda _: self.incoming,
            lambda: self.now,  # type: ignore[arg-type,return-value]
        )
        for number in range(self.count):
            if number not in self.resolutions:
                self._tell(number)

    def get(self, key: tuple[bool, int]) -> Htlc | None:
        """As the incoming channel's ``htlcs``."""
        return htlc_of(key[1], offered=False, resolution=self.resolutions.get(key[1]))

    def _tell(self, number: int) -> None:
        htlc = htlc_of(number, offered=False)
        forward = Forward(htlc, 1, None, 999_000, 400, bytes(1366), bytes(32))
        offer = Offer(
            key_index=IN_KEY,
            htlc_id=number,
            in_node_id=IN_PEER,
            in_amount_msat=1_000_000,
            in_cltv_expiry=500,
            out_node_id=OUT_PEER,
            short_channel_id=1,
            amount_msat=999_000,
            cltv_expiry=400,
            payment_hash=htlc.payment_hash,
            onion_routing_packet=bytes(1366),
            received_at_ms=1,
            attempt=int(self.now * 1000),
        )
        self.upstream.received(self.incoming, forward, offer)  # type: ignore[arg-type]

    def start_downstream(self) -> None:
        self.down.clear()
        self.waiting.clear()
        self.outgoing = SimpleNamespace(
            request=self._add,
            channel=SimpleNamespace(parameters=SimpleNamespace(key_index=OUT_KEY)),
        )
        self.downstream = Downstream(self, self, monotonic=lambda: self.now)  # type: ignore[arg-type]
        self.downstream.restore(
            OpenForward(row, IN_PEER, OUT_PEER)
            for key, row in self.ledger.items()
            if key not in self.noted
        )

    # --- carrier ------------------------------------------------------------------------------

    def to_downstream(self, message: Any, out_node_id: bytes) -> None:
        del out_node_id
        self.down.append(type(message).model_validate_json(message.to_bytes()))

    def to_upstream(self, message: Any, in_node_id: bytes) -> None:
        assert in_node_id == IN_PEER
        self.up.append(type(message).model_validate_json(message.to_bytes()))

    # --- the incoming channel -----------------------------------------------------------------

    def _settle(self, event: Any) -> "asyncio.Future[Any]":
        done = asyncio.get_running_loop().create_future()
        if event.id not in self.resolutions:
            self.resolutions[event.id] = event
        done.set_result(None)
        return done

    # --- the outgoing channel and its database (Market too) -----------------------------------

    def ways(self, offer: Offer) -> list[Any]:
        del offer
        return [self.outgoing]

    def refusal(self, offer: Offer, channel: Any) -> bytes:
        del offer, channel
        return b"" if self.has_room else b"\x10\x07\0\0"

    def began(self, *_: Any) -> None:
        pass

    ended = began

    def relayed(self, *_: Any) -> list[Write]:
        return []

    def _add(self, event: OfferHtlc) -> "asyncio.Future[Any]":
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((event, done))
        return done

    def commit_add(self, *, refuse: bool) -> None:
        """Make the oldest add durable, or have the channel refuse it."""
        if not self.waiting:
            return
        event, done = self.waiting.pop(0)
        number = int(event.origin.rpartition(":")[2])
        if refuse:
            done.set_exception(CommandError("no room"))
            return
        done.set_result(None)
        effect = HtlcOffered(self._outgoing(number))
        (write,) = self.downstream.offered(self.outgoing.channel, effect)
        key = ForwardId(IN_KEY, number)
        assert key not in self.ledger, "forwarded twice"
        values = dict(write.values)
        self.ledger[key] = StoredForward(
            key,
            OUT_KEY,
            values["out_htlc_id"],
            b"",
            0,
            0,
            0,  # type: ignore[arg-type]
        )
        self.adds[number] = "pending"
        self.downstream.was_offered(effect)

    def _outgoing(self, number: int, resolution: Any = None) -> Htlc:
        htlc = htlc_of(number, offered=True, resolution=resolution)
        return Htlc(**{**_fields(htlc), "origin": origin_of(ForwardId(IN_KEY, number))})

    def end_add(self, number: int, *, is_paid: bool) -> None:
        """The next peer ends an HTLC."""
        if self.adds.get(number) != "pending":
            return
        key = ForwardId(IN_KEY, number)
        row = self.ledger[key]
        if is_paid:
            effect = HtlcFulfilled(self._outgoing(number), preimage_of(number))
            self.downstream.fulfilled(effect)
            state, more = ForwardState.FULFILLED, {"preimage": preimage_of(number)}
        else:
            failed = HtlcFailed(self._outgoing(number, Failed(b"why")))
            self.downstream.failed(failed)
            state, more = ForwardState.FAILED, {"reason": b"why"}
        self.ledger[key] = StoredForward(**{**_fields(row), "state": state, **more})
        self.adds[number] = state.value
        if is_paid:
            self.downstream.was_fulfilled(effect)
        else:
            self.downstream.was_failed(failed)

    # --- time ---------------------------------------------------------------------------------

    def tick(self) -> None:
        self.now += REPEAT_S
        self.upstream.repeat()
        self.downstream.repeat()

    def deliver(self, queue: list[Any], place: int, *, keep: bool) -> None:
        if not queue:
            return
        place %= len(queue)
        message = queue[place] if keep else queue.pop(place)
        if queue is self.down:
            if isinstance(message, Noted):
                self.noted.add(message.id)
            self.downstream.receive(message)
        else:
            self.upstream.receive(message)

    def check(self) -> None:
        for number, event in self.resolutions.items():
            out = self.adds.get(number)
            if isinstance(event, FulfillHtlc):
                assert event.payment_preimage == preimage_of(number)
                assert out == "fulfilled"
            else:
                assert out in {None, "failed"}, f"failed upstream, {out} downstream"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__dataclass_fields__}


STEPS: dict[str, Callable[[World, random.Random], None]] = {
    "down": lambda w, r: w.deliver(w.down, r.randrange(8), keep=False),
    "up": lambda w, r: w.deliver(w.up, r.randrange(8), keep=False),
    "down twice": lambda w, r: w.deliver(w.down, r.randrange(8), keep=True),
    "up twice": lambda w, r: w.deliver(w.up, r.randrange(8), keep=True),
    "lose down": lambda w, r: w.down and w.down.pop(r.randrange(len(w.down))) and None,
    "lose up": lambda w, r: w.up and w.up.pop(r.randrange(len(w.up))) and None,
    "commit": lambda w, _: w.commit_add(refuse=False),
    "refuse": lambda w, _: w.commit_add(refuse=True),
    "pay": lambda w, r: w.end_add(r.randrange(w.count), is_paid=True),
    "fail": lambda w, r: w.end_add(r.randrange(w.count), is_paid=False),
    "tick": lambda w, _: w.tick(),
    "room": lambda w, r: setattr(w, "has_room", r.random() < 0.6),
    "restart upstream": lambda w, _: w.start_upstream(),
    "restart downstream": lambda w, _: w.start_downstream(),
}


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=10, max_size=120),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 4),
)
def test_money_comes_in_if_and_only_if_it_went_out(steps: list[str], seed: int, count: int) -> None:
    asyncio.run(_play(steps, seed, count))


async def _play(steps: list[str], seed: int, count: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a seed makes it the same again
    world = World(count)
    for step in steps:
        STEPS[step](world, chance)
        await asyncio.sleep(0)
        world.check()
    world.has_room = True
    for _ in range(40):
        world.tick()
        for number in range(count):
            world.end_add(number, is_paid=chance.random() < 0.5)
        while world.waiting:
            world.commit_add(refuse=False)
        while world.down or world.up:
            world.deliver(world.down, 0, keep=False)
            world.deliver(world.up, 0, keep=False)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.check()
    assert set(world.resolutions) == set(range(count)), "an HTLC was forgotten"
    assert not world.upstream.pending
    assert not world.downstream.pending


async def test_an_offer_that_was_refused_is_not_taken_when_a_copy_of_it_comes_late() -> None:
    world = World(1)
    world.has_room = False
    world.deliver(world.down, 0, keep=True)
    world.has_room = True
    world.deliver(world.down, 0, keep=True)
    assert not world.waiting
    world.deliver(world.up, 0, keep=False)
    await asyncio.sleep(0)
    assert 0 in world.resolutions
    world.deliver(world.down, 1, keep=False)
    assert world.noted
    world.deliver(world.down, 0, keep=False)
    assert not world.waiting


async def test_a_refusal_of_a_former_owner_does_not_count_once_the_offer_was_made_again() -> None:
    world = World(1)
    world.has_room = False
    world.deliver(world.down, 0, keep=False)
    world.start_downstream()
    world.tick()
    world.has_room = True
    world.deliver(world.down, 0, keep=False)
    world.deliver(world.up, 0, keep=False)
    assert not world.resolutions
    world.commit_add(refuse=False)
    world.check()
