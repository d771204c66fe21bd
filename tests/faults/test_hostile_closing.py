"""Lies at the end of a channel and after a reconnection: shutdown, closing_signed, reestablish."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.hostile import (  # noqa: F401 - fixtures
    SPOILS,
    HostilePeer,
    Refused,
    Target,
    bitcoind,
    mallory,
    spoiled,
    target,
    unharmed,
)

from back.channel.events import Close, Received
from back.channel.model import Channel, Phase
from back.transactions.transaction import parse_transaction
from shared.wire import (
    ChannelReestablish,
    ClosingSigned,
    CommitmentSigned,
    Error,
    FeeRange,
    Message,
    RevokeAndAck,
    Shutdown,
    UpdateAddHtlc,
    Warning as WarningMessage,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

SMALL_MSAT = 20_000
HTLC_MSAT = 50_000_000
SCRIPT = b"\0\x14" + b"\x07" * 20


async def payout_of(peer: HostilePeer, txid: bytes) -> int:
    """What a transaction of the mempool pays to somebody else than the peer, in satoshi."""
    raw = bytes.fromhex(await peer.bitcoind.call("getrawtransaction", txid[::-1].hex()))
    return sum(o.value_sat for o in parse_transaction(raw).outputs if o.script_pubkey != SCRIPT)


# --- shutdown


@pytest.mark.parametrize(
    "script",
    [
        b"",
        b"\x6a",
        b"\x51",
        b"\x76\xa9\x14" + bytes(20) + b"\x88\xad",
        b"\0\x15" + bytes(21),
        b"\0\x14" + bytes(19),
        b"\x51\x02\x4e\x73",
        b"\x6a\x4c" + bytes(80),
        b"\0\x20" + bytes(32) + b"\x51",
        b"\x53" * 10_000,
    ],
    ids=lambda script: f"{len(script)} bytes {script[:4].hex()}",
)
async def test_a_shutdown_to_a_bad_script_gets_a_warning_and_closes_nothing(
    mallory: HostilePeer,  # noqa: F811
    script: bytes,
) -> None:
    await mallory.open_channel()
    await mallory.say(Shutdown(channel_id=mallory.channel_id, scriptpubkey=script))
    complaint = await mallory.complaint()
    assert isinstance(complaint, WarningMessage)
    assert "scriptpubkey" in complaint.data.decode()
    await mallory.works()
    assert await mallory.state() == "NORMAL"


async def test_a_second_shutdown_with_another_script_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    first, second = (
        Shutdown(channel_id=mallory.channel_id, scriptpubkey=b"\0\x14" + bytes([n]) * 20)
        for n in (1, 2)
    )
    await mallory.say(first, second)
    await mallory.warned("differs from the one before")
    # The first one counts, and the HTLC under way is still settled.
    mallory.do(Close(first.scriptpubkey))
    await mallory.reestablish()
    await mallory.say(*mallory.do(mallory.settlement(received)))
    assert await mallory.outcome(received.htlc.payment_hash) == "sent"
    await mallory.talk_until(lambda: mallory.core.channel.phase is Phase.CLOSING)
    txid = await mallory.funding_spent_by()
    assert txid == mallory.core.channel.published[-1]


async def test_another_script_than_promised_at_the_opening_ends_the_connection(
    target: Target,  # noqa: F811
) -> None:
    from support.lightning_peer import FEATURES

    from shared.features import Feature, FeatureSet

    features = FEATURES.union(FeatureSet.of(optional=[Feature.option_upfront_shutdown_script]))
    peer = target.peer(features=features)
    await peer.connect()
    await peer.open_channel(shutdown_script=SCRIPT)
    await peer.say(
        Shutdown(channel_id=peer.channel_id, scriptpubkey=b"\0\x14" + secrets.token_bytes(20))
    )
    await peer.warned("differs from upfront_shutdown_script")
    await peer.reestablish()
    await peer.works()


async def test_a_shutdown_over_unsigned_updates_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    add, _ = mallory.do(await mallory.offer(SMALL_MSAT))
    await mallory.say(add, Shutdown(channel_id=mallory.channel_id, scriptpubkey=SCRIPT))
    await mallory.warned("updates that are not signed")
    mallory.core.roll_back()
    await mallory.reestablish()
    await mallory.works()


async def test_an_add_after_shutdown_ends_the_connection_and_the_close_goes_on(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    add, _ = mallory.do(await mallory.offer(SMALL_MSAT))
    mallory.core.roll_back()
    await mallory.say(*mallory.do(Close(SCRIPT)), add)
    complaint = await mallory.complaint()
    assert "update_add_htlc" in complaint.data.decode()
    await mallory.reestablish()
    await mallory.talk_until(lambda: mallory.core.channel.phase is Phase.CLOSING)
    await mallory.funding_spent_by()
    await mallory.becomes("CLOSING")


# --- closing_signed


async def negotiating(peer: HostilePeer, *, opener: bool = True) -> list[Message]:
    """Close up to the point where the peer would answer or send its first closing_signed."""
    if opener:
        await peer.open_channel()
    else:
        await peer.accept_channel(pushMsat=300_000_000)
    await peer.works()
    await peer.say(*peer.do(Close(SCRIPT)))
    while True:
        message = await peer.listen()
        assert not isinstance(message, Error), message
        replies = peer.answer(message)
        if peer.core.channel.phase in {Phase.NEGOTIATING, Phase.CLOSING}:
            if replies or not opener:
                return replies
            continue
        await peer.say(*replies)


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_wrong_signature_of_the_closing_ends_the_connection_and_then_closes(
    mallory: HostilePeer,  # noqa: F811
    spoil: str,
) -> None:
    (offer,) = await negotiating(mallory)
    assert isinstance(offer, ClosingSigned)
    await mallory.say(offer.model_copy(update={"signature": spoiled(offer.signature)[spoil]}))
    await mallory.warned("signature of the closing transaction is not valid")
    assert await mallory.is_unspent()
    await mallory.reestablish()
    await mallory.talk_until(lambda: mallory.core.channel.phase is Phase.CLOSING)
    await mallory.funding_spent_by()
    await mallory.becomes("CLOSING")


def resigned(peer: HostilePeer, fee: int, span: FeeRange | None) -> ClosingSigned:
    """A closing_signed for any fee, with a valid signature."""
    from back.channel import closing
    from shared.crypto.signature import sign_compact

    transaction = closing.transaction(peer.core.channel, fee)
    signature = sign_compact(peer.core.keys.funding, transaction.sighash)
    return ClosingSigned(
        channel_id=peer.channel_id, fee_satoshis=fee, signature=signature, fee_range=span
    )


async def test_a_fee_that_nobody_can_pay_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    (offer,) = await negotiating(mallory)
    assert isinstance(offer, ClosingSigned)
    for fee in (700_000, (1 << 64) - 1, 21_000_000 * 100_000_000):
        await mallory.say(offer.model_copy(update={"fee_satoshis": fee, "fee_range": None}))
        assert "fee_satoshis" in (await mallory.complaint()).data.decode()
        await mallory.closed()
        await mallory.say(*await mallory.reconnect())
        await mallory.hear(ChannelReestablish)
    assert await mallory.is_unspent()


async def test_a_fee_of_nothing_is_not_signed(mallory: HostilePeer) -> None:  # noqa: F811
    await negotiating(mallory)
    await mallory.say(resigned(mallory, 0, FeeRange(min_fee_satoshis=0, max_fee_satoshis=0)))
    complaint = await mallory.complaint()
    assert "fee_range 0..0 does not meet ours" in complaint.data.decode()
    assert await mallory.is_unspent()


async def test_a_range_upside_down_is_not_signed(mallory: HostilePeer) -> None:  # noqa: F811
    await negotiating(mallory)
    span = FeeRange(min_fee_satoshis=100_000, max_fee_satoshis=10)
    await mallory.say(resigned(mallory, 150, span))
    complaint = await mallory.complaint()
    assert "fee_range" in complaint.data.decode()
    assert await mallory.is_unspent()


async def test_the_peer_that_pays_may_pay_much_and_we_lose_nothing(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """The opener throws its own money away: our output is whole."""
    await negotiating(mallory)
    ours_sat = mallory.core.channel.remote_msat // 1000
    span = FeeRange(min_fee_satoshis=90_000, max_fee_satoshis=110_000)
    await mallory.say(resigned(mallory, 100_000, span))
    answer = await mallory.listen()
    assert isinstance(answer, ClosingSigned)
    assert answer.fee_satoshis == 100_000
    txid = await mallory.funding_spent_by()
    assert await payout_of(mallory, txid) == ours_sat


async def test_we_pay_no_fee_above_ours_as_opener(mallory: HostilePeer) -> None:  # noqa: F811
    await negotiating(mallory, opener=False)
    high = resigned(mallory, 150_000, FeeRange(min_fee_satoshis=140_000, max_fee_satoshis=160_000))
    await mallory.say(high)
    complaint = await mallory.complaint()
    assert "does not meet ours" in complaint.data.decode()
    assert await mallory.is_unspent()


async def test_haggling_without_a_range_ends(mallory: HostilePeer) -> None:  # noqa: F811
    """Old peers: each fee strictly between the last two, or the connection ends."""
    await negotiating(mallory)
    await mallory.say(resigned(mallory, 150_000, None))
    first = await mallory.hear(ClosingSigned)
    await mallory.say(resigned(mallory, 140_000, None))
    second = await mallory.hear(ClosingSigned)
    assert first.fee_satoshis < second.fee_satoshis < 140_000
    await mallory.say(resigned(mallory, 145_000, None))
    await mallory.warned("fee_satoshis 145000 is not strictly between")
    assert await mallory.is_unspent()


async def test_our_output_cannot_be_left_out_of_the_closing(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """The signer may leave its own output out (BOLT 3), not ours."""
    from back.channel import closing
    from shared.crypto.signature import sign_compact

    (offer,) = await negotiating(mallory)
    assert isinstance(offer, ClosingSigned)
    channel = mallory.core.channel
    emptied = replace(channel, remote_msat=0, local_msat=channel.local_msat)
    without = closing.transaction(emptied, offer.fee_satoshis)
    await mallory.say(
        offer.model_copy(
            update={"signature": sign_compact(mallory.core.keys.funding, without.sighash)}
        )
    )
    await mallory.warned("signature of the closing transaction is not valid")
    assert await mallory.is_unspent()


async def test_a_peer_that_vanishes_in_the_negotiation_loses_us_nothing(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await negotiating(mallory, opener=False)
    mallory.cut()
    await mallory.node.call("forceclose", channelId=mallory.channel_id.hex())
    assert await mallory.funding_spent_by() == mallory.core.squalls_commitment


# --- channel_reestablish


Lie = Callable[[ChannelReestablish, HostilePeer], dict[str, Any]]


def _is_at(channel: Channel) -> tuple[int, int]:
    return channel.local_commitment.number, channel.remote_commitment.number


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda m, _p: {"next_commitment_number": m.next_commitment_number + 1}, "next_commit"),
        (lambda _m, _p: {"next_commitment_number": (1 << 48) - 1}, "next_commitment_number"),
        (lambda _m, _p: {"next_commitment_number": (1 << 64) - 1}, "next_commitment_number"),
        (lambda _m, _p: {"next_commitment_number": 0}, "next_commitment_number"),
        (lambda m, _p: {"next_commitment_number": m.next_commitment_number - 1}, "next_commit"),
        (
            lambda _m, p: {
                "next_revocation_number": 0,
                "your_last_per_commitment_secret": bytes(32),
            },
            "next_revocation_number",
        ),
        (
            lambda m, _p: {"next_revocation_number": m.next_revocation_number - 2},
            "your_last_per_commitment_secret is not ours",
        ),
        (
            lambda m, _p: {"next_revocation_number": m.next_revocation_number + 1},
            "your_last_per_commitment_secret is not ours",
        ),
        (
            lambda _m, _p: {"next_revocation_number": (1 << 64) - 1},
            "your_last_per_commitment_secret is not ours",
        ),
        (
            lambda _m, _p: {"your_last_per_commitment_secret": bytes(32)},
            "your_last_per_commitment_secret is not ours",
        ),
        (
            lambda _m, _p: {"your_last_per_commitment_secret": b"\xff" * 32},
            "your_last_per_commitment_secret is not ours",
        ),
    ],
    ids=[
        "one ahead",
        "far ahead",
        "the largest number",
        "nothing signed",
        "one behind",
        "no revocation",
        "an old revocation",
        "a future revocation",
        "the last revocation",
        "a secret of zeros",
        "a secret of ones",
    ],
)
async def test_a_lie_about_where_we_stand_fails_the_channel_with_our_last_commitment(
    mallory: HostilePeer,  # noqa: F811
    lie: Lie,
    words: str,
) -> None:
    await mallory.open_channel()
    await mallory.works()
    await mallory.works()
    (honest,) = await mallory.reconnect()
    assert isinstance(honest, ChannelReestablish)
    await mallory.say(honest.model_copy(update=lie(honest, mallory)))
    await mallory.failed(words)
    await mallory.becomes("CLOSING")


async def test_nobody_can_make_us_believe_that_we_lost_data(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """Whoever could, would keep us from publishing: only our own secret proves it."""
    await mallory.open_channel()
    await mallory.works()
    (honest,) = await mallory.reconnect()
    assert isinstance(honest, ChannelReestablish)
    await mallory.say(
        honest.model_copy(
            update={
                "next_revocation_number": honest.next_revocation_number + 3,
                "your_last_per_commitment_secret": secrets.token_bytes(32),
            }
        )
    )
    await mallory.failed("your_last_per_commitment_secret is not ours")


async def test_a_reestablish_in_the_middle_of_a_connection_ends_it(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.works()
    (honest,) = await mallory.reconnect()
    await mallory.say(honest)
    await mallory.talk_until(lambda: mallory.core.channel.link.name == "ONLINE")
    await mallory.say(honest)
    await mallory.warned("in the middle of a connection")
    await mallory.reestablish()
    await mallory.works()


async def test_a_reestablish_of_an_unknown_channel_gets_an_error_for_it_alone(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    (honest,) = await mallory.reconnect()
    unknown = secrets.token_bytes(32)
    await mallory.say(honest.model_copy(update={"channel_id": unknown}), honest)
    complaint = await mallory.complaint()
    assert isinstance(complaint, Error)
    assert complaint.channel_id == unknown
    await mallory.say(*mallory.core.do(Received(await mallory.reestablish_of_squall())))
    await mallory.works()


async def test_asking_again_and_again_gets_the_same_bytes(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """One commitment number has one content, however often the peer forgets it."""
    await mallory.open_channel()
    await mallory.works()
    await mallory.node.call("payinvoice", invoice=mallory.bill(HTLC_MSAT))
    await mallory.hold(CommitmentSigned)
    batches = []
    for _ in range(5):
        await mallory.say(*await mallory.reconnect())
        batch = [await mallory.hear(UpdateAddHtlc), await mallory.listen()]
        assert isinstance(batch[1], CommitmentSigned)
        batches.append(batch)
        mallory.core.roll_back()
    assert all(batch == batches[0] for batch in batches)


async def test_replaying_everything_ever_said_gains_nothing(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    for _ in range(3):
        await mallory.works()
    said = [
        m for m in mallory.said if isinstance(m, UpdateAddHtlc | CommitmentSigned | RevokeAndAck)
    ]
    before = mallory.core.channel
    for message in said[:8]:
        await mallory.reestablish()
        await mallory.say(message)
        complaint = await mallory.complaint()
        if isinstance(complaint, Error):
            # A signature of old is a wrong signature; it costs the replayer its channel.
            assert isinstance(message, CommitmentSigned)
            assert await mallory.funding_spent_by() == mallory.core.squalls_commitment
            break
        await mallory.closed()
    assert mallory.core.channel.local_msat == before.local_msat
