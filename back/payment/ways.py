"""Asks path-finding for what a payment still lacks."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from back.payment import send
from back.payment.route import Lesson, Route, RouteRequest
from back.payment.sending import MIN_PART_MSAT
from shared.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from back.channels import Channels
    from back.payment.exits import Exits
    from back.payment.sending import Sending

__all__ = ["Finder", "Ways"]

ROOM_WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.5)
"""So often a payment waits for HTLCs of ours to make room before it gives up, and so long."""


class Finder(Protocol):
    """Finds routes: :class:`back.graph.paths.service.PathFinder`."""

    async def find(self, request: RouteRequest) -> tuple[Route, ...]:
        """Return routes that together carry the amount; CommandError: there are none."""

    def learned(self, lessons: "Iterable[Lesson]") -> None:
        """Remember what attempts taught."""


class Ways:
    """Ways for payments.

    Args:
        node_id: ours.
        channels: all of ours.
        exits: the same as first hops.
        clock: unix seconds.
        entropy: gives so many random bytes.

    Attributes:
        finder: None: there are none but to direct peers.
    """

    def __init__(
        self,
        node_id: bytes,
        channels: "Channels",
        exits: "Exits",
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.finder: Finder | None = None
        self._node_id = node_id
        self._channels = channels
        self._exits = exits
        self._clock = clock
        self._entropy = entropy

    async def find(self, sending: "Sending") -> tuple[Route, ...]:
        """Return ways for what is missing; where our own HTLCs are in the way, wait a moment.

        Raises:
            CommandError: there are none.
            BackendError: path-finding does not answer.
        """
        waits = iter(ROOM_WAITS_S)
        while True:
            try:
                if self.finder is None:
                    raise CommandError("route not found")
                return await self.finder.find(self._request(sending))
            except CommandError as error:
                is_late = self._clock() >= sending.deadline_s
                wait_s = None if is_late or not self._is_room_coming(sending) else next(waits, None)
                if wait_s is None:
                    raise CommandError(self._why(sending, str(error))) from None
            await asyncio.sleep(wait_s)

    def _is_room_coming(self, sending: "Sending") -> bool:
        return self._exits.is_room_coming(sending.missing_msat, sending.payment.recipient)

    def _why(self, sending: "Sending", why: str) -> str:
        payee = sending.payment.recipient
        peer = self._channels.peers.known.get(payee)
        if peer is not None and peer.runners and peer.session is None:
            return f"{why}: {payee.hex()} is not connected"
        return why

    def _request(self, sending: "Sending") -> RouteRequest:
        wanted, limits = sending.order, sending.limits
        if wanted is None:
            raise CommandError("the invoice has expired")
        recipient = wanted.recipient
        free = limits.max_parts - len(sending.in_flight)
        extra = {(e.hop.short_channel_id, e.hop.node_id): e for e in recipient.extra}
        return RouteRequest(
            source=self._node_id,
            payee=recipient.payee,
            amount_msat=sending.missing_msat,
            max_fee_msat=max(0, sending.fee_left_msat),
            max_cltv_expiry_delta=(
                send.MAX_HTLC_CLTV - send.SHADOW_ROOM - recipient.final_cltv_delta
            ),
            local=self._exits.local(sending.ignored_channels),
            extra=tuple((extra | sending.extra).values()),
            ignored_nodes=frozenset(sending.ignored_nodes),
            ignored_channels=frozenset(sending.ignored_channels),
            in_flight=tuple(
                (hop.short_channel_id, hop.node_id, msat)
                for part in sending.in_flight
                for hop, msat in zip(part.tried.hops[1:], part.tried.carried[1:], strict=True)
            ),
            max_parts=max(1, free) if recipient.takes_parts else 1,
            min_part_msat=MIN_PART_MSAT,
            unix_s=self._clock(),
            seed=int.from_bytes(self._entropy(2), "big"),
        )
