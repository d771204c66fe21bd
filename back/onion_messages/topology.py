"""Through which nodes an onion message reaches another. Pure.

A message needs no balance, only nodes that pass it on: those that announce option_onion_messages.
Looking through the routing table takes longer than the event loop may be held, so it is done in
steps: each generator here yields when it is others' turn.
"""

from collections import deque
from collections.abc import Collection, Generator
from typing import TYPE_CHECKING

from shared.errors import MalformedMessage
from shared.features import Feature, FeatureSet
from shared.gossip.view import node_view

if TYPE_CHECKING:
    from shared.gossip.table import Table

__all__ = ["MAX_NODES", "Topology", "survey"]

STEP = 500
"""Announcements looked at in one step: a millisecond or two."""
SEARCH_STEP = 2_000
"""Neighbours looked at in one step of a search."""
MAX_NODES = 8
"""Nodes between us and the recipient, at most; each takes 90 bytes of the onion."""

_ONION_MESSAGES = Feature.option_onion_messages


class Topology:
    """Who passes onion messages on, and with whom they have channels."""

    def __init__(self) -> None:
        self._relays: dict[bytes, list[bytes]] = {}
        """Node id → its neighbours that pass messages on."""

    def __len__(self) -> int:
        return len(self._relays)

    def add(self, node_id: bytes, relay: bytes) -> None:
        """Note that a node has a channel with one that passes messages on."""
        self._relays.setdefault(node_id, []).append(relay)

    def search(
        self, target: bytes, firsts: Collection[bytes], avoided: Collection[bytes] = ()
    ) -> Generator[None, None, tuple[bytes, ...] | None]:
        """Find the fewest nodes through which a message comes from one of ``firsts`` to ``target``.

        Args:
            target: the recipient, which need not pass anything on.
            firsts: our peers that pass messages on.
            avoided: nodes not to go through.

        Returns:
            The nodes, the one of ``firsts`` first, without ``target``; None: there is no way.
        """
        following: dict[bytes, bytes] = {target: target}
        depths = {target: 0}
        queue = deque([target])
        looked = 0
        while queue:
            node_id = queue.popleft()
            if node_id in firsts and node_id != target:
                return _walk(node_id, following)
            if depths[node_id] >= MAX_NODES:
                continue
            for relay in self._relays.get(node_id, ()):
                looked += 1
                if relay not in following and relay not in avoided:
                    following[relay] = node_id
                    depths[relay] = depths[node_id] + 1
                    queue.append(relay)
                if looked % SEARCH_STEP == 0:
                    yield
        return None


def _walk(first: bytes, following: dict[bytes, bytes]) -> tuple[bytes, ...]:
    nodes = [first]
    while following[nodes[-1]] != nodes[-1]:
        nodes.append(following[nodes[-1]])
    return tuple(nodes[:-1])


def survey(table: "Table") -> Generator[None, None, Topology]:
    """Look through the routing table; it may change between steps."""
    relays: set[bytes] = set()
    node_id = b""
    while page := table.nodes_from(node_id, STEP):
        relays.update(node for node in page if _relays(table.node(node)))
        node_id = page[-1] + b"\x00"
        yield
    topology = Topology()
    short_channel_id = 0
    while ids := table.ids_from(short_channel_id, STEP):
        for scid in ids:
            entry = table.channel(scid)
            if entry is None or entry.spent_height:
                continue
            node_1, node_2 = entry.nodes
            if node_2 in relays:
                topology.add(node_1, node_2)
            if node_1 in relays:
                topology.add(node_2, node_1)
        short_channel_id = ids[-1] + 1
        yield
    return topology


def _relays(raw: bytes | None) -> bool:
    """Whether a node announces that it passes onion messages on."""
    if raw is None:
        return False
    try:
        features = node_view(raw).features
    except MalformedMessage:
        return False
    return FeatureSet.from_bytes(features).supports(_ONION_MESSAGES)
