"""Payments of the node, both ways: all that channels, the API and the node hold of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from back.channel.effects import (
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    OfferRefused,
)
from back.payment.history import find_payments
from back.payment.invoices import Invoices
from back.payment.receiver import Receiver
from back.payment.sender import Sender
from back.payment.sending import ORIGIN

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.channels import Channels, PaymentEffect
    from back.runner import ChannelRunner
    from back.signer.signer import Signer
    from back.storage.payments import Attempt, Payment
    from back.storage.statements import Write
    from back.storage.store import Store
    from shared.chain import Chain

__all__ = ["Outcome", "Payments"]

log = structlog.get_logger()

Outcome = Callable[[str, str], None]
"""Told of each payment that ended: ``sent`` or ``received``, and ``ok``, ``failed``."""


class Payments:
    """Invoices, the receiver and the sender, and the channels' sink of facts about HTLCs.

    Attributes:
        invoices: ours.
        sender: pays.
        on_outcome: for metrics.
    """

    def __init__(
        self, store: "Store", signer: "Signer", channels: "Channels", chain: "Chain"
    ) -> None:
        self._store = store
        self._channels = channels
        self.on_outcome: Outcome | None = None
        self.invoices = Invoices(
            store,
            signer,
            chain,
            lambda: [runner.channel for runner in channels.runners.values()],
        )
        self.receiver = Receiver(
            signer,
            self.invoices,
            self._height,
            lambda outcome: self._told("received", "ok" if outcome == "received" else "failed"),
        )
        self.sender = Sender(
            store,
            signer.node_id,
            chain,
            self._runners,
            self._height,
            lambda outcome: self._told("sent", "ok" if outcome == "sent" else "failed"),
        )

    async def start(self) -> None:
        """Take up what was pending, before the channels are restored."""
        await self.sender.start()

    async def stop(self) -> None:
        """Start nothing more."""
        await self.receiver.stop()
        await self.sender.stop()

    async def find(
        self, payment_id: UUID | None = None, payment_hash: bytes | None = None
    ) -> "list[tuple[Payment, list[Attempt]]]":
        """Return payments of ours with their attempts, by id or else by hash, the oldest first.

        Raises:
            BackendError: the database is away.
        """
        return await self._store.read(lambda c: find_payments(c, payment_id, payment_hash))

    # --- the channels' facts ----------------------------------------------------------------------

    def writes(self, channel: "Channel", effect: "PaymentEffect") -> "list[Write]":
        """Rows of a fact, for the commit of the step that holds it."""
        if not _is_ours(effect):
            return []
        match effect:
            case HtlcOffered():
                return self.sender.offered(channel, effect)
            case HtlcFulfilled():
                return self.sender.fulfilled(effect)
            case HtlcFailed():
                return self.sender.failed(effect)
        return []

    def perform(self, runner: "ChannelRunner", effect: "PaymentEffect") -> None:
        """The fact is durable: act on it. Never blocks, never raises."""
        try:
            self._perform(runner, effect)
        except Exception:
            # A bug of ours must not stop the channel; the HTLC is decided at the next start.
            log.exception("payment_fact_not_handled", effect=type(effect).__name__)

    def _perform(self, runner: "ChannelRunner", effect: "PaymentEffect") -> None:
        if isinstance(effect, HtlcReceived):
            self.receiver.received(runner, effect)
            return
        if not _is_ours(effect):
            log.error("htlc_of_unknown_origin", effect=type(effect).__name__)
            return
        match effect:
            case HtlcOffered():
                self.sender.was_offered(effect)
            case OfferRefused():
                self.sender.was_refused(effect)
            case HtlcFulfilled():
                self.sender.was_fulfilled(effect)
            case HtlcFailed():
                self.sender.was_failed(effect)

    # --- what the parts look at -------------------------------------------------------------------

    def _height(self) -> int:
        return self._channels.height

    def _runners(self, node_id: bytes) -> "list[ChannelRunner]":
        peer = self._channels.peers.known.get(node_id)
        return list(peer.runners.values()) if peer is not None else []

    def _told(self, direction: str, outcome: str) -> None:
        if self.on_outcome is not None:
            self.on_outcome(direction, outcome)


def _is_ours(effect: "PaymentEffect") -> bool:
    if isinstance(effect, HtlcReceived):
        return True
    origin = effect.origin if isinstance(effect, OfferRefused) else effect.htlc.origin
    return (origin or "").startswith(f"{ORIGIN}:")
