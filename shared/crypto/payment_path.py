"""Blinded paths by which we are paid, and what they cost (BOLT 4 § Payload format). Pure.

The payer adds what ``payinfo`` says to the amount and to the expiry; each hop of the path takes its
part by ``payment_relay``. Nothing else tells them: whoever makes the path writes it all.
"""

from collections.abc import Sequence
from typing import NamedTuple

from shared.crypto.blinding import blind
from shared.crypto.recipient_data import (
    PaymentConstraints,
    PaymentRelay,
    RecipientData,
    encode_padded,
    payinfo,
)
from shared.wire.onion import BlindedPath, BlindedPayinfo

__all__ = ["FREE", "PathTerms", "Via", "payment_path"]

FREE = PaymentRelay(cltv_expiry_delta=0, fee_proportional_millionths=0, fee_base_msat=0)
"""What a hop of ours takes that is only there to hide how long the path is."""


class Via(NamedTuple):
    """A node on the way to us, and its channel with the next one.

    Attributes:
        node_id: whose terms these are.
        short_channel_id: of the channel, as that node knows it: its real name, or an alias of it.
        relay: from its channel_update.
        htlc_minimum_msat: of that channel.
        htlc_maximum_msat: of that channel.
    """

    node_id: bytes
    short_channel_id: int
    relay: PaymentRelay
    htlc_minimum_msat: int
    htlc_maximum_msat: int


class PathTerms(NamedTuple):
    """What we, the recipient, want of a path.

    Attributes:
        path_id: comes back with the payment; nobody else can read or make it.
        max_height: block height up to which the path may be used.
        min_final_cltv_expiry_delta: ours; the payer adds it.
        htlc_minimum_msat: ours.
        htlc_maximum_msat: ours.
        dummies: hops at the end that are we ourselves, so that nobody sees how far it is to us.
    """

    path_id: bytes
    max_height: int
    min_final_cltv_expiry_delta: int
    htlc_minimum_msat: int
    htlc_maximum_msat: int
    dummies: int = 0


def payment_path(
    session_key: bytes, node_id: bytes, vias: Sequence[Via], terms: PathTerms
) -> tuple[BlindedPath, BlindedPayinfo]:
    """Make a path to us, and say what it costs.

    Args:
        session_key: 32 random bytes, for this path only.
        node_id: ours.
        vias: nodes on the way, the introduction point first; none: we are it ourselves.
        terms: ours.

    Raises:
        ValueError: a node id is no point, or the fees do not fit.
    """
    relays = [via.relay for via in vias] + [FREE] * terms.dummies
    minimum = max(terms.htlc_minimum_msat, *(via.htlc_minimum_msat for via in vias), 0)
    maximum = min([terms.htlc_maximum_msat, *(via.htlc_maximum_msat for via in vias)])
    costs = payinfo(
        relays,
        min_final_cltv_expiry_delta=terms.min_final_cltv_expiry_delta,
        htlc_minimum_msat=minimum,
        htlc_maximum_msat=maximum,
    )
    node_ids = [via.node_id for via in vias] + [node_id] * (terms.dummies + 1)
    limits = _constraints(relays, terms, minimum)
    nexts = [RecipientData(short_channel_id=via.short_channel_id) for via in vias]
    nexts += [RecipientData(next_node_id=node_id)] * terms.dummies
    told = [
        following.model_copy(update={"payment_relay": relay, "payment_constraints": limit})
        for following, relay, limit in zip(nexts, relays, limits[:-1], strict=True)
    ]
    told.append(RecipientData(path_id=terms.path_id, payment_constraints=limits[-1]))
    return blind(session_key, list(zip(node_ids, encode_padded(told), strict=True))), costs


def _constraints(
    relays: Sequence[PaymentRelay], terms: PathTerms, htlc_minimum_msat: int
) -> list[PaymentConstraints]:
    """When each hop may forward, the introduction point first."""
    expiry = terms.max_height + terms.min_final_cltv_expiry_delta
    limits = [PaymentConstraints(max_cltv_expiry=expiry, htlc_minimum_msat=htlc_minimum_msat)]
    for relay in reversed(relays):
        expiry += relay.cltv_expiry_delta
        limits.append(
            PaymentConstraints(max_cltv_expiry=expiry, htlc_minimum_msat=htlc_minimum_msat)
        )
    return limits[::-1]
