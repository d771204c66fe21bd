"""What a peer was told of the network, and how that differs from what there is."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from support.network import Network

from shared.gossip.view import (
    ChannelView,
    UpdateView,
    node_timestamp,
    update_timestamp,
    view,
)
from shared.units import ShortChannelId

__all__ = ["Told", "differences"]


@dataclass
class Told:
    """Announcements as they arrived.

    Attributes:
        channels: by short_channel_id.
        updates: by ``scid << 1 | direction``, the newest.
        nodes: by node id, the newest.
        repeated: how many came that were there already, byte for byte.
        too_early: how many updates came before their channel, and node announcements before any
            channel of theirs: BOLT 7 forbids it.
    """

    channels: dict[int, bytes] = field(default_factory=dict, repr=False)
    updates: dict[int, bytes] = field(default_factory=dict, repr=False)
    nodes: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    repeated: int = 0
    too_early: int = 0
    _ends: set[bytes] = field(default_factory=set, repr=False)

    def add(self, raw: bytes) -> None:
        """Take one announcement."""
        seen = view(raw)
        if isinstance(seen, ChannelView):
            self.repeated += self.channels.get(seen.short_channel_id) == raw
            self.channels[seen.short_channel_id] = raw
            self._ends |= {seen.node_id_1, seen.node_id_2}
        elif isinstance(seen, UpdateView):
            self.too_early += seen.short_channel_id not in self.channels
            self._newest(self.updates, seen.key, raw, update_timestamp)
        else:
            self.too_early += seen.node_id not in self._ends
            self._newest(self.nodes, seen.node_id, raw, node_timestamp)

    def _newest(self, table, key, raw, timestamp) -> None:
        known = table.get(key)
        self.repeated += known == raw
        if known is None or timestamp(known) <= timestamp(raw):
            table[key] = raw

    def __len__(self) -> int:
        return len(self.channels) + len(self.updates) + len(self.nodes)

    def holds(self, network: Network) -> bool:
        """Whether there are as many of each kind as the network has: quick, for waiting."""
        return (
            len(self.channels) >= len(network.channels)
            and len(self.updates) >= len(network.updates)
            and len(self.nodes) >= len(network.nodes)
        )


def differences(network: Network, told: Told) -> str:
    """Say how a table differs from the network; empty if it does not."""
    return "; ".join(
        [
            *_compare("channels", network.channels, told.channels, str_of_scid),
            *_compare("updates", network.updates, told.updates, str_of_key),
            *_compare("nodes", network.nodes, told.nodes, bytes.hex),
        ]
    )


def str_of_scid(scid: int) -> str:
    """Write a short_channel_id as people do."""
    return str(ShortChannelId.unpack(scid))


def str_of_key(key: int) -> str:
    """Write a direction of a channel."""
    return f"{str_of_scid(key >> 1)}/{key & 1}"


def _compare(what: str, there: Mapping, told: Mapping, name) -> Iterable[str]:
    both = there.keys() & told.keys()
    for kind, found in (
        ("missing", there.keys() - told.keys()),
        ("unknown", told.keys() - there.keys()),
        ("different", {key for key in both if there[key] != told[key]}),
    ):
        if found:
            yield f"{len(found)} of {len(there)} {what} {kind} ({_some(found, name)})"


def _some(found: Collection, name) -> str:
    shown = ", ".join(name(key) for key in sorted(found)[:3])
    return shown if len(found) <= 3 else f"{shown}, …"
