"""Pays: stores the payment, offers HTLCs until it is paid or nothing is left to try.

What is stored is what is true. A payment is a row before its first HTLC; each part is a row of the
commit that offers its HTLC, and ends in the commit in which the HTLC is fulfilled or irrevocably
failed. So after a restart a payment without a pending part has nothing on its way, and fails; one
with pending parts waits for their HTLCs, which the channels still have, and tries nothing new.

The same payment_hash is never paid twice: at most one payment of it is live here (or several that
the asker splits itself, and that bring no more together), and the database refuses a second one
that is pending or sent.

The work is in parts: :mod:`.live` knows the payments under way, :mod:`.rounds` offers HTLCs,
:mod:`.endings` ends payments; here they begin, and here the channels tell what became of an HTLC.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from back.payment import failures, send
from back.payment.endings import Endings
from back.payment.exits import Exits
from back.payment.failures import local_failure, passed
from back.payment.history import with_attempts
from back.payment.live import Live
from back.payment.restoring import restored
from back.payment.rounds import Rounds
from back.payment.route import Route
from back.payment.sending import Part, PaymentRequest, Sending, SendLimits, parse_origin
from back.payment.telling import failed_event, sent_event
from back.payment.ways import Ways
from back.storage import payments as stored
from back.storage.payments import Payment, PaymentState
from back.storage.tables import NODE_SHARD
from shared.errors import CommandError, WriteRefused
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

__all__ = ["MAX_EXTERNAL_ID", "Sender"]

log = structlog.get_logger()

MAX_EXTERNAL_ID = 66


@dataclass(frozen=True, slots=True)
class _New:
    """A payment to begin."""

    order: "Order"
    bolt11: str | None
    external_id: str | None
    limits: SendLimits
    routes: tuple[Route, ...] = ()
    parent: UUID | None = None

    @property
    def amount_msat(self) -> int:
        """What it brings: part of the order, where the asker splits it."""
        return sum(route.amount_msat for route in self.routes) or self.order.amount_msat


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
        self._clock = clock
        self._entropy = entropy
        self._live = Live()
        self._tasks = Tasks()
        self._has_split = False
        self.exits = Exits(channels)
        self._ways = Ways(node_id, channels, self.exits, clock=clock, entropy=entropy)
        self._endings = Endings(self._live, self._commit, told, self._tasks, clock=clock)
        self._rounds = Rounds(
            node_id,
            channels,
            self.exits,
            self._ways,
            self._endings,
            self._tasks,
            clock=clock,
            entropy=entropy,
        )

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
        self._has_split = await self._store.read(stored.has_split_payments)
        pending = await self._store.read(stored.load_open_payments)
        found = await self._store.read(lambda c: with_attempts(c, pending))
        for payment, attempts in found:
            sending = restored(payment, attempts)
            self._live.add(sending)
            if not sending.in_flight:
                why = "the node was restarted before the payment went out"
                sending.failures.append(local_failure(why))
                self._endings.end_soon(sending)
        if pending:
            log.info("payments_restored", count=len(pending))

    async def stop(self) -> None:
        """Start nothing more; what is on its way is settled after the next start."""
        self._rounds.is_stopping = True
        await self._tasks.stop()
        for sending in self._live:
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
        if self._rounds.is_stopping:
            raise CommandError("the node is stopping")
        if len(new.external_id or "") > MAX_EXTERNAL_ID:
            raise CommandError(f"externalId has more than {MAX_EXTERNAL_ID} characters")
        if new.limits.max_attempts < 1:
            raise CommandError("maxAttempts is at least 1")
        self._live.refuse_second(new.order, new.amount_msat, new.parent)
        sending = self._made(new)
        # From here on a second request for this invoice is refused, also before the commit.
        self._live.add(sending)
        try:
            await self._refuse_stored(new)
            await self._commit([stored.add_payment(sending.payment)])
        except WriteRefused:
            self._live.forget(sending)
            raise CommandError("this invoice is paid, or being paid") from None
        except BaseException:
            self._live.forget(sending)
            raise
        self._rounds.go_on(sending)
        return sending

    def _made(self, new: _New) -> Sending:
        now = self._clock()
        payment = Payment(
            id=UUID(bytes=self._entropy(16), version=4),
            parent=new.parent,
            external_id=new.external_id,
            payment_hash=new.order.payment_hash,
            amount_msat=new.amount_msat,
            recipient=new.order.recipient.node_id,
            bolt11=new.bolt11,
            created_at=int(now),
        )
        return Sending(
            payment,
            new.order,
            new.limits,
            now + new.limits.timeout_s,
            asyncio.get_running_loop().create_future(),
            routes=new.routes,
            is_given=bool(new.routes),
        )

    async def _refuse_stored(self, new: _New) -> None:
        """Check what the database itself does not: it takes any number of parts of a payment."""
        self._has_split = self._has_split or new.parent is not None
        if self._has_split:
            payment_hash = new.order.payment_hash
            found = await self._store.read(lambda c: stored.find_standing(c, payment_hash))
            self._live.refuse_stored(found, new.parent)

    def _commit(self, writes: "list[Write]") -> "asyncio.Future[None]":
        return self._store.committer.submit(NODE_SHARD, writes)

    # --- what the channel tells -------------------------------------------------------------------

    def offered(self, channel: "Channel", effect: "HtlcOffered") -> "list[Write]":
        """Return the attempt's row, for the commit of its add."""
        found = self._live.find_part(effect.htlc.origin)
        if found is None:
            return []
        _, part = found
        part.attempt = replace(
            part.attempt, key_index=channel.parameters.key_index, htlc_id=effect.htlc.id
        )
        return [stored.add_attempt(part.attempt)]

    def was_offered(self, effect: "HtlcOffered") -> None:
        """The HTLC is durable: the channel itself counts it from now on."""
        if (found := self._live.find_part(effect.htlc.origin)) is not None:
            self._rounds.was_offered(found[1])

    def was_refused(self, effect: "OfferRefused") -> None:
        """The channel had no room after all: try another."""
        if (found := self._live.find_part(effect.origin)) is not None:
            self._rounds.refused(*found, effect.reason)

    def fulfilled(self, effect: "HtlcFulfilled") -> "list[Write]":
        """Return the rows of a preimage, for the commit in which it becomes durable."""
        payment_id, number = parse_origin(effect.htlc.origin)
        found = self._live.find_part(effect.htlc.origin)
        now = int(self._clock())
        rows = [
            stored.attempt_sent(payment_id, number, now),
            stored.payment_sent(payment_id, effect.payment_preimage, 0, now),
            stored.payment_fees(payment_id),
        ]
        if found is None:
            return rows
        sending, part = found
        # The commit may be undone, and then its rows are asked for again.
        is_first = not any(each.is_paid for each in sending.parts.values() if each is not part)
        part.is_paid = True
        if is_first:
            rows.append(sent_event(sending, effect.payment_preimage, self._clock()))
        return rows

    def was_fulfilled(self, effect: "HtlcFulfilled") -> None:
        """A part is paid, and so the payment: the payee has what it wanted, and we its word."""
        found = self._live.find_part(effect.htlc.origin)
        if found is None or found[1].is_over:
            return
        sending, part = found
        part.is_over = part.is_paid = True
        if not sending.is_sent:
            sending.payment = replace(
                sending.payment,
                state=PaymentState.SENT,
                preimage=effect.payment_preimage,
                completed_at=int(self._clock()),
            )
            self._live.was_sent(sending.payment)
        sending.payment = replace(sending.payment, fees_msat=sending.fees_msat)
        self._learn(passed(part.tried, self._clock()))
        if not sending.in_flight:
            self._endings.end(sending)

    def _learn(self, lessons: "Sequence[Lesson]") -> None:
        if not lessons or self.finder is None:
            return
        try:
            self.finder.learned(lessons)
        except Exception:
            # The money comes first.
            log.exception("lessons_not_taken")

    def failed(self, effect: "HtlcFailed") -> "list[Write]":
        """Return the rows of a failure, for the commit in which it becomes irrevocable."""
        payment_id, number = parse_origin(effect.htlc.origin)
        found = self._live.find_part(effect.htlc.origin)
        now = int(self._clock())
        if found is None:
            return [stored.attempt_failed(payment_id, number, now, "{}")]
        sending, part = found
        if part.verdict is None:
            part.verdict = self._judged(effect, part)
        failure = json.dumps(part.verdict.summary)
        rows = [stored.attempt_failed(payment_id, number, now, failure)]
        part.ends_payment = self._is_last(sending, part)
        if part.ends_payment:
            told = [*sending.failures, part.verdict.summary]
            rows.append(stored.payment_failed(payment_id, told, now))
            rows.append(failed_event(sending, told, self._clock()))
        return rows

    def _judged(self, effect: "HtlcFailed", part: Part) -> failures.Verdict:
        try:
            return failures.judge(
                effect.htlc.resolution, part.tried, self._chain.chain_hash, self._clock()
            )
        except Exception:
            # Anybody on the way wrote this; it must not keep the channel from its commit.
            log.exception("payment_error_not_judged")
            why = local_failure("the error could not be read", part.tried.hops)
            return failures.Verdict(may_retry=False, summary=why)

    def _is_last(self, sending: Sending, part: Part) -> bool:
        """Whether a payment ends with this part's failure, for sure."""
        others = [one for one in sending.in_flight if one is not part]
        is_final = sending.is_hopeless or (part.verdict is not None and not part.verdict.may_retry)
        return is_final and not others and not sending.is_sent and not sending.is_looking

    def was_failed(self, effect: "HtlcFailed") -> None:
        """A part is over: try other ways, or say so."""
        found = self._live.find_part(effect.htlc.origin)
        if found is None or found[1].is_over:
            return
        sending, part = found
        part.is_over = True
        if part.verdict is None:
            # Told without its commit, at a start: the row was written by a former process.
            part.verdict = failures.Verdict(may_retry=True, summary=local_failure("it failed"))
        sending.learn(part.verdict)
        self._learn(part.verdict.lessons)
        if part.ends_payment and not sending.in_flight:
            self._endings.ended_badly(sending)
        else:
            self._rounds.go_on(sending)
