"""Who is paid, and what its hop of the onion says (BOLT 4 § Payload format). Pure."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from back.payment.route import Edge, Hop
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.crypto.sphinx import Hop as OnionHop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.wire.onion import BlindedPath

__all__ = [
    "STAND_IN",
    "BlindedPayPath",
    "BlindedRecipient",
    "ClearRecipient",
    "Recipient",
    "onion_hops",
]

STAND_IN = b"\x00" * 33
"""The node at which every blinded path of a recipient ends: nobody knows its real name."""


@dataclass(frozen=True, slots=True)
class ClearRecipient:
    """A node that is known by its name: of an invoice, or of a keysend payment.

    Attributes:
        payment_secret: of the invoice; None for keysend.
        min_final_cltv_expiry_delta: blocks that it wants for itself.
        hints: edges that lead to it and are not in the routing table.
        takes_parts: several HTLCs may pay it (basic_mpp).
        keysend_preimage: what keysend sends along.
    """

    node_id: bytes
    payment_secret: bytes | None = field(repr=False)
    min_final_cltv_expiry_delta: int
    payment_metadata: bytes | None = None
    hints: tuple[Edge, ...] = ()
    takes_parts: bool = False
    keysend_preimage: bytes | None = field(default=None, repr=False)

    @property
    def payee(self) -> bytes:
        """The node to look for a way to."""
        return self.node_id

    @property
    def extra(self) -> tuple[Edge, ...]:
        """Edges besides the routing table."""
        return self.hints

    @property
    def final_cltv_delta(self) -> int:
        """Blocks of the last HTLC, besides those of the way."""
        return self.min_final_cltv_expiry_delta


@dataclass(frozen=True, slots=True)
class BlindedPayPath:
    """One blinded path and what it takes (BOLT 12 § invoice_blindedpay)."""

    path: "BlindedPath"
    first_node_id: bytes
    """33 bytes: the path may name its first node by a channel."""
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int
    """With the recipient's own."""
    htlc_minimum_msat: int
    htlc_maximum_msat: int


@dataclass(frozen=True, slots=True)
class BlindedRecipient:
    """Somebody at the end of blinded paths.

    Attributes:
        node_id: whom the invoice names, for people.
        paths: at least one.
    """

    node_id: bytes
    paths: tuple[BlindedPayPath, ...]
    takes_parts: bool = True

    @property
    def payee(self) -> bytes:
        """The node to look for a way to."""
        return STAND_IN

    @property
    def extra(self) -> tuple[Edge, ...]:
        """Each path is one edge; its number is its short channel id."""
        return tuple(
            Edge(
                Hop(
                    path.first_node_id,
                    STAND_IN,
                    number,
                    path.fee_base_msat,
                    path.fee_proportional_millionths,
                    path.cltv_expiry_delta,
                ),
                path.htlc_minimum_msat,
                path.htlc_maximum_msat,
            )
            for number, path in enumerate(self.paths)
        )

    @property
    def final_cltv_delta(self) -> int:
        """The paths' deltas hold what the recipient wants."""
        return 0


Recipient: TypeAlias = ClearRecipient | BlindedRecipient


def onion_hops(
    recipient: Recipient,
    hops: "Sequence[Hop]",
    carried: "Sequence[tuple[int, int]]",
    total_msat: int,
) -> list[OnionHop]:
    """Return what each hop of a route reads.

    Args:
        recipient: at its end.
        hops: of the route, our own channel first.
        carried: (amount_msat, cltv_expiry) of each hop's HTLC.
        total_msat: that all parts together bring.
    """
    onion: list[OnionHop] = []
    is_blinded = isinstance(recipient, BlindedRecipient)
    clear = hops[:-1] if is_blinded else hops
    for number, hop in enumerate(clear[:-1]):
        amount_msat, cltv_expiry = carried[number + 1]
        payload = Payload(
            amt_to_forward=amount_msat,
            outgoing_cltv_value=cltv_expiry,
            short_channel_id=hops[number + 1].short_channel_id,
        )
        onion.append(OnionHop(hop.next_node_id, encode_payload(payload)))
    if isinstance(recipient, BlindedRecipient):
        path = recipient.paths[hops[-1].short_channel_id].path
        return onion + _blinded(path, clear[-1].next_node_id, carried[-1], total_msat)
    amount_msat, cltv_expiry = carried[-1]
    secret = recipient.payment_secret
    final = Payload(
        amt_to_forward=amount_msat,
        outgoing_cltv_value=cltv_expiry,
        payment_data=(
            None if secret is None else PaymentData(payment_secret=secret, total_msat=total_msat)
        ),
        payment_metadata=recipient.payment_metadata,
        keysend_preimage=recipient.keysend_preimage,
    )
    onion.append(OnionHop(recipient.node_id, encode_payload(final)))
    return onion


def _blinded(
    path: "BlindedPath", first_node_id: bytes, carried: tuple[int, int], total_msat: int
) -> list[OnionHop]:
    onion = []
    for number, hop in enumerate(path.path):
        is_first, is_last = number == 0, number == len(path.path) - 1
        payload = Payload(
            encrypted_recipient_data=hop.encrypted_recipient_data,
            current_path_key=path.first_path_key if is_first else None,
            amt_to_forward=carried[0] if is_last else None,
            outgoing_cltv_value=carried[1] if is_last else None,
            total_amount_msat=total_msat if is_last else None,
        )
        node_id = first_node_id if is_first else hop.blinded_node_id
        onion.append(OnionHop(node_id, encode_payload(payload)))
    return onion
