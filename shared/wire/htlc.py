"""Updates of the commitment transactions (BOLT 2 § Normal Operation)."""

from typing import Annotated

from pydantic import Field

from shared.wire.codec import Fixed
from shared.wire.message import Message
from shared.wire.record import Record
from shared.wire.tlv import Tlv
from shared.wire.types import (
    U16,
    U32,
    U64,
    Blob,
    ChannelId,
    HoldTimes,
    MilliSatoshi,
    OnionPacket,
    Point,
    Secret,
    Sha256,
    Signature,
    Signatures,
)

__all__ = [
    "AttributionData",
    "CommitmentSigned",
    "RevokeAndAck",
    "StartBatch",
    "UpdateAddHtlc",
    "UpdateFailHtlc",
    "UpdateFailMalformedHtlc",
    "UpdateFee",
    "UpdateFulfillHtlc",
]


class AttributionData(Record):
    """Who held an HTLC for how long (BOLT 4 § Returning Errors)."""

    htlc_hold_times: HoldTimes
    truncated_hmacs: Annotated[
        bytes, Field(min_length=840, max_length=840), Fixed(840, "210*sha256[..4]")
    ]


class StartBatch(Message, type=127):
    """The next messages belong together (BOLT 2 § Batching channel messages)."""

    channel_id: ChannelId
    batch_size: U16
    """2 to 20 messages."""
    message_type: Annotated[U16 | None, Tlv(1)] = None
    """132, `commitment_signed`."""


class UpdateAddHtlc(Message, type=128):
    """Offer an HTLC (BOLT 2 § `update_add_htlc`)."""

    channel_id: ChannelId
    id: U64
    amount_msat: MilliSatoshi
    payment_hash: Sha256
    cltv_expiry: U32
    """Block height."""
    onion_routing_packet: OnionPacket
    path_key: Annotated[Point | None, Tlv(0)] = None
    """Inside a blinded route (BOLT 4 § Route Blinding); the record `blinded_path`."""


class UpdateFulfillHtlc(Message, type=130):
    """Claim an HTLC (BOLT 2 § `update_fulfill_htlc`)."""

    channel_id: ChannelId
    id: U64
    payment_preimage: Secret
    attribution_data: Annotated[AttributionData | None, Tlv(1)] = None


class UpdateFailHtlc(Message, type=131):
    """Give an HTLC back (BOLT 2 § `update_fail_htlc`)."""

    channel_id: ChannelId
    id: U64
    reason: Blob
    """Encrypted for the payer (BOLT 4)."""
    attribution_data: Annotated[AttributionData | None, Tlv(1)] = None


class CommitmentSigned(Message, type=132):
    """The other side's next commitment transaction (BOLT 2 § `commitment_signed`)."""

    channel_id: ChannelId
    signature: Signature
    htlc_signature: Signatures
    """One per HTLC output, in the order of the outputs."""
    funding_txid: Annotated[Sha256 | None, Tlv(1)] = None
    """Which funding transaction it spends, while a splice makes several."""


class RevokeAndAck(Message, type=133):
    """The old commitment transaction is worthless now (BOLT 2 § `revoke_and_ack`)."""

    channel_id: ChannelId
    per_commitment_secret: Secret
    next_per_commitment_point: Point


class UpdateFee(Message, type=134):
    """A new commitment feerate (BOLT 2 § `update_fee`)."""

    channel_id: ChannelId
    feerate_per_kw: U32


class UpdateFailMalformedHtlc(Message, type=135):
    """Give back an HTLC whose onion cannot be read (BOLT 2 § `update_fail_malformed_htlc`)."""

    channel_id: ChannelId
    id: U64
    sha256_of_onion: Sha256
    failure_code: U16
    """With the bit BADONION."""
