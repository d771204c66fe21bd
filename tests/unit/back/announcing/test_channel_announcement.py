"""The two halves of a channel_announcement, and the peer's updates (BOLT 7)."""

from dataclasses import replace

import pytest
from support.channels import End, Keys, deliver_all, messages_named, opened, wired
from support.openings import funded

from back.channel.effects import ChannelAnnounced, Send, WatchConfirmed
from back.channel.events import Close, FundingConfirmed, FundingDeep, Received
from back.channel.model import Channel, Phase
from shared.crypto.signature import sign_compact
from shared.gossip.signed import digest, verify
from shared.gossip.view import channel_view
from shared.units import ShortChannelId
from shared.wire import (
    AnnouncementSignatures,
    ChannelUpdate,
    Warning as WarningMessage,
    decode,
    encode,
)

SCID = ShortChannelId(100, 1, 0).pack()
HALF = "announcement_signatures"


def confirmed(channel: Channel, scid: int = SCID) -> Channel:
    assert channel.funding is not None
    return replace(channel, funding=replace(channel.funding, short_channel_id=scid))


def public() -> tuple[End, End]:
    """Both ends of a channel that is to be announced, confirmed but not deep."""
    opener, fundee = opened(announce=True)
    return wired((confirmed(opener), confirmed(fundee)))


def deep(*ends: End) -> None:
    for end in ends:
        end.do(FundingDeep(100, 1))


def halves(end: End) -> int:
    return messages_named(end.sent).count(HALF)


def announced(*ends: End) -> None:
    """Both have the same announcement, with four right signatures."""
    raws = {end.channel.channel_announcement for end in ends}
    (raw,) = raws
    assert raw is not None
    assert verify(raw)
    told = channel_view(raw)
    assert told.short_channel_id == SCID
    assert told.node_id_1 < told.node_id_2
    parties = {
        end.channel.policy.node_id: end.channel.parameters.local.funding_pubkey for end in ends
    }
    assert parties[told.node_id_1] == told.bitcoin_key_1
    assert parties[told.node_id_2] == told.bitcoin_key_2
    assert told.features == b""


def half_of(end: End, **changes: object) -> AnnouncementSignatures:
    """What a test sends as this end's half."""
    deep(end)
    (made,) = (m for m in end.sent if isinstance(m, AnnouncementSignatures))
    return made.model_copy(update=changes)


def test_six_confirmations_bring_both_halves_and_the_announcement() -> None:
    opener, fundee = public()
    deep(opener)
    assert halves(opener) == 1
    deep(fundee)
    deliver_all(opener, fundee)
    announced(opener, fundee)
    assert halves(opener) == halves(fundee) == 1
    assert len(opener.took(ChannelAnnounced)) == len(fundee.took(ChannelAnnounced)) == 1


def test_a_half_that_comes_early_is_kept_and_used_later() -> None:
    opener, fundee = public()
    deep(fundee)
    opener.receive()
    assert opener.channel.remote_announcement_signatures is not None
    assert opener.channel.channel_announcement is None
    assert halves(opener) == 0
    opener.restart()
    opener.connect()
    deliver_all(opener, fundee)
    deep(opener)
    deliver_all(opener, fundee)
    announced(opener, fundee)


def test_a_half_may_come_before_we_know_the_place_of_the_funding() -> None:
    opener, fundee, transaction = funded(announce=True)
    half = AnnouncementSignatures(
        channel_id=opener.channel.channel_id,
        short_channel_id=ShortChannelId(101, 1, 0).pack(),
        node_signature=bytes(64),
        bitcoin_signature=bytes(64),
    )
    opener.do(Received(half))
    assert opener.channel.remote_announcement_signatures == encode(half)
    for end in (opener, fundee):
        end.do(FundingConfirmed(101, 1, transaction))
        end.do(FundingDeep(101, 1))
    deliver_all(opener, fundee)
    # What came early was wrong; the right half came after it.
    assert messages_named(opener.sent).count("warning") == 1
    assert opener.channel.channel_announcement == fundee.channel.channel_announcement != None  # noqa: E711


