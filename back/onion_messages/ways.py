"""To whom a message goes first, and through whom: peers, the routing table, a new connection."""

import asyncio
import random
from collections.abc import Callable, Collection, Generator, Sequence
from typing import TYPE_CHECKING, TypeVar

import structlog

from back.onion_messages.topology import Topology, survey
from shared.errors import BackendError, CommandError, MalformedMessage
from shared.fabric.envelope import Reason
from shared.features import Feature
from shared.gossip.view import node_view
from shared.onion_budget import Bucket
from shared.wire import parse_addresses

if TYPE_CHECKING:
    from back.peer import Peer, Peers
    from back.relay.names import Names
    from shared.gossip.table import Table

__all__ = ["Ways"]

log = structlog.get_logger()
T = TypeVar("T")

TOPOLOGY_AGE_S = 600.0
"""So long what was found in the routing table is good enough, if that has not grown by a tenth."""
RENEWED_S = 5.0
"""Between two looks through the routing table."""
SEARCHES_PER_S, SEARCH_BURST = 10.0, 50.0
"""Searches for answers, which strangers make us send; each takes 10 ms or more of a core."""
SEARCH_S = 10.0
BORROWED_S = 120.0
"""A connection made for messages only is closed after so long."""
DIALLED_ADDRESSES = 4


class Ways:
    """Who can be reached, and how.

    Args:
        node_id: ours.
        peers: who is connected.
        names: of our channels.
        table: gives the routing table.
        connects: whether to connect to a node that no peer reaches.
    """

    def __init__(
        self,
        node_id: bytes,
        peers: "Peers",
        names: "Names",
        table: "Callable[[], Table]",
        *,
        connects: bool,
    ) -> None:
        self.node_id = node_id
        self._peers = peers
        self._names = names
        self._table = table
        self._connects = connects
        self._topology: Topology | None = None
        self._surveyed_at = 0.0
        self._surveyed = 0
        self._searches = Bucket(SEARCHES_PER_S, SEARCH_BURST, 0.0)
        self._surveying = asyncio.Lock()

    # --- who is there ----------------------------------------------------------------------------

    def peer(self, node_id: bytes) -> "Peer | None":
        """Return a peer that is connected and takes onion messages."""
        peer = self._peers.known.get(node_id)
        if peer is None or peer.session is None:
            return None
        return peer if Feature.option_onion_messages in peer.features else None

    def across(self, short_channel_id: int) -> bytes | None:
        """Return who is at the other end of a channel of ours: by its real name, or an alias."""
        runner = self._names.find(short_channel_id)
        return None if runner is None else runner.channel.parameters.node_id

    def named(self, first_node_id: bytes) -> bytes:
        """Return the node id of a path's introduction point.

        Raises:
            CommandError: it is named by a channel that we do not know.
        """
        if len(first_node_id) == 33:
            return first_node_id
        side, scid = first_node_id[0], int.from_bytes(first_node_id[1:], "big")
        if (entry := self._table().channel(scid)) is not None:
            return entry.nodes[side]
        if (across := self.across(scid)) is not None:
            return sorted((self.node_id, across))[side]
        raise CommandError("the path begins at a channel that is not known")

    def door(self) -> bytes | None:
        """Return through whom others best reach us: a peer; None: nobody, or only we ourselves.

        One that the whole network knows; of those one with which we have channels.
        """
        table = self._table()
        able = [p for node_id in list(self._peers.known) if (p := self.peer(node_id)) is not None]
        known = [peer for peer in able if table.has_channels(peer.node_id)]
        if not known and table.has_channels(self.node_id):
            return None
        pool = known or able
        pool = [peer for peer in pool if peer.runners] or pool
        return random.choice(pool).node_id if pool else None  # noqa: S311 - spreads load

    # --- how to get there -------------------------------------------------------------------------

    async def to(
        self, target: bytes, avoided: Collection[bytes] = (), *, is_answer: bool = False
    ) -> Sequence[bytes]:
        """Return through whom a message reaches a node; empty: it is connected to us.

        Args:
            target: not ourselves.
            avoided: nodes that were tried in vain.
            is_answer: others choose the target: they must not have us dial whom they want, nor
                search without end.

        Raises:
            CommandError: there is no way, or it was not found in time.
        """
        if self.peer(target) is not None:
            return ()
        if is_answer and not self._may_search():
            raise CommandError("too many answers to nodes that are not connected")
        try:
            async with asyncio.timeout(SEARCH_S):
                found = await self._search(target, avoided)
        except TimeoutError:
            found = None
        if found is not None:
            return found
        if is_answer:
            raise CommandError("no way to that node is known")
        await self.connect(target)
        return ()

    def _may_search(self) -> bool:
        if not self._searches.has(1.0, asyncio.get_running_loop().time()):
            return False
        self._searches.take(1.0)
        return True

    async def _search(self, target: bytes, avoided: Collection[bytes]) -> tuple[bytes, ...] | None:
        firsts = {node_id for node_id in list(self._peers.known) if self.peer(node_id) is not None}
        firsts -= set(avoided)
        if not firsts:
            return None
        topology = await self._present_topology()
        excluded = {self.node_id, *avoided}
        return await _in_turns(topology.search(target, firsts, excluded))

    async def _present_topology(self) -> Topology:
        async with self._surveying:
            now, table = asyncio.get_running_loop().time(), self._table()
            if self._topology is None or self._is_outdated(table, now - self._surveyed_at):
                self._surveyed_at, self._surveyed = now, table.channels + table.nodes
                self._topology = await _in_turns(survey(table))
            return self._topology

    def _is_outdated(self, table: "Table", age_s: float) -> bool:
        """Whether the routing table is another one now: at a start, it is still being loaded."""
        change = abs(table.channels + table.nodes - self._surveyed)
        return age_s > TOPOLOGY_AGE_S or (age_s > RENEWED_S and change > self._surveyed // 10)

    async def connect(self, target: bytes) -> None:
        """Connect to a node for the sake of a message.

        Raises:
            CommandError: that is not allowed, or did not work.
        """
        addresses = self._addresses(target) if self._connects else []
        if not addresses:
            raise CommandError("no way to that node is known")
        try:
            peer = await self._peers.connect(target, addresses)
        except BackendError as error:
            raise CommandError(f"that node cannot be reached: {error}") from error
        if self.peer(target) is None:
            raise CommandError("that node takes no onion messages")
        asyncio.get_running_loop().call_later(BORROWED_S, self._give_back, peer, peer.session)

    def _give_back(self, peer: "Peer", session: object) -> None:
        if peer.session is not None and peer.session is session and not peer.runners:
            peer.session.close(Reason.CLOSED_BY_OWNER, "no longer needed")

    def _addresses(self, node_id: bytes) -> list[str]:
        known = self._peers.known.get(node_id)
        if known is not None and known.addresses:
            return list(known.addresses)
        raw = self._table().node(node_id)
        if raw is None:
            return []
        try:
            announced = parse_addresses(node_view(raw).addresses).known
        except MalformedMessage:
            return []
        return [str(address) for address in announced if address.is_usable][:DIALLED_ADDRESSES]


async def _in_turns(steps: "Generator[None, None, T]") -> T:
    """Run steps, others' turn between any two."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        await asyncio.sleep(0)
