"""Rounds of a payment: ways for what is missing, and HTLCs that take them.

A round begins when a part has failed, and only when none is under way. Whatever goes wrong here,
the payment ends: it has nothing else to wake it.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from back.channel.events import OfferHtlc
from back.payment import send
from back.payment.failures import Verdict, local_failure
from back.payment.restoring import stored_route
from back.payment.route import Route
from back.payment.sending import Part, Sending, origin_of
from back.storage.payments import Attempt
from shared.errors import BackendError, CommandError

if TYPE_CHECKING:
    import asyncio

    from back.channel.model import Channel
    from back.channels import Channels
    from back.payment.endings import Endings
    from back.payment.exits import Exits
    from back.payment.ways import Ways
    from back.runner import ChannelRunner
    from shared.tasks import Tasks

__all__ = ["Rounds"]

log = structlog.get_logger()

BROKEN = "an internal error"
"""A bug of ours: it ends the payment, which nobody would wake again."""


class Rounds:
    """Tries what payments lack.

    Args:
        node_id: ours.
        channels: all of ours.
        exits: the same as first hops.
        ways: finds routes.
        endings: ends a payment that has nothing left to try.
        tasks: where the work goes on.
        clock: unix seconds.
        entropy: gives so many random bytes.

    Attributes:
        is_stopping: nothing more is begun, and nothing ends.
    """

    def __init__(
        self,
        node_id: bytes,
        channels: "Channels",
        exits: "Exits",
        ways: "Ways",
        endings: "Endings",
        tasks: "Tasks",
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.is_stopping = False
        self._node_id = node_id
        self._channels = channels
        self._exits = exits
        self._ways = ways
        self._endings = endings
        self._tasks = tasks
        self._clock = clock
        self._entropy = entropy

    # --- what next --------------------------------------------------------------------------------

    def go_on(self, sending: Sending) -> None:
        """Try what is missing, or end the payment; nothing while a round is under way."""
        if sending.is_looking or sending.is_ended or self.is_stopping:
            return
        try:
            self._go_on(sending)
        except Exception:
            log.exception("payment_broken", payment=str(sending.payment.id))
            sending.give_up(BROKEN)
            self._end_if_nothing_is_left(sending)

    def _go_on(self, sending: Sending) -> None:
        if sending.is_sent or sending.missing_msat <= 0 or sending.is_ending:
            self._end_if_nothing_is_left(sending)
            return
        if why := sending.why_not(self._clock()):
            if not sending.failures:
                sending.failures.append(local_failure(why))
            self._end_if_nothing_is_left(sending)
            return
        sending.rounds += 1
        if (direct := self._direct(sending)) is None:
            sending.is_looking = True
            self._tasks.spawn(self._look(sending), "look for ways")
        elif not self._take(sending, (direct,)):
            self._end_if_nothing_is_left(sending)

    def _end_if_nothing_is_left(self, sending: Sending) -> None:
        if not sending.in_flight:
            self._endings.end_soon(sending)

    # --- ways -------------------------------------------------------------------------------------

    def _direct(self, sending: Sending) -> Route | None:
        """Return the way to a peer of ours, where a channel has room: none is to be found."""
        wanted = sending.order
        if wanted is None or sending.is_given or sending.in_flight:
            return None
        found = self._exits.direct(
            wanted.recipient.payee, sending.missing_msat, sending.ignored_channels
        )
        if found is None:
            return None
        return Route(sending.missing_msat, (found.hop(self._node_id),))

    async def _look(self, sending: Sending) -> None:
        """Look for ways for what is missing, and take them."""
        routes, sending.routes = sending.routes, ()
        try:
            routes = routes or await self._ways.find(sending)
            if why := sending.too_late(self._clock()):
                sending.give_up(why)
        except (CommandError, BackendError) as error:
            sending.give_up(str(error))
        except Exception:
            log.exception("payment_broken", payment=str(sending.payment.id))
            sending.give_up(BROKEN)
        finally:
            sending.is_looking = False
        if self.is_stopping:
            return
        if not (sending.is_sent or sending.is_hopeless):
            try:
                self._take(sending, routes)
            except Exception:
                log.exception("payment_broken", payment=str(sending.payment.id))
                sending.give_up(BROKEN)
        # Another part may have failed meanwhile: then these ways are not all that is to be found.
        if sending.missing_msat > 0 or not sending.in_flight:
            self.go_on(sending)

    # --- HTLCs ------------------------------------------------------------------------------------

    def _take(self, sending: Sending, routes: Sequence[Route]) -> bool:
        """Offer an HTLC on each way; none at all if one of them cannot be taken."""
        number = max(sending.parts, default=0)
        ready: list[tuple[ChannelRunner, Part, OfferHtlc]] = []
        missing_msat, fee_left_msat = sending.missing_msat, sending.fee_left_msat
        for route in routes:
            number += 1
            try:
                runner, part, offer = self._ready(sending, route, number)
                missing_msat -= part.attempt.amount_msat
                fee_left_msat -= part.attempt.fees_msat
                # Whoever chose the ways: what was asked for is all that is paid.
                if missing_msat < 0 or fee_left_msat < 0:
                    raise CommandError("the ways bring more, or cost more, than they may")
            except CommandError as error:
                sending.give_up(str(error), route.hops)
                return False
            ready.append((runner, part, offer))
        for runner, part, offer in ready:
            sending.parts[part.attempt.number] = part
            self._exits.reserve(part.key_index, part.sent_msat, 1)
            runner.request(offer).add_done_callback(partial(self._posted, sending, part))
        return True

    def _ready(
        self, sending: Sending, route: Route, number: int
    ) -> "tuple[ChannelRunner, Part, OfferHtlc]":
        """Build the HTLC of a route.

        Raises:
            CommandError: it cannot be built.
        """
        runner = self._exits.runner(route.hops[0].short_channel_id)
        if runner is None or sending.order is None:
            raise CommandError("the first channel of the route is gone")
        onion = send.payment_onion(
            sending.order,
            route,
            height=self._channels.height,
            session_key=self._entropy(32),
            shadow_blocks=send.shadow_blocks(self._entropy(4)),
        )
        channel, payment = runner.channel, sending.payment
        attempt = Attempt(
            payment_id=payment.id,
            number=number,
            key_index=channel.parameters.key_index,
            htlc_id=None,
            amount_msat=route.amount_msat,
            fees_msat=onion.fees_msat,
            route=stored_route(onion.tried),
            created_at=int(self._clock()),
            shared_secrets=onion.tried.shared_secrets,
        )
        offer = OfferHtlc(
            amount_msat=onion.amount_msat,
            payment_hash=payment.payment_hash,
            cltv_expiry=onion.cltv_expiry,
            onion_routing_packet=onion.packet,
            origin=origin_of(payment.id, number),
        )
        part = Part(attempt, channel.channel_id, channel.parameters.key_index, onion.tried)
        return runner, part, offer

    def _posted(self, sending: Sending, part: Part, done: "asyncio.Future[Channel]") -> None:
        """The channel took the request, or stopped before: then no effect will tell.

        Where the lease was lost, the HTLC may be in the database: the next owner knows, and another
        try could pay twice.
        """
        if not done.cancelled() and isinstance(error := done.exception(), CommandError):
            self.refused(sending, part, str(error))

    def was_offered(self, part: Part) -> None:
        """Its HTLC is durable: the channel itself counts it from now on."""
        if not part.is_offered:
            part.is_offered = True
            self._exits.reserve(part.key_index, -part.sent_msat, -1)

    def refused(self, sending: Sending, part: Part, reason: str) -> None:
        """A channel had no room after all: try another."""
        if part.is_offered or part.is_over:
            return
        part.is_over = True
        self._exits.reserve(part.key_index, -part.sent_msat, -1)
        ours = part.tried.hops[0]
        part.verdict = Verdict(
            may_retry=True,
            summary=local_failure(reason, part.tried.hops),
            ignored_channels=frozenset({(ours.short_channel_id, ours.node_id)}),
        )
        sending.learn(part.verdict)
        self.go_on(sending)
