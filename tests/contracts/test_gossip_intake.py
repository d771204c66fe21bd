"""Announcements from peers to the back, with real worker processes and a scripted back."""

import os
import signal
from collections import Counter

import pytest
from support.gossip_intake import network, scene
from support.waiting import until

from front.gossip.intake import verification
from shared.fabric import subjects
from shared.fabric.gossip import Outcome
from shared.fabric.interface import Received

NETWORK = network()
ALL = list(NETWORK.messages())
CHANNELS, UPDATES, NODES = (
    list(part.values()) for part in (NETWORK.channels, NETWORK.updates, NETWORK.nodes)
)


def spoiled(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


async def settled(it) -> None:
    await until(lambda: not it.intake.pending)
    it.assert_empty()


async def test_a_whole_network_gets_into_the_table():
    async with scene() as it:
        peer = it.peer(1)
        for raw in ALL:
            it.intake.receive(peer, raw)
        await settled(it)
        assert sorted(it.submitted) == sorted(ALL)
        assert it.table.channels == len(NETWORK.channels)
        assert it.table.updates == len(NETWORK.updates)
        assert it.table.nodes == len(NETWORK.nodes)
        assert it.counted("accepted") == len(ALL)
        assert not peer.warnings


async def test_it_does_not_matter_in_what_order_announcements_come():
    async with scene() as it:
        peer = it.peer(1)
        for raw in (*NODES, *UPDATES, *CHANNELS):
            it.intake.receive(peer, raw)
        await settled(it)
        assert it.counted("accepted") == len(ALL)


async def test_what_many_peers_tell_is_checked_and_submitted_once():
    async with scene() as it:
        peers = [it.peer(number) for number in range(5)]
        for raw in ALL:
            for peer in peers:
                it.intake.receive(peer, raw)
        await settled(it)
        for raw in ALL:
            it.intake.receive(it.peer(9), raw)
        assert Counter(it.submitted) == Counter(ALL)
        assert it.counted("duplicate") == 5 * len(ALL)
        assert it.intake.pending == 0


async def test_a_worker_killed_while_it_checks_costs_no_announcement(monkeypatch):
    monkeypatch.setattr(verification, "RESTART_S", 0.01)
    async with scene() as it:
        peer = it.peer(1)
        it.intake.receive(peer, ALL[0])
        await settled(it)
        (pid,) = it.intake.pids
        os.kill(pid, signal.SIGSTOP)
        for raw in ALL[1:]:
            it.intake.receive(peer, raw)
        await until(lambda: not it.intake._verification.free or not it.intake._queue)
        os.kill(pid, signal.SIGKILL)
        await settled(it)
        assert it.counted("accepted") == len(ALL)
        assert not peer.warnings


@pytest.mark.parametrize("raw", [CHANNELS[0], NODES[0]])
async def test_who_sends_a_wrong_signature_is_told_and_disconnected(raw):
    async with scene() as it:
        it.take(*CHANNELS[1:])
        peer, other = it.peer(1), it.peer(2)
        it.intake.receive(peer, spoiled(raw))
        it.intake.receive(other, raw)
        await settled(it)
        assert peer.closing
        assert len(peer.warnings) == 1
        assert it.counted("invalid") == it.counted("accepted") == 1
        assert not other.warnings


async def test_rubbish_is_recognised_when_it_comes_again():
    async with scene() as it:
        it.intake.receive(it.peer(1), spoiled(CHANNELS[0]))
        await settled(it)
        again = it.peer(2)
        it.intake.receive(again, spoiled(CHANNELS[0]))
        assert again.closing
        assert it.intake.pending == 0


async def test_a_peer_with_channels_is_warned_and_then_not_listened_to_but_never_disconnected():
    async with scene(invalid_until_muted=3) as it:
        partner = it.peer(1, has_channels=True)
        for raw in CHANNELS[:3]:
            it.intake.receive(partner, spoiled(raw))
        await settled(it)
        assert len(partner.warnings) == 1
        it.intake.receive(partner, CHANNELS[0])
        assert it.intake.pending == 0
        assert it.counted("muted") == 1
        it.tick(601)
        it.intake.receive(partner, CHANNELS[0])
        await settled(it)
        assert it.counted("accepted") == 1


async def test_an_update_that_fits_another_announcement_of_its_channel_is_no_reason_to_disconnect():
    async with scene(disputed_channels=1, disputed_updates=2) as it:
        it.take(*CHANNELS)
        peer = it.peer(1)
        disputed = NETWORK.updates[next(iter(NETWORK.channels)) << 1]
        for number in range(5):
            it.intake.receive(peer, disputed + bytes([number]))
            await settled(it)
        assert len(peer.warnings) == 1
        assert not peer.closing
        assert it.counted("invalid") == 2
        assert it.counted("disputed") == 3
        it.intake.receive(peer, disputed)
        assert it.intake.pending == 0
        it.intake.receive(it.peer(2), disputed)
        await settled(it)
        assert it.counted("accepted") == 1
        # but of many channels it is
        it.intake.receive(peer, spoiled(UPDATES[-1]))
        await settled(it)
        assert peer.closing


async def test_a_signature_that_somebody_on_the_way_gave_a_high_s_is_nobodys_fault():
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    raw = CHANNELS[0]
    twin = raw[:34] + (order - int.from_bytes(raw[34:66], "big")).to_bytes(32, "big") + raw[66:]
    async with scene() as it:
        peer = it.peer(1)
        it.intake.receive(peer, twin)
        await settled(it)
        assert not peer.warnings
        assert not it.submitted
        it.intake.receive(peer, raw)
        await settled(it)
        assert it.submitted == [raw]


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.KNOWN, Outcome.ACCEPTED])
async def test_a_verdict_without_an_echo_ends_it(outcome):
    async with scene() as it:
        it.judge, it.echoes = lambda raw: outcome, False
        it.intake.receive(it.peer(1), CHANNELS[0])
        await settled(it)
        assert it.counted(str(outcome)) == 1


