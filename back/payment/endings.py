"""How payments of ours end: durable first, then told, once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from back.payment.telling import failed_event
from back.storage import payments as stored
from back.storage.payments import PaymentState
from shared.errors import BackendError, LeaseLost

if TYPE_CHECKING:
    from back.payment.live import Live
    from back.payment.sending import Sending
    from back.storage.statements import Write
    from shared.tasks import Tasks

__all__ = ["Endings"]

log = structlog.get_logger()

RETRY_S = 0.5


class Endings:
    """Ends payments of which no part is left.

    Args:
        live: all that are under way.
        commit: makes rows durable.
        told: called with each outcome, ``sent`` or ``failed``.
        tasks: where the work goes on.
        clock: unix seconds.
    """

    def __init__(
        self,
        live: "Live",
        commit: "Callable[[list[Write]], Awaitable[None]]",
        told: Callable[[str], None],
        tasks: "Tasks",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._commit = commit
        self._told = told
        self._tasks = tasks
        self._clock = clock

    def end_soon(self, sending: "Sending") -> None:
        """Make the end durable, then tell it; a payment that is sent is so in the database."""
        if sending.is_sent:
            self.end(sending)
            return
        sending.is_looking = True
        self._tasks.spawn(self._store_failure(sending), "store a failed payment")

    async def _store_failure(self, sending: "Sending") -> None:
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
            except LeaseLost:
                raise
            except Exception:
                # A bug of ours. It has failed all the same, and the next start stores that.
                log.exception("payment_failure_refused", payment=str(sending.payment.id))
                break
        self.ended_badly(sending)

    def ended_badly(self, sending: "Sending") -> None:
        """It has failed, and that is durable."""
        sending.payment = replace(
            sending.payment,
            state=PaymentState.FAILED,
            failures=tuple(sending.failures),
            completed_at=int(self._clock()),
        )
        self.end(sending)

    def end(self, sending: "Sending") -> None:
        """Tell whoever waits."""
        if sending.is_ended:
            return
        sending.is_ended = True
        self._live.forget(sending)
        state = sending.payment.state.value
        log.info("payment_ended", payment=str(sending.payment.id), outcome=state)
        if not sending.done.done():
            sending.done.set_result(sending)
        self._told(state)
