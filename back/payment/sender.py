"""Pays: stores the payment, offers HTLCs until it is paid or nothing is left to try.

What is stored is what is true. A payment is a row before its first HTLC; each part is a row of the
commit that offers its HTLC, and ends in the commit in which the HTLC is fulfilled or irrevocably
failed. So after a restart a payment without a pending part has nothing on its way, and fails; one
with pending parts waits for their HTLCs, which the channels still have, and goes on.

The same payment_hash is never paid twice: at most one payment of it is live here, and the database
refuses a second one that is pending or sent. Parts never bring more than the amount.
"""

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from back.channel.events import OfferHtlc
from back.payment import failures, send
from back.payment.exits import Exits
from back.payment.failures import local_failure, passed
from back.payment.restoring import restored, stored_route
from back.payment.route import Route
from back.payment.sending import (
    Part,
    PaymentRequest,
    Sending,
    SendLimits,
    origin_of,
    parse_origin,
)
from back.payment.telling import failed_event, sent_event
from back.payment.ways import Ways
from back.storage import payments as stored
from back.storage.payments import Attempt, Payment, PaymentState
from back.storage.tables import NODE_SHARD
from shared.errors import BackendError, CommandError, LightningError, WriteRefused
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcOffered, OfferRefused
    from back.channel.model import Channel
    from back.channels import Channels
    from back.payment.route import Lesson
    from back.payment.send import Order
    from back.payment.ways import Finder
    from back.storage.statements import Write
    from back.storage.store import Store
    from shared.chain import Chain

__all__ = ["Sender"]

log = structlog.get_logger()

MAX_EXTERNAL_ID = 66
KEPT_SENT = 10_000
"""Payment hashes that are known to be paid without asking the database."""
RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class _New:
    """A payment to begin."""

    order: "Order"
    bolt11: str | None
    external_id: str | None
    limits: SendLimits
    routes: tuple[Route, ...] = ()
    parent: UUID | None = None


