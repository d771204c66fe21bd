"""The payments under way, and what keeps an invoice from being paid twice."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from back.payment.sending import Part, Sending, parse_origin
from back.storage.payments import Payment, PaymentState
from shared.errors import CommandError

if TYPE_CHECKING:
    from back.payment.send import Order

__all__ = ["Live"]

KEPT_SENT = 10_000
"""Payment hashes that are known to be paid without asking the database."""


class Live:
    """Payments under way by id and by payment_hash, and the last ones that were sent."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, Sending] = {}
        self._by_hash: dict[bytes, list[Sending]] = {}
        self._sent: OrderedDict[bytes, UUID] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Sending]:
        return iter(list(self._by_id.values()))

    def get(self, payment_id: UUID) -> Sending | None:
        """Return the payment of this id, if it is under way."""
        return self._by_id.get(payment_id)

    def add(self, sending: Sending) -> None:
        """Take a payment: from now on a second one of its payment_hash is refused."""
        payment = sending.payment
        self._by_id[payment.id] = sending
        self._by_hash.setdefault(payment.payment_hash, []).append(sending)

    def forget(self, sending: Sending) -> None:
        """Let go of a payment that ended."""
        payment = sending.payment
        if self._by_id.pop(payment.id, None) is None:
            return
        others = [each for each in self._by_hash[payment.payment_hash] if each is not sending]
        if others:
            self._by_hash[payment.payment_hash] = others
        else:
            del self._by_hash[payment.payment_hash]

    def was_sent(self, payment: Payment) -> None:
        """Remember that a payment_hash is paid."""
        self._sent[payment.payment_hash] = payment.id
        while len(self._sent) > KEPT_SENT:
            self._sent.popitem(last=False)

    def find_part(self, origin: str | None) -> tuple[Sending, Part] | None:
        """Return the payment and the part that an HTLC belongs to."""
        payment_id, number = parse_origin(origin)
        sending = self._by_id.get(payment_id)
        if sending is None or number not in sending.parts:
            return None
        return sending, sending.parts[number]

    # --- never twice ------------------------------------------------------------------------------

    def refuse_second(self, wanted: "Order", amount_msat: int, parent: UUID | None) -> None:
        """Check that a payment is the only one, or fits to the others that the asker split it into.

        Args:
            wanted: what is to be paid.
            amount_msat: of it by this payment.
            parent: of several payments of one invoice that the asker splits itself.

        Raises:
            CommandError: it may not begin.
        """
        if sent := self._sent.get(wanted.payment_hash):
            raise CommandError(f"this invoice is paid: payment {sent}")
        brought_msat = amount_msat
        for other in self._by_hash.get(wanted.payment_hash, ()):
            _refuse_beside(other.payment, parent)
            brought_msat += other.payment.amount_msat
        if brought_msat > wanted.amount_msat:
            raise CommandError(
                f"the parts would bring {brought_msat} msat of {wanted.amount_msat} msat"
            )

    @staticmethod
    def refuse_stored(standing: Sequence[Payment], parent: UUID | None) -> None:
        """Check the same against payments of the database that are pending or sent.

        Raises:
            CommandError: it may not begin.
        """
        for payment in standing:
            _refuse_beside(payment, parent)


def _refuse_beside(other: Payment, parent: UUID | None) -> None:
    """Several payments may pay one invoice together; not once one of them has its preimage."""
    if other.state is PaymentState.SENT:
        raise CommandError(f"this invoice is paid: payment {other.id}")
    if parent is None or (other.parent or other.id) != parent:
        raise CommandError(f"this invoice is being paid: payment {other.id}")
