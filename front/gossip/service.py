"""Gossip of one front as one piece: joins the parts, and its peers with them."""

from typing import TYPE_CHECKING

import structlog

from front.gossip.answers import answer
from shared.gossip.record import Change
from shared.gossip.table import Table
from shared.gossip.view import CHANNEL_UPDATE, message_type, update_view
from shared.wire import Message, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from front.gossip.link import Link

__all__ = ["Gossip"]

log = structlog.get_logger()


class Gossip:
    """The gossip of one front: a sink of GRAPH, and every peer's counterpart."""

    def __init__(self) -> None:
        self.table = Table()
        self._fresh: Table | None = None
        """Being filled from another stream than `table` was."""

        self.on_node_self: Callable[[bytes], None] = lambda payload: None

    @property
    def is_loading(self) -> bool:
        """Whether a new table is being filled."""
        return self._fresh is not None

    def joined(self, link: "Link") -> None:
        """Both inits are exchanged."""

    def left(self, link: "Link") -> None:
        """The connection ends."""

    def announcement(self, link: "Link", raw: bytes) -> bool:
        """Take an announcement; False for an update of a channel that the table does not have.

        Raises:
            MalformedMessage: it is too short for its fields.
        """
        if message_type(raw) != CHANNEL_UPDATE:
            return True
        return self.table.channel(update_view(raw).short_channel_id) is not None

    def message(self, link: "Link", message: Message) -> None:
        """Take a query, a filter, or a reply to ours."""
        reply = answer(message)
        if reply is not None:
            link.send(encode(reply))

    def drained(self, link: "Link") -> None:
        """The peer takes more."""

    # --- GRAPH (GraphSink) ------------------------------------------------------------------------

    def loading(self) -> None:
        """Another stream: what follows fills a new table."""
        self._fresh = Table()

    def put(self, change: Change) -> None:
        """One value of the stream."""
        (self.table if self._fresh is None else self._fresh).apply(change)

    def loaded(self) -> None:
        """The new table is complete: use it."""
        if self._fresh is not None:
            self.table, self._fresh = self._fresh, None
            log.info("table_loaded", channels=self.table.channels, nodes=self.table.nodes)

    def node_self(self, payload: bytes) -> None:
        """Who we are."""
        self.on_node_self(payload)

    def tip(self, payload: bytes) -> None:
        """Up to which block the table is worked through: nothing to a front."""