class Sender:
    """The payer's side.

    Args:
        store: where payments are kept.
        node_id: ours.
        chain: our network.
        channels: all of ours.
        told: called with each outcome, ``sent`` or ``failed``.
        clock: unix seconds.
        entropy: gives so many random bytes.

    Attributes:
        exits: our own channels as first hops.
    """

    def __init__(
        self,
        store: "Store",
        node_id: bytes,
        chain: "Chain",
        channels: "Channels",
        told: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._chain = chain
        self._channels = channels
        self._told = told
        self._clock = clock
        self._entropy = entropy
        self.exits = Exits(channels)
        self._ways = Ways(node_id, channels, self.exits, clock=clock, entropy=entropy)
        self._live: dict[UUID, Sending] = {}
        self._by_hash: dict[bytes, Sending] = {}
        self._sent: OrderedDict[bytes, UUID] = OrderedDict()
        self._tasks = Tasks()
        self._is_stopping = False

    @property
    def finder(self) -> "Finder | None":
        """Finds routes; None: only direct peers can be paid."""
        return self._ways.finder

    @finder.setter
    def finder(self, finder: "Finder | None") -> None:
        self._ways.finder = finder

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was pending. Before channels are restored: they tell what became of it."""
        pending = await self._store.read(stored.load_open_payments)
        ids = [payment.id for payment in pending]
        attempts = await self._store.read(lambda c: stored.list_attempts(c, ids))
        for payment in pending:
            own = [each for each in attempts if each.payment_id == payment.id]
            sending = restored(payment, own, self._node_id, self._chain, self._clock())
            self._live[payment.id] = self._by_hash[payment.payment_hash] = sending
            if not sending.in_flight:
                why = "the node was restarted before the payment went out"
                sending.failures.append(local_failure(why))
                self._end_soon(sending)
        if pending:
            log.info("payments_restored", count=len(pending))

    async def stop(self) -> None:
        """Start nothing more; what is on its way is settled after the next start."""
        self._is_stopping = True
        await self._tasks.stop()
        for sending in self._live.values():
            sending.done.cancel()

    # --- paying -----------------------------------------------------------------------------------

    async def pay(self, request: PaymentRequest) -> Sending:
        """Begin to pay an invoice; returns once the payment is stored. Its ``done`` tells the end.

        Raises:
            CommandError: it may not be paid, is being paid or was paid.
            BackendError: it could not be stored.
        """
        wanted = send.order(
            request.invoice,
            request.amount_msat,
            payer=self._node_id,
            chain=self._chain,
            unix_s=self._clock(),
        )
        return await self.pay_order(
            wanted,
            bolt11=request.bolt11,
            external_id=request.external_id,
            limits=request.limits,
            routes=request.routes,
            parent=request.parent,
        )

    async def keysend(
        self,
        node_id: bytes,
        amount_msat: int,
        *,
        external_id: str | None = None,
        limits: SendLimits | None = None,
    ) -> Sending:
        """Begin to pay a node that made no invoice; see :meth:`pay`."""
        if node_id == self._node_id:
            raise CommandError("that is our own node")
        wanted = send.keysend_order(node_id, amount_msat, self._entropy(32), self._clock())
        return await self.pay_order(wanted, external_id=external_id, limits=limits)

    async def pay_order(
        self,
        wanted: "Order",
        *,
        bolt11: str | None = None,
        external_id: str | None = None,
        limits: SendLimits | None = None,
        routes: tuple[Route, ...] = (),
        parent: UUID | None = None,
    ) -> Sending:
        """Begin to pay what was checked before: of an invoice, an offer, or by keysend.

        Args:
            wanted: what to pay.
            bolt11: the invoice as text, to be kept.
            external_id: whatever the asker calls it.
            limits: how far it may go.
            routes: ways that the asker chose.
            parent: of several payments of one invoice that the asker splits itself.

        Raises:
            CommandError: it may not be paid, is being paid or was paid.
            BackendError: it could not be stored.
        """
        new = _New(wanted, bolt11, external_id, limits or SendLimits(), routes, parent)
        return await asyncio.shield(asyncio.ensure_future(self._begin(new)))

    async def _begin(self, new: _New) -> Sending:
        if self._is_stopping:
            raise CommandError("the node is stopping")
        if len(new.external_id or "") > MAX_EXTERNAL_ID:
            raise CommandError(f"externalId has more than {MAX_EXTERNAL_ID} characters")
        if new.limits.max_attempts < 1:
            raise CommandError("maxAttempts is at least 1")
        wanted, now = new.order, self._clock()
        self._refuse_second(wanted.payment_hash, new.parent)
        payment = Payment(
            id=UUID(bytes=self._entropy(16), version=4),
            parent=new.parent,
            external_id=new.external_id,
            payment_hash=wanted.payment_hash,
            amount_msat=sum(r.amount_msat for r in new.routes) or wanted.amount_msat,
            recipient=wanted.recipient.node_id,
            bolt11=new.bolt11,
            created_at=int(now),
        )
        done: asyncio.Future[Sending] = asyncio.get_running_loop().create_future()
        sending = Sending(
            payment,
            wanted,
            new.limits,
            now + new.limits.timeout_s,
            done,
            routes=new.routes,
            is_given=bool(new.routes),
        )
        # From here on a second request for this invoice is refused, also before the commit.
        self._live[payment.id] = self._by_hash[wanted.payment_hash] = sending
        try:
            await self._commit([stored.add_payment(payment)])
        except WriteRefused:
            self._forget(sending)
            raise CommandError("this invoice is paid, or being paid") from None
        except LightningError:
            self._forget(sending)
            raise
        self._go_on(sending)
        return sending

    def _refuse_second(self, payment_hash: bytes, parent: UUID | None) -> None:
        live = self._by_hash.get(payment_hash)
        if live is not None and (parent is None or live.payment.parent != parent):
            raise CommandError(f"this invoice is being paid: payment {live.payment.id}")
        if sent := self._sent.get(payment_hash):
            raise CommandError(f"this invoice is paid: payment {sent}")

    def _commit(self, writes: "list[Write]") -> "asyncio.Future[None]":
        return self._store.committer.submit(NODE_SHARD, writes)

    # --- the next parts ---------------------------------------------------------------------------

    def _go_on(self, sending: Sending) -> None:
        """Try what is missing, or end the payment; nothing while a round is under way."""
        if sending.is_looking or self._is_stopping:
            return
        if sending.is_sent or sending.missing_msat <= 0:
            if not sending.in_flight:
                self._end_soon(sending)
            return
        if why := sending.why_not(self._clock()):
            if not sending.in_flight:
                if not sending.failures:
                    sending.failures.append(local_failure(why))
                self._end_soon(sending)
            return
        sending.rounds += 1
        if not self._take_direct(sending):
            sending.is_looking = True
            self._tasks.spawn(self._look(sending), "look for ways")

    def _take_direct(self, sending: Sending) -> bool:
        """Pay a peer of ours by one HTLC, where a channel has room: no way is to be found."""
        wanted = sending.order
        if wanted is None or sending.is_given or sending.in_flight:
            return False
        found = self.exits.direct(
            wanted.recipient.payee, sending.missing_msat, sending.ignored_channels
        )
        if found is None:
            return False
        hop = found.hop(self._node_id)
        self._post(sending, Route(sending.missing_msat, (hop,)))
        return True

    async def _look(self, sending: Sending) -> None:
        """Look for ways for what is missing, and take them."""
        try:
            routes = sending.routes or await self._ways.find(sending)
            sending.routes = ()
        except (CommandError, BackendError) as error:
            sending.is_hopeless = True
            sending.failures.append(local_failure(str(error)))
            routes = ()
        finally:
            sending.is_looking = False
        if sending.is_sent or sending.is_hopeless:
            routes = ()
        for route in routes:
            self._post(sending, route)
        if not routes:
            self._go_on(sending)

    def _post(self, sending: Sending, route: Route) -> None:
        """Offer one HTLC on the first channel of a route."""
        runner = self.exits.runner(route.hops[0].short_channel_id)
        number = 1 + max(sending.parts, default=0)
        try:
            if runner is None or sending.order is None:
                raise CommandError("the first channel of the route is gone")
            onion = send.payment_onion(
                sending.order,
                route,
                height=self._channels.height,
                session_key=self._entropy(32),
                shadow_blocks=1 + self._entropy(1)[0] % send.MAX_SHADOW_BLOCKS,
            )
        except CommandError as error:
            sending.failures.append(local_failure(str(error), route.hops))
            sending.is_hopeless = True
            self._tasks.spawn(self._go_on_later(sending), "a part that cannot be built")
            return
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
        part = Part(attempt, channel.channel_id, channel.parameters.key_index, onion.tried)
        sending.parts[number] = part
        self.exits.reserve(part.key_index, onion.amount_msat, 1)
        offer = OfferHtlc(
            amount_msat=onion.amount_msat,
            payment_hash=payment.payment_hash,
            cltv_expiry=onion.cltv_expiry,
            onion_routing_packet=onion.packet,
            origin=origin_of(payment.id, number),
        )
        runner.request(offer).add_done_callback(partial(self._posted, sending, part))

    async def _go_on_later(self, sending: Sending) -> None:
        self._go_on(sending)

    def _posted(self, sending: Sending, part: Part, done: "asyncio.Future[Channel]") -> None:
        """The channel took the request, or stopped before: then no effect will tell.

        Where the lease was lost, the HTLC may be in the database: the next owner knows, and another
        try could pay twice.
        """
        if not done.cancelled() and isinstance(error := done.exception(), CommandError):
            self._refused(sending, part, str(error))

    # --- what the channel tells -------------------------------------------------------------------

    def offered(self, channel: "Channel", effect: "HtlcOffered") -> "list[Write]":
        """Return the attempt's row, for the commit of its add."""
        found = self._find_part(effect.htlc.origin)
        if found is None:
            return []
        _, part = found
        part.attempt = replace(
            part.attempt, key_index=channel.parameters.key_index, htlc_id=effect.htlc.id
        )
        return [stored.add_attempt(part.attempt)]

    def was_offered(self, effect: "HtlcOffered") -> None:
        """The HTLC is durable: the channel itself counts it from now on."""
        found = self._find_part(effect.htlc.origin)
        if found is not None and not found[1].is_offered:
            found[1].is_offered = True
            self.exits.reserve(found[1].key_index, -found[1].tried.carried[0], -1)

    def was_refused(self, effect: "OfferRefused") -> None:
        """The channel had no room after all: try another."""
        found = self._find_part(effect.origin)
        if found is not None:
            self._refused(*found, effect.reason)

    def _refused(self, sending: Sending, part: Part, reason: str) -> None:
        if part.is_offered or part.is_over:
            return
        part.is_over = True
        self.exits.reserve(part.key_index, -part.tried.carried[0], -1)
        ours = part.tried.hops[0]
        sending.learn(
            failures.Verdict(
                may_retry=True,
                summary=local_failure(reason, part.tried.hops),
                ignored_channels=frozenset({(ours.short_channel_id, ours.node_id)}),
            )
        )
        self._go_on(sending)

    def fulfilled(self, effect: "HtlcFulfilled") -> "list[Write]":
        """Return the rows of a preimage, for the commit in which it becomes durable."""
        payment_id, number = parse_origin(effect.htlc.origin)
        found = self._find_part(effect.htlc.origin)
        now = int(self._clock())
        rows = [stored.attempt_sent(payment_id, number, now)]
        if found is None:
            return [*rows, stored.payment_sent(payment_id, effect.payment_preimage, 0, now)]
        sending, part = found
        is_first = not any(each.is_paid for each in sending.parts.values())
        part.is_paid = True
        fees_msat = sending.fees_msat
        rows += [
            stored.payment_sent(payment_id, effect.payment_preimage, fees_msat, now),
            stored.payment_fees(payment_id, fees_msat),
        ]
        if is_first:
            rows.append(sent_event(sending, effect.payment_preimage, self._clock()))
        return rows

    def was_fulfilled(self, effect: "HtlcFulfilled") -> None:
        """A part is paid, and so the payment: the payee has what it wanted, and we its word."""
        found = self._find_part(effect.htlc.origin)
        if found is None or found[1].is_over:
            return
        sending, part = found
        part.is_over = part.is_paid = True
        self._learn(passed(part.tried, self._clock()))
        if not sending.is_sent:
            sending.payment = replace(
                sending.payment,
                state=PaymentState.SENT,
                preimage=effect.payment_preimage,
                completed_at=int(self._clock()),
            )
            self._sent[sending.payment.payment_hash] = sending.payment.id
            while len(self._sent) > KEPT_SENT:
                self._sent.popitem(last=False)
        sending.payment = replace(sending.payment, fees_msat=sending.fees_msat)
        if not sending.in_flight:
            self._end(sending)

    def _learn(self, lessons: "Sequence[Lesson]") -> None:
        if lessons and self.finder is not None:
            self.finder.learned(lessons)

    def failed(self, effect: "HtlcFailed") -> "list[Write]":
        """Return the rows of a failure, for the commit in which it becomes irrevocable."""
        payment_id, number = parse_origin(effect.htlc.origin)
        found = self._find_part(effect.htlc.origin)
        now = int(self._clock())
        if found is None:
            return [stored.attempt_failed(payment_id, number, now, "{}")]
        sending, part = found
        if part.verdict is None:
            part.verdict = failures.judge(
                effect.htlc.resolution,
                part.tried,
                sending.order.recipient if sending.order is not None else None,
                self._chain.chain_hash,
                self._clock(),
            )
        failure = json.dumps(part.verdict.summary)
        rows = [stored.attempt_failed(payment_id, number, now, failure)]
        if self._is_last(sending, part):
            told = [*sending.failures, part.verdict.summary]
            rows.append(stored.payment_failed(payment_id, told, now))
            rows.append(failed_event(sending, told, self._clock()))
        return rows

    def _is_last(self, sending: Sending, part: Part) -> bool:
        """Whether a payment ends with this part's failure, for sure."""
        others = [one for one in sending.in_flight if one is not part]
        is_final = part.verdict is not None and not part.verdict.may_retry
        return is_final and not others and not sending.is_sent and not sending.is_looking

    def was_failed(self, effect: "HtlcFailed") -> None:
        """A part is over: try other ways, or say so."""
        found = self._find_part(effect.htlc.origin)
        if found is None or found[1].is_over:
            return
        sending, part = found
        is_last = self._is_last(sending, part)
        part.is_over = True
        if part.verdict is None:
            # Told without its commit, at a start: the row was written by a former process.
            part.verdict = failures.Verdict(may_retry=True, summary=local_failure("it failed"))
        sending.learn(part.verdict)
        self._learn(part.verdict.lessons)
        if is_last:
            self._ended_badly(sending)
        else:
            self._go_on(sending)

    # --- the end ----------------------------------------------------------------------------------

    def _end_soon(self, sending: Sending) -> None:
        """Nothing of it is on its way: make its end durable, then say so."""
        if sending.is_sent:
            self._end(sending)
            return
        sending.is_looking = True
        self._tasks.spawn(self._store_failure(sending), "store a failed payment")

    async def _store_failure(self, sending: Sending) -> None:
        now = self._clock()
        rows = [
            stored.payment_failed(sending.payment.id, sending.failures, int(now)),
            failed_event(sending, sending.failures, now),
        ]
        while True:
            try:
                await self._commit(rows)
                break
            except BackendError as error:
                log.warning("payment_failure_not_stored", error=str(error))
                await asyncio.sleep(RETRY_S)
        self._ended_badly(sending)

    def _ended_badly(self, sending: Sending) -> None:
        sending.payment = replace(
            sending.payment,
            state=PaymentState.FAILED,
            failures=tuple(sending.failures),
            completed_at=int(self._clock()),
        )
        self._end(sending)

    def _end(self, sending: Sending) -> None:
        self._forget(sending)
        state = sending.payment.state.value
        log.info("payment_ended", payment=str(sending.payment.id), outcome=state)
        if not sending.done.done():
            sending.done.set_result(sending)
        self._told(state)

    def _forget(self, sending: Sending) -> None:
        self._live.pop(sending.payment.id, None)
        if self._by_hash.get(sending.payment.payment_hash) is sending:
            del self._by_hash[sending.payment.payment_hash]

    # --- look-ups ---------------------------------------------------------------------------------

    def _find_part(self, origin: str | None) -> tuple[Sending, Part] | None:
        payment_id, number = parse_origin(origin)
        sending = self._live.get(payment_id)
        if sending is None or number not in sending.parts:
            return None
        return sending, sending.parts[number]
