import pytest

from front.peer.routing import Route, channel_of, route
from shared.wire import (
    REGISTRY,
    Error,
    Ping,
    UpdateFee,
)

TO_OWNER = {
    "warning", "stfu", "peer_storage", "peer_storage_retrieval", "error", "announcement_signatures",
}  # fmt: skip


def blank(name_or_type):
    """A message with no fields filled in: only its class decides its route."""
    return name_or_type.model_construct()


@pytest.mark.parametrize("model", REGISTRY.values(), ids=lambda model: model.NAME)
def test_every_message_goes_where_the_architecture_says(model):
    expected = {
        "init": Route.ILLEGAL,
        "ping": Route.PING,
        "pong": Route.PONG,
        "query_short_channel_ids": Route.GOSSIP,
        "query_channel_range": Route.GOSSIP,
        "reply_short_channel_ids_end": Route.GOSSIP,
        "reply_channel_range": Route.GOSSIP,
        "gossip_timestamp_filter": Route.GOSSIP,
    }.get(model.NAME)
    if expected is None:
        bolt_2 = model.NAME in TO_OWNER or 32 <= model.TYPE < 256
        expected = Route.OWNER if bolt_2 else Route.DROP
    assert route(blank(model)) is expected


def test_a_message_names_its_channel():
    assert channel_of(UpdateFee(channel_id=bytes([7]) * 32, feerate_per_kw=253)) == bytes([7]) * 32
    assert channel_of(Error(channel_id=bytes(32), data=b"")) is None
    assert channel_of(Ping(num_pong_bytes=0, ignored=b"")) is None
