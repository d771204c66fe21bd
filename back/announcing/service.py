"""Looks at the channels, has what is due signed and stored, then says it.

A look at a channel whose value has not changed costs next to nothing, so one task looks at all of
them every second, and at once at those it is told of: nothing that is missed is missed for long.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from back.announcing.nodes import OurNode
    from back.announcing.updates import Terms
    from back.runner import ChannelRunner
    from back.signer.signer import Signer
    from back.storage.store import Store
    from shared.gossip.record import Change

__all__ = ["Announcing", "Graph"]


class Graph(Protocol):
    """Who takes our announcements: they are finished and checked."""

    def announce_own(self, changes: "Iterable[Change]") -> None:
        """Take finished values; idempotent, never blocks."""


class Announcing:
    """Our own announcements.

    Args:
        store: where they are kept; an announcement is stored before anybody hears of it.
        signer: signs them.
        runners: all channels, by present channel id.
        graph: takes them.
        node: what we say of ourselves.
        terms: what we take for forwarding.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        runners: "dict[bytes, ChannelRunner]",
        graph: Graph,
        node: "OurNode",
        terms: "Terms",
    ) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Load what was said before, announce it again, and go on."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Say nothing more."""
        raise NotImplementedError

    def changed(self, runner: "ChannelRunner") -> None:
        """A channel is ready, announced, away or closing: look at it now, not within a second."""
        raise NotImplementedError
