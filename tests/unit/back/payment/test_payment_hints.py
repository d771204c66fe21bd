"""Route hints lead to us through private channels, by the names and fees the peer told."""

from dataclasses import replace
from typing import Any

from support.channels import opened

from back.channel.model import Channel, Phase
from back.payment.hints import MAX_HINTS, route_hint, route_hints
from shared.wire import ChannelUpdate, encode

SCID = 100 << 40 | 1 << 16


def update(**fields: int) -> bytes:
    values: dict[str, Any] = {
        "cltv_expiry_delta": 34,
        "fee_base_msat": 1_000,
        "fee_proportional_millionths": 50,
        **fields,
    }
    return encode(
        ChannelUpdate(
            signature=bytes(64),
            chain_hash=bytes(32),
            short_channel_id=SCID,
            timestamp=1,
            message_flags=1,
            channel_flags=0,
            htlc_minimum_msat=1,
            htlc_maximum_msat=1_000,
            **values,
        )
    )


def channel(*, is_announced: bool = False, **changes: Any) -> Channel:
    end = opened()[1]
    assert end.funding is not None
    return replace(
        end,
        channel_announcement=b"announced" if is_announced else None,
        funding=replace(end.funding, short_channel_id=SCID),
        **{"remote_channel_update": update(), **changes},
    )


def test_a_hint_names_the_channel_as_the_peer_does() -> None:
    hint = route_hint(channel(remote_alias=77))
    assert hint is not None
    assert hint.short_channel_id == 77
    assert hint.node_id == channel().parameters.node_id
    assert (hint.fee_base_msat, hint.fee_proportional_millionths) == (1_000, 50)
    assert hint.cltv_expiry_delta == 34
    real = route_hint(channel())
    assert real is not None
    assert real.short_channel_id == SCID


def test_a_channel_whose_fees_are_not_known_is_left_out() -> None:
    assert route_hint(channel(remote_channel_update=None)) is None
    assert route_hints([channel(remote_channel_update=None)]) == ()


def test_a_channel_that_all_know_makes_hints_needless() -> None:
    assert route_hints([channel(), channel(is_announced=True)]) == ()


def test_a_public_channel_that_nobody_knows_yet_is_hinted() -> None:
    young = channel()
    young = replace(young, parameters=replace(young.parameters, announce=True))
    assert len(route_hints([young])) == 1


def test_only_channels_that_work_are_hinted() -> None:
    assert route_hints([channel(phase=Phase.SHUTDOWN)]) == ()


def test_the_few_hints_are_of_the_channels_that_can_bring_most() -> None:
    several = [channel(remote_msat=n * 1_000, remote_alias=n) for n in (3, 1, 5, 2, 4)]
    found = [route[0].short_channel_id for route in route_hints(several)]
    assert found == [5, 4, 3]
    assert len(found) == MAX_HINTS
