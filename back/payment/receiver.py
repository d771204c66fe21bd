"""Answers received HTLCs: opens the onion, finds the invoice, posts the decision to the channel.

An invoice becomes paid in the very commit that fulfils its HTLC.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from back.channel.model import Phase
from back.payment import receive
from back.payment.receive import Fail, Fulfil, Now
from back.storage import invoices as stored
from back.storage.invoices import ReceivedHtlc
from shared.crypto.failures import encode_failure
from shared.crypto.sphinx import Peeled
from shared.errors import BackendError, InvalidOnion
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.channel.effects import HtlcReceived
    from back.channel.model import Channel, Htlc
    from back.payment.invoices import Invoices, Known
    from back.runner import ChannelRunner
    from back.signer.signer import Signer

__all__ = ["Receiver"]

log = structlog.get_logger()

RETRY_S = 0.5
"""Between two tries to read an invoice while the database is away."""
SETTLING_PHASES = (Phase.NORMAL, Phase.SHUTDOWN)
"""A channel that is shutting down still settles what is in it (BOLT 2 § Closing Initiation)."""


class Receiver:
    """The payee's side."""

    def __init__(
        self,
        signer: "Signer",
        invoices: "Invoices",
        height: Callable[[], int],
        told: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            signer: opens onions.
            invoices: ours.
            height: of the chain.
            told: called with each outcome, ``received`` or ``refused``.
            clock: unix seconds.
        """
        self._signer = signer
        self._invoices = invoices
        self._height = height
        self._told = told
        self._clock = clock
        self._tasks = Tasks()

    def received(self, runner: "ChannelRunner", effect: "HtlcReceived") -> None:
        """Decide on an HTLC, now or after a look into the database. Never blocks, never raises."""
        htlc = effect.htlc
        if runner.channel.phase not in SETTLING_PHASES:
            log.warning("htlc_left_to_the_chain", channel=runner.channel.channel_id.hex())
            return
        try:
            peeled = self._signer.peel_onion(
                htlc.onion_routing_packet, htlc.payment_hash, htlc.path_key
            )
        except InvalidOnion as error:
            log.info("onion_refused", channel=runner.channel.channel_id.hex(), why=str(error))
            secret = error.shared_secret or b""
            runner.post(receive.settlement(htlc, receive.unreadable(error), secret))
            self._told("refused")
            return
        if effect.exceeds_dust_exposure:
            # BOLT 2 § Bounding exposure to trimmed in-flight HTLCs: whatever it would pay.
            failure = Fail(encode_failure("temporary_node_failure"))
            runner.post(receive.settlement(htlc, failure, peeled.shared_secret))
            self._told("refused")
            return
        known = self._invoices.at_hand(htlc.payment_hash)
        if known is not None:
            self._settle(runner, htlc, peeled, known)
            return
        self._tasks.spawn(self._look_up(runner, htlc, peeled), "look for an invoice")

    async def _look_up(self, runner: "ChannelRunner", htlc: "Htlc", peeled: Peeled) -> None:
        while not runner.is_stopped:
            try:
                known = await self._invoices.known(htlc.payment_hash)
            except BackendError as error:
                log.warning("invoice_not_read", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            self._settle(runner, htlc, peeled, known)
            return

    def _settle(
        self, runner: "ChannelRunner", htlc: "Htlc", peeled: Peeled, known: "Known | None"
    ) -> None:
        key_index = runner.channel.parameters.key_index
        now = Now(int(self._clock()), self._height())
        standing = known.standing if known is not None else None
        decision = receive.decide(htlc, peeled, key_index, standing, now)
        event = receive.settlement(htlc, decision, peeled.shared_secret)
        if not isinstance(decision, Fulfil) or known is None:
            log.info("htlc_refused", payment_hash=htlc.payment_hash.hex(), id=htlc.id)
            runner.post(event)
            self._told("refused")
            return
        if (key_index, htlc.id) in known.paid_by:
            runner.post(event)
            return
        invoice = self._invoices.settling(known, key_index, htlc.id, htlc.amount_msat)
        writes = [
            stored.invoice_paid(
                invoice.payment_hash, invoice.received_msat, invoice.paid_at or now.unix_s
            ),
            stored.received_htlc(
                ReceivedHtlc(htlc.payment_hash, key_index, htlc.id, htlc.amount_msat, now.unix_s)
            ),
        ]
        done = runner.request(event, writes)
        done.add_done_callback(partial(self._settled, known))

    def _settled(self, known: "Known", done: "asyncio.Future[Channel]") -> None:
        if done.cancelled() or (error := done.exception()) is not None:
            why = "cancelled" if done.cancelled() else str(error)
            log.error("htlc_not_fulfilled", payment_hash=known.invoice.payment_hash.hex(), why=why)
            self._invoices.unsettled(known)
            return
        self._invoices.settled(known)
        self._told("received")

    async def stop(self) -> None:
        """Decide on nothing more; what is undecided comes again at the next start."""
        await self._tasks.stop()
