"""What the maker of a blinded path writes to each of its hops (BOLT 4 § encrypted_data_tlv)."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from shared.crypto import blinding
from shared.crypto.failures import INVALID_ONION_BLINDING
from shared.crypto.keys import is_valid_point
from shared.errors import InvalidOnion, MalformedMessage
from shared.wire.onion import BlindedPayinfo
from shared.wire.record import Record, TlvStream, decode_stream, encode_stream
from shared.wire.tlv import Tlv
from shared.wire.types import TU32, TU64, U16, U32, Point, Scid, Tail

__all__ = [
    "Opened",
    "PaymentConstraints",
    "PaymentRelay",
    "RecipientData",
    "encode_padded",
    "encode_recipient_data",
    "open_recipient_data",
    "payinfo",
]


class PaymentRelay(Record):
    """What a hop takes, as the maker of the path has it from its channel_update."""

    cltv_expiry_delta: U16
    fee_proportional_millionths: U32
    fee_base_msat: TU32

    def amt_to_forward_msat(self, amount_msat: int) -> int:
        """Return what is left of an incoming HTLC (BOLT 4's formula, which rounds up)."""
        ppm = self.fee_proportional_millionths
        return ((amount_msat - self.fee_base_msat) * 1_000_000 + 1_000_000 + ppm - 1) // (
            1_000_000 + ppm
        )


class PaymentConstraints(Record):
    """When a path may be used."""

    max_cltv_expiry: U32
    htlc_minimum_msat: TU64


class RecipientData(TlvStream):
    """encrypted_data_tlv; fields that are not there are None."""

    padding: Annotated[Tail | None, Tlv(1)] = None
    """Of any content: gives all hops' data the same length."""
    short_channel_id: Annotated[Scid | None, Tlv(2)] = None
    next_node_id: Annotated[Point | None, Tlv(4)] = None
    path_id: Annotated[Tail | None, Tlv(6)] = None
    """The recipient's own: by it, it knows which path was taken, and that it made it."""
    next_path_key_override: Annotated[Point | None, Tlv(8)] = None
    """For the next hop, in place of the one that follows from ours: another path begins there."""
    payment_relay: Annotated[PaymentRelay | None, Tlv(10)] = None
    payment_constraints: Annotated[PaymentConstraints | None, Tlv(12)] = None
    allowed_features: Annotated[Tail | None, Tlv(14)] = None


class Opened(NamedTuple):
    """What was decrypted.

    Attributes:
        next_path_key: for the next hop.
    """

    data: RecipientData
    next_path_key: bytes


def encode_recipient_data(data: RecipientData) -> bytes:
    """Return the TLV stream."""
    return encode_stream(data)


def encode_padded(hops: Sequence[RecipientData], size: int = 0) -> list[bytes]:
    """Return the TLV streams of a path's hops, all of one length: the shortest that does.

    Args:
        hops: without padding.
        size: at least so many bytes.
    """
    bare = [len(encode_stream(hop)) for hop in hops]
    # A padding takes two bytes itself, so a stream can grow by any number but 1 (and, where its
    # length needs three bytes, not by some others): then all grow by one more.
    while True:
        size = max(size, *bare)
        padded = [_padded(hop, size) for hop in hops]
        if all(len(stream) == size for stream in padded):
            return padded
        size += 1


def _padded(hop: RecipientData, size: int) -> bytes:
    lacking = size - len(encode_stream(hop))
    overhead = 2 if lacking < 2 + 0xFD else 4
    if lacking < overhead:
        return encode_stream(hop)
    return encode_stream(hop.model_copy(update={"padding": bytes(lacking - overhead)}))


def open_recipient_data(private_key: bytes, path_key: bytes, encrypted: bytes) -> Opened:
    """Decrypt and read what the maker of a path tells us.

    Args:
        private_key: the node key.
        path_key: as it came with the onion, or in its payload.
        encrypted: encrypted_recipient_data.

    Raises:
        InvalidOnion: with invalid_onion_blinding; not for us, garbage, with unknown even fields, or
            with an override that is no point.
    """
    unsealed = blinding.opened(private_key, path_key, encrypted)
    try:
        data = decode_stream(RecipientData, unsealed.plaintext)
    except MalformedMessage as error:
        raise InvalidOnion(str(error), code=INVALID_ONION_BLINDING) from None
    override = data.next_path_key_override
    if override is not None and not is_valid_point(override):
        # The next peer could not even read the message, and would have it again and again.
        raise InvalidOnion("next_path_key_override is not a point", code=INVALID_ONION_BLINDING)
    return Opened(data, override or unsealed.next_path_key)


def payinfo(
    relays: Sequence[PaymentRelay],
    *,
    min_final_cltv_expiry_delta: int,
    htlc_minimum_msat: int,
    htlc_maximum_msat: int,
) -> BlindedPayinfo:
    """Return what the hops of a path take together (BOLT 4 § Payload format), for its payer.

    Args:
        relays: payment_relay of all hops but the last, the introduction point first.
        min_final_cltv_expiry_delta: ours, the recipient's.
        htlc_minimum_msat: the largest minimum of the path's channels.
        htlc_maximum_msat: the smallest maximum of the path's channels.

    Raises:
        ValueError: the sums do not fit.
    """
    base, millionths, delta = 0, 0, min_final_cltv_expiry_delta
    # From the last channel to the first: what a hop takes is part of what those before it forward.
    for relay in reversed(relays):
        ppm = relay.fee_proportional_millionths
        base = _ceil_millionths(relay.fee_base_msat * 1_000_000 + base * (1_000_000 + ppm))
        millionths = _ceil_millionths((millionths + ppm) * 1_000_000 + millionths * ppm)
        delta += relay.cltv_expiry_delta
    return BlindedPayinfo(
        fee_base_msat=base,
        fee_proportional_millionths=millionths,
        cltv_expiry_delta=delta,
        htlc_minimum_msat=htlc_minimum_msat,
        htlc_maximum_msat=htlc_maximum_msat,
    )


def _ceil_millionths(value: int) -> int:
    return -(-value // 1_000_000)
