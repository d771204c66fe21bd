"""The routing table as a graph: nodes are numbers, edges tuples. Pure.

A search goes from the payee backwards and, for its bounds, from the payer forwards, so an edge
stands with both of its nodes. All that a step of a search reads of it is in one tuple: reading it
costs one unpacking.
"""

from typing import NamedTuple

from back.payment.route import Hop
from shared.errors import MalformedMessage
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.view import channel_view, update_view

__all__ = ["EdgeTuple", "Network", "Terms"]

EdgeTuple = tuple[int, int, int, int, int, int, int, int, float]
"""(key, node that forwards into it, node that it leads to, fee_base_msat,
fee_proportional_millionths, cltv_expiry_delta, htlc_minimum_msat, the most that fits in msat,
1 / capacity_msat); key = scid << 1 | direction."""


class Terms(NamedTuple):
    """What a `channel_update` says, verbatim."""

    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int
    htlc_minimum_msat: int
    htlc_maximum_msat: int


class _Channel(NamedTuple):
    nodes: tuple[int, int]
    capacity_msat: int


class Network:
    """Channels that can be used, as edges.

    Attributes:
        incoming: by node number, the edges that lead to it, by key.
        outgoing: by node number, the edges that it forwards into, by key.
    """

    def __init__(self) -> None:
        self.incoming: list[dict[int, EdgeTuple]] = []
        self.outgoing: list[dict[int, EdgeTuple]] = []
        self._ids: list[bytes] = []
        self._degrees: list[int] = []
        self._free: list[int] = []
        """Numbers of nodes that have no channels any more: they are given again."""
        self._numbers: dict[bytes, int] = {}
        self._channels: dict[int, _Channel] = {}

    def __len__(self) -> int:
        """Return how many numbers nodes have."""
        return len(self._ids)

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

    def hop(self, edge: EdgeTuple) -> Hop:
        """Return an edge as people know it."""
        key, source, target, base, millionths, delta, *_ = edge
        return Hop(self._ids[source], self._ids[target], key >> 1, base, millionths, delta)

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
            self.forget(scid)
        elif scid not in self._channels:
            view = channel_view(record.raw)
            self.add(scid, (view.node_id_1, view.node_id_2), record.capacity_sat * 1000)

    def add(self, scid: int, node_ids: tuple[bytes, bytes], capacity_msat: int) -> None:
        """Take a channel; it cannot be used before it has terms."""
        nodes = self._number_of(node_ids[0]), self._number_of(node_ids[1])
        for number in nodes:
            self._degrees[number] += 1
        self._channels[scid] = _Channel(nodes, capacity_msat)

    def forget(self, scid: int) -> None:
        """Take out a channel, if it is there."""
        channel = self._channels.pop(scid, None)
        if channel is None:
            return
        for direction in (0, 1):
            self._remove(channel, scid << 1 | direction)
        for number in channel.nodes:
            self._degrees[number] -= 1
            if self._degrees[number] == 0:
                del self._numbers[self._ids[number]]
                self._free.append(number)

    def _remove(self, channel: _Channel, key: int) -> None:
        self.outgoing[channel.nodes[key & 1]].pop(key, None)
        self.incoming[channel.nodes[1 - (key & 1)]].pop(key, None)

    def _apply_update(self, key: int, raw: bytes | None) -> None:
        channel = self._channels.get(key >> 1)
        if channel is None:
            return
        if raw is None or (update := update_view(raw)).is_disabled:
            self._remove(channel, key)
            return
        terms = Terms(
            update.fee_base_msat,
            update.fee_proportional_millionths,
            update.cltv_expiry_delta,
            update.htlc_minimum_msat,
            update.htlc_maximum_msat,
        )
        self.put(key, terms)

    def put(self, key: int, terms: Terms) -> None:
        """Take the terms of one direction of a channel that is there."""
        channel = self._channels[key >> 1]
        source, target = channel.nodes[key & 1], channel.nodes[1 - (key & 1)]
        capacity_msat = channel.capacity_msat or terms.htlc_maximum_msat
        most_msat = min(terms.htlc_maximum_msat, capacity_msat)
        share = 1.0 / max(1, capacity_msat)
        edge = (key, source, target, *terms[:4], most_msat, share)
        self.incoming[target][key] = self.outgoing[source][key] = edge

    def _number_of(self, node_id: bytes) -> int:
        number = self._numbers.get(node_id)
        if number is not None:
            return number
        if self._free:
            number = self._free.pop()
            self._ids[number] = node_id
        else:
            number = len(self._ids)
            self._ids.append(node_id)
            self._degrees.append(0)
            self.incoming.append({})
            self.outgoing.append({})
        self._numbers[node_id] = number
        return number
