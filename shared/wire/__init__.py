"""Every BOLT 1, 2 and 7 message, and `onion_message`, declared once each.

* ``codec``, ``tlv``, ``types``: bytes, TLV streams, and the vocabulary of the fields.
* ``record``, ``message``: what a declaration becomes: wire codec, JSON, registry.
* ``setup`` (BOLT 1); ``open``, ``interactive_tx``, ``splice``, ``htlc``, ``close``, ``reestablish``
  (BOLT 2); ``gossip``, ``query`` (BOLT 7); ``onion`` (BOLT 4): the messages.
* ``address``: the address descriptors of BOLT 7. ``reference``: writes docs/messages.md.

All is importable from here: ``from shared.wire import UpdateAddHtlc, decode, encode``.
"""

from shared.wire.address import Address, Addresses, AddressKind, pack_addresses, parse_addresses
from shared.wire.close import (
    ClosingComplete,
    ClosingSig,
    ClosingSigned,
    FeeRange,
    Shutdown,
)
from shared.wire.gossip import (
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
    NodeAnnouncement,
)
from shared.wire.htlc import (
    AttributionData,
    CommitmentSigned,
    RevokeAndAck,
    StartBatch,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)
from shared.wire.interactive_tx import (
    TxAbort,
    TxAckRbf,
    TxAddInput,
    TxAddOutput,
    TxComplete,
    TxInitRbf,
    TxRemoveInput,
    TxRemoveOutput,
    TxSignatures,
)
from shared.wire.message import (
    MAX_MESSAGE_SIZE,
    REGISTRY,
    Announcement,
    Message,
    channel_token,
    decode,
    encode,
    from_json,
    message_by_name,
    signature_hash,
    signed_data,
    to_json,
)
from shared.wire.onion import (
    OnionMessage,
)
from shared.wire.open import (
    AcceptChannel,
    AcceptChannel2,
    ChannelReady,
    FundingCreated,
    FundingSigned,
    OpenChannel,
    OpenChannel2,
)
from shared.wire.query import (
    ChannelUpdateChecksums,
    EncodedQueryFlags,
    EncodedTimestamps,
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    decode_query_flags,
    decode_short_ids,
    decode_timestamps,
    encode_query_flags,
    encode_short_ids,
    encode_timestamps,
)
from shared.wire.record import Record, TlvStream, decode_stream, encode_stream
from shared.wire.reestablish import (
    ChannelReestablish,
    MyCurrentFundingLocked,
    NextFunding,
)
from shared.wire.setup import (
    Error,
    Init,
    PeerStorage,
    PeerStorageRetrieval,
    Ping,
    Pong,
    Warning,
)
from shared.wire.splice import (
    SpliceAck,
    SpliceInit,
    SpliceLocked,
    Stfu,
)
from shared.wire.tlv import Tlv

__all__ = [
    "MAX_MESSAGE_SIZE",
    "REGISTRY",
    "AcceptChannel",
    "AcceptChannel2",
    "Address",
    "AddressKind",
    "Addresses",
    "Announcement",
    "AnnouncementSignatures",
    "AttributionData",
    "ChannelAnnouncement",
    "ChannelReady",
    "ChannelReestablish",
    "ChannelUpdate",
    "ChannelUpdateChecksums",
    "ClosingComplete",
    "ClosingSig",
    "ClosingSigned",
    "CommitmentSigned",
    "EncodedQueryFlags",
    "EncodedTimestamps",
    "Error",
    "FeeRange",
    "FundingCreated",
    "FundingSigned",
    "GossipTimestampFilter",
    "Init",
    "Message",
    "MyCurrentFundingLocked",
    "NextFunding",
    "NodeAnnouncement",
    "OnionMessage",
    "OpenChannel",
    "OpenChannel2",
    "PeerStorage",
    "PeerStorageRetrieval",
    "Ping",
    "Pong",
    "QueryChannelRange",
    "QueryShortChannelIds",
    "Record",
    "ReplyChannelRange",
    "ReplyShortChannelIdsEnd",
    "RevokeAndAck",
    "Shutdown",
    "SpliceAck",
    "SpliceInit",
    "SpliceLocked",
    "StartBatch",
    "Stfu",
    "Tlv",
    "TlvStream",
    "TxAbort",
    "TxAckRbf",
    "TxAddInput",
    "TxAddOutput",
    "TxComplete",
    "TxInitRbf",
    "TxRemoveInput",
    "TxRemoveOutput",
    "TxSignatures",
    "UpdateAddHtlc",
    "UpdateFailHtlc",
    "UpdateFailMalformedHtlc",
    "UpdateFee",
    "UpdateFulfillHtlc",
    "Warning",
    "channel_token",
    "decode",
    "decode_query_flags",
    "decode_short_ids",
    "decode_stream",
    "decode_timestamps",
    "encode",
    "encode_query_flags",
    "encode_short_ids",
    "encode_stream",
    "encode_timestamps",
    "from_json",
    "message_by_name",
    "pack_addresses",
    "parse_addresses",
    "signature_hash",
    "signed_data",
    "to_json",
]
