"""Going on after a reconnection (BOLT 2 § Message Retransmission)."""

from typing import Annotated

from shared.wire.message import Message
from shared.wire.record import Record
from shared.wire.tlv import Tlv
from shared.wire.types import U8, U64, ChannelId, Point, Secret, Sha256

__all__ = ["ChannelReestablish", "MyCurrentFundingLocked", "NextFunding"]


class NextFunding(Record):
    """A funding transaction whose signing was interrupted (BOLT 2 § Message Retransmission)."""

    next_funding_txid: Sha256
    retransmit_flags: U8
    """Bit 0: send `commitment_signed` again."""


class MyCurrentFundingLocked(Record):
    """The last funding transaction that is deep enough (BOLT 2 § Message Retransmission)."""

    my_current_funding_locked_txid: Sha256
    retransmit_flags: U8
    """Bit 0: send `announcement_signatures` again."""


class ChannelReestablish(Message, type=136):
    """What I have and what I expect (BOLT 2 § `channel_reestablish`)."""

    channel_id: ChannelId
    next_commitment_number: U64
    next_revocation_number: U64
    your_last_per_commitment_secret: Secret
    """All zero when none was received."""
    my_current_per_commitment_point: Point
    next_funding: Annotated[NextFunding | None, Tlv(1)] = None
    my_current_funding_locked: Annotated[MyCurrentFundingLocked | None, Tlv(5)] = None
