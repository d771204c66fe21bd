"""Connections that are cut, doubled, flooded or replayed: channels survive, and the money."""

import asyncio
import contextlib
import secrets

import pytest
from support.hostile import (  # noqa: F401 - fixtures
    Cut,
    HostilePeer,
    Target,
    bitcoind,
    mallory,
    target,
    unharmed,
)
from support.lightning_peer import LightningPeer

from back.channel.events import Close, Disconnected
from back.channel.model import Phase
from back.demo.cluster import until
from shared.errors import CommandError
from shared.wire import (
    AcceptChannel,
    ChannelReestablish,
    Error,
    FundingCreated,
    FundingSigned,
    OpenChannel,
    Ping,
    UpdateAddHtlc,
    UpdateFee,
    Warning as WarningMessage,
    encode,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

HTLC_MSAT = 30_000_000
SCRIPT = b"\0\x14" + b"\x07" * 20


# --- cuts


@pytest.mark.parametrize("what", ["said", "heard"])
async def test_a_cut_at_every_message_of_payments_both_ways_settles_all(
    mallory: HostilePeer,  # noqa: F811
    what: str,
) -> None:
    await mallory.open_channel()
    cuts = 0
    while await mallory.pay_both_ways_and_die({what: cuts}, mallory.reestablish):
        cuts += 1
    assert cuts >= 6
    await mallory.works()


@pytest.mark.parametrize("what", ["said", "heard"])
async def test_a_cut_at_every_message_of_an_opening_to_us_leaves_a_channel_or_nothing(
    target: Target,  # noqa: F811
    what: str,
) -> None:
    for allowed in range(20):
        peer = target.peer("cutter")
        await peer.connect()
        peer.allowance = {what: allowed}
        with contextlib.suppress(Cut):
            await peer.open_channel()
        is_over = bool(peer.allowance)
        peer.allowance = {}
        if is_over:
            assert allowed > 2
            break
        if peer.engine is None or peer.core.channel.phase is Phase.CLOSED:
            # Nothing is at stake; Squall may wait for a funding that never comes.
            gone = peer.channel_id if peer.engine else bytes(32)
            await peer.connect()
            await peer.say(Error(channel_id=gone, data=b"I know of no such channel"))
            await peer.open_channel()
        elif peer.core.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED:
            await peer.reestablish()
            await peer.say(await peer.confirm())
            await peer.talk_until(lambda peer=peer: peer.core.channel.phase is Phase.NORMAL)
        else:
            await peer.say(*await peer.reconnect())
            await peer.talk_until(lambda peer=peer: peer.core.channel.phase is Phase.NORMAL)
        await peer.becomes("NORMAL")
        await peer.works()
        await peer.close()


@pytest.mark.parametrize("step", [AcceptChannel, FundingSigned, "lost"])
async def test_a_cut_at_every_message_of_an_opening_by_us_frees_or_keeps_the_money(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
    step: object,
) -> None:
    asked = asyncio.create_task(mallory.ask_to_open())
    accept = mallory.receive_proposal(await mallory.hear(OpenChannel))
    if step is AcceptChannel:
        mallory.cut()
    else:
        await mallory.say(accept)
        (signed,) = mallory.answer(await mallory.hear(FundingCreated))
        if step == "lost":
            # As late as it can be: it may have arrived or not.
            await mallory.say(signed)
            mallory.cut()
        else:
            mallory.cut()
    if step == "lost":
        try:
            await asked
        except CommandError:
            await target.nothing_locked()
            return
        await mallory.reestablish()
        await mallory.say(await mallory.confirm())
        await mallory.talk_until(lambda: mallory.core.channel.phase is Phase.NORMAL)
        await mallory.earn(20_000)
        return
    with pytest.raises(CommandError, match="the channel was not opened"):
        await asked
    await target.nothing_locked()


@pytest.mark.parametrize("what", ["said", "heard"])
async def test_a_cut_at_every_message_of_a_close_ends_in_one_closing_transaction(
    target: Target,  # noqa: F811
    what: str,
) -> None:
    for allowed in range(20):
        peer = target.peer("closer")
        await peer.connect()
        await peer.open_channel()
        ours_msat = peer.core.channel.remote_msat
        is_closed = lambda peer=peer: peer.core.channel.phase is Phase.CLOSING  # noqa: E731
        peer.allowance = {what: allowed}
        with contextlib.suppress(Cut):
            await peer.say(*peer.do(Close(SCRIPT)))
            await peer.talk_until(is_closed)
        is_over = bool(peer.allowance)
        peer.allowance = {}
        if not is_over:
            await peer.say(*await peer.reconnect())
            while not is_closed() and await peer.is_unspent():
                await peer.talk()
        txid = await peer.funding_spent_by()
        raw = await target.bitcoind.call("getrawtransaction", txid[::-1].hex(), 1)
        paid_sat = round(
            sum(o["value"] for o in raw["vout"] if o["scriptPubKey"]["hex"] != SCRIPT.hex())
            * 100_000_000
        )
        assert paid_sat == ours_msat // 1000
        await peer.becomes("CLOSING")
        await peer.close()
        if is_over:
            break
    assert allowed >= 2


async def test_a_connection_that_dies_fifty_times_in_the_handshake_of_a_channel(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    for _ in range(50):
        messages = await mallory.reconnect()
        if secrets.randbelow(2):
            await mallory.say(*messages)
    await mallory.reestablish()
    await mallory.works()


# --- two connections


async def test_a_second_connection_replaces_the_first_and_the_channel_goes_on(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    first, mallory.wire = mallory.wire, None
    assert first is not None
    mallory.core.do(Disconnected())
    await mallory.reestablish()
    await first.expect_closed()
    await first.close()
    await mallory.works()


async def test_through_two_fronts_at_once_one_connection_stays(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    mallory.cut()
    fronts = list(target.node.fronts.values())
    node_id = bytes.fromhex(target.node.node_id)
    wires = await asyncio.gather(
        *(
            LightningPeer.connect(node_id, "127.0.0.1", f.port, private=mallory.private)
            for f in fronts * 4
        )
    )

    async def lives(wire: LightningPeer) -> LightningPeer | None:
        try:
            await wire.init(mallory.features)
            await wire.expect(ChannelReestablish, skip=(WarningMessage,), timeout_s=2)
        except (AssertionError, TimeoutError):
            return None
        return wire

    lived = await asyncio.gather(*(lives(wire) for wire in wires))
    for wire in wires:
        await wire.close()
    # Each may have been the newest for a moment; in the end there is at most one.
    assert any(lived)
    await mallory.reestablish()
    await mallory.works()
    [peer] = [p for p in await target.node.call("peers") if p["nodeId"] == mallory.node_id.hex()]
    assert peer["state"] == "CONNECTED"


async def test_messages_on_the_replaced_connection_are_not_heard(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    old, mallory.wire = mallory.wire, None
    assert old is not None
    mallory.core.do(Disconnected())
    await mallory.connect()
    hello = mallory.do(*_connected(mallory))
    with contextlib.suppress(ConnectionError):
        # Garbage for the channel, on the connection that is about to go.
        await old.send(UpdateFee(channel_id=mallory.channel_id, feerate_per_kw=0))
    await mallory.say(*hello)
    await mallory.talk_until(lambda: mallory.core.channel.link.name == "ONLINE")
    await old.expect_closed()
    await old.close()
    await mallory.works()


def _connected(peer: HostilePeer) -> tuple[object, ...]:
    from back.channel.events import Connected

    return (Connected(peer.negotiated),)


# --- frames


async def test_a_replayed_frame_ends_the_connection_and_not_the_channel(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    assert mallory.wire is not None
    frame = mallory.wire.seal(encode(Ping(num_pong_bytes=0, ignored=b"")))
    await mallory.wire.write(frame)
    await mallory.wire.write(frame)
    await mallory.wire.expect_closed()
    await mallory.reestablish()
    await mallory.works()


async def test_frames_of_an_earlier_connection_are_refused(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    assert mallory.wire is not None
    frames = mallory.wire.seal(encode(add)) + mallory.wire.seal(encode(signed))
    await mallory.wire.write(frames)
    await mallory.quiet()
    await mallory.reestablish()
    assert mallory.wire is not None
    await mallory.wire.write(frames)
    await mallory.wire.expect_closed()
    await mallory.reestablish()
    await mallory.works()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x80" + bytes(10),
        b"\x00\x84" + b"\xff" * 60,
        b"\x00\x26",
        b"\x00\x20" + bytes(318),
        b"\x00\x80",
        b"\x00\x02",
        b"\x80\x00garbage",
    ],
    ids=["short add", "short commit", "empty shutdown", "zero open", "type only", "two", "even"],
)
async def test_a_malformed_message_costs_no_channel(
    mallory: HostilePeer,  # noqa: F811
    data: bytes,
) -> None:
    await mallory.open_channel()
    await mallory.say(data)
    complaint = await mallory.complaint()
    assert isinstance(complaint, WarningMessage)
    await mallory.reestablish()
    await mallory.works()


async def test_a_malformed_update_is_not_just_left_out(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """Going on without it would make the next signature invalid, which costs the channel."""
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    await mallory.say(encode(add)[:-1], signed)
    complaint = await mallory.complaint()
    assert isinstance(complaint, WarningMessage), complaint
    await mallory.closed()
    await mallory.reestablish()
    await mallory.quiet()
    await mallory.works()


# --- floods


async def test_ten_thousand_updates_without_a_signature_are_bounded(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    fee = encode(UpdateFee(channel_id=mallory.channel_id, feerate_per_kw=3_000))
    assert mallory.wire is not None
    flood = b"".join(mallory.wire.seal(fee) for _ in range(10_000))
    flooding = asyncio.create_task(mallory.wire.write(flood))
    for _ in range(5):
        await target.honest.works()
    await flooding
    # None of them was signed: with the connection they are gone.
    await mallory.reestablish()
    await mallory.works()


async def test_a_hundred_peers_that_come_and_go_disturb_nobody(target: Target) -> None:  # noqa: F811
    async def visit() -> None:
        peer = target.peer("visitor")
        await peer.connect()
        await peer.say(await peer.propose())
        await peer.hear(AcceptChannel)
        peer.cut()

    before = {c["channelId"] for c in await target.node.call("channels")}
    for _ in range(5):
        await asyncio.gather(*(visit() for _ in range(20)))
        await target.honest.works()

    async def forgotten() -> bool:
        return {c["channelId"] for c in await target.node.call("channels")} == before

    await until("the visitors to be forgotten", forgotten, 10)


async def test_adds_to_the_brim_and_back_work(mallory: HostilePeer) -> None:  # noqa: F811
    """As many HTLCs as we accept, at once, each failed or taken; the channel stays usable."""
    await mallory.open_channel()
    most = mallory.core.channel.parameters.remote.max_accepted_htlcs  # type: ignore[union-attr]
    offers = [await mallory.offer(100_000) for _ in range(most)]
    messages = mallory.do(*offers)
    assert sum(isinstance(m, UpdateAddHtlc) for m in messages) == most
    await mallory.say(*messages)
    await mallory.quiet()
    assert not mallory.core.failed_origins
    await mallory.works()
    assert not [m for m in mallory.heard if isinstance(m, Error)]
