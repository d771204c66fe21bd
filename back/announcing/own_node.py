"""Has our `node_announcement` signed when it is due, stores it, then hands it on."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from back.announcing import nodes, updates
from back.announcing.stored import read_stored
from back.storage import announcements
from back.storage.store import NODE_SHARD
from shared.errors import BackendError, WriteRefused
from shared.gossip.record import Change, Kind
from shared.wire import NodeAnnouncement, encode

if TYPE_CHECKING:
    from back.announcing.nodes import OurNode
    from back.signer.signer import Signer
    from back.storage.store import Store

__all__ = ["NodeAnnouncer"]

log = structlog.get_logger()


class NodeAnnouncer:
    """Says who we are.

    Args:
        store: where it is kept.
        signer: signs it.
        announce: takes what is finished and stored.
        node: what we say of ourselves.
        unix: seconds of the clock that timestamps come from.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        announce: Callable[[list[Change]], None],
        node: "OurNode",
        unix: Callable[[], float],
    ) -> None:
        self._store = store
        self._signer = signer
        self._announce = announce
        self._node = node
        self._unix = unix
        self._said: NodeAnnouncement | None = None
        self._is_announced = False

    async def load(self) -> None:
        """Learn what was said before.

        Raises:
            StorageUnavailable: the database is away.
        """
        self._said = read_stored(await self._store.read(announcements.load_node), NodeAnnouncement)

    def repeat(self) -> None:
        """It may have been lost: say it again at the next look."""
        self._is_announced = False

    async def look(self) -> None:
        """Say it where that is due. Only once a channel of ours is known to all (BOLT 7).

        Raises:
            LeaseLost: the node is another back's.
        """
        renewed = self._renewed()
        if renewed is None and self._is_announced:
            return
        writes = [] if renewed is None else [announcements.node_said(encode(renewed))]
        try:
            await self._store.committer.submit(NODE_SHARD, writes)
        except (BackendError, WriteRefused) as error:
            log.warning("node_announcement_not_stored", error=str(error))
            return
        self._said = renewed or self._said
        if self._said is not None:
            self._is_announced = True
            self._announce([Change(Kind.NODE, self._node.node_id, encode(self._said))])

    def _renewed(self) -> NodeAnnouncement | None:
        """Return a new announcement, signed, if one is due."""
        wanted, unix_s = nodes.wanted(self._node), int(self._unix())
        if not nodes.due(self._said, wanted, unix_s):
            return None
        last = 0 if self._said is None else self._said.timestamp
        timestamp = updates.next_timestamp(last, unix_s)
        return self._signer.sign_node_announcement(
            wanted.model_copy(update={"timestamp": timestamp})
        )
