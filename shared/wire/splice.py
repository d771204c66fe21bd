"""Quiescence and splicing (BOLT 2 § Channel Quiescence, § Channel Splicing)."""

from typing import Annotated

from shared.wire.message import Message
from shared.wire.tlv import Tlv
from shared.wire.types import S64, U8, U32, ChannelId, Point, Presence, Sha256

__all__ = ["SpliceAck", "SpliceInit", "SpliceLocked", "Stfu"]


class Stfu(Message, type=2):
    """No more updates from me (BOLT 2 § `stfu`)."""

    channel_id: ChannelId
    initiator: U8
    """1 from the side that asks for quiescence, 0 in the reply."""


class SpliceLocked(Message, type=77):
    """The splice transaction is deep enough (BOLT 2 § Splice Completion)."""

    channel_id: ChannelId
    splice_txid: Sha256


class SpliceInit(Message, type=80):
    """Propose a new funding transaction (BOLT 2 § `splice_init`)."""

    channel_id: ChannelId
    funding_contribution_satoshis: S64
    """Negative to take out."""
    funding_feerate_perkw: U32
    locktime: U32
    funding_pubkey: Point
    require_confirmed_inputs: Annotated[Presence, Tlv(2)] = False


class SpliceAck(Message, type=81):
    """Agree to a new funding transaction (BOLT 2 § `splice_ack`)."""

    channel_id: ChannelId
    funding_contribution_satoshis: S64
    """Negative to take out."""
    funding_pubkey: Point
    require_confirmed_inputs: Annotated[Presence, Tlv(2)] = False
