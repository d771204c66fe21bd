"""Brings messages from one side of a forward to the other: in this process, or over the fabric.

No preimage travels between backs that the incoming peer does not have yet: the ledger has it, and
the owner of the incoming channel reads it there.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from back.relay.handoff import MESSAGES, ForwardId, Noted, Offer, Outcome, Refused, Taken
from shared.errors import BackendError, FabricError
from shared.fabric import subjects
from shared.fabric.requests import read
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.relay.downstream import Downstream
    from back.relay.handoff import ToDownstream, ToUpstream
    from back.relay.upstream import Upstream
    from back.storage.lease import Lease
    from shared.fabric.interface import Fabric, Received, Subscription

__all__ = ["FabricCarrier"]

log = structlog.get_logger()


class FabricCarrier:
    """The way between the two sides (:class:`.handoff.Carrier`).

    Args:
        fabric: the way to other backs; None: every shard is ours.
        lease: says which shards are ours.
        preimage: reads the preimage of a fulfilled forward from the ledger.
    """

    def __init__(
        self,
        fabric: "Fabric | None",
        lease: "Lease",
        preimage: Callable[[ForwardId], Awaitable[bytes | None]],
    ) -> None:
        self._fabric = fabric
        self._lease = lease
        self._ours = frozenset(lease.shards)
        self._preimage = preimage
        self._upstream: Upstream
        self._downstream: Downstream
        self._subscriptions: list[Subscription] = []
        self._tasks = Tasks()

    def between(self, upstream: "Upstream", downstream: "Downstream") -> None:
        """Set the two sides that are here."""
        self._upstream, self._downstream = upstream, downstream

    async def start(self) -> None:
        """Hear other backs, if this one does not own every shard."""
        if self._fabric is None or set(range(subjects.SHARDS)) <= self._ours:
            return
        group = subjects.back_group(self._lease.epoch)
        for number in sorted(self._ours & set(range(subjects.SHARDS))):
            subject = subjects.shard_relay(number)
            heard = await self._fabric.subscribe(subject, self._received, group=group)
            self._subscriptions.append(heard)

    async def stop(self) -> None:
        """Hear nothing more."""
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions.clear()
        await self._tasks.stop()

    def to_downstream(self, message: "ToDownstream", out_node_id: bytes) -> None:
        """To the owner of the outgoing peer's shard."""
        number = subjects.shard(out_node_id)
        if number in self._ours:
            self._downstream.receive(message)
        else:
            self._publish(number, message)

    def to_upstream(self, message: "ToUpstream", in_node_id: bytes) -> None:
        """To the owner of the incoming peer's shard."""
        number = subjects.shard(in_node_id)
        if number in self._ours:
            self._upstream.receive(message)
            return
        if isinstance(message, Outcome) and message.kind == "fulfilled":
            message = message.model_copy(update={"data": None})
        self._publish(number, message)

    def _publish(self, number: int, message: "ToDownstream | ToUpstream") -> None:
        if self._fabric is not None:
            name = type(message).__name__.lower()
            self._fabric.publish(subjects.relay(number, name), message.to_bytes())

    def _received(self, received: "Received") -> None:
        kind = MESSAGES.get(subjects.parse_last_token(received.subject))
        try:
            if kind is None:
                raise FabricError("no message of a forward")
            message = read(kind, received.payload)
        except FabricError as error:
            log.warning("handoff_refused", subject=received.subject, error=str(error))
            return
        match message:
            case Offer() | Noted():
                self._downstream.receive(message)
            case Outcome(kind="fulfilled", data=None):
                self._tasks.spawn(self._fulfilled(message), "read a preimage")
            case Taken() | Refused() | Outcome():
                self._upstream.receive(message)

    async def _fulfilled(self, message: Outcome) -> None:
        try:
            preimage = await self._preimage(message.id)
        except BackendError as error:
            # The outcome is told again until it is noted.
            log.info("preimage_not_read", error=str(error))
            return
        if preimage is not None:
            self._upstream.receive(message.model_copy(update={"data": preimage}))
