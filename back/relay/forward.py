"""May this HTLC go into that channel, and what to answer if not (BOLT 4 § Requirements). Pure.

The codes are those of BOLT 4 § Failure Messages, without a channel_update: whoever pays has it from
gossip, and one sent on this way only helps to find out who pays.
"""

from typing import TYPE_CHECKING

from back.channel.model import Channel, Link, Phase
from back.relay.handoff import Offer
from shared.crypto.failures import encode_failure
from shared.features import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from back.relay.terms import ChannelTerms

__all__ = [
    "MAX_BLOCKS",
    "MIN_BLOCKS",
    "PERMANENT",
    "TEMPORARY",
    "UNKNOWN_NEXT_PEER",
    "is_closing",
    "refusal",
]

MIN_BLOCKS = 3
"""An HTLC that would expire in fewer blocks could time out while it is being added."""
MAX_BLOCKS = 2016
"""An HTLC that is locked for longer may be locked out of malice (BOLT 4 § max_htlc_cltv)."""

UNKNOWN_NEXT_PEER = encode_failure("unknown_next_peer")
TEMPORARY = encode_failure("temporary_channel_failure")
PERMANENT = encode_failure("permanent_channel_failure")


def is_closing(channel: Channel) -> bool:
    """Whether a channel will never take an HTLC again."""
    return (
        channel.phase not in {Phase.NORMAL, *OPENING}
        or channel.local_shutdown_script is not None
        or channel.remote_shutdown_script is not None
    )


OPENING = frozenset({Phase.WAIT_FOR_FUNDING_CONFIRMED, Phase.WAIT_FOR_CHANNEL_READY})


def refusal(
    offer: Offer, channel: Channel, accepted: "Sequence[ChannelTerms]", height: int
) -> bytes:
    """Return the failure message that keeps an HTLC out of a channel; empty if it may go in.

    Whether there is room is seen when it is added.

    Args:
        offer: what is to be forwarded.
        channel: where to.
        accepted: terms that may be met now: the present ones first.
        height: of the chain.
    """
    if is_closing(channel):
        return PERMANENT
    if channel.phase is not Phase.NORMAL or channel.link is not Link.ONLINE:
        return TEMPORARY
    if offer.path_key is not None and Feature.option_route_blinding not in channel.features:
        # To such a peer path_key is an unknown even field: it would close the connection, and
        # again whenever the HTLC is sent once more, until the channel is closed too.
        return PERMANENT
    first = b""
    for terms in accepted:
        unmet = _unmet(offer, terms)
        if not unmet:
            first = b""
            break
        first = first or unmet
    if not accepted:
        first = TEMPORARY
    return first or _bad_expiry(offer, height)


def _unmet(offer: Offer, terms: "ChannelTerms") -> bytes:
    """Return what of the terms an HTLC does not meet, as a failure message."""
    if offer.amount_msat < terms.htlc_minimum_msat:
        return encode_failure("amount_below_minimum", htlc_msat=offer.amount_msat)
    if offer.amount_msat > terms.htlc_maximum_msat:
        return TEMPORARY
    if offer.in_amount_msat - offer.amount_msat < terms.fee_msat(offer.amount_msat):
        return encode_failure("fee_insufficient", htlc_msat=offer.in_amount_msat)
    if offer.in_cltv_expiry - offer.cltv_expiry < terms.cltv_expiry_delta:
        return encode_failure("incorrect_cltv_expiry", cltv_expiry=offer.cltv_expiry)
    return b""


def _bad_expiry(offer: Offer, height: int) -> bytes:
    if offer.cltv_expiry < height + MIN_BLOCKS:
        return encode_failure("expiry_too_soon")
    if offer.in_cltv_expiry > height + MAX_BLOCKS:
        return encode_failure("expiry_too_far")
    return b""
