"""Building a transaction together (BOLT 2 § Interactive Transaction Construction)."""

from typing import Annotated

from shared.wire.message import Message
from shared.wire.tlv import Tlv
from shared.wire.types import (
    S64,
    U32,
    U64,
    Blob,
    ChannelId,
    Presence,
    Satoshi,
    Sha256,
    Signature,
    Witnesses,
)

__all__ = [
    "TxAbort",
    "TxAckRbf",
    "TxAddInput",
    "TxAddOutput",
    "TxComplete",
    "TxInitRbf",
    "TxRemoveInput",
    "TxRemoveOutput",
    "TxSignatures",
]


class TxAddInput(Message, type=66):
    """Add an input (BOLT 2 § `tx_add_input`)."""

    channel_id: ChannelId
    serial_id: U64
    """Even from the initiator, odd from the other side."""
    prevtx: Blob
    """The transaction that is spent; empty for the shared input."""
    prevtx_vout: U32
    sequence: U32
    shared_input_txid: Annotated[Sha256 | None, Tlv(0)] = None
    """Txid of the channel's present funding transaction."""


class TxAddOutput(Message, type=67):
    """Add an output (BOLT 2 § `tx_add_output`)."""

    channel_id: ChannelId
    serial_id: U64
    """Even from the initiator, odd from the other side."""
    sats: Satoshi
    script: Blob


class TxRemoveInput(Message, type=68):
    """Take an input back (BOLT 2 § `tx_remove_input`)."""

    channel_id: ChannelId
    serial_id: U64


class TxRemoveOutput(Message, type=69):
    """Take an output back (BOLT 2 § `tx_remove_output`)."""

    channel_id: ChannelId
    serial_id: U64


class TxComplete(Message, type=70):
    """Nothing to add (BOLT 2 § `tx_complete`)."""

    channel_id: ChannelId


class TxSignatures(Message, type=71):
    """The sender's witnesses (BOLT 2 § `tx_signatures`)."""

    channel_id: ChannelId
    txid: Sha256
    witnesses: Witnesses
    """Serialized witness stacks, in the order of their inputs' ``serial_id``."""
    shared_input_signature: Annotated[Signature | None, Tlv(0)] = None
    """Of the channel's present funding output."""


class TxInitRbf(Message, type=72):
    """Replace the transaction by one that pays more (BOLT 2 § `tx_init_rbf`)."""

    channel_id: ChannelId
    locktime: U32
    feerate: U32
    """Satoshis per 1000 weight."""
    funding_output_contribution: Annotated[S64 | None, Tlv(0)] = None
    """Satoshis; absent: none."""
    require_confirmed_inputs: Annotated[Presence, Tlv(2)] = False


class TxAckRbf(Message, type=73):
    """Agree to the replacement (BOLT 2 § `tx_ack_rbf`)."""

    channel_id: ChannelId
    funding_output_contribution: Annotated[S64 | None, Tlv(0)] = None
    """Satoshis; absent: none."""
    require_confirmed_inputs: Annotated[Presence, Tlv(2)] = False


class TxAbort(Message, type=74):
    """Give the negotiation up (BOLT 2 § `tx_abort`)."""

    channel_id: ChannelId
    data: Blob
    """Text; printed only if it is printable ASCII."""
