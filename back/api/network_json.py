"""Announcements of the network as JSON with the names and units of Eclair's API.

What nodes say of themselves is any bytes: nothing of it may break a caller, stand for something
else on its screen, or take long to read.
"""

from functools import lru_cache

from back.api.json import Json, scid_json, timestamp_json
from shared.errors import MalformedMessage
from shared.features import Feature
from shared.gossip.view import ChannelView, node_view, update_view
from shared.wire.address import parse_addresses

__all__ = ["alias_json", "described_channel_json", "node_json", "update_json"]

MAX_ADDRESSES_BYTES = 2048
"""An announcement may have 65 kB of them; nobody reads so many."""
MAX_FEATURES_BYTES = 64
"""Above all features that have a name."""
_SIGNATURE = slice(2, 66)


def described_channel_json(channel: ChannelView) -> Json:
    """A channel: its name and its two ends."""
    return {
        "shortChannelId": scid_json(channel.short_channel_id),
        "a": channel.node_id_1.hex(),
        "b": channel.node_id_2.hex(),
    }


def update_json(raw: bytes) -> Json:
    """A `channel_update`."""
    update = update_view(raw)
    return {
        "signature": raw[_SIGNATURE].hex(),
        "chainHash": update.chain_hash.hex(),
        "shortChannelId": scid_json(update.short_channel_id),
        "timestamp": timestamp_json(update.timestamp),
        "messageFlags": _upper_flags(update.message_flags) | {"dontForward": update.dont_forward},
        "channelFlags": _upper_flags(update.channel_flags)
        | {"isEnabled": not update.is_disabled, "isNode1": update.direction == 0},
        "cltvExpiryDelta": update.cltv_expiry_delta,
        "htlcMinimumMsat": update.htlc_minimum_msat,
        "feeBaseMsat": update.fee_base_msat,
        "feeProportionalMillionths": update.fee_proportional_millionths,
        "htlcMaximumMsat": update.htlc_maximum_msat,
        "tlvStream": {},
    }


def _upper_flags(flags: int) -> Json:
    return {f"flag{bit}": bool(flags >> bit & 1) for bit in range(7, 1, -1)}


def node_json(raw: bytes) -> Json:
    """A `node_announcement`."""
    node = node_view(raw)
    return {
        "signature": raw[_SIGNATURE].hex(),
        "features": _features_json(node.features[-MAX_FEATURES_BYTES:]),
        "timestamp": timestamp_json(node.timestamp),
        "nodeId": node.node_id.hex(),
        "rgbColor": f"#{node.rgb_color.hex()}",
        "alias": alias_json(node.alias),
        "addresses": _addresses_json(node.addresses),
        "tlvStream": {},
    }


def alias_json(alias: bytes) -> str:
    """A node's name: what is no UTF-8, or could move a screen's cursor, becomes U+FFFD."""
    text = alias.rstrip(b"\0").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


@lru_cache(maxsize=256)
def _features_json(field: bytes) -> Json:
    """Names of features. Shared: not to be changed."""
    bits = int.from_bytes(field, "big")
    activated = {}
    for feature in Feature:
        if bits >> feature.bit & 1:
            activated[feature.name] = "mandatory"
        elif bits >> feature.optional_bit & 1:
            activated[feature.name] = "optional"
    return {"activated": activated}


def _addresses_json(descriptors: bytes) -> list[str]:
    """Where the node says it is; nothing where that cannot be read."""
    if len(descriptors) > MAX_ADDRESSES_BYTES:
        return []
    try:
        return [str(address) for address in parse_addresses(descriptors).known]
    except MalformedMessage:
        return []