async def test_an_echo_without_a_verdict_ends_it():
    async with scene() as it:
        it.judge = lambda raw: None
        it.intake.receive(it.peer(1), CHANNELS[0])
        await until(lambda: it.submitted)
        it.take(CHANNELS[0])
        it.assert_empty()
        assert it.counted("accepted") == 1


async def test_what_the_back_says_later_to_is_submitted_again():
    async with scene() as it:
        it.judge = lambda raw: Outcome.LATER
        it.intake.receive(it.peer(1), CHANNELS[0])
        await until(lambda: len(it.submitted) == 1)
        await until(lambda: it.intake._submitting.in_flight == 0)
        it.judge = lambda raw: Outcome.ACCEPTED
        it.tick(4.1)
        await settled(it)
        assert it.submitted == [CHANNELS[0]] * 2


async def test_a_back_that_finds_a_wrong_signature_counts_against_who_sent_it():
    async with scene() as it:
        it.judge = lambda raw: Outcome.INVALID
        peers = [it.peer(1), it.peer(2)]
        for peer in peers:
            it.intake.receive(peer, CHANNELS[0])
        await settled(it)
        assert all(peer.closing for peer in peers)


async def test_with_no_back_for_days_nothing_is_lost_and_little_is_sent():
    async with scene(back=False) as it:
        peer = it.peer(1)
        for raw in ALL:
            it.intake.receive(peer, raw)
        queue = it.intake._queue
        await until(lambda: not queue and it.intake._submitting.in_flight == len(CHANNELS))
        it.intake.left(peer)
        published = it.bulk.published
        for _ in range(1_000):
            it.tick(200)
        assert it.bulk.published - published <= 1_000
        assert it.intake.pending == len(CHANNELS) + len(UPDATES) + len(NODES)
        await it.back.subscribe("ln.gossip.>", it.hear)
        it.tick(20)
        await settled(it)
        assert it.counted("accepted") == len(ALL)


async def test_while_the_broker_is_away_announcements_wait():
    async with scene() as it:
        it.broker.cut()
        it.intake.receive(it.peer(1), CHANNELS[0])
        await until(lambda: it.intake._submitting.has_work)
        for _ in range(10):
            it.tick(10)
        assert not it.submitted
        it.broker.mend()
        it.tick()
        await settled(it)
        assert it.submitted == [CHANNELS[0]]


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"\xff", b'{"v":2,"verdicts":[]}', b'{"v":1,"verdicts":[{"id":-1}]}']
)
async def test_verdicts_that_make_no_sense_change_nothing(payload):
    async with scene() as it:
        it.judge = lambda raw: None
        it.intake.receive(it.peer(1), CHANNELS[0])
        await until(lambda: it.submitted)
        it.intake._verdicts(Received(subjects.verdict("front-1"), payload))
        assert it.intake.pending == 1
        assert it.metrics.registry.get_sample_value("squall_front_fabric_errors_total") == 1


async def test_what_a_pruned_chain_cannot_show_counts_against_nobody():
    async with scene(refused_burst=3, refused_per_s=0.001) as it:
        it.judge = lambda raw: Outcome.UNVERIFIABLE
        peer = it.peer(1)
        for raw in CHANNELS[:6]:
            it.intake.receive(peer, raw)
        await settled(it)
        assert it.counted("unverifiable") == 6
        it.intake.receive(peer, CHANNELS[0])
        assert it.counted("muted") == 0
        assert it.counted("duplicate") == 1
        assert it.intake.pending == 0


async def test_a_peer_that_announces_what_the_chain_does_not_have_is_not_listened_to_for_a_while():
    async with scene(refused_burst=3, refused_per_s=0.001) as it:
        it.judge = lambda raw: Outcome.REFUSED
        peer = it.peer(1)
        for raw in CHANNELS[:4]:
            it.intake.receive(peer, raw)
        await settled(it)
        assert not peer.warnings
        it.intake.receive(peer, CHANNELS[4])
        assert it.counted("muted") == 1
        assert it.intake.pending == 0
