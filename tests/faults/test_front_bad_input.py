"""Whatever the internet sends: a clear end for the one at fault, nobody else disturbed."""

import asyncio
import secrets

import pytest
from support.front_cluster import Cluster, cluster
from support.lightning_peer import FEATURES, LightningPeer, PeerClosed, node_id_of
from support.waiting import until

from shared.chain import MAINNET, REGTEST
from shared.crypto.noise import initiate
from shared.fabric import subjects
from shared.fabric.envelope import Reason
from shared.features import FeatureSet
from shared.wire import (
    ChannelUpdate,
    FundingCreated,
    Init,
    OpenChannel,
    Ping,
    Pong,
    UpdateFee,
    Warning as WarningMessage,
    encode,
)

CHANNEL = bytes(range(32))
BOLT_8 = "BOLT 8 § Handshake Exchange"
FEE = UpdateFee(channel_id=CHANNEL, feerate_per_kw=253)
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


async def opened(c: Cluster) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", c.port)


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the other side closes."""
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""


def failed(c: Cluster, reason: str) -> float:
    return c.counted("handshakes_total", result="failed", reason=reason)


def act_one(c: Cluster) -> bytes:
    return initiate(node_id_of(b"\x22" * 32), secrets.token_bytes(32), c.node_id)[1]


async def still_works(c: Cluster) -> None:
    """A good peer comes in and is heard."""
    async with c.connected() as (peer, session):
        await peer.send(FEE)
        assert await session.next() == FEE


# --- before the handshake is finished


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: lightning.example\r\nAccept: */*\r\n\r\n",
        bytes(50),
        b"\x00" + b"\x02" + bytes(48),
        b"\x01" + bytes(49),
        b"\xff" * 4096,
    ],
    ids=["http", "zeros", "no point", "version 1", "long"],
)
async def test_garbage_gets_a_close_without_a_byte(garbage):
    async with cluster() as c:
        reader, writer = await opened(c)
        writer.write(garbage)
        assert await until_closed(reader) == b""
        assert failed(c, BOLT_8) == 1
        writer.close()
        await still_works(c)


async def test_a_wrong_mac_in_act_one_is_found_by_the_back_and_closed():
    async with cluster() as c:
        reader, writer = await opened(c)
        act = bytearray(act_one(c))
        act[-1] ^= 1
        writer.write(act)
        assert await until_closed(reader) == b""
        assert failed(c, "BOLT 8") == 1
        writer.close()


async def test_an_act_one_for_another_node_is_closed():
    async with cluster() as c:
        with pytest.raises(PeerClosed):
            await LightningPeer.connect(node_id_of(b"\x77" * 32), "127.0.0.1", c.port)


async def test_a_wrong_mac_in_act_three_is_closed():
    async with cluster() as c:
        reader, writer = await opened(c)
        writer.write(act_one(c))
        await reader.readexactly(50)
        writer.write(b"\x00" + bytes(65))
        assert await until_closed(reader) == b""
        assert failed(c, BOLT_8) == 1
        writer.close()


async def test_half_a_handshake_ends_in_time():
    async with cluster(handshake_timeout_s=0.2) as c:
        reader, writer = await opened(c)
        writer.write(act_one(c)[:30])
        assert await until_closed(reader) == b""
        assert failed(c, "timeout") == 1
        assert c.front.listener.admission.connections == 0
        writer.close()


async def test_a_handshake_byte_by_byte_is_too_slow():
    async with cluster(handshake_timeout_s=0.3) as c:
        reader, writer = await opened(c)
        closed = asyncio.create_task(until_closed(reader))
        for byte in act_one(c):
            if closed.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        assert await closed == b""
        assert failed(c, "timeout") == 1
        writer.close()


async def test_a_handshake_in_single_bytes_is_fine_when_it_is_fast():
    async with cluster() as c:
        reader, writer = await opened(c)
        for byte in act_one(c):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await reader.readexactly(50))[0] == 0
        writer.close()


async def test_a_peer_that_leaves_in_the_middle_leaves_nothing_behind():
    async with cluster() as c:
        _, writer = await opened(c)
        writer.write(act_one(c)[:10])
        await writer.drain()
        writer.close()
        await until(lambda: failed(c, "closed") == 1)
        assert c.front.listener.admission.in_handshake == 0


async def test_without_anybody_who_holds_the_key_the_peer_is_closed(monkeypatch):
    monkeypatch.setattr("front.keys.remote.TIMEOUT_S", 0.05)
    async with cluster() as c:
        c.back.answers_keys = False
        with pytest.raises(PeerClosed):
            await c.peer()
        assert failed(c, "key_unavailable") == 1
        c.back.answers_keys = True
        await still_works(c)


# --- limits


async def test_one_handshake_too_many_is_turned_away_and_later_ones_come_in():
    async with cluster(max_handshakes=2) as c:
        slow = [await opened(c) for _ in range(2)]
        await until(lambda: c.front.listener.admission.in_handshake == 2)
        reader, writer = await opened(c)
        assert await until_closed(reader) == b""
        assert c.counted("refused_total", reason="handshake_limit") == 1
        for _, other in [*slow, (reader, writer)]:
            other.close()
        await until(lambda: c.front.listener.admission.in_handshake == 0)
        await still_works(c)


async def test_one_peer_too_many_is_turned_away():
    async with cluster(max_connections=1) as c, c.connected():
        reader, writer = await opened(c)
        assert await until_closed(reader) == b""
        assert c.counted("refused_total", reason="connection_limit") == 1
        writer.close()


async def test_an_address_has_its_share_of_connections():
    changes = {"max_connections_per_address": 2, "unlimited_sources": ()}
    async with cluster(**changes) as c, c.connected(), c.connected():
        with pytest.raises(PeerClosed):
            await c.peer()
        assert c.counted("refused_total", reason="address_limit") == 1


async def test_an_address_that_knocks_too_often_is_turned_away():
    changes = {
        "handshake_burst_per_address": 3,
        "handshakes_per_address_per_s": 0.001,
        "unlimited_sources": (),
    }
    async with cluster(**changes) as c:
        for _ in range(3):
            _, writer = await opened(c)
            writer.close()
        reader, writer = await opened(c)
        assert await until_closed(reader) == b""
        assert c.counted("refused_total", reason="address_rate") == 1
        writer.close()


# --- PROXY protocol


def proxied(source: str) -> bytes:
    packed = bytes(map(int, source.split("."))) + bytes([127, 0, 0, 1])
    body = packed + (40123).to_bytes(2, "big") + (9735).to_bytes(2, "big")
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + len(body).to_bytes(2, "big") + body


BEHIND_PROXY = {"proxy_protocol": True, "proxy_sources": ("127.0.0.0/8",)}


async def test_behind_a_proxy_the_peer_has_the_address_that_the_proxy_says():
    async with cluster(**BEHIND_PROXY) as c, await c.peer(before=proxied("8.8.8.8")) as peer:
        init = await peer.init()
        session = await c.back.next_session()
        assert session.request.address == "8.8.8.8:40123"
        assert init.remote_addr == bytes([1, 8, 8, 8, 8]) + (40123).to_bytes(2, "big")


async def test_behind_a_proxy_the_limits_are_those_of_the_peers_address():
    async with (
        cluster(max_connections_per_address=1, **BEHIND_PROXY) as c,
        c.connected(before=proxied("8.8.8.8")),
        c.connected(before=proxied("8.8.4.4")),
    ):
        with pytest.raises(PeerClosed):
            await c.peer(before=proxied("8.8.8.8"))


async def test_a_trusted_proxy_has_to_say_who_it_brings():
    async with cluster(**BEHIND_PROXY) as c:
        with pytest.raises(PeerClosed):
            await c.peer()
        assert failed(c, "PROXY protocol v2") == 1


async def test_an_untrusted_source_cannot_claim_an_address():
    elsewhere = BEHIND_PROXY | {"proxy_sources": ("192.0.2.0/24",)}
    async with cluster(**elsewhere) as c:
        with pytest.raises(PeerClosed):
            await c.peer(before=proxied("8.8.8.8"))
        assert failed(c, BOLT_8) == 1
        async with c.connected() as (_, session):
            assert session.request.address.startswith("127.0.0.1:")


# --- init


async def warned_at_init(c: Cluster, *messages: bytes) -> str:
    async with await c.peer() as peer:
        await peer.send_bytes(*messages)
        await peer.expect(Init)
        return await peer.expect_warning_then_closed()


def init(*bits: int, networks: list[bytes] | None = None) -> bytes:
    features = FeatureSet(FEATURES.bits | set(bits)).to_bytes()
    return encode(Init(globalfeatures=b"", features=features, networks=networks))


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (encode(Ping(num_pong_bytes=1, ignored=b"")), "ping before init"),
        (encode(FEE), "update_fee before init"),
        ((33001).to_bytes(2, "big"), "an unknown message before init"),
        (init(1000), "unknown feature bits 1000"),
        (init(28), "option_dual_fund"),
        (init(61), "option_simple_close needs option_shutdown_anysegwit"),
        (init(networks=[MAINNET.chain_hash]), "no common chain"),
        (init()[:-1], "init: wanted 6 bytes, 5 left"),
        (init() + b"\x02\x00", "unknown even"),
    ],
    ids=[
        "ping",
        "update_fee",
        "unknown",
        "unknown bit",
        "required bit",
        "dependency",
        "chain",
        "truncated",
        "even tlv",
    ],
)
async def test_a_bad_first_message_gets_a_warning_that_says_why(first, why):
    async with cluster() as c:
        assert why in await warned_at_init(c, first)
        assert c.counted("ended_total", reason="protocol") == 1
        assert c.counted("peers") == 0
        await still_works(c)


async def test_no_init_in_time_gets_a_warning():
    async with cluster(init_timeout_s=0.2) as c, await c.peer() as peer:
        await peer.expect(Init)
        assert "no init in time" in await peer.expect_warning_then_closed()


async def test_a_second_init_gets_a_warning():
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send_bytes(init())
        assert "init after init" in await peer.expect_warning_then_closed()
        assert (await session.end()).reason is Reason.PROTOCOL


# --- messages


async def warned(c: Cluster, *messages: bytes) -> str:
    """Send these after init; return the warning that ends the connection."""
    async with c.connected() as (peer, session):
        await peer.send_bytes(*messages)
        text = await peer.expect_warning_then_closed()
        assert (await session.end()).reason is Reason.PROTOCOL
        assert session.messages.empty()
        return text


def open_channel(**changes) -> bytes:
    point = node_id_of(b"\x33" * 32)
    fields = {
        "chain_hash": bytes(32),
        "temporary_channel_id": CHANNEL,
        "funding_satoshis": 1,
        "push_msat": 0,
        "dust_limit_satoshis": 1,
        "max_htlc_value_in_flight_msat": 1,
        "channel_reserve_satoshis": 1,
        "htlc_minimum_msat": 1,
        "feerate_per_kw": 1,
        "to_self_delay": 1,
        "max_accepted_htlcs": 1,
        "funding_pubkey": point,
        "revocation_basepoint": point,
        "payment_basepoint": point,
        "delayed_payment_basepoint": point,
        "htlc_basepoint": point,
        "first_per_commitment_point": point,
        "channel_flags": 0,
    }
    return encode(OpenChannel.model_construct(**(fields | changes)))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "a message of 0 bytes"),
        (b"\x00", "a message of 1 bytes"),
        (encode(FEE)[:-1], "update_fee: wanted 36 bytes, 35 left"),
        (encode(FEE)[:20], "update_fee: wanted 36 bytes, 18 left"),
        ((33000).to_bytes(2, "big"), "unknown even type 33000"),
        ((100).to_bytes(2, "big"), "unknown even type 100"),
        (encode(FEE) + b"\x02\x01\x00", "unknown even"),
        (encode(FEE) + b"\x03\x02\x00", "update_fee: wanted 2 bytes, 1 left"),
        (encode(FEE) + b"\x03\x00\x01\x00", "update_fee: tlv 1 after tlv 3"),
        ((18).to_bytes(2, "big") + b"\x00\x01\xff\xff", "ping: wanted 65535"),
    ],
    ids=[
        "empty",
        "one byte",
        "truncated",
        "half a field",
        "unknown even",
        "unknown even channel message",
        "even tlv",
        "cut tlv",
        "tlv order",
        "length beyond the end",
    ],
)
async def test_a_malformed_message_ends_the_connection_with_a_warning(message, why):
    async with cluster() as c:
        assert why in await warned(c, message)
        await still_works(c)


@pytest.mark.parametrize("point", [bytes(33), b"\x04" + bytes(32)])
async def test_what_cannot_be_a_point_never_reaches_the_back(point):
    async with cluster() as c:
        assert "funding_pubkey" in await warned(c, open_channel(funding_pubkey=point))


async def test_an_all_zero_signature_is_the_backs_to_judge():
    message = FundingCreated(
        temporary_channel_id=CHANNEL,
        funding_txid=bytes(32),
        funding_output_index=0,
        signature=bytes(64),
    )
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send(message)
        assert await session.next() == message


async def test_the_largest_message_passes():
    blob = Ping(num_pong_bytes=65531, ignored=bytes(65529))
    async with cluster() as c, c.connected() as (peer, _):
        assert len(encode(blob)) == 65535
        await peer.send(blob)
        assert len((await peer.expect(Pong)).ignored) == 65531


async def test_a_wrong_mac_in_a_frame_ends_the_connection_without_a_word():
    async with cluster() as c, c.connected() as (peer, session):
        frame = bytearray(peer.seal(encode(FEE)))
        frame[-1] ^= 1
        await peer.write(bytes(frame))
        assert await peer.expect_closed() == []
        assert (await session.end()).reason is Reason.PROTOCOL
        assert session.messages.empty()
        assert c.counted("violations_total", rule="BOLT 8") == 1


async def test_good_messages_in_front_of_a_bad_one_still_count():
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send_bytes(encode(FEE), (100).to_bytes(2, "big"), encode(FEE))
        await peer.expect_warning_then_closed()
        assert await session.next() == FEE
        assert (await session.end()).reason is Reason.PROTOCOL
        assert session.messages.empty()


async def test_a_flood_of_pings_ends_the_connection():
    async with cluster(ping_burst=5) as c:
        text = await warned(c, *[encode(Ping(num_pong_bytes=65535, ignored=b""))] * 6)
        assert "more than 5 pings" in text
        assert c.counted("violations_total", rule="BOLT 1 § ping and pong") == 1


async def test_a_pong_that_nobody_asked_for_ends_the_connection():
    async with cluster() as c:
        assert "pong without a ping" in await warned(c, encode(Pong(ignored=b"")))


async def test_a_peer_that_asks_for_much_and_reads_nothing_is_closed():
    async with cluster(ping_burst=1000) as c, c.connected() as (peer, session):
        ask = encode(Ping(num_pong_bytes=65531, ignored=b""))
        try:
            for _ in range(400):
                await peer.send_bytes(ask)
        except OSError:
            pass
        assert (await session.end()).reason is Reason.PROTOCOL


async def test_a_bad_announcement_costs_a_warning_and_not_the_connection():
    async with cluster() as c, c.connected() as (peer, session):
        await peer.send_bytes((257).to_bytes(2, "big") + bytes(300))
        await peer.send(FEE)
        assert await session.next() == FEE


async def test_gossip_dumped_on_us_is_dropped_over_budget_and_does_not_stop_the_channel(
    monkeypatch,
):
    monkeypatch.setattr("front.peer.session.UPDATE_BURST", 3)
    async with cluster() as c:
        c.back.has_channels = True
        async with c.connected() as (peer, session):
            await peer.send(*[UPDATE] * 50, FEE)
            assert [await session.next() for _ in range(4)] == [UPDATE] * 3 + [FEE]
            assert c.counted("dropped_total", reason="gossip_budget") == 47
            await c.back.stop()
            await c.another_back()
            assert await peer.expect_closed() == []


async def test_more_than_the_owner_takes_for_five_seconds_ends_the_session():
    async with cluster() as c, c.connected() as (peer, _):
        c.broker.lose = lambda subject, _payload: subject.startswith("ln.in.")
        await peer.send(*[FEE] * 40)
        assert "for 5 s" in await peer.expect_warning_then_closed()
        assert c.counted("ended_total", reason="over_window") == 1


# --- the fabric


async def test_garbage_on_the_fabric_is_counted_and_disturbs_nobody():
    async with cluster() as c, c.connected() as (peer, session):
        prefix = subjects.outbound_prefix("f1", peer.node_id)
        for subject, payload in [
            (f"{prefix}-.update_fee", b"garbage"),
            (f"{prefix}-.nonsense", b"{}"),
            ("ln.out.f1.not.a.subject", b"{}"),
            ("ln.hello.3", b"{}"),
            ("ln.graph.self", b"[]"),
            ("ln.connect", b"?"),
        ]:
            c.back.fabric.publish(subject, payload)
        await until(lambda: c.counted("fabric_errors_total") >= 6)
        await peer.send(FEE)
        assert await session.next() == FEE


async def test_a_message_of_the_owner_that_cannot_be_understood_ends_the_session():
    async with cluster() as c, c.connected() as (peer, session):
        session.send_body("update_fee", b'{"channel_id":"00"}')
        assert await peer.expect_closed() == []
        assert (await session.end()).reason is Reason.INVALID


async def test_an_envelope_of_another_peers_session_is_refused():
    async with cluster() as c, c.connected() as (peer, session), c.connected() as (other, _):
        stolen = subjects.outbound("f1", other.node_id, None, "update_fee")
        own = subjects.outbound("f1", peer.node_id, None, "update_fee")
        sent: list[tuple[str, bytes]] = []
        c.broker.lose = lambda subject, payload: (
            subject == own and not sent.append((subject, payload))
        )
        session.send(FEE)
        await until(lambda: sent)
        c.back.fabric.publish(stolen, sent[0][1])
        await until(lambda: c.counted("fabric_errors_total") == 1)
        await other.expect_nothing()


async def test_an_owner_with_another_key_is_not_spoken_to():
    async with cluster() as c:
        stranger = node_id_of(b"\x66" * 32)
        keeper, c.back.node_id = c.back.node_id, stranger
        async with await LightningPeer.connect(keeper, "127.0.0.1", c.port) as peer:
            words = await peer.expect_closed()
        assert not any(isinstance(word, WarningMessage) for word in words)
        assert c.counted("ended_total", reason="invalid") == 1
