"""Opening a channel, v1 and v2 (BOLT 2 § Channel Establishment)."""

from typing import Annotated

from shared.wire.message import Message
from shared.wire.tlv import Tlv
from shared.wire.types import (
    U8,
    U16,
    U32,
    Amount,
    BlockHash,
    ChannelId,
    MilliSatoshi,
    Point,
    Presence,
    Satoshi,
    Scid,
    Sha256,
    Signature,
    Tail,
)

__all__ = [
    "AcceptChannel",
    "AcceptChannel2",
    "ChannelReady",
    "FundingCreated",
    "FundingSigned",
    "OpenChannel",
    "OpenChannel2",
]


class OpenChannel(Message, type=32):
    """Propose a channel, funded by the sender (BOLT 2 § `open_channel`)."""

    chain_hash: BlockHash
    temporary_channel_id: ChannelId
    funding_satoshis: Satoshi
    push_msat: MilliSatoshi
    dust_limit_satoshis: Amount
    max_htlc_value_in_flight_msat: Amount
    channel_reserve_satoshis: Amount
    htlc_minimum_msat: Amount
    feerate_per_kw: U32
    to_self_delay: U16
    """Blocks."""
    max_accepted_htlcs: U16
    funding_pubkey: Point
    revocation_basepoint: Point
    payment_basepoint: Point
    delayed_payment_basepoint: Point
    htlc_basepoint: Point
    first_per_commitment_point: Point
    channel_flags: U8
    """Bit 0: announce_channel."""
    upfront_shutdown_script: Annotated[Tail | None, Tlv(0)] = None
    """Empty: no script is promised."""
    channel_type: Annotated[Tail | None, Tlv(1)] = None
    """Feature bits (BOLT 9), even ones only."""


class AcceptChannel(Message, type=33):
    """Agree to the proposed channel (BOLT 2 § `accept_channel`)."""

    temporary_channel_id: ChannelId
    dust_limit_satoshis: Amount
    max_htlc_value_in_flight_msat: Amount
    channel_reserve_satoshis: Amount
    htlc_minimum_msat: Amount
    minimum_depth: U32
    to_self_delay: U16
    """Blocks."""
    max_accepted_htlcs: U16
    funding_pubkey: Point
    revocation_basepoint: Point
    payment_basepoint: Point
    delayed_payment_basepoint: Point
    htlc_basepoint: Point
    first_per_commitment_point: Point
    upfront_shutdown_script: Annotated[Tail | None, Tlv(0)] = None
    """Empty: no script is promised."""
    channel_type: Annotated[Tail | None, Tlv(1)] = None
    """Feature bits (BOLT 9): those of `open_channel`."""


class FundingCreated(Message, type=34):
    """The outpoint of the funding transaction (BOLT 2 § `funding_created`)."""

    temporary_channel_id: ChannelId
    funding_txid: Sha256
    funding_output_index: U16
    signature: Signature
    """Of the accepter's first commitment transaction."""


class FundingSigned(Message, type=35):
    """The opener may broadcast (BOLT 2 § `funding_signed`)."""

    channel_id: ChannelId
    signature: Signature
    """Of the opener's first commitment transaction."""


class ChannelReady(Message, type=36):
    """The funding transaction is deep enough (BOLT 2 § `channel_ready`)."""

    channel_id: ChannelId
    second_per_commitment_point: Point
    short_channel_id: Annotated[Scid | None, Tlv(1)] = None
    """An alias by which the sender knows this channel."""


class OpenChannel2(Message, type=64):
    """Propose a channel that both may fund (BOLT 2 § `open_channel2`)."""

    chain_hash: BlockHash
    temporary_channel_id: ChannelId
    funding_feerate_perkw: U32
    commitment_feerate_perkw: U32
    funding_satoshis: Satoshi
    dust_limit_satoshis: Amount
    max_htlc_value_in_flight_msat: Amount
    htlc_minimum_msat: Amount
    to_self_delay: U16
    """Blocks."""
    max_accepted_htlcs: U16
    locktime: U32
    funding_pubkey: Point
    revocation_basepoint: Point
    payment_basepoint: Point
    delayed_payment_basepoint: Point
    htlc_basepoint: Point
    first_per_commitment_point: Point
    second_per_commitment_point: Point
    channel_flags: U8
    """Bit 0: announce_channel."""
    upfront_shutdown_script: Annotated[Tail | None, Tlv(0)] = None
    channel_type: Annotated[Tail | None, Tlv(1)] = None
    require_confirmed_inputs: Annotated[Presence, Tlv(2)] = False


class AcceptChannel2(Message, type=65):
    """Agree to a channel that both may fund (BOLT 2 § `accept_channel2`)."""

    temporary_channel_id: ChannelId
    funding_satoshis: Satoshi
    dust_limit_satoshis: Amount
    max_htlc_value_in_flight_msat: Amount
    htlc_minimum_msat: Amount
    minimum_depth: U32
    to_self_delay: U16
    """Blocks."""
    max_accepted_htlcs: U16
    funding_pubkey: Point
    revocation_basepoint: Point
    payment_basepoint: Point
    delayed_payment_basepoint: Point
    htlc_basepoint: Point
    first_per_commitment_point: Point
    second_per_commitment_point: Point
    upfront_shutdown_script: Annotated[Tail | None, Tlv(0)] = None
    channel_type: Annotated[Tail | None, Tlv(1)] = None
    require_confirmed_inputs: Annotated[Presence, Tlv(2)] = False
