"""The broker goes away, messages are lost, the owner dies or is another one: which peers stay."""

import asyncio

import pytest
from support.front_cluster import Cluster, cluster
from support.lightning_peer import LightningPeer
from support.scripted_back import ScriptedBack, ScriptedSession
from support.waiting import until

from shared.fabric import subjects
from shared.fabric.envelope import Reason
from shared.fabric.requests import Hello
from shared.wire import Ping, Pong, UpdateFee

CHANNEL = bytes(range(32))


def fee(feerate_per_kw: int) -> UpdateFee:
    return UpdateFee(channel_id=CHANNEL, feerate_per_kw=feerate_per_kw)


async def both_ways(peer: LightningPeer, session: ScriptedSession, number: int) -> None:
    """Messages pass in both directions."""
    await peer.send(fee(number))
    assert await session.next() == fee(number)
    session.send(fee(number + 1))
    assert await peer.expect(UpdateFee) == fee(number + 1)


async def test_a_broker_that_restarts_drops_no_peer_and_no_message():
    async with cluster() as c, c.connected() as (peer, session):
        await both_ways(peer, session, 253)
        c.broker.cut()
        assert c.front.unhealthy() == "no connection to the broker"
        await peer.send(fee(300), fee(301))
        session.send(fee(400), fee(401))
        await peer.send(Ping(num_pong_bytes=3, ignored=b""))
        await peer.expect(Pong)
        c.broker.mend()
        assert [await session.next(), await session.next()] == [fee(300), fee(301)]
        assert [await peer.expect(UpdateFee) for _ in range(2)] == [fee(400), fee(401)]
        assert c.back.resume_requests == 1
        await both_ways(peer, session, 500)
        assert c.front.unhealthy() == ""


async def test_many_restarts_in_a_row_change_nothing():
    async with cluster() as c, c.connected() as (peer, session):
        for number in range(253, 263):
            c.broker.cut()
            await peer.send(fee(number))
            c.broker.mend()
            assert await session.next() == fee(number)
        assert session.messages.empty()


async def test_lost_messages_are_sent_again_in_order():
    async with cluster() as c:
        c.back.has_channels = True
        async with c.connected() as (peer, session):
            turns = iter(range(10**6))
            c.broker.lose = lambda subject, _: (
                subject.endswith("update_fee") and next(turns) % 3 == 0
            )
            sent = [fee(number) for number in range(253, 283)]
            await peer.send(*sent)
            session.send(*sent)
            assert [await session.next() for _ in sent] == sent
            assert [await peer.expect(UpdateFee) for _ in sent] == sent
            assert c.counted("resends_total") > 0


async def test_an_owner_that_acks_nothing_for_ten_seconds_loses_the_session():
    async with cluster() as c, c.connected() as (peer, _):
        c.broker.lose = lambda subject, _: subject.startswith("ln.in.")
        await peer.send(fee(253))
        assert await peer.expect_closed(timeout_s=15) == []
        assert c.counted("ended_total", reason="unacked") == 1


async def test_the_answer_of_a_former_owner_opens_nothing():
    async with cluster() as c:
        another = await c.another_back()
        await until(lambda: c.front.bridge.owners[0].epoch == another.epoch)
        another.answers_opens = False
        async with await c.peer() as peer:
            await peer.init()
            await peer.expect_nothing()
            assert c.back.open_requests > 0
            assert c.back.connected.empty()
            another.answers_opens = True
            c.back.answers_opens = False
            await another.next_session()


async def test_a_session_that_the_owner_forgot_meanwhile_ends():
    async with cluster() as c, c.connected() as (peer, session):
        await both_ways(peer, session, 253)
        c.broker.cut()
        c.back.sessions.clear()
        c.broker.mend()
        assert await peer.expect_closed() == []
        assert c.counted("ended_total", reason="unknown_session") == 1


async def test_a_new_epoch_ends_a_session_that_carried_anything():
    async with cluster() as c, c.connected() as (peer, session):
        await both_ways(peer, session, 253)
        await c.back.stop()
        another = await c.another_back()
        assert await peer.expect_closed() == []
        assert c.counted("ended_total", reason="new_epoch") == 1
        assert not another.sessions


async def test_a_new_epoch_moves_a_session_that_carried_nothing_and_the_peer_notices_nothing():
    async with cluster() as c, c.connected() as (peer, session):
        await c.back.stop()
        another = await c.another_back()
        moved = await another.next_session()
        assert moved.request.session == session.request.session
        assert moved.connected == session.connected
        await both_ways(peer, moved, 253)
        assert c.counted("ended_total", reason="new_epoch") == 0


