"""Peers that try to harm others through the intake: by floods, replays, rubbish, or by asking."""

import asyncio
from hashlib import sha256
from itertools import pairwise

import pytest
from coincurve import PrivateKey
from support.gossip_intake import change_of, network, scene
from support.network_signing import seeded
from support.waiting import until

from front.gossip.intake.slices import SLICE, Slices
from shared.fabric.gossip import Outcome
from shared.gossip.record import Change, Kind
from shared.gossip.table import Table
from shared.gossip.view import update_timestamp

NETWORK = network()
CHANNELS, UPDATES, NODES = (
    list(part.values()) for part in (NETWORK.channels, NETWORK.updates, NETWORK.nodes)
)
SCIDS = list(NETWORK.channels)
SCID = SCIDS[0]
OURS = [NETWORK.updates[SCID << 1], NETWORK.updates[SCID << 1 | 1]]
"""Both updates of the first channel."""


def spoiled(raw: bytes, number: int = 1) -> bytes:
    return raw[:-2] + (int.from_bytes(raw[-2:], "big") ^ number).to_bytes(2, "big")


def update_of(scid: int, number: int = 0) -> bytes:
    """An update of a channel that nobody knows; who sends it need not have signed it."""
    raw = UPDATES[0]
    return raw[:98] + scid.to_bytes(8, "big") + raw[106:-2] + number.to_bytes(2, "big")


async def worked(it) -> None:
    """Everything that can be done now is done."""
    for _ in range(1_000):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        slicing = it.intake._slices._next is not None
        if not it.verifier[0].work() and not it.intake._queue and not slicing:
            for _ in range(6):
                await asyncio.sleep(0)
            return
    raise AssertionError("there is no end to it")


# --- the queues of others -------------------------------------------------------------------------


async def test_a_peer_with_a_long_queue_delays_another_one_by_a_turn():
    async with scene(slow=True, batch=32) as it:
        greedy, modest = it.peer(1), it.peer(2)
        for number in range(1, 500):
            it.intake.receive(greedy, spoiled(CHANNELS[0], number))
        it.intake.receive(modest, CHANNELS[1])
        await until(lambda: it.verifier[0].batches)
        asked = [raw for items, _ in it.verifier[0].batches for raw, _ in items]
        assert CHANNELS[1] in asked


async def test_what_a_disconnected_peer_still_has_in_the_queue_is_never_checked():
    async with scene(slow=True, batch=4) as it:
        bad, good = it.peer(1), it.peer(2)
        for number in range(1, 1_000):
            it.intake.receive(bad, spoiled(CHANNELS[0], number))
        it.intake.receive(bad, CHANNELS[1])
        it.intake.receive(good, CHANNELS[1])
        await worked(it)
        assert bad.closing
        assert it.verifier[0].checked < 10
        # what an honest peer sent too is its own now
        assert it.counted("accepted") == 1
        it.assert_empty()


async def test_what_a_muted_peer_had_verified_already_is_not_submitted_unless_others_sent_it():
    async with scene(slow=True, back=False, invalid_until_muted=1) as it:
        partner, other = it.peer(1, has_channels=True), it.peer(2)
        it.broker.cut()
        for raw in CHANNELS:
            it.intake.receive(partner, raw)
        it.intake.receive(other, CHANNELS[2])
        await worked(it)
        it.intake.receive(partner, spoiled(CHANNELS[0]))
        await worked(it)
        await it.back.subscribe("ln.gossip.>", it.hear)
        it.broker.mend()
        it.tick()
        await until(lambda: it.submitted)
        assert it.submitted == [CHANNELS[2]]
        await until(lambda: not it.intake.pending)
        it.assert_empty()


async def test_a_newcomer_finds_room_although_others_take_what_they_can_get():
    async with scene(slow=True, items=300) as it:
        peers = [it.peer(number) for number in range(5)]
        for place, peer in enumerate(peers):
            for number in range(1, 300):
                it.intake.receive(peer, spoiled(CHANNELS[place], number))
        newcomer = it.peer(9)
        before = it.intake.pending
        it.intake.receive(newcomer, CHANNELS[5])
        assert it.intake.pending == before + 1 <= 300


# --- what is forgotten ----------------------------------------------------------------------------


async def test_peers_that_left_are_not_kept_by_what_they_sent():
    async with scene(slow=True) as it:
        peer = it.peer(1)
        it.intake.receive(peer, CHANNELS[0])
        it.intake.receive(peer, UPDATES[-1])
        it.intake.left(peer)
        items = it.intake._pending.values()
        assert {account.link for item in items for account in item.senders} == {None}


