"""A peer comes in through one front, talks to the owner of its shard, and leaves."""

import asyncio
import secrets

import pytest
from support.front_cluster import Cluster, cluster
from support.lightning_peer import FEATURES
from support.waiting import until

from shared.chain import REGTEST
from shared.fabric.envelope import Direction, Reason
from shared.features import FeatureSet
from shared.wire import (
    AnnouncementSignatures,
    ChannelReady,
    ChannelUpdate,
    Error,
    GossipTimestampFilter,
    Init,
    NodeAnnouncement,
    PeerStorage,
    PeerStorageRetrieval,
    Ping,
    Pong,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    UpdateFee,
    Warning as WarningMessage,
)

CHANNEL = bytes(range(32))
UPDATE = ChannelUpdate(
    signature=bytes(64),
    chain_hash=REGTEST.chain_hash,
    short_channel_id=1,
    timestamp=1,
    message_flags=1,
    channel_flags=0,
    cltv_expiry_delta=144,
    htlc_minimum_msat=1,
    fee_base_msat=1,
    fee_proportional_millionths=1,
    htlc_maximum_msat=1,
)
ANNOUNCEMENT = NodeAnnouncement(
    signature=bytes(64),
    features=b"",
    timestamp=1,
    node_id=bytes.fromhex(
        "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    ),
    rgb_color=bytes(3),
    alias=bytes(32),
    addresses=b"",
)


def fee(feerate_per_kw: int) -> UpdateFee:
    return UpdateFee(channel_id=CHANNEL, feerate_per_kw=feerate_per_kw)


async def test_messages_go_both_ways():
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send(fee(253))
        assert await session.next() == fee(253)
        session.send(fee(1000), channel=CHANNEL)
        assert await peer.expect(UpdateFee) == fee(1000)


async def test_the_owner_hears_how_the_peer_came_in_and_both_inits():
    async with cluster() as c, c.connected() as (peer, session):
        connected, request = session.connected, session.request
        assert connected is not None
        assert (connected.front, connected.direction) == ("f1", Direction.INBOUND)
        assert connected.address.startswith("127.0.0.1:")
        assert connected.our_init == peer.their_init
        assert FeatureSet.from_bytes(connected.their_init.features) == FEATURES
        assert (request.peer, request.node_id) == (peer.node_id, c.node_id)
        assert request.act_one is not None
        assert request.instance == c.front.bridge.instance


async def test_says_in_init_what_the_owner_wants_said():
    async with cluster() as c:
        c.back.features = FeatureSet(frozenset({1, 13, 27})).to_bytes()
        async with c.connected() as (peer, _):
            assert peer.their_init is not None
            assert FeatureSet.from_bytes(peer.their_init.features).bits == {1, 13, 27}
            assert peer.their_init.networks == [REGTEST.chain_hash]
            assert peer.their_init.remote_addr is None


async def test_keeps_the_order_of_many_messages_in_both_directions():
    async with cluster() as c:
        c.back.has_channels = True
        async with c.connected() as (peer, session):
            sent = [fee(number) for number in range(253, 1253)]
            await peer.send(*sent)
            assert [await session.next() for _ in sent] == sent
            session.send(*sent)
            assert [await peer.expect(UpdateFee) for _ in sent] == sent


async def test_a_deadline_that_is_now_ends_no_connection(monkeypatch):
    """uvloop answers it with a handle that cannot tell when it is due."""
    loop = asyncio.get_running_loop()
    call_at, soon = loop.call_at, []

    def as_uvloop_does(when, callback, *args, **options):
        if getattr(callback, "__name__", "") == "_due" and when < loop.time() + 0.06:
            soon.append(when)
            return loop.call_soon(callback, *args, **options)
        return call_at(when, callback, *args, **options)

    monkeypatch.setattr(loop, "call_at", as_uvloop_does)
    async with cluster() as c, c.connected() as (peer, session):
        for number in range(253, 303):
            session.send(fee(number), channel=CHANNEL)
            assert await peer.expect(UpdateFee) == fee(number)
            await peer.send(fee(number))
            assert await session.next() == fee(number)
    assert soon


async def test_a_full_window_stops_the_socket_and_not_the_peer():
    async with cluster() as c, c.connected() as (peer, session):
        blobs = [PeerStorage(blob=bytes([n]) * 65531) for n in range(40)]
        await peer.send(*blobs)
        assert [await session.next() for _ in blobs] == blobs


@pytest.mark.parametrize(
    "message",
    [
        WarningMessage(channel_id=bytes(32), data=b"careful"),
        Error(channel_id=CHANNEL, data=b"broken"),
        PeerStorage(blob=b"blob"),
        PeerStorageRetrieval(blob=b"blob"),
        AnnouncementSignatures(
            channel_id=CHANNEL,
            short_channel_id=1,
            node_signature=bytes(64),
            bitcoin_signature=bytes(64),
        ),
    ],
    ids=lambda message: message.NAME,
)
async def test_what_belongs_to_the_back_travels_in_the_session(message):
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send(message)
        assert await session.next() == message


async def test_a_channel_update_of_a_peer_with_channels_reaches_the_owner():
    async with cluster() as c:
        c.back.has_channels = True
        async with c.connected() as (peer, session):
            await peer.send(UPDATE)
            assert await session.next() == UPDATE


async def test_gossip_and_unknown_odd_messages_are_no_business_of_the_owner():
    async with cluster() as c, c.connected() as (peer, session):
        gossip_filter = GossipTimestampFilter(
            chain_hash=REGTEST.chain_hash, first_timestamp=0, timestamp_range=2**32 - 1
        )
        await peer.send(UPDATE, ANNOUNCEMENT, gossip_filter)
        await peer.send_bytes((33001).to_bytes(2, "big") + b"whatever")
        await peer.send(fee(253))
        assert await session.next() == fee(253)
        assert c.counted("dropped_total", reason="unknown_odd") == 1


async def test_a_front_without_a_routing_table_answers_queries_and_says_so():
    async with cluster() as c, c.connected() as (peer, _):
        await peer.send(
            QueryChannelRange(
                chain_hash=REGTEST.chain_hash, first_blocknum=7, number_of_blocks=900_000
            )
        )
        reply = await peer.expect(ReplyChannelRange)
        assert (reply.first_blocknum, reply.number_of_blocks) == (7, 900_000)
        assert reply.sync_complete == 1
        await peer.send(
            QueryShortChannelIds(chain_hash=REGTEST.chain_hash, encoded_short_ids=bytes(9))
        )
        assert (await peer.expect(ReplyShortChannelIdsEnd)).full_information == 0


async def test_answers_pings():
    async with cluster() as c, c.connected() as (peer, _):
        await peer.send(Ping(num_pong_bytes=70, ignored=b"abc"))
        assert await peer.expect(Pong) == Pong(ignored=bytes(70))


async def test_pings_an_idle_peer_and_keeps_one_that_answers():
    async with cluster(ping_interval_s=0.05, ping_timeout_s=5.0) as c, c.connected() as (peer, _):
        listening = asyncio.create_task(peer.receive())
        await until(lambda: sum(isinstance(message, Ping) for message in peer.seen) >= 3)
        assert not listening.done()
        listening.cancel()


async def test_closes_a_peer_that_answers_no_ping():
    changes = {"ping_interval_s": 0.05, "ping_timeout_s": 0.2}
    async with cluster(**changes) as c, c.connected() as (peer, session):
        peer.auto_pong = False
        assert "nothing heard" in await peer.expect_warning_then_closed()
        assert (await session.end()).reason is Reason.PROTOCOL


async def test_the_owner_hears_that_a_peer_has_left():
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send(fee(253))
        await peer.close()
        assert (await session.end()).reason is Reason.PEER_CLOSED
        assert await session.next() == fee(253)
        await until(lambda: not c.front.bridge.peers)
        assert c.counted("peers") == c.counted("sessions") == 0


async def test_the_owner_hears_of_a_reset():
    async with cluster() as c, c.connected() as (peer, session):
        peer.abort()
        assert (await session.end()).reason is Reason.PEER_CLOSED


async def test_close_writes_everything_first():
    async with cluster() as c, c.connected() as (peer, session):
        sent = [fee(number) for number in range(253, 293)]
        session.send(*sent)
        session.close("enough")
        assert await peer.expect_closed() == sent
        assert (await session.end()).reason is Reason.CLOSED_BY_OWNER


async def test_a_refused_peer_is_told_why():
    async with cluster() as c:
        c.back.refusal = "no more peers, please"
        async with await c.peer() as peer:
            await peer.init()
            assert await peer.expect_warning_then_closed() == "no more peers, please"
        assert c.counted("ended_total", reason="refused") == 1


async def test_a_peer_whose_session_the_owner_does_not_know_is_closed():
    async with cluster() as c, c.connected() as (peer, session):
        del c.back.sessions[session.request.session]
        await peer.send(fee(253))
        assert await peer.expect_closed() == []
        assert c.counted("ended_total", reason="unknown_session") == 1


async def test_while_no_owner_answers_the_peer_is_kept_and_what_it_says_waits():
    async with cluster() as c:
        await until(lambda: c.front.bridge.identity is not None)
        c.back.answers_opens = False
        async with await c.peer() as peer:
            await peer.init()
            await peer.send(fee(253), fee(254))
            await peer.send(Ping(num_pong_bytes=1, ignored=b""))
            await peer.expect(Pong)
            c.back.answers_opens = True
            session = await c.back.next_session()
            assert [await session.next(), await session.next()] == [fee(253), fee(254)]
            session.send(fee(255))
            assert await peer.expect(UpdateFee) == fee(255)


async def test_a_local_key_lets_peers_in_while_no_back_is_up():
    private = secrets.token_bytes(32)
    async with cluster(private=private, key_provider="env", node_key=private.hex()) as c:
        await until(lambda: c.front.bridge.identity is not None)
        await c.back.stop()
        async with await c.peer() as peer:
            init = await peer.init()
            assert FeatureSet.from_bytes(init.features) == FEATURES
            another = await c.another_back()
            assert (await another.next_session()).request.peer == peer.node_id


async def test_a_front_without_node_id_waits_for_the_back_to_say_it():
    async with cluster() as c:
        assert c.front.bridge.node_id == c.node_id
        assert c.front.unhealthy() == ""


async def test_another_nodes_identity_is_not_taken_over():
    async with cluster() as c:
        before = c.front.bridge.identity
        other = await c.another_back()
        other.node_id = bytes([3]) + bytes(32)
        other.hello()
        await until(lambda: c.counted("fabric_errors_total") > 0)
        assert c.front.bridge.node_id == c.node_id
        assert c.front.bridge.identity == before


async def test_two_connections_of_one_peer_are_two_sessions():
    async with cluster() as c:
        private = secrets.token_bytes(32)
        async with (
            c.connected(private=private) as (_, first),
            c.connected(private=private) as (
                _,
                second,
            ),
        ):
            assert first.request.peer == second.request.peer
            assert first.request.session != second.request.session


async def test_init_may_arrive_in_the_same_packet_as_act_three():
    async with cluster() as c:

        async def once(number: int) -> None:
            async with await c.peer() as peer:
                await peer.send(
                    Init(globalfeatures=b"", features=FEATURES.to_bytes()), fee(253 + number)
                )
                await peer.expect(Init)

        await asyncio.gather(*(once(number) for number in range(20)))
        heard = sorted(
            [(await (await c.back.next_session()).next()).feerate_per_kw for _ in range(20)]
        )
        assert heard == list(range(253, 273))


async def test_heartbeats_say_where_and_how_many(monkeypatch):
    monkeypatch.setattr("front.process.BEAT_S", 0.02)
    async with cluster() as c, c.connected():
        await until(lambda: c.back.alive and c.back.alive[-1].load.sessions == 1)
        alive = c.back.alive[-1]
        assert (alive.front, alive.draining) == ("f1", False)
        assert alive.listen == (f"127.0.0.1:{c.port}",)
        assert alive.instance == c.front.bridge.instance


async def test_a_drain_tells_everybody_and_leaves_nothing():
    async with cluster() as c, c.connected() as (peer, session):
        port = c.port
        draining = asyncio.create_task(c.front.drain())
        assert await peer.expect_closed() == []
        assert (await session.end()).reason is Reason.DRAINING
        await draining
        assert c.back.alive[-1].draining
        assert c.front.bridge.peers == ()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


def counted_handshakes(c: Cluster, result: str, reason: str = "") -> float:
    return c.counted("handshakes_total", result=result, reason=reason)


async def test_counts_what_it_does():
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send(fee(253))
        await session.next()
        assert counted_handshakes(c, "ok") == 1
        assert c.counted("peers") == c.counted("sessions") == c.counted("connections") == 1
        assert c.counted("messages_total", direction="in") == 2
        assert c.counted("messages_total", direction="out") == 1
        assert c.counted("bytes_total", direction="in") > 100


async def test_a_peer_that_reads_late_gets_everything_and_until_then_the_owner_keeps_it():
    async with cluster() as c:
        c.back.has_channels = True
        async with c.connected() as (peer, session):
            blobs = [
                PeerStorageRetrieval(blob=number.to_bytes(2, "big") * 32765)
                for number in range(300)
            ]
            session.send(*blobs)
            (held,) = c.front.bridge.peers
            await until(lambda: not held._stream._writable)
            await peer.send(fee(253))
            assert await session.next() == fee(253)
            acked = session.core._outgoing.acked
            assert acked < len(blobs)
            assert [await peer.expect(PeerStorageRetrieval) for _ in blobs] == blobs


async def test_a_peer_gets_its_rights_with_its_first_channel():
    point = ANNOUNCEMENT.node_id
    async with cluster() as c, c.connected() as (peer, session):
        session.send(ChannelReady(channel_id=CHANNEL, second_per_commitment_point=point))
        await peer.expect(ChannelReady)
        await peer.send(UPDATE)
        assert await session.next() == UPDATE
        # More than the narrow window may be under way: the acks of the owner never arrive.
        c.broker.lose = lambda subject, _: subject.startswith("ln.out.")
        sent = [fee(number) for number in range(253, 353)]
        await peer.send(*sent)
        assert [await session.next() for _ in sent] == sent
