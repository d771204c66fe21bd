"""Pays invoices: stores the payment, offers HTLCs until one is paid or none is left to try.

What is stored is what is true. A payment is a row before its first HTLC; each attempt is a row of
the commit that offers its HTLC, and ends in the commit in which the HTLC is fulfilled or
irrevocably failed. So after a restart a payment without a pending attempt has nothing on its way,
and fails; one with a pending attempt waits for its HTLC, which the channel still has.

The same payment_hash is never paid twice: at most one payment of it is live here, and the database
refuses a second one that is pending or sent.
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
from back.channel.model import Link
from back.payment import send
from back.payment.sending import (
    MAX_ATTEMPTS,
    Part,
    PaymentRequest,
    Sending,
    origin_of,
    parse_origin,
)
from back.storage import payments as stored
from back.storage.payments import Attempt, Payment, PaymentState
from back.storage.tables import NODE_SHARD
from shared import bolt11
from shared.errors import BackendError, CommandError, LightningError, MalformedMessage, WriteRefused
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcOffered, OfferRefused
    from back.channel.model import Channel
    from back.runner import ChannelRunner
    from back.storage.statements import Write
    from back.storage.store import Store
    from shared.chain import Chain

__all__ = ["Sender"]

log = structlog.get_logger()

MAX_EXTERNAL_ID = 66
KEPT_SENT = 10_000
"""Payment hashes that are known to be paid without asking the database."""
RETRY_S = 0.5


@dataclass(slots=True)
class _Reserved:
    """What is on its way into a channel."""

    msat: int = 0
    count: int = 0


class Sender:
    """The payer's side."""

    def __init__(
        self,
        store: "Store",
        node_id: bytes,
        chain: "Chain",
        runners: "Callable[[bytes], Sequence[ChannelRunner]]",
        height: Callable[[], int],
        told: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Prepare.

        Args:
            store: where payments are kept.
            node_id: ours.
            chain: our network.
            runners: gives the channels with a peer.
            height: of the chain.
            told: called with each outcome, ``sent`` or ``failed``.
            clock: unix seconds.
            entropy: gives so many random bytes.
        """
        self._store = store
        self._node_id = node_id
        self._chain = chain
        self._runners = runners
        self._height = height
        self._told = told
        self._clock = clock
        self._entropy = entropy
        self._live: dict[UUID, Sending] = {}
        self._by_hash: dict[bytes, Sending] = {}
        self._sent: OrderedDict[bytes, UUID] = OrderedDict()
        self._reserved: dict[int, _Reserved] = {}
        self._tasks = Tasks()
        self._is_stopping = False

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was pending. Before channels are restored: they tell what became of it."""
        pending = await self._store.read(stored.load_pending_payments)
        ids = [payment.id for payment in pending]
        attempts = await self._store.read(lambda c: stored.list_attempts(c, ids))
        for payment in pending:
            sending = self._restored(payment, [a for a in attempts if a.payment_id == payment.id])
            if not sending.is_in_flight:
                sending.failures.append(
                    send.local_failure("the node was restarted before the payment went out")
                )
                self._give_up(sending)
        if pending:
            log.info("payments_restored", count=len(pending))

    def _restored(self, payment: Payment, attempts: Sequence[Attempt]) -> Sending:
        sending = Sending(payment, self._order_again(payment), MAX_ATTEMPTS, _future())
        for attempt in attempts:
            verdict = None
            if attempt.state is not PaymentState.PENDING:
                summary = json.loads(attempt.failure or "{}")
                verdict = send.Verdict(may_retry=False, summary=summary)
                sending.failures.append(summary)
            key_index = attempt.key_index or 0
            sending.parts[attempt.number] = Part(
                attempt,
                channel_id=b"",
                key_index=key_index,
                is_offered=True,
                verdict=verdict,
                is_over=verdict is not None,
            )
            sending.tried.add(key_index)
        self._live[payment.id] = self._by_hash[payment.payment_hash] = sending
        return sending

    def _order_again(self, payment: Payment) -> send.Order | None:
        try:
            invoice = bolt11.decode(payment.bolt11 or "")
            return send.order(
                invoice,
                payment.amount_msat,
                payer=self._node_id,
                chain=self._chain,
                unix_s=self._clock(),
            )
        except (CommandError, MalformedMessage):
            return None

    async def stop(self) -> None:
        """Start nothing more; what is on its way is settled after the next start."""
        self._is_stopping = True
        await self._tasks.stop()
        for sending in self._live.values():
            sending.done.cancel()

    # --- paying -----------------------------------------------------------------------------------

    async def pay(self, request: PaymentRequest) -> Sending:
        """Begin to pay; returns once the payment is stored. Its ``done`` tells how it ended.

        Raises:
            CommandError: it may not be paid, is being paid or was paid.
            BackendError: it could not be stored.
        """
        return await asyncio.shield(asyncio.ensure_future(self._begin(request)))

    async def _begin(self, request: PaymentRequest) -> Sending:
        if self._is_stopping:
            raise CommandError("the node is stopping")
        if len(request.external_id or "") > MAX_EXTERNAL_ID:
            raise CommandError(f"externalId has more than {MAX_EXTERNAL_ID} characters")
        if request.max_attempts < 1:
            raise CommandError("maxAttempts is at least 1")
        wanted = send.order(
            request.invoice,
            request.amount_msat,
            payer=self._node_id,
            chain=self._chain,
            unix_s=self._clock(),
        )
        self._refuse_second(wanted.payment_hash)
        payment = Payment(
            id=UUID(bytes=self._entropy(16), version=4),
            parent=None,
            external_id=request.external_id,
            payment_hash=wanted.payment_hash,
            amount_msat=wanted.amount_msat,
            recipient=wanted.payee,
            bolt11=request.bolt11,
            created_at=int(self._clock()),
        )
        sending = Sending(payment, wanted, request.max_attempts, _future())
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
        self._try_next(sending)
        return sending

    def _refuse_second(self, payment_hash: bytes) -> None:
        if live := self._by_hash.get(payment_hash):
            raise CommandError(f"this invoice is being paid: payment {live.payment.id}")
        if sent := self._sent.get(payment_hash):
            raise CommandError(f"this invoice is paid: payment {sent}")

    def _commit(self, writes: "list[Write]") -> "asyncio.Future[None]":
        return self._store.committer.submit(NODE_SHARD, writes)

    def _try_next(self, sending: Sending) -> None:
        """Offer an HTLC on another channel, or give up."""
        why = self._offer(sending)
        if why:
            if not sending.failures:
                sending.failures.append(send.local_failure(why))
            self._give_up(sending)

    def _offer(self, sending: Sending) -> str:
        """Post an HTLC; say why not if there is none to post."""
        try:
            wanted, runner = self._next_way(sending)
            onion = send.payment_onion(
                wanted,
                height=self._height(),
                session_key=self._entropy(32),
                shadow_blocks=1 + self._entropy(1)[0] % send.MAX_SHADOW_BLOCKS,
            )
        except CommandError as error:
            return str(error)
        self._post(sending, runner, onion)
        return ""

    def _next_way(self, sending: Sending) -> "tuple[send.Order, ChannelRunner]":
        """Return what to pay and the channel to try.

        Raises:
            CommandError: nothing is left to try; says why.
        """
        wanted = sending.order
        if wanted is None or self._clock() >= wanted.expires_at:
            raise CommandError("the invoice has expired")
        if len(sending.tried) >= sending.max_attempts:
            raise CommandError(f"{len(sending.tried)} attempts have failed")
        runners = [r for r in self._runners(wanted.payee) if not r.is_stopped]
        if not runners:
            raise CommandError(f"there is no channel with {wanted.payee.hex()}")
        if not any(runner.channel.link is Link.ONLINE for runner in runners):
            raise CommandError(f"{wanted.payee.hex()} is not connected")
        channel = send.choose_channel(
            [self._candidate(runner.channel) for runner in runners],
            wanted.amount_msat,
            frozenset(sending.tried),
        )
        for runner in runners:
            if runner.channel is channel:
                return wanted, runner
        raise CommandError("no channel with the payee can send so much now")

    def _candidate(self, channel: "Channel") -> send.Candidate:
        reserved = self._reserved.get(channel.parameters.key_index)
        if reserved is None:
            return send.Candidate(channel)
        return send.Candidate(channel, reserved.msat, reserved.count)

    def _post(self, sending: Sending, runner: "ChannelRunner", onion: send.PaymentOnion) -> None:
        channel = runner.channel
        number = 1 + max(sending.parts, default=0)
        payment = sending.payment
        hop = send.hop_summary(self._node_id, payment.recipient, channel)
        attempt = Attempt(
            payment_id=payment.id,
            number=number,
            key_index=channel.parameters.key_index,
            htlc_id=None,
            amount_msat=onion.amount_msat,
            fees_msat=0,
            route=json.dumps([hop]),
            created_at=int(self._clock()),
            shared_secrets=onion.shared_secrets,
        )
        part = Part(attempt, channel.channel_id, channel.parameters.key_index)
        sending.parts[number] = part
        sending.tried.add(part.key_index)
        self._reserve(part, 1)
        offer = OfferHtlc(
            amount_msat=onion.amount_msat,
            payment_hash=payment.payment_hash,
            cltv_expiry=onion.cltv_expiry,
            onion_routing_packet=onion.packet,
            origin=origin_of(payment.id, number),
        )
        runner.request(offer).add_done_callback(partial(self._posted, sending, part))

    def _posted(self, sending: Sending, part: Part, done: "asyncio.Future[Channel]") -> None:
        """The channel took the request, or stopped before: then no effect will tell.

        Where the lease was lost, the HTLC may be in the database: the next owner knows, and another
        try could pay twice.
        """
        if not done.cancelled() and isinstance(error := done.exception(), CommandError):
            self._refused(sending, part, str(error))

    def _reserve(self, part: Part, sign: int) -> None:
        reserved = self._reserved.setdefault(part.key_index, _Reserved())
        reserved.msat += sign * part.attempt.amount_msat
        reserved.count += sign
        if reserved.count == 0:
            del self._reserved[part.key_index]

    # --- what the channel tells -------------------------------------------------------------------

    def offered(self, channel: "Channel", effect: "HtlcOffered") -> "list[Write]":
        """Return the attempt's row, for the commit of its add."""
        found = self._find(effect.htlc.origin)
        if found is None:
            return []
        _, part = found
        part.attempt = replace(
            part.attempt, key_index=channel.parameters.key_index, htlc_id=effect.htlc.id
        )
        return [stored.add_attempt(part.attempt)]

    def was_offered(self, effect: "HtlcOffered") -> None:
        """The HTLC is durable: the channel itself counts it from now on."""
        found = self._find(effect.htlc.origin)
        if found is not None and not found[1].is_offered:
            found[1].is_offered = True
            self._reserve(found[1], -1)

    def was_refused(self, effect: "OfferRefused") -> None:
        """The channel had no room after all: try another."""
        found = self._find(effect.origin)
        if found is not None:
            self._refused(*found, effect.reason)

    def _refused(self, sending: Sending, part: Part, reason: str) -> None:
        if part.is_offered or part.verdict is not None:
            return
        summary = send.local_failure(reason, json.loads(part.attempt.route))
        part.verdict = send.Verdict(may_retry=True, summary=summary)
        part.is_over = True
        self._reserve(part, -1)
        sending.failures.append(summary)
        self._try_next(sending)

    def fulfilled(self, effect: "HtlcFulfilled") -> "list[Write]":
        """Return the rows of a preimage, for the commit in which it becomes durable."""
        payment_id, number = parse_origin(effect.htlc.origin)
        found = self._find(effect.htlc.origin)
        fees_msat = found[1].attempt.fees_msat if found else 0
        now = int(self._clock())
        return [
            stored.attempt_sent(payment_id, number, now),
            stored.payment_sent(payment_id, effect.payment_preimage, fees_msat, now),
        ]

    def was_fulfilled(self, effect: "HtlcFulfilled") -> None:
        """The payment is sent."""
        found = self._find(effect.htlc.origin)
        if found is None:
            return
        sending, part = found
        part.is_over = True
        sending.payment = replace(
            sending.payment,
            state=PaymentState.SENT,
            preimage=effect.payment_preimage,
            fees_msat=part.attempt.fees_msat,
            completed_at=int(self._clock()),
        )
        self._sent[sending.payment.payment_hash] = sending.payment.id
        while len(self._sent) > KEPT_SENT:
            self._sent.popitem(last=False)
        self._end(sending)

    def failed(self, effect: "HtlcFailed") -> "list[Write]":
        """Return the rows of a failure, for the commit in which it becomes irrevocable."""
        payment_id, number = parse_origin(effect.htlc.origin)
        found = self._find(effect.htlc.origin)
        now = int(self._clock())
        if found is None:
            return [stored.attempt_failed(payment_id, number, now, "{}")]
        sending, part = found
        if part.verdict is None:
            part.verdict = send.judge(
                effect.htlc.resolution,
                part.attempt.shared_secrets,
                (sending.payment.recipient,),
                json.loads(part.attempt.route),
            )
            sending.failures.append(part.verdict.summary)
        failure = json.dumps(part.verdict.summary)
        rows = [stored.attempt_failed(payment_id, number, now, failure)]
        if not part.verdict.may_retry:
            rows.append(stored.payment_failed(payment_id, sending.failures, now))
        return rows

    def was_failed(self, effect: "HtlcFailed") -> None:
        """The attempt is over: try another channel, or say so."""
        found = self._find(effect.htlc.origin)
        if found is None:
            return
        sending, part = found
        if part.is_over:
            return
        part.is_over = True
        if part.verdict is None:
            # Told without its commit, at a start: the row was written by a former process.
            part.verdict = send.Verdict(may_retry=True, summary=send.local_failure("it failed"))
        if part.verdict.may_retry:
            self._try_next(sending)
        else:
            self._ended_badly(sending)

    # --- the end ----------------------------------------------------------------------------------

    def _give_up(self, sending: Sending) -> None:
        """Nothing of it is on its way: make that durable, then say so."""
        self._tasks.spawn(self._store_failure(sending), "store a failed payment")

    async def _store_failure(self, sending: Sending) -> None:
        row = stored.payment_failed(sending.payment.id, sending.failures, int(self._clock()))
        while True:
            try:
                await self._commit([row])
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

    def _find(self, origin: str | None) -> tuple[Sending, Part] | None:
        payment_id, number = parse_origin(origin)
        sending = self._live.get(payment_id)
        if sending is None or number not in sending.parts:
            return None
        return sending, sending.parts[number]


def _future() -> "asyncio.Future[Sending]":
    return asyncio.get_running_loop().create_future()
