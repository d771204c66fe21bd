"""The routing table as a graph: nodes are numbers, edges tuples in a list for each node. Pure.

A search goes from the payee backwards, so an edge stands with the node that it leads to. All that
a step of the search reads of an edge is in one tuple: reading it costs one unpacking.
"""

from typing import NamedTuple

from back.payment.route import Hop
from shared.errors import MalformedMessage
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.view import channel_view, update_view

__all__ = ["EdgeTuple", "Network"]

EdgeTuple = tuple[int, int, int, int, int, int, int, float]
"""(key, node that forwards into it, fee_base_msat, fee_proportional_millionths, cltv_expiry_delta,
htlc_minimum_msat, the most that fits in msat, 1 / capacity_msat); key = scid << 1 | direction."""


class _Channel(NamedTuple):
    nodes: tuple[int, int]
    capacity_msat: int


class Network:
    """Channels that can be used, as edges.

    Attributes:
        incoming: by node number, the edges that lead to it, by key.
        ids: node ids by number.
    """

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.incoming: list[dict[int, EdgeTuple]] = []
        self._numbers: dict[bytes, int] = {}
        self._channels: dict[int, _Channel] = {}

    @property
    def channels(self) -> int:
        """How many channels there are that are not spent."""
        return len(self._channels)

    @property
    def edges(self) -> int:
        """How many directions can be used."""
        return sum(map(len, self.incoming))

    def number(self, node_id: bytes) -> int | None:
        """Return a node's number, None for one without channels."""
        return self._numbers.get(node_id)

    def hop(self, edge: EdgeTuple, to: int) -> Hop:
        """Return an edge that leads to the node ``to`` as people know it."""
        key, source, base, millionths, delta, *_ = edge
        return Hop(self.ids[source], self.ids[to], key >> 1, base, millionths, delta)

    def key(self, short_channel_id: int, node_id: bytes) -> int | None:
        """Return the key of a channel in the direction in which a node forwards into it."""
        channel = self._channels.get(short_channel_id)
        number = self._numbers.get(node_id)
        if channel is None or number not in channel.nodes:
            return None
        return short_channel_id << 1 | channel.nodes.index(number)

    # --- changes ----------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take a change of the routing table."""
        kind, key, value = change
        if isinstance(key, bytes):
            return
        try:
            if kind is Kind.CHANNEL:
                self._apply_channel(key, value if isinstance(value, ChannelRecord) else None)
            else:
                self._apply_update(key, value if isinstance(value, bytes) else None)
        except MalformedMessage:
            # The table holds only what was read before; what cannot be read leads nowhere.
            return

    def _apply_channel(self, scid: int, record: ChannelRecord | None) -> None:
        if record is None or record.spent_height:
            self._forget(scid)
            return
        if scid in self._channels:
            return
        view = channel_view(record.raw)
        nodes = self._number_of(view.node_id_1), self._number_of(view.node_id_2)
        self._channels[scid] = _Channel(nodes, record.capacity_sat * 1000)

    def _forget(self, scid: int) -> None:
        channel = self._channels.pop(scid, None)
        if channel is not None:
            for direction in (0, 1):
                self.incoming[channel.nodes[1 - direction]].pop(scid << 1 | direction, None)

    def _apply_update(self, key: int, raw: bytes | None) -> None:
        channel = self._channels.get(key >> 1)
        if channel is None:
            return
        source, target = channel.nodes[key & 1], channel.nodes[1 - (key & 1)]
        edges = self.incoming[target]
        if raw is None or (update := update_view(raw)).is_disabled:
            edges.pop(key, None)
            return
        capacity_msat = channel.capacity_msat or update.htlc_maximum_msat
        most_msat = min(update.htlc_maximum_msat, capacity_msat)
        edges[key] = (
            key,
            source,
            update.fee_base_msat,
            update.fee_proportional_millionths,
            update.cltv_expiry_delta,
            update.htlc_minimum_msat,
            most_msat,
            1.0 / max(1, capacity_msat),
        )

    def _number_of(self, node_id: bytes) -> int:
        number = self._numbers.get(node_id)
        if number is None:
            number = self._numbers[node_id] = len(self.ids)
            self.ids.append(node_id)
            self.incoming.append({})
        return number