def test_nothing_is_sent_before_six_confirmations_or_for_a_private_channel() -> None:
    opener, fundee = public()
    opener.cut()
    opener.connect()
    deliver_all(opener, fundee)
    assert halves(opener) == halves(fundee) == 0
    private = wired(tuple(map(confirmed, opened())))  # type: ignore[arg-type]
    deep(*private)
    deliver_all(*private)
    assert halves(private[0]) == halves(private[1]) == 0
    assert not private[0].took(WatchConfirmed)


def test_a_half_for_a_private_channel_is_ignored() -> None:
    opener, fundee = public()
    half = half_of(fundee)
    private = replace(opener.channel, parameters=replace(opener.channel.parameters, announce=False))
    opener.channel = private
    opener.do(Received(half))
    assert opener.channel == private


def test_the_depth_of_another_place_announces_nothing() -> None:
    opener, _ = public()
    opener.do(FundingDeep(99, 1))
    assert halves(opener) == 0
    opener.do(FundingDeep(100, 1))
    assert halves(opener) == 1


def test_our_half_comes_again_with_each_connection_until_the_peers_is_there() -> None:
    opener, fundee = public()
    deep(opener)
    for count in (2, 3):
        opener.cut()
        opener.connect()
        deliver_all(opener, fundee)
        assert halves(opener) == count
    deep(fundee)
    deliver_all(opener, fundee)
    announced(opener, fundee)
    opener.cut()
    opener.connect()
    deliver_all(opener, fundee)
    assert halves(opener) == 3


def test_a_peer_that_lost_our_half_gets_it_again_once_a_connection() -> None:
    opener, fundee = public()
    deep(opener)
    fundee.wire.clear()
    deep(fundee)
    opener.receive()
    assert opener.channel.channel_announcement is not None
    assert fundee.channel.channel_announcement is None
    opener.cut()
    opener.connect()
    deliver_all(opener, fundee)
    announced(opener, fundee)
    # A peer that goes on sending it gets no second answer, and no loop.
    before = halves(opener)
    for message in [m for m in fundee.sent if isinstance(m, AnnouncementSignatures)]:
        opener.do(Received(message))
        opener.do(Received(message))
    assert halves(opener) == before


@pytest.mark.parametrize("field", ["node_signature", "bitcoin_signature"])
def test_a_wrong_half_costs_a_warning_and_nothing_else(field: str) -> None:
    opener, fundee = public()
    deep(opener)
    half = half_of(fundee, **{field: bytes(63) + b"\1"})
    opener.do(Received(half))
    (warning,) = (m for m in opener.sent if isinstance(m, WarningMessage))
    assert field.encode() in warning.data
    assert opener.is_healthy
    assert opener.is_connected
    assert opener.channel.remote_announcement_signatures is None
    assert opener.channel.channel_announcement is None
    # The right one still does it, and nothing is warned of twice.
    deliver_all(opener, fundee)
    announced(opener, fundee)
    assert messages_named(opener.sent).count("warning") == 1


def test_a_half_for_another_place_costs_a_warning() -> None:
    opener, fundee = public()
    deep(opener)
    opener.do(Received(half_of(fundee, short_channel_id=SCID + 1)))
    assert messages_named(opener.sent).count("warning") == 1
    assert opener.channel.channel_announcement is None
    assert opener.is_healthy
    deliver_all(opener, fundee)
    announced(opener, fundee)


def test_a_peer_that_hears_of_a_reorg_first_is_not_asked_twice() -> None:
    opener, fundee, transaction = funded(announce=True)
    for end in (opener, fundee):
        end.do(FundingConfirmed(100, 1, transaction))
        end.do(FundingDeep(100, 1))
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        end.do(FundingConfirmed(102, 3, transaction))
        end.do(FundingDeep(102, 3))
        deliver_all(opener, fundee)
    raw = opener.channel.channel_announcement
    assert raw is not None
    assert raw == fundee.channel.channel_announcement


def test_a_half_that_comes_before_reestablish_is_answered_after_it() -> None:
    opener, fundee = public()
    deep(opener, fundee)
    deliver_all(opener, fundee)
    half = next(m for m in fundee.sent if isinstance(m, AnnouncementSignatures))
    opener.cut()
    opener.connect()
    before = halves(opener)
    opener.do(Received(half))
    assert halves(opener) == before
    deliver_all(opener, fundee)
    assert halves(opener) == before + 1