async def test_only_some_senders_of_an_announcement_are_remembered():
    async with scene(slow=True) as it:
        for number in range(1, 100):
            it.intake.receive(it.peer(number), CHANNELS[0])
        await worked(it)
        for number in range(100, 200):
            it.intake.receive(it.peer(number), CHANNELS[0])
        change = Change(Kind.CHANNEL, SCID, it.table.channel(SCID).record)
        senders = it.intake.senders(change)
        assert it.peer(1).node_id in senders
        assert len(senders) == 16


# --- what is asked for ----------------------------------------------------------------------------


async def test_a_channel_whose_update_nobody_could_place_is_asked_for():
    async with scene(slow=True) as it:
        it.intake.receive(it.peer(1), update_of(77))
        it.tick(29)
        assert not it.missing
        it.tick(2)
        it.tick()
        assert it.missing == {77}
        it.assert_empty()


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("limits", [{}, {"held": 0}])
async def test_what_a_partner_says_of_its_private_channel_is_asked_of_nobody(limits, leaves):
    async with scene(slow=True, **limits) as it:
        partner = it.peer(1, has_channels=True)
        it.intake.receive(partner, update_of(77))
        if leaves:
            it.intake.left(partner)
        it.tick(31)
        it.tick()
        assert not it.missing
        it.assert_empty()


async def test_a_stranger_who_said_it_first_does_not_make_us_ask_for_a_partners_channel():
    async with scene(slow=True) as it:
        it.intake.receive(it.peer(2), update_of(77))
        it.intake.receive(it.peer(1, has_channels=True), update_of(77))
        it.tick(31)
        it.tick()
        assert not it.missing


async def test_what_is_over_budget_is_asked_for_later():
    async with scene(slow=True, peer_items=2) as it:
        for raw in CHANNELS[:3]:
            it.intake.receive(it.peer(1), raw)
        peer = it.peer(2)
        for raw in CHANNELS[3:]:
            it.intake.receive(peer, raw)
        it.tick()
        assert it.missing == set(SCIDS[5:])
        assert it.counted("dropped") == len(SCIDS[5:])


async def test_a_channel_that_the_chain_does_not_have_is_not_asked_for():
    async with scene(slow=True) as it:
        it.judge = lambda raw: Outcome.REFUSED
        peer = it.peer(1)
        it.intake.receive(peer, CHANNELS[0])
        it.intake.receive(peer, OURS[0])
        await worked(it)
        await until(lambda: it.intake.pending == 1)
        it.tick(31)
        it.tick()
        assert not it.missing
        it.assert_empty()


# --- holds ----------------------------------------------------------------------------------------


async def test_an_early_update_waits_as_long_as_its_channel_is_on_its_way():
    async with scene(slow=True) as it:
        it.judge = lambda raw: None
        peer = it.peer(1)
        it.intake.receive(peer, OURS[0])
        it.intake.receive(peer, CHANNELS[0])
        await worked(it)
        for _ in range(10):
            it.tick(31)
        assert it.intake.pending == 2
        it.judge = lambda raw: Outcome.ACCEPTED
        it.take(CHANNELS[0])
        await worked(it)
        await until(lambda: not it.intake.pending)
        it.assert_empty()
        assert it.table.updates == 1


async def test_rubbish_held_for_a_channel_does_not_keep_the_right_update_out():
    async with scene(slow=True) as it:
        bad, good = it.peer(1), it.peer(2)
        for number in range(1, 1_000):
            it.intake.receive(bad, spoiled(OURS[0], number))
        it.intake.receive(good, OURS[0])
        it.intake.receive(good, CHANNELS[0])
        for _ in range(20):
            await worked(it)
        await until(lambda: not it.intake.pending)
        assert it.table.update(SCID, 0) == OURS[0]
        assert not good.warnings
        it.assert_empty()


async def test_an_echo_of_what_is_held_leaves_nothing_of_it():
    async with scene(slow=True) as it:
        peer = it.peer(1)
        it.intake.receive(peer, NODES[0])
        assert it.intake._accounts[peer].held == 1
        it.take(NODES[0])
        it.assert_empty()
        it.intake.receive(peer, NODES[0])
        for _ in range(3):
            it.tick(31)
        it.take(*CHANNELS)
        await worked(it)
        it.assert_empty()
        assert it.verifier[0].checked == 0


async def test_another_table_places_what_was_held():
    async with scene(slow=True) as it:
        peer = it.peer(1)
        for raw in (*UPDATES, *NODES):
            it.intake.receive(peer, raw)
        fresh = Table()
        for raw in CHANNELS:
            fresh.apply(change_of(raw))
        it.table = fresh
        it.intake.replaced()
        for _ in range(5):
            await worked(it)
        await until(lambda: not it.intake.pending)
        assert it.table.updates == len(UPDATES)
        assert it.table.nodes == len(NODES)
        it.assert_empty()


