"""Answers HTLCs that are payments to us: finds the invoice, holds parts, decides once for them all.

What one HTLC pays becomes paid in the very commit that fulfils it. The HTLCs of a payment in
several parts stand in channels that commit apart from each other: so the decision comes first, in a
commit of its own, with every HTLC that it is about. Whichever is then told again, after a crash, is
found there and fulfilled.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from back import events
from back.channel.model import Phase
from back.events import IncomingPart
from back.payment import multipart, receive
from back.payment.decision import Decision, Fulfil, settlement
from back.payment.invoices import Known
from back.payment.kind import InvoiceKind
from back.payment.multipart import Abandoned, Complete, Held, Set, TooMuch
from back.payment.receive import (
    ACCEPTED_CLTV_EXPIRY_DELTA,
    MPP_TIMEOUT,
    TEMPORARY,
    Claim,
    Now,
    ReceivePolicy,
)
from back.storage.invoices import Invoice
from shared.errors import BackendError, CommandError, LeaseLost, WriteRefused
from shared.fabric.subjects import shard
from shared.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from back.channel.model import Channel, Htlc
    from back.payment.invoices import Invoices
    from back.relay.onion import Final
    from back.runner import ChannelRunner
    from back.storage.statements import Write

__all__ = ["Receiver"]

log = structlog.get_logger()

RETRY_S = 0.5
"""Between two tries to reach the database while it is away."""
TICK_S = 0.5
"""Between two looks at what waits."""
TURN = 500
"""So many payments are looked at without letting the loop go on."""
MAX_HELD = 10_000
"""HTLCs that wait for others, in all channels."""
SETTLING_PHASES = (Phase.NORMAL, Phase.SHUTDOWN)
"""A channel that is shutting down still settles what is in it (BOLT 2 § Closing Initiation)."""
KEYSEND_EXPIRY_S = 3600


@dataclass(frozen=True, slots=True)
class _Asked:
    """An HTLC to be decided on."""

    runner: "ChannelRunner"
    final: "Final"
    exceeds_dust: bool
    received_at_ms: int

    @property
    def htlc(self) -> "Htlc":
        return self.final.htlc

    @property
    def key_index(self) -> int:
        return self.runner.channel.parameters.key_index

    @property
    def key(self) -> tuple[int, int]:
        return self.key_index, self.final.htlc.id

    @property
    def is_here(self) -> bool:
        """Whether its channel still settles HTLCs; else the chain does."""
        return not self.runner.is_stopped and self.runner.channel.phase in SETTLING_PHASES


@dataclass(slots=True, eq=False)
class _Payment:
    """HTLCs that wait for each other.

    Attributes:
        began_unix_s: an invoice that expires later is paid all the same.
        asked: the HTLCs of ``set``.
    """

    known: Known
    set: Set
    began_unix_s: int
    asked: dict[tuple[int, int], _Asked] = field(default_factory=dict)


class Receiver:
    """The payee's side.

    Args:
        invoices: ours.
        height: of the chain.
        told: called with each outcome, ``received`` or ``refused``.
        policy: what we take.
        is_tip_safe: whether we know the chain well enough to judge by its height.
        clock: unix seconds.
        monotonic: seconds.

    Attributes:
        held: HTLCs that wait for others.
    """

    def __init__(
        self,
        invoices: "Invoices",
        height: Callable[[], int],
        told: Callable[[str], None],
        policy: ReceivePolicy,
        *,
        is_tip_safe: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._invoices = invoices
        self._height = height
        self._told = told
        self._policy = policy
        self._is_tip_safe = is_tip_safe
        self._clock = clock
        self._monotonic = monotonic
        self._payments: dict[bytes, _Payment] = {}
        """By payment_hash."""
        self._held_in: Counter[int] = Counter()
        """HTLCs that wait, by the key index of their channel."""
        self.held = 0
        self._watching: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Decide on nothing more; what is undecided comes again at the next start."""
        await self._tasks.stop()

    # --- one HTLC ---------------------------------------------------------------------------------

    def received(
        self, runner: "ChannelRunner", final: "Final", *, exceeds_dust: bool = False
    ) -> None:
        """Decide on an HTLC, now or after a look into the database. Never blocks, never raises.

        Args:
            runner: of its channel.
            final: it, and what its onion says.
            exceeds_dust: it is trimmed, and too much is.
        """
        asked = _Asked(runner, final, exceeds_dust, int(self._clock() * 1000))
        known = self._at_hand(final.htlc.payment_hash)
        if known is not None:
            self._judge(asked, known)
        else:
            self._tasks.spawn(self._look_up(asked), "look for an invoice")

    def _at_hand(self, payment_hash: bytes) -> Known | None:
        payment = self._payments.get(payment_hash)
        return payment.known if payment is not None else self._invoices.at_hand(payment_hash)

    async def _look_up(self, asked: _Asked) -> None:
        payment_hash = asked.htlc.payment_hash
        while not asked.runner.is_stopped:
            try:
                known = await self._invoices.known(payment_hash)
            except BackendError as error:
                log.warning("invoice_not_read", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            self._judge(asked, self._at_hand(payment_hash) or known or self._unlisted(asked.final))
            return

    def _unlisted(self, final: "Final") -> Known | None:
        """Return what an HTLC pays that has no row yet: keysend, some blinded invoices."""
        payment_hash = final.htlc.payment_hash
        if final.opened is not None:
            return self._invoices.unlisted(payment_hash, final.opened.path_id or b"")
        preimage = receive.keysend_preimage(final)
        if preimage is None or not self._policy.accepts_keysend:
            return None
        data = final.payload.payment_data
        invoice = Invoice(
            payment_hash=payment_hash,
            preimage=preimage,
            payment_secret=preimage if data is None else data.payment_secret,
            bolt11="",
            amount_msat=None,
            description="",
            created_at=int(self._clock()),
            expiry_s=KEYSEND_EXPIRY_S,
            kind=InvoiceKind.KEYSEND,
        )
        return Known(invoice, is_stored=False)

    def _judge(self, asked: _Asked, known: Known | None) -> None:
        if not asked.is_here:
            log.warning("htlc_left_to_the_chain", channel=asked.runner.channel.channel_id.hex())
            return
        payment = self._payments.get(asked.htlc.payment_hash)
        began_unix_s = payment.began_unix_s if payment is not None else int(self._clock())
        judgement = receive.judge(
            asked.final,
            asked.key_index,
            known.standing if known is not None else None,
            Now(began_unix_s, self._height()),
            # BOLT 2 § Bounding exposure to trimmed in-flight HTLCs.
            may_take=not asked.exceeds_dust and self._is_tip_safe(),
        )
        if isinstance(judgement, Claim) and known is not None:
            self._claim(asked, known, judgement)
        elif isinstance(judgement, Fulfil) and known is not None:
            if not known.settling:
                self._post(asked, judgement)
        elif not isinstance(judgement, Claim):
            self._refuse(asked, judgement)

    def _claim(self, asked: _Asked, known: Known, claim: Claim) -> None:
        payment = self._payments.get(asked.htlc.payment_hash)
        if payment is not None:
            self._prune(payment)
            payment = self._payments.get(asked.htlc.payment_hash)
        held = payment.set if payment is not None else None
        match multipart.join(held, claim.part, claim.total_msat, self._monotonic()):
            case Complete(set=paying) if payment is None:
                self._settle_one(asked, known, paying)
            case Complete(set=paying) if payment is not None:
                self._complete(self._with(payment, asked, paying))
            case Held(set=waiting):
                self._hold(asked, known, payment, waiting)
            case Abandoned(set=all_of_it, has_timed_out=has_timed_out):
                payment = self._with(payment, asked, all_of_it, known)
                self._give_up(payment, MPP_TIMEOUT if has_timed_out else None)
            case TooMuch():
                self._refuse(asked, asked.final.refused(self._unknown(asked)))

    # --- a payment of one HTLC --------------------------------------------------------------------

    def _settle_one(self, asked: _Asked, known: Known, paying: Set) -> None:
        rows = self._rows(known, paying, (asked,))
        fulfil = Fulfil(known.invoice.preimage)
        event = settlement(asked.htlc, fulfil, asked.final.shared_secret)
        done = asked.runner.request(event, rows)
        done.add_done_callback(partial(self._settled_one, asked, known))

    def _settled_one(self, asked: _Asked, known: Known, done: "asyncio.Future[Channel]") -> None:
        error = None if done.cancelled() else done.exception()
        if not done.cancelled() and error is None:
            self._invoices.settled(known)
            self._told("received")
            return
        why = "cancelled" if error is None else str(error)
        log.error("htlc_not_fulfilled", payment_hash=asked.htlc.payment_hash.hex(), why=why)
        self._invoices.unsettled(known)
        if isinstance(error, CommandError) and asked.is_here:
            # Nothing was done: the invoice is not what we thought.
            self._refuse(asked, asked.final.refused(self._unknown(asked)))

    # --- a payment of several ---------------------------------------------------------------------

    def _hold(self, asked: _Asked, known: Known, payment: _Payment | None, waiting: Set) -> None:
        """Let an HTLC wait, if those that wait leave room for others in its channel."""
        slots = asked.runner.channel.parameters.local.max_accepted_htlcs
        is_full = self._held_in[asked.key_index] >= max(1, slots // 2)
        if is_full or self.held >= MAX_HELD:
            self._refuse(asked, asked.final.refused(TEMPORARY))
            return
        payment = self._with(payment, asked, waiting, known)
        known.is_held = True
        self._payments[asked.htlc.payment_hash] = payment
        if self._watching is None or self._watching.done():
            self._watching = self._tasks.spawn(self._watch(), "watch payments in parts")

    def _with(
        self, payment: _Payment | None, asked: _Asked, now: Set, known: Known | None = None
    ) -> _Payment:
        """Return the payment with one more HTLC."""
        if payment is None:
            if known is None:
                raise TypeError("a payment is of an invoice")
            payment = _Payment(known, now, int(self._clock()))
        payment.set = now
        payment.asked[asked.key] = asked
        self._count(asked.key_index, 1)
        return payment

    def _count(self, key_index: int, more: int) -> None:
        self.held += more
        self._held_in[key_index] += more
        if not self._held_in[key_index]:
            del self._held_in[key_index]

    async def _watch(self) -> None:
        while self._payments:
            await asyncio.sleep(TICK_S)
            for number, payment_hash in enumerate(list(self._payments)):
                if number % TURN == TURN - 1:
                    await asyncio.sleep(0)
                if (payment := self._payments.get(payment_hash)) is not None:
                    self._prune(payment)
                    if payment.asked and (why := self._overdue(payment)):
                        self._give_up(payment, MPP_TIMEOUT, why)

    def _overdue(self, payment: _Payment) -> str:
        least = self._height() + ACCEPTED_CLTV_EXPIRY_DELTA
        timeout_s = self._policy.mpp_timeout_s
        return multipart.overdue(payment.set, self._monotonic(), least, timeout_s)

    def _prune(self, payment: _Payment) -> None:
        """Leave HTLCs to the chain whose channels settle nothing any more: they pay nothing."""
        lost = frozenset(key for key, asked in payment.asked.items() if not asked.is_here)
        if not lost:
            return
        for key in lost:
            del payment.asked[key]
            self._count(key[0], -1)
        left = multipart.without(payment.set, lost)
        if left is None:
            self._release(payment)
        else:
            payment.set = left

    def _release(self, payment: _Payment) -> None:
        """Nothing of it waits any more."""
        if self._payments.pop(payment.known.invoice.payment_hash, None) is None:
            return
        payment.known.is_held = False
        for key_index, _ in payment.asked:
            self._count(key_index, -1)

    def _give_up(self, payment: _Payment, failure: bytes | None, why: str = "") -> None:
        """Fail all of it; None: with what tells nothing."""
        self._release(payment)
        payment_hash = payment.known.invoice.payment_hash.hex()
        log.info("payment_in_parts_given_up", payment_hash=payment_hash, why=why)
        for asked in payment.asked.values():
            if asked.is_here:
                self._refuse(asked, asked.final.refused(failure or self._unknown(asked)))

    def _complete(self, payment: _Payment) -> None:
        self._release(payment)
        if why := self._overdue(payment):
            self._give_up(payment, MPP_TIMEOUT, why)
            return
        known = payment.known
        rows = self._rows(known, payment.set, payment.asked.values())
        self._tasks.spawn(self._settle_all(payment, rows), "decide on a payment in parts")

    async def _settle_all(self, payment: _Payment, rows: "list[Write]") -> None:
        """Decide durably, then fulfil."""
        known = payment.known
        try:
            failure = await self._store(payment, rows)
        except LeaseLost:
            # The decision may be durable all the same: the next owner finds it.
            self._invoices.unsettled(known)
            raise
        if failure:
            payment_hash = known.invoice.payment_hash.hex()
            log.error("htlc_not_fulfilled", payment_hash=payment_hash, why=failure)
            self._invoices.unsettled(known)
            self._give_up(payment, MPP_TIMEOUT, failure)
            return
        self._invoices.settled(known)
        for asked in payment.asked.values():
            self._post(asked, Fulfil(known.invoice.preimage))
        self._told("received")

    async def _store(self, payment: _Payment, rows: "list[Write]") -> str:
        """Commit; return what kept us from it, where nothing was written."""
        shards = {shard(a.runner.channel.parameters.node_id) for a in payment.asked.values()}
        while True:
            try:
                await self._invoices.commit(shards, rows)
            except BackendError as error:
                log.warning("payment_not_stored", error=str(error))
            except WriteRefused as error:
                return str(error)
            else:
                return ""
            await asyncio.sleep(RETRY_S)
            # So much time may have gone by that not every HTLC can be fulfilled any more.
            if not all(asked.is_here for asked in payment.asked.values()):
                return "a channel has closed meanwhile"
            if why := self._overdue(payment):
                return why

    # --- what is told -----------------------------------------------------------------------------

    def _rows(self, known: Known, paying: Set, asked: "Iterable[_Asked]") -> "list[Write]":
        """Take note that an invoice is about to be paid; return the rows that say so."""
        rows = self._invoices.settling(known, paying)
        parts = [
            IncomingPart(
                each.runner.channel.channel_id,
                each.runner.channel.parameters.node_id,
                each.htlc.amount_msat,
                each.received_at_ms,
            )
            for each in asked
        ]
        rows.append(events.payment_received(known.invoice.payment_hash, parts))
        return rows

    def _unknown(self, asked: _Asked) -> bytes:
        return receive.unknown_details(asked.htlc, self._height())

    def _refuse(self, asked: _Asked, decision: Decision) -> None:
        log.debug("htlc_refused", payment_hash=asked.htlc.payment_hash.hex(), id=asked.htlc.id)
        self._post(asked, decision)
        self._told("refused")

    def _post(self, asked: _Asked, decision: Decision) -> None:
        asked.runner.post(settlement(asked.htlc, decision, asked.final.shared_secret))
