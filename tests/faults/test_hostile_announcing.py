"""Attacks on what two ends tell each other for BOLT 7: it may cost a warning, never a channel."""

import pytest
from support.hostile import (  # noqa: F401 - fixtures
    HostilePeer,
    Target,
    bitcoind,
    mallory,
    target,
    unharmed,
)

from shared.chain import REGTEST
from shared.wire import (
    AnnouncementSignatures,
    ChannelUpdate,
    Error,
    Warning as WarningMessage,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

PUBLIC = {"announce": True}
DEPTH = 6
MANY = 200


async def warned_only(peer: HostilePeer, text: str) -> None:
    """Squall warns in these words, and goes on."""
    message = await peer.complaint()
    assert isinstance(message, WarningMessage), message
    assert text in message.data.decode(), message


async def short_channel_id(peer: HostilePeer) -> int:
    """Where Squall sees the channel."""
    channels = await peer.node.call("channels", nodeId=peer.node_id.hex())
    block, transaction, output = map(int, channels[0]["data"]["shortChannelId"].split("x"))
    return block << 40 | transaction << 16 | output


async def half(peer: HostilePeer, *, places_off: int = 0) -> AnnouncementSignatures:
    """A half with signatures of nobody."""
    return AnnouncementSignatures(
        channel_id=peer.channel_id,
        short_channel_id=await short_channel_id(peer) + places_off,
        node_signature=bytes(63) + b"\1",
        bitcoin_signature=b"\xff" * 64,
    )


async def test_a_half_with_wrong_signatures_costs_a_warning_when_it_can_be_checked(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel(**PUBLIC)
    await mallory.say(await half(mallory))
    await mallory.works()
    await mallory.bitcoind.mine(DEPTH)
    await warned_only(mallory, "node_signature is not valid")
    await mallory.works()


async def test_a_half_for_another_place_costs_a_warning(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel(**PUBLIC)
    await mallory.say(await half(mallory, places_off=1))
    await warned_only(mallory, "is not where this channel is")
    await mallory.works()


async def test_any_number_of_halves_announces_nothing_and_costs_nothing(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """Also in a channel that is not to be announced."""
    await mallory.open_channel()
    await mallory.say(*[await half(mallory)] * MANY)
    await mallory.works()
    assert not any(isinstance(m, Error | WarningMessage) for m in mallory.heard)
    channels = await mallory.node.call("channels", nodeId=mallory.node_id.hex())
    assert "lastAnnouncement_opt" not in channels[0]["data"]


@pytest.mark.parametrize("flags", [0, 1])
async def test_an_update_signed_by_nobody_is_not_taken(
    mallory: HostilePeer,  # noqa: F811
    flags: int,
) -> None:
    await mallory.open_channel()
    update = ChannelUpdate(
        signature=bytes(63) + b"\1",
        chain_hash=REGTEST.chain_hash,
        short_channel_id=await short_channel_id(mallory),
        timestamp=0xFFFFFFFF,
        message_flags=1,
        channel_flags=flags,
        cltv_expiry_delta=0,
        htlc_minimum_msat=0,
        fee_base_msat=0,
        fee_proportional_millionths=0,
        htlc_maximum_msat=0,
    )
    if bool(flags) == (mallory.node_id > bytes.fromhex(mallory.node.node_id)):
        await mallory.say(update)
        await warned_only(mallory, "signature of a channel_update is not valid")
    else:
        # Of our own direction: nothing that a peer could know better.
        await mallory.say(*[update] * MANY)
    await mallory.works()
