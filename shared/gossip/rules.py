"""What BOLT 7 asks of one announcement by itself: no table, no chain, no signature. Pure."""

from enum import StrEnum

from shared.gossip.view import ChannelView, NodeView, UpdateView, View

__all__ = ["FUTURE_S", "STALE_S", "Rejection", "check"]

STALE_S = 1_209_600
"""Two weeks: an older `channel_update` is of a channel that may be pruned (BOLT 7 § Pruning)."""
FUTURE_S = 86_400
"""How far ahead of our clock a timestamp may be; without a bound it could never be replaced."""
_HTLC_MAXIMUM_PRESENT = 1
_POINT_PREFIXES = frozenset({2, 3})


class Rejection(StrEnum):
    """Why an announcement is ignored; none of these is a reason to disconnect."""

    CHAIN = "another chain"
    NODE_ORDER = "node_id_1 is not the lesser of the two"
    POINT = "a key is no compressed point"
    STALE = "older than two weeks"
    FUTURE = "a timestamp more than a day ahead"
    NO_HTLC_MAXIMUM = "no htlc_maximum_msat"
    HTLC_MAXIMUM = "htlc_maximum_msat is below htlc_minimum_msat"
    PRIVATE = "not to be forwarded"


def check(announcement: View, chain_hash: bytes, unix_s: int) -> Rejection | None:
    """Return what is wrong with an announcement, or None.

    Args:
        announcement: as read by `shared.gossip.view`.
        chain_hash: of our chain.
        unix_s: our clock.
    """
    if isinstance(announcement, UpdateView):
        return _check_update(announcement, chain_hash, unix_s)
    if isinstance(announcement, ChannelView):
        return _check_channel(announcement, chain_hash)
    return _check_node(announcement, unix_s)


def _check_channel(channel: ChannelView, chain_hash: bytes) -> Rejection | None:
    if channel.chain_hash != chain_hash:
        return Rejection.CHAIN
    if channel.node_id_1 >= channel.node_id_2:
        return Rejection.NODE_ORDER
    keys = (channel.node_id_1, channel.node_id_2, channel.bitcoin_key_1, channel.bitcoin_key_2)
    if any(key[0] not in _POINT_PREFIXES for key in keys):
        return Rejection.POINT
    return None


def _check_update(update: UpdateView, chain_hash: bytes, unix_s: int) -> Rejection | None:
    if update.chain_hash != chain_hash:
        return Rejection.CHAIN
    if update.dont_forward:
        return Rejection.PRIVATE
    if not update.message_flags & _HTLC_MAXIMUM_PRESENT:
        return Rejection.NO_HTLC_MAXIMUM
    if update.htlc_maximum_msat < update.htlc_minimum_msat:
        return Rejection.HTLC_MAXIMUM
    if update.timestamp < unix_s - STALE_S:
        return Rejection.STALE
    return Rejection.FUTURE if update.timestamp > unix_s + FUTURE_S else None


def _check_node(node: NodeView, unix_s: int) -> Rejection | None:
    if node.node_id[0] not in _POINT_PREFIXES:
        return Rejection.POINT
    return Rejection.FUTURE if node.timestamp > unix_s + FUTURE_S else None