def test_a_channel_that_is_closing_is_not_announced_any_more() -> None:
    opener, fundee = public()
    opener.do(Close(opener.channel.parameters.default_shutdown_script))
    deep(opener, fundee)
    deliver_all(opener, fundee)
    assert halves(opener) == 0
    assert opener.channel.channel_announcement is None


def test_a_reorg_that_moves_the_funding_voids_the_announcement() -> None:
    opener, fundee, transaction = funded(announce=True)
    for end in (opener, fundee):
        end.do(FundingConfirmed(100, 1, transaction))
        end.do(FundingDeep(100, 1))
    deliver_all(opener, fundee)
    announced(opener, fundee)
    for end in (opener, fundee):
        end.effects.clear()
        end.do(FundingConfirmed(102, 3, transaction))
        assert end.channel.channel_announcement is None
        assert halves(end) == 0
        (watch,) = (w for w in end.took(WatchConfirmed) if w.what == "announcement")  # type: ignore[attr-defined]
        assert watch.depth == 6  # type: ignore[attr-defined]
    for end in (opener, fundee):
        end.do(FundingDeep(102, 3))
    deliver_all(opener, fundee)
    assert not any(isinstance(m, WarningMessage) for end in (opener, fundee) for m in end.sent)
    raw = opener.channel.channel_announcement
    assert raw == fundee.channel.channel_announcement
    assert raw is not None
    assert channel_view(raw).short_channel_id == ShortChannelId(102, 3, 0).pack()


def test_the_same_place_told_again_changes_nothing() -> None:
    opener, fundee, transaction = funded(announce=True)
    for end in (opener, fundee):
        end.do(FundingConfirmed(100, 1, transaction))
        end.do(FundingDeep(100, 1))
    deliver_all(opener, fundee)
    before = opener.channel
    step = opener.do(FundingConfirmed(100, 1, transaction))
    assert (opener.channel, step.effects) == (before, ())
    assert opener.channel.phase is Phase.NORMAL


# --- the peer's updates -------------------------------------------------------------------------


def update(signer: Keys, **changes: object) -> ChannelUpdate:
    values = {
        "signature": bytes(64),
        "chain_hash": bytes(32),
        "short_channel_id": SCID,
        "timestamp": 1_000,
        "message_flags": 1,
        "channel_flags": 0,
        "cltv_expiry_delta": 40,
        "htlc_minimum_msat": 1,
        "fee_base_msat": 1,
        "fee_proportional_millionths": 1,
        "htlc_maximum_msat": 1_000,
    }
    unsigned = ChannelUpdate.model_validate(values | changes)
    signature = sign_compact(signer.node, digest(encode(unsigned)))
    return unsigned.model_copy(update={"signature": signature})


def of_the_peer(end: End, **changes: object) -> ChannelUpdate:
    assert end.peer is not None
    flags = int(end.peer.channel.policy.node_id > end.channel.policy.node_id)
    return update(end.peer.keys, **{"channel_flags": flags, **changes})


def test_the_peers_newest_update_is_kept() -> None:
    opener, _ = public()
    first, second = of_the_peer(opener), of_the_peer(opener, timestamp=1_001)
    opener.do(Received(first))
    assert decode(opener.channel.remote_channel_update or b"") == first
    opener.do(Received(second))
    opener.do(Received(first))
    assert decode(opener.channel.remote_channel_update or b"") == second


def test_an_update_that_the_peer_did_not_sign_costs_a_warning() -> None:
    opener, _ = public()
    opener.do(Received(of_the_peer(opener).model_copy(update={"fee_base_msat": 0})))
    assert opener.channel.remote_channel_update is None
    assert messages_named(opener.sent) == ["warning"]
    assert opener.is_connected


@pytest.mark.parametrize(
    "changes", [{"short_channel_id": SCID + 1}, {"chain_hash": bytes(31) + b"\1"}]
)
def test_an_update_of_something_else_is_ignored(changes: dict[str, object]) -> None:
    opener, _ = public()
    before = opener.channel
    opener.do(Received(of_the_peer(opener, **changes)))
    assert opener.channel == before
    assert opener.sent == []


def test_an_update_of_our_own_direction_is_ignored() -> None:
    opener, _ = public()
    ours = 1 - of_the_peer(opener).channel_flags
    opener.do(Received(of_the_peer(opener, channel_flags=ours)))
    assert opener.channel.remote_channel_update is None
    assert not opener.took(Send)
