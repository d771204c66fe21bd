"""From an invoice of BOLT 12 to what the sender pays. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from back.payment.recipient import BlindedPayPath, BlindedRecipient
from back.payment.send import MAX_HTLC_CLTV, SHADOW_ROOM, Order
from shared.bolt12 import Invoice, expires_at, takes_parts, usable_paths
from shared.errors import CommandError, InvalidOnion
from shared.wire.onion import BlindedPath, BlindedPayinfo

if TYPE_CHECKING:
    from shared.crypto.recipient_data import Opened, PaymentRelay

__all__ = ["MAX_PATHS", "Guide", "Opens", "order_of"]

MAX_PATHS = 8
"""More of an invoice are not looked at: each costs a look-up and an edge for path-finding."""
_MILLION = 1_000_000


class Opens(Protocol):
    """Who has the node key: `back.signer.signer.Signer`."""

    def open_recipient_data(self, path_key: bytes, encrypted: bytes) -> "Opened":
        """Read what the maker of a blinded path tells us; raises InvalidOnion."""


@dataclass(frozen=True, slots=True)
class Guide:
    """What is known of nodes and channels.

    Attributes:
        node_id: ours.
        keys: opens what is for us.
        named: gives the node id of a path's first_node_id; CommandError: not known.
        across: gives who is at the other end of a channel of ours; None: no such channel.
    """

    node_id: bytes
    keys: Opens
    named: Callable[[bytes], bytes]
    across: Callable[[int], bytes | None]


def order_of(invoice: Invoice, guide: Guide) -> Order:
    """Return what the sender has to pay.

    Args:
        invoice: checked, against the request too.
        guide: for the beginnings of its paths.

    Raises:
        CommandError: none of its paths can be used.
    """
    paths = []
    why = "it has no path"
    for path, payinfo in usable_paths(invoice)[:MAX_PATHS]:
        try:
            paths.append(_payable(path, payinfo, guide))
        except CommandError as error:
            why = str(error)
    if not paths:
        raise CommandError(f"no path of the invoice can be used: {why}")
    return Order(
        recipient=BlindedRecipient(
            node_id=invoice.invoice_node_id or b"",
            paths=tuple(paths),
            takes_parts=takes_parts(invoice),
        ),
        payment_hash=invoice.invoice_payment_hash or b"",
        amount_msat=invoice.invoice_amount or 0,
        expires_at=expires_at(invoice),
    )


def _payable(path: BlindedPath, payinfo: BlindedPayinfo, guide: Guide) -> BlindedPayPath:
    first = guide.named(path.first_node_id)
    if first == guide.node_id:
        path, payinfo, first = _behind_us(path, payinfo, guide)
    if payinfo.cltv_expiry_delta > MAX_HTLC_CLTV - SHADOW_ROOM:
        raise CommandError(f"it locks money for {payinfo.cltv_expiry_delta} blocks")
    return BlindedPayPath(
        path=path,
        first_node_id=first,
        fee_base_msat=payinfo.fee_base_msat,
        fee_proportional_millionths=payinfo.fee_proportional_millionths,
        cltv_expiry_delta=payinfo.cltv_expiry_delta,
        htlc_minimum_msat=payinfo.htlc_minimum_msat,
        htlc_maximum_msat=payinfo.htlc_maximum_msat,
    )


def _behind_us(
    path: BlindedPath, payinfo: BlindedPayinfo, guide: Guide
) -> tuple[BlindedPath, BlindedPayinfo, bytes]:
    """Return what is left of a path that begins at us, once we have gone our step."""
    try:
        hop = path.path[0]
        opened = guide.keys.open_recipient_data(path.first_path_key, hop.encrypted_recipient_data)
    except InvalidOnion as error:
        raise CommandError("it begins at us and was not made for us") from error
    data = opened.data
    if len(path.path) < 2 or data.payment_relay is None:
        raise CommandError("it ends at us")
    following = data.next_node_id
    if following is None and data.short_channel_id is not None:
        following = guide.across(data.short_channel_id)
    if following is None or following == guide.node_id:
        raise CommandError("it leads through a channel of ours that there is not")
    left = BlindedPath(
        first_node_id=following, first_path_key=opened.next_path_key, path=path.path[1:]
    )
    return left, _without(payinfo, data.payment_relay), following


def _without(payinfo: BlindedPayinfo, relay: "PaymentRelay") -> BlindedPayinfo:
    """Return what the hops after us take, rounded up: they never get less than they want."""
    whole = _MILLION + relay.fee_proportional_millionths
    base = max(0, payinfo.fee_base_msat - relay.fee_base_msat) * _MILLION
    ppm = (_MILLION + payinfo.fee_proportional_millionths) * _MILLION
    return payinfo.model_copy(
        update={
            "fee_base_msat": -(-base // whole),
            "fee_proportional_millionths": max(0, -(-ppm // whole) - _MILLION),
            "cltv_expiry_delta": max(0, payinfo.cltv_expiry_delta - relay.cltv_expiry_delta),
        }
    )
