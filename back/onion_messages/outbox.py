"""What is said to peers by onion message: after a commit, a few at a time, or not at all.

Every word of a back passes the committer, or a back that has lost its shards would still speak. A
commit for each message would be dear, so messages gather for a moment. Nothing waits for a peer
that does not read: onion messages may be lost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from shared.fabric import subjects
from shared.tasks import Tasks
from shared.wire import OnionMessage

if TYPE_CHECKING:
    from back.switchboard import PeerSession

__all__ = ["HEADER_BYTES", "Outbox"]

GATHER_S = 0.02
MAX_MESSAGES = 1_000
MAX_BYTES = 8 << 20
HEADER_BYTES = 2 + 33 + 2
"""Type, path_key and length of an onion_message."""


class _Said(NamedTuple):
    session: "PeerSession"
    message: OnionMessage
    size: int


class Outbox:
    """Messages that wait for a commit.

    Args:
        may_speak: says whether a peer is still ours, once a commit has shown it.
        on_outcome: told ``sent`` or ``dropped_slow`` of each message.
    """

    def __init__(
        self,
        may_speak: Callable[[bytes], Awaitable[bool]],
        on_outcome: Callable[[str], None],
    ) -> None:
        self._may_speak = may_speak
        self._on_outcome = on_outcome
        self._waiting: list[_Said] = []
        self._bytes = 0
        self._tasks = Tasks()
        self._flushing: asyncio.Task[None] | None = None

    def put(self, session: "PeerSession", message: OnionMessage) -> bool:
        """Say something soon; False: there is no room for it, with the peer or here."""
        size = HEADER_BYTES + len(message.onion_message_packet)
        is_full = len(self._waiting) >= MAX_MESSAGES or self._bytes + size > MAX_BYTES
        if is_full or session.is_over or not session.has_room(size):
            self._on_outcome("dropped_slow")
            return False
        self._waiting.append(_Said(session, message, size))
        self._bytes += size
        if self._flushing is None or self._flushing.done():
            self._flushing = self._tasks.spawn(self._flush(), "onion messages")
        return True

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            said, self._waiting, self._bytes = self._waiting, [], 0
            by_shard = {subjects.shard(one.session.peer): one.session.peer for one in said}
            answers = await asyncio.gather(*map(self._may_speak, by_shard.values()))
            ours = {shard for shard, may in zip(by_shard, answers, strict=True) if may}
            for one in said:
                if subjects.shard(one.session.peer) in ours:
                    self._say(one)

    def _say(self, said: _Said) -> None:
        if said.session.is_over or not said.session.has_room(said.size):
            self._on_outcome("dropped_slow")
            return
        said.session.send(said.message)
        self._on_outcome("sent")

    async def stop(self) -> None:
        """Say nothing more."""
        await self._tasks.stop()