# --- how often ------------------------------------------------------------------------------------


class Owner:
    """Signs updates of a channel of its own, as often as it likes."""

    def __init__(self) -> None:
        self.key = PrivateKey(sha256(b"squall 1 node 0").digest())
        name = self.key.public_key.format()
        for scid, raw in NETWORK.channels.items():
            start = len(raw) - 132
            for direction in (0, 1):
                if raw[start + 33 * direction : start + 33 * (direction + 1)] == name:
                    self.scid, self.direction = scid, direction
        self.channel = NETWORK.channels[self.scid]
        self.first = NETWORK.updates[self.scid << 1 | self.direction]

    def update(self, later_s: int) -> bytes:
        body = self.first[66:]
        stamp = (update_timestamp(self.first) + later_s).to_bytes(4, "big")
        body = body[:40] + stamp + body[44:]
        signature = self.key.sign_recoverable(sha256(sha256(body).digest()).digest(), hasher=None)
        return self.first[:2] + signature[:64] + body


async def test_replaying_what_a_node_said_before_does_not_keep_its_last_word_out():
    async with scene(slow=True, replaced_burst=2, replaced_every_s=60.0) as it:
        owner, chance = Owner(), seeded("replay")
        it.take(owner.channel)
        old = [owner.update(number) for number in range(20)]
        last = owner.update(50)
        for raw in old:
            it.intake.receive(it.peer(1), raw)
        await worked(it)
        it.intake.receive(it.peer(2), last)
        replayed = [owner.update(number) for number in range(20, 40)]
        chance.shuffle(replayed)
        for raw in replayed:
            it.intake.receive(it.peer(1), raw)
        await worked(it)
        assert len(it.submitted) == 2
        it.tick(61)
        await worked(it)
        await until(lambda: not it.intake.pending)
        assert it.table.update(owner.scid, owner.direction) == last
        assert len(it.submitted) == 3
        it.assert_empty()


async def test_who_cannot_sign_uses_up_nobodys_rate():
    async with scene(slow=True, replaced_burst=1) as it:
        it.take(*CHANNELS)
        for number in range(1, 15):
            it.intake.receive(it.peer(1), spoiled(OURS[0], number))
        await worked(it)
        it.intake.receive(it.peer(2), OURS[0])
        await worked(it)
        assert it.submitted == [OURS[0]]


async def test_a_busy_channel_is_updated_at_its_rate_and_no_other_one_is_slowed():
    async with scene(slow=True, replaced_burst=1, replaced_every_s=60.0) as it:
        owner = Owner()
        it.take(*CHANNELS)
        for number in range(60):
            it.intake.receive(it.peer(1), owner.update(number))
            await worked(it)
            it.tick(10)
            await worked(it)
        assert 9 <= len(it.submitted) <= 11
        others = [raw for raw in UPDATES if raw not in it.submitted and raw != owner.first]
        for raw in others:
            it.intake.receive(it.peer(1), raw)
        await worked(it)
        assert set(others) <= set(it.submitted)


# --- slices ---------------------------------------------------------------------------------------


async def test_much_work_leaves_turns_to_others():
    slices, done, turns = Slices(), [], []

    def others() -> None:
        turns.append(len(done))
        if len(done) < 2_000:
            asyncio.get_running_loop().call_soon(others)

    slices.each(list(range(1_500)), done.append)
    slices.run(iter(range(1_500, 2_000)), done.append)
    others()
    await until(lambda: len(done) == 2_000)
    assert done == list(range(2_000))
    assert max(b - a for a, b in pairwise(turns)) <= SLICE


async def test_work_that_fails_for_one_item_goes_on_with_the_next_one():
    slices, done = Slices(), []

    def work(number: int) -> None:
        if number == 7:
            raise ValueError
        done.append(number)

    slices.each(list(range(1_000)), work)
    await until(lambda: len(done) == 999)


async def test_nothing_is_done_after_the_end():
    slices, done = Slices(), []
    slices.each(list(range(1_000)), done.append)
    slices.stop()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not done


async def test_a_flood_of_held_updates_is_released_in_slices():
    async with scene(slow=True, peer_held=10_000) as it:
        it.judge = lambda raw: None
        peer = it.peer(1)
        for number in range(1, 3_000):
            it.intake.receive(peer, spoiled(OURS[0], number))
        it.take(CHANNELS[0])
        # nothing of it is in place yet: it is done in turns of the loop
        assert not it.intake._queue
        await until(lambda: it.verifier[0].batches)
        assert len(it.intake._holds) == 0
