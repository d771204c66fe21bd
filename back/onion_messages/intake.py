"""Onion messages of peers, as fronts publish them: a few wait, the rest is dropped (BOLT 4).

Unlike BOLT 2 they are not numbered, and nobody asks for one that is missing. What arrives costs
next to nothing until it is counted; only then is it read, one at a time, others' turn in between.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import structlog

from shared.errors import FabricError
from shared.fabric import subjects
from shared.fabric.envelope import decode, decode_message
from shared.onion_budget import OnionBudget, OnionLimits
from shared.tasks import Tasks
from shared.wire import OnionMessage

if TYPE_CHECKING:
    from back.switchboard import PeerSession
    from shared.fabric.interface import Fabric, Received, Subscription

__all__ = ["Intake"]

log = structlog.get_logger()

MAX_WAITING = 256
"""Messages that were counted and not read yet; they are small, or few."""


class _Waiting(NamedTuple):
    peer: bytes
    body: bytes


class Intake:
    """The way in.

    Args:
        fabric: the connection for bulk, so that no flood stands before a message of a session.
        sessions: by id, as the switchboard has them.
        limits: of each peer, and of all.
        handle: takes a message; must not wait.
        on_outcome: told why a message was dropped.
    """

    def __init__(
        self,
        fabric: "Fabric",
        sessions: "Mapping[bytes, PeerSession]",
        limits: OnionLimits,
        handle: Callable[[bytes, OnionMessage], None],
        on_outcome: Callable[[str], None],
    ) -> None:
        self._fabric = fabric
        self._sessions = sessions
        self._budget = OnionBudget(limits, 0.0)
        self._handle = handle
        self._on_outcome = on_outcome
        self._waiting: deque[_Waiting] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._is_deaf = False
        self._subscriptions: list[Subscription] = []
        self._tasks = Tasks()

    async def start(self, shards: tuple[int, ...], epoch: int) -> None:
        """Hear what comes for these shards; the broker need not be there yet."""
        group = subjects.back_group(epoch)
        for shard in shards:
            subject = subjects.onion(shard)
            heard = await self._fabric.subscribe(subject, self._received, group=group)
            self._subscriptions.append(heard)

    def mute(self) -> None:
        """Another back owns the shards: take nothing more."""
        self._is_deaf = True
        self._waiting.clear()

    async def stop(self) -> None:
        """Take nothing more."""
        self.mute()
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions.clear()
        await self._tasks.stop()

    def may(self, session: "PeerSession", size: int) -> bool:
        """Count a message of a peer against the budgets; say whether it may be looked at."""
        now = asyncio.get_running_loop().time()
        has_channels = session.has_channels
        over = self._budget.take(session.peer, size, has_channels=has_channels, now=now)
        if over is not None:
            self._on_outcome(f"dropped_over_{over}")
        return over is None

    def _received(self, received: "Received") -> None:
        if self._is_deaf:
            return
        try:
            envelope = decode(received.payload)
        except FabricError as error:
            log.warning("envelope_refused", subject=received.subject, error=str(error))
            return
        session = self._sessions.get(envelope.session)
        if (
            session is None
            or session.is_over
            or session.connected is None
            or session.front != envelope.front
            or received.subject != subjects.onion(subjects.shard(session.peer))
        ):
            self._on_outcome("dropped_no_session")
            return
        # The packet is written in hex.
        if not self.may(session, len(envelope.body) // 2):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._on_outcome("dropped_busy")
            return
        self._waiting.append(_Waiting(session.peer, envelope.body))
        if self._reading is None or self._reading.done():
            self._reading = self._tasks.spawn(self._read(), "reading onion messages")

    async def _read(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)
            if not self._waiting:
                return
            peer, body = self._waiting.popleft()
            try:
                self._take(peer, body)
            except Exception:
                # A bug of ours must not end the reading of all others'.
                log.exception("onion_message_not_handled", peer=peer.hex())

    def _take(self, peer: bytes, body: bytes) -> None:
        try:
            message = decode_message(OnionMessage.NAME, body)
        except FabricError as error:
            log.warning("envelope_refused", message=OnionMessage.NAME, error=str(error))
            return
        if isinstance(message, OnionMessage):
            self._handle(peer, message)
