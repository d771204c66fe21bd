"""Payments of the node, both ways: all that the API and the node hold of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from back.payment.history import find_payments
from back.payment.invoices import Invoices
from back.payment.receive import ReceivePolicy
from back.payment.receiver import Receiver
from back.payment.sender import Sender

if TYPE_CHECKING:
    from back.channels import Channels
    from back.signer.signer import Signer
    from back.storage.payments import Attempt, Payment
    from back.storage.store import Store
    from shared.chain import Chain

__all__ = ["Outcome", "Payments"]

Outcome = Callable[[str, str], None]
"""Told of each payment that ended: ``sent`` or ``received``, and ``ok``, ``failed``."""


class Payments:
    """Invoices, the receiver and the sender: what :class:`back.htlcs.Htlcs` gives its facts to.

    Attributes:
        invoices: ours.
        sender: pays.
        on_outcome: for metrics.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        channels: "Channels",
        chain: "Chain",
        receiving: ReceivePolicy | None = None,
        is_tip_safe: Callable[[], bool] = lambda: True,
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
            self.invoices,
            self._height,
            lambda outcome: self._told("received", "ok" if outcome == "received" else "failed"),
            receiving or ReceivePolicy(),
            is_tip_safe=is_tip_safe,
        )
        self.sender = Sender(
            store,
            signer.node_id,
            chain,
            channels,
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

    # --- what the parts look at -------------------------------------------------------------------

    def _height(self) -> int:
        return self._channels.height

    def _told(self, direction: str, outcome: str) -> None:
        if self.on_outcome is not None:
            self.on_outcome(direction, outcome)
