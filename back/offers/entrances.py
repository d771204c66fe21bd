"""Blinded paths to us for payments (BOLT 4 § Route Blinding, BOLT 12 § Invoices). Pure.

They begin at a peer and hide who is behind it, or, where everybody may know, at ourselves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest

from back.channel.model import Channel, Link, Phase
from back.payment.balances import can_receive_msat
from back.payment.hints import remote_update, route_hint
from back.payment.receive import MIN_FINAL_CLTV_EXPIRY_DELTA
from shared.crypto.blinding import blind
from shared.crypto.recipient_data import (
    PaymentConstraints,
    PaymentRelay,
    RecipientData,
    encode_padded,
    payinfo,
)
from shared.wire.onion import BlindedPath, BlindedPayinfo

__all__ = ["MAX_ENTRANCES", "Wanted", "payment_paths"]

MAX_ENTRANCES = 3
"""Each makes an invoice some 300 bytes longer."""
_LOOKED_AT = 12
"""So many channels are looked at closely."""
_LOCKED_BLOCKS = 2016
"""An HTLC may be locked for so long at our end, whatever its payer adds to hide who we are."""
_BLOCK_S = 600
_MAX_MSAT = 21_000_000 * 100_000_000_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the paths are for.

    Attributes:
        path_id: comes back with each HTLC.
        is_hidden: the paths must not begin at ourselves.
        height: of the chain.
        expiry_s: of the invoice.
    """

    amount_msat: int
    path_id: bytes = field(repr=False)
    is_hidden: bool
    height: int
    expiry_s: int

    @property
    def max_cltv_expiry(self) -> int:
        """The highest cltv_expiry of an HTLC that reaches us: later the path is void."""
        return self.height + _LOCKED_BLOCKS + 2 * self.expiry_s // _BLOCK_S


def payment_paths(
    channels: Iterable[Channel],
    node_id: bytes,
    wanted: Wanted,
    entropy: Callable[[int], bytes],
) -> list[tuple[BlindedPath, BlindedPayinfo]]:
    """Return paths to us, the best first; none: nobody could pay us now.

    Args:
        channels: all of ours.
        node_id: ours.
        wanted: what for.
        entropy: gives so many random bytes.
    """
    usable = [c for c in channels if c.phase is Phase.NORMAL and c.link is Link.ONLINE]
    is_known = any(channel.channel_announcement is not None for channel in usable)
    if is_known and not wanted.is_hidden:
        return [_from_us(node_id, wanted, entropy)]
    return [_from_peer(c, node_id, wanted, entropy) for c in _entrances(usable, wanted.amount_msat)]


def _entrances(usable: Sequence[Channel], amount_msat: int) -> list[Channel]:
    """Return the channels through which most can come, of different peers where possible."""
    richest = nlargest(_LOOKED_AT, usable, key=lambda channel: channel.remote_msat)
    room = {
        channel.channel_id: can_receive_msat(channel)
        for channel in richest
        if route_hint(channel) is not None
    }
    able = [channel for channel in richest if room.get(channel.channel_id, 0) > 0]
    # First those that can take all of it; among equals the richest stays before the others.
    able.sort(key=lambda channel: room[channel.channel_id] < amount_msat)
    peers: set[bytes] = set()
    first: list[Channel] = []
    again: list[Channel] = []
    for channel in able:
        peer = channel.parameters.node_id
        (again if peer in peers else first).append(channel)
        peers.add(peer)
    return [*first, *again][:MAX_ENTRANCES]


def _from_us(
    node_id: bytes, wanted: Wanted, entropy: Callable[[int], bytes]
) -> tuple[BlindedPath, BlindedPayinfo]:
    terms = payinfo(
        [],
        min_final_cltv_expiry_delta=MIN_FINAL_CLTV_EXPIRY_DELTA,
        htlc_minimum_msat=1,
        htlc_maximum_msat=_MAX_MSAT,
    )
    return _path(entropy(32), [(node_id, _ours(wanted))]), terms


def _from_peer(
    channel: Channel, node_id: bytes, wanted: Wanted, entropy: Callable[[int], bytes]
) -> tuple[BlindedPath, BlindedPayinfo]:
    hint, update = route_hint(channel), remote_update(channel)
    if hint is None or update is None:
        raise ValueError("the peer has not told its terms")
    relay = PaymentRelay(
        cltv_expiry_delta=hint.cltv_expiry_delta,
        fee_proportional_millionths=hint.fee_proportional_millionths,
        fee_base_msat=hint.fee_base_msat,
    )
    least_msat = max(1, update.htlc_minimum_msat)
    data = RecipientData(
        short_channel_id=hint.short_channel_id,
        payment_relay=relay,
        payment_constraints=PaymentConstraints(
            max_cltv_expiry=wanted.max_cltv_expiry + hint.cltv_expiry_delta,
            htlc_minimum_msat=least_msat,
        ),
    )
    terms = payinfo(
        [relay],
        min_final_cltv_expiry_delta=MIN_FINAL_CLTV_EXPIRY_DELTA,
        htlc_minimum_msat=least_msat,
        htlc_maximum_msat=max(least_msat, update.htlc_maximum_msat),
    )
    return _path(entropy(32), [(hint.node_id, data), (node_id, _ours(wanted))]), terms


def _ours(wanted: Wanted) -> RecipientData:
    constraints = PaymentConstraints(max_cltv_expiry=wanted.max_cltv_expiry, htlc_minimum_msat=1)
    return RecipientData(path_id=wanted.path_id, payment_constraints=constraints)


def _path(session_key: bytes, hops: Sequence[tuple[bytes, RecipientData]]) -> BlindedPath:
    data = encode_padded([data for _, data in hops])
    return blind(session_key, list(zip([node_id for node_id, _ in hops], data, strict=True)))
