"""Our `node_announcement`: what it says, and whether a new one is due. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from back.announcing.updates import REFRESH_S
from shared.features import Context, FeatureSet
from shared.wire import NodeAnnouncement
from shared.wire.address import Address, pack_addresses

__all__ = ["OurNode", "due", "wanted"]

_UNSIGNED = bytes(64)
_ALIAS_BYTES = 32


@dataclass(frozen=True, slots=True)
class OurNode:
    """What we say of ourselves.

    Attributes:
        node_id: 33 bytes.
        alias: at most 32 bytes of UTF-8.
        rgb_color: 3 bytes.
        features: what our `init` offers; of these the ones that BOLT 9 allows here.
        addresses: descriptors, in order.
    """

    node_id: bytes
    alias: str
    rgb_color: bytes
    features: FeatureSet
    addresses: bytes = b""

    @classmethod
    def of(
        cls,
        node_id: bytes,
        alias: str,
        color: str,
        features: FeatureSet,
        public_addresses: Iterable[str],
    ) -> "OurNode":
        """Take it from settings: ``color`` as #rrggbb, addresses as host:port.

        Raises:
            ValueError: an alias of more than 32 bytes, or what is no address.
        """
        if len(alias.encode()) > _ALIAS_BYTES:
            raise ValueError(f"an alias has at most {_ALIAS_BYTES} bytes")
        # Each once: a repeated descriptor tells nobody anything.
        addresses = dict.fromkeys(Address.parse(text) for text in public_addresses)
        return cls(
            node_id=node_id,
            alias=alias,
            rgb_color=bytes.fromhex(color.removeprefix("#")),
            features=features.only(Context.NODE),
            addresses=pack_addresses(addresses),
        )


def wanted(node: OurNode) -> NodeAnnouncement:
    """Return what our announcement should say, with timestamp and signature zero."""
    return NodeAnnouncement(
        signature=_UNSIGNED,
        features=node.features.to_bytes(),
        timestamp=0,
        node_id=node.node_id,
        rgb_color=node.rgb_color,
        alias=node.alias.encode().ljust(_ALIAS_BYTES, b"\0"),
        addresses=node.addresses,
    )


def due(stored: NodeAnnouncement | None, now_wanted: NodeAnnouncement, unix_s: int) -> bool:
    """Whether ``stored`` must be replaced: it says something else, or grows old."""
    if stored is None or unix_s - stored.timestamp >= REFRESH_S:
        return True
    same = {"signature": now_wanted.signature, "timestamp": now_wanted.timestamp}
    return stored.model_copy(update=same) != now_wanted
