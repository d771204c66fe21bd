"""What a received onion asks of us (BOLT 4 § Payload format, § Route Blinding). Pure.

A payment to us is :class:`Final`, one for somebody else :class:`Forward`; anything that BOLT 4
forbids is a decision at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from back.channel.model import Htlc
from back.payment.decision import Decision, Fail, Malformed, unreadable
from shared.crypto.failures import INVALID_ONION_BLINDING, encode_failure
from shared.crypto.payload import Payload, decode_payload
from shared.crypto.sphinx import Peeled
from shared.errors import InvalidOnion

if TYPE_CHECKING:
    from shared.crypto.recipient_data import Opened, RecipientData

__all__ = ["Final", "Forward", "Place", "forwarded_before", "interpret"]

Open = Callable[[bytes, bytes], "Opened"]
"""(path_key, encrypted_recipient_data) → what it holds; raises InvalidOnion."""


class Place(Enum):
    """Where we stand with respect to a blinded path."""

    OUTSIDE = 1
    INTRODUCTION = 2
    """We are its first node: whoever is before us may hear of errors, but not of which."""
    INSIDE = 3
    """Nobody may learn what went wrong here."""


@dataclass(frozen=True, slots=True)
class Final:
    """A payment to us.

    Attributes:
        payload: with amt_to_forward and outgoing_cltv_value.
        opened: what we once wrote to ourselves, where it came by a blinded path.
    """

    htlc: Htlc
    payload: Payload
    shared_secret: bytes = field(repr=False)
    place: Place = Place.OUTSIDE
    opened: "RecipientData | None" = None

    def refused(self, message: bytes) -> Decision:
        """Return a failure as BOLT 4 wants it told here.

        Args:
            message: of :func:`shared.crypto.failures.encode_failure`.
        """
        if self.place is Place.INSIDE:
            return Malformed(INVALID_ONION_BLINDING)
        return Fail(message)


@dataclass(frozen=True, slots=True)
class Forward:
    """A payment for somebody else.

    Attributes:
        short_channel_id: of the outgoing channel; None where the next node is named instead.
        next_node_id: only where ``short_channel_id`` is None.
        amt_to_forward_msat: of the outgoing HTLC.
        outgoing_cltv_value: its cltv_expiry.
        next_path_key: for its update_add_htlc, inside a blinded path.
    """

    htlc: Htlc
    short_channel_id: int | None
    next_node_id: bytes | None
    amt_to_forward_msat: int
    outgoing_cltv_value: int
    next_packet: bytes = field(repr=False)
    shared_secret: bytes = field(repr=False)
    place: Place = Place.OUTSIDE
    next_path_key: bytes | None = None

    def refused(self, message: bytes) -> Decision:
        """Return a failure, of ours or of a later hop, as BOLT 4 wants it told here."""
        return _refused(self.htlc, self.place, message)


def interpret(htlc: Htlc, peeled: Peeled, open_data: Open) -> Final | Forward | Decision:
    """Read our layer of an onion.

    Args:
        htlc: as received.
        peeled: its onion, our layer off.
        open_data: decrypts what the maker of a blinded path wrote to us.
    """
    place = Place.OUTSIDE if htlc.path_key is None else Place.INSIDE
    try:
        payload = decode_payload(peeled.payload)
        if payload.encrypted_recipient_data is None:
            return _plain(htlc, payload, peeled)
        path_key = htlc.path_key
        if path_key is None:
            place = Place.INTRODUCTION
            path_key = payload.current_path_key
        elif payload.current_path_key is not None:
            return Malformed(INVALID_ONION_BLINDING)
        if path_key is None:
            return _refused(htlc, place, b"")
        opened = open_data(path_key, payload.encrypted_recipient_data)
    except InvalidOnion as error:
        return unreadable(error) if place is Place.OUTSIDE else _refused(htlc, place, b"")
    return _blinded(htlc, payload, peeled, opened, place)


def forwarded_before(htlc: Htlc, peeled: Peeled) -> Forward:
    """Return what is needed to end an HTLC that was forwarded, and would not be any more.

    It is never offered again. Where it came by is not known, so no error of later hops is told.
    """
    return Forward(
        htlc,
        None,
        None,
        htlc.amount_msat,
        htlc.cltv_expiry,
        peeled.next_packet or b"",
        peeled.shared_secret,
        Place.INTRODUCTION if htlc.path_key is None else Place.INSIDE,
    )


def _refused(htlc: Htlc, place: Place, message: bytes) -> Decision:
    match place:
        case Place.OUTSIDE:
            return Fail(message)
        case Place.INTRODUCTION:
            digest = sha256(htlc.onion_routing_packet).digest()
            return Fail(encode_failure("invalid_onion_blinding", sha256_of_onion=digest))
        case Place.INSIDE:
            return Malformed(INVALID_ONION_BLINDING)


def _plain(htlc: Htlc, payload: Payload, peeled: Peeled) -> Final | Forward | Decision:
    if htlc.path_key is not None:
        return Malformed(INVALID_ONION_BLINDING)
    if payload.current_path_key is not None:
        return _refused(htlc, Place.INTRODUCTION, b"")
    amount_msat, cltv_expiry = payload.amt_to_forward, payload.outgoing_cltv_value
    if amount_msat is None or cltv_expiry is None:
        return _missing(2 if amount_msat is None else 4)
    if peeled.next_packet is None:
        return Final(htlc, payload, peeled.shared_secret)
    if payload.short_channel_id is None:
        return _missing(6)
    return Forward(
        htlc,
        payload.short_channel_id,
        None,
        amount_msat,
        cltv_expiry,
        peeled.next_packet,
        peeled.shared_secret,
    )


def _missing(number: int) -> Decision:
    return Fail(encode_failure("invalid_onion_payload", type=number, offset=0))


_FORWARDED = frozenset({"encrypted_recipient_data", "current_path_key"})
_RECEIVED = _FORWARDED | {"amt_to_forward", "outgoing_cltv_value", "total_amount_msat"}
"""Fields that a hop of a blinded path may have, as one that forwards and as the last."""


def _blinded(
    htlc: Htlc, payload: Payload, peeled: Peeled, opened: "Opened", place: Place
) -> Final | Forward | Decision:
    data = opened.data
    is_final = peeled.next_packet is None
    allowed = _RECEIVED if is_final else _FORWARDED
    if _has_other_fields(payload, allowed) or _breaks_constraints(htlc, data):
        return _refused(htlc, place, b"")
    if peeled.next_packet is None:
        needed = (payload.amt_to_forward, payload.outgoing_cltv_value, payload.total_amount_msat)
        if None in needed or _names_next(data):
            return _refused(htlc, place, b"")
        return Final(htlc, payload, peeled.shared_secret, place, data)
    relay = data.payment_relay
    if relay is None or not _names_next(data):
        return _refused(htlc, place, b"")
    amount_msat = relay.amt_to_forward_msat(htlc.amount_msat)
    cltv_expiry = htlc.cltv_expiry - relay.cltv_expiry_delta
    if amount_msat <= 0 or cltv_expiry <= 0:
        return _refused(htlc, place, b"")
    return Forward(
        htlc,
        data.short_channel_id,
        data.next_node_id,
        amount_msat,
        cltv_expiry,
        peeled.next_packet,
        peeled.shared_secret,
        place,
        opened.next_path_key,
    )


def _names_next(data: "RecipientData") -> bool:
    return data.short_channel_id is not None or data.next_node_id is not None


def _has_other_fields(payload: Payload, allowed: frozenset[str]) -> bool:
    if payload.unknown_tlvs:
        return True
    return any(
        name not in allowed and getattr(payload, name) is not None
        for name in type(payload).model_fields
        if name != "unknown_tlvs"
    )


def _breaks_constraints(htlc: Htlc, data: "RecipientData") -> bool:
    if data.short_channel_id is not None and data.next_node_id is not None:
        return True
    if any(data.allowed_features or b""):
        # We know of no feature that a payment could use here.
        return True
    limits = data.payment_constraints
    return limits is not None and (
        htlc.cltv_expiry > limits.max_cltv_expiry or htlc.amount_msat < limits.htlc_minimum_msat
    )
