"""Closing a channel (BOLT 2 § Channel Close)."""

from typing import Annotated

from shared.wire.message import Message
from shared.wire.record import Record
from shared.wire.tlv import Tlv
from shared.wire.types import U32, Amount, Blob, ChannelId, Satoshi, Signature

__all__ = ["ClosingComplete", "ClosingSig", "ClosingSigned", "FeeRange", "Shutdown"]


class FeeRange(Record):
    """Closing fees the sender accepts (BOLT 2 § `closing_signed`)."""

    min_fee_satoshis: Amount
    max_fee_satoshis: Amount


class Shutdown(Message, type=38):
    """No new HTLCs; close when the last is gone (BOLT 2 § `shutdown`)."""

    channel_id: ChannelId
    scriptpubkey: Blob


class ClosingSigned(Message, type=39):
    """A fee and a signature for the closing transaction (BOLT 2 § `closing_signed`)."""

    channel_id: ChannelId
    fee_satoshis: Satoshi
    signature: Signature
    fee_range: Annotated[FeeRange | None, Tlv(1)] = None


class ClosingComplete(Message, type=40):
    """A closing transaction paid by the sender (BOLT 2 § `closing_complete`)."""

    channel_id: ChannelId
    closer_scriptpubkey: Blob
    closee_scriptpubkey: Blob
    fee_satoshis: Satoshi
    locktime: U32
    closer_output_only: Annotated[Signature | None, Tlv(1)] = None
    closee_output_only: Annotated[Signature | None, Tlv(2)] = None
    closer_and_closee_outputs: Annotated[Signature | None, Tlv(3)] = None


class ClosingSig(Message, type=41):
    """The other signature of a closing transaction (BOLT 2 § `closing_sig`)."""

    channel_id: ChannelId
    closer_scriptpubkey: Blob
    closee_scriptpubkey: Blob
    fee_satoshis: Satoshi
    locktime: U32
    closer_output_only: Annotated[Signature | None, Tlv(1)] = None
    closee_output_only: Annotated[Signature | None, Tlv(2)] = None
    closer_and_closee_outputs: Annotated[Signature | None, Tlv(3)] = None