async def test_a_dropped_message_of_the_session_counts_as_carried():
    async with cluster() as c, c.connected() as (peer, _):
        c.broker.lose = lambda subject, _payload: subject.startswith("ln.in.")
        await peer.send(fee(253))
        await until(lambda: c.counted("messages_total", direction="in") == 2)
        c.broker.lose = lambda _subject, _payload: False
        await c.back.stop()
        await c.another_back()
        assert await peer.expect_closed() == []


async def test_an_old_epoch_is_not_listened_to():
    async with cluster() as c, c.connected() as (peer, session):
        await both_ways(peer, session, 253)
        for shard in range(subjects.SHARDS):
            stale = Hello(shard=shard, owner="ghost", epoch=c.back.epoch - 1, commit_no=9)
            c.back.fabric.publish(subjects.hello(shard), stale.to_bytes())
        await both_ways(peer, session, 300)


async def test_peers_come_in_with_the_new_owner_only():
    async with cluster() as c:
        another = await c.another_back()
        await until(lambda: c.front.bridge.owners[0].epoch == another.epoch)
        # The former owner hears every request too, but opening is a commit: its fence is gone.
        c.back.answers_opens = False
        async with await c.peer() as peer:
            await peer.init()
            session = await another.next_session()
            await both_ways(peer, session, 253)


async def test_with_no_owner_for_thirty_seconds_what_carried_something_ends(monkeypatch):
    monkeypatch.setattr("shared.fabric.owners.OWNER_SILENT_S", 0.3)
    monkeypatch.setattr("front.process.BEAT_S", 0.05)
    async with cluster() as c, c.connected() as (talked, session), c.connected() as (idle, _):
        await both_ways(talked, session, 253)
        await c.back.stop()
        assert await talked.expect_closed() == []
        assert c.counted("ended_total", reason="owner_silent") == 1
        await idle.send(Ping(num_pong_bytes=1, ignored=b""))
        await idle.expect(Pong)


async def test_the_front_stays_healthy_and_pongs_while_the_back_is_away():
    async with cluster() as c, c.connected() as (peer, _):
        await c.back.stop()
        await peer.send(Ping(num_pong_bytes=1, ignored=b""))
        await peer.expect(Pong)
        assert c.front.unhealthy() == ""


async def test_a_front_that_dies_takes_only_its_own_peers():
    async with cluster() as c, c.connected() as (peer, session):
        # What a kill leaves: sockets that break and a name that is silent.
        for lost in c.front.bridge.peers:
            lost._stream.abort()
        assert await peer.expect_closed() == []
        async with c.connected(private=peer.private) as (again, second):
            await both_ways(again, second, 253)
            assert second.request.session != session.request.session


@pytest.mark.parametrize("cut", ["before", "during", "after"])
async def test_a_drain_ends_also_while_the_broker_is_away(cut):
    async with cluster(drain_timeout_s=0.5) as c, c.connected() as (peer, _):
        if cut == "before":
            c.broker.cut()
        draining = asyncio.create_task(c.front.drain())
        if cut == "during":
            await asyncio.sleep(0)
            c.broker.cut()
        assert await peer.expect_closed() == []
        await asyncio.wait_for(draining, 5)


async def test_many_peers_are_resumed_in_batches(monkeypatch):
    monkeypatch.setattr("front.bridge.RESUME_BATCH", 1)
    async with cluster() as c:
        peers = [await c.peer() for _ in range(6)]
        for peer in peers:
            await peer.init()
        sessions = [await c.back.next_session() for _ in peers]
        c.broker.cut()
        for peer in peers:
            await peer.send(fee(253))
        c.broker.mend()
        assert [await session.next() for session in sessions] == [fee(253)] * 6
        await until(lambda: c.back.resume_requests == 6)
        for peer in peers:
            await peer.close()
        for session in sessions:
            assert (await session.end()).reason is Reason.PEER_CLOSED


async def frozen_beside(c: Cluster) -> ScriptedBack:
    """Another back in the same group that answers nothing."""
    another = await c.another_back(epoch=c.back.epoch)
    another.answers_opens = another.answers_keys = False
    return another


async def test_a_frozen_member_of_the_group_only_delays(monkeypatch):
    monkeypatch.setattr("front.keys.remote.TIMEOUT_S", 0.1)
    monkeypatch.setattr("front.bridge.OPEN_TIMEOUT_S", 0.1)
    async with cluster() as c:
        await frozen_beside(c)
        for _ in range(3):
            async with await c.peer() as peer:
                await peer.init()
