"""Onion messages (BOLT 4 § Onion Messages): build them, and take our layer off. Pure.

A message always travels by a blinded path, one that its recipient made or one that we make for the
purpose. What it says is a TLV stream: ``contents``, by type, without the fields that carry it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol

from shared.crypto import sphinx
from shared.crypto.blinding import blind, joined
from shared.crypto.failures import INVALID_ONION_BLINDING
from shared.crypto.recipient_data import RecipientData, encode_padded
from shared.errors import InvalidOnion, MalformedMessage
from shared.wire.codec import Reader
from shared.wire.onion import BlindedPath, OnionMessage
from shared.wire.record import Nested, TlvStream, decode_stream
from shared.wire.tlv import Tlv, read_records, write_records
from shared.wire.types import Tail

if TYPE_CHECKING:
    from shared.crypto.recipient_data import Opened

__all__ = [
    "FIRST_PAYLOAD",
    "INVOICE",
    "INVOICE_ERROR",
    "INVOICE_REQUEST",
    "SIZES",
    "Delivered",
    "Forwarded",
    "OnionMessagePayload",
    "Opens",
    "build",
    "decode_contents",
    "lead_to",
    "path_through",
    "unwrap",
]

SIZES = (1300, 32768)
"""Bytes of payloads: as of a payment, or where that is too little."""
INVOICE_REQUEST, INVOICE, INVOICE_ERROR = 64, 66, 68
"""Types of what BOLT 12 says by onion message."""
FIRST_PAYLOAD = 64
"""Fields from this type on are payloads for the recipient, of which there is one at most."""

_REPLY_PATH, _RECIPIENT_DATA = 2, 4
_CARRIERS = frozenset({_REPLY_PATH, _RECIPIENT_DATA})
_PATH = Nested(BlindedPath)


class OnionMessagePayload(TlvStream):
    """``onionmsg_tlv``: what one hop reads; fields that are not there are None."""

    reply_path: Annotated[BlindedPath | None, Tlv(_REPLY_PATH)] = None
    encrypted_recipient_data: Annotated[Tail | None, Tlv(_RECIPIENT_DATA)] = None
    invoice_request: Annotated[Tail | None, Tlv(INVOICE_REQUEST)] = None
    invoice: Annotated[Tail | None, Tlv(INVOICE)] = None
    invoice_error: Annotated[Tail | None, Tlv(INVOICE_ERROR)] = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message to us.

    Attributes:
        contents: TLV type → value, of all fields that do not carry the message.
        path_id: what we wrote to ourselves when we made the path; None: the sender made it.
        reply_path: where an answer goes, if the sender wants one.
        encrypted_recipient_data: as it came: what ``path_id`` was read from.
    """

    contents: Mapping[int, bytes]
    path_id: bytes | None = field(default=None, repr=False)
    reply_path: BlindedPath | None = None
    encrypted_recipient_data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A message for somebody else.

    Attributes:
        next_node_id: to whom; may be ourselves. None where a channel is named instead.
        short_channel_id: to the other end of which channel; only where ``next_node_id`` is None.
        message: for the next node.
    """

    next_node_id: bytes | None
    short_channel_id: int | None
    message: OnionMessage


class Opens(Protocol):
    """Who has the node key: `back.signer.signer.Signer`."""

    def peel_onion(
        self, packet: bytes, associated_data: bytes, path_key: bytes | None = None
    ) -> sphinx.Peeled:
        """Take our layer off an onion; raises InvalidOnion."""

    def open_recipient_data(self, path_key: bytes, encrypted: bytes) -> "Opened":
        """Read what the maker of a blinded path tells us; raises InvalidOnion."""


# --- paths ----------------------------------------------------------------------------------------


def path_through(
    session_key: bytes, node_ids: Sequence[bytes], path_id: bytes | None = None
) -> BlindedPath:
    """Make a path for messages; all its nodes are told equally much.

    Args:
        session_key: 32 random bytes, for this path only.
        node_ids: the introduction point first, the recipient last; it may stand there more than
            once, which hides how long the path really is.
        path_id: for the recipient.

    Raises:
        ValueError: a node id is no point.
    """
    hops = [RecipientData(next_node_id=following) for following in node_ids[1:]]
    hops.append(RecipientData(path_id=path_id))
    return blind(session_key, list(zip(node_ids, encode_padded(hops), strict=True)))


def lead_to(
    session_key: bytes, node_ids: Sequence[bytes], introduction: bytes, path: BlindedPath
) -> BlindedPath:
    """Return a path that leads through nodes of our choice into one that another node made.

    Args:
        session_key: 32 random bytes, for this path only.
        node_ids: through whom; none: ``path`` itself is returned.
        introduction: the node id of the introduction point of ``path``.
        path: where to.
    """
    if not node_ids:
        return path
    hops = [RecipientData(next_node_id=following) for following in node_ids[1:]]
    last = RecipientData(next_node_id=introduction, next_path_key_override=path.first_path_key)
    data = encode_padded([*hops, last])
    return joined(blind(session_key, list(zip(node_ids, data, strict=True))), path)


# --- messages -------------------------------------------------------------------------------------


def build(
    session_key: bytes,
    path: BlindedPath,
    contents: Mapping[int, bytes],
    reply_path: BlindedPath | None = None,
) -> OnionMessage:
    """Build a message, to be sent to the introduction point of a path.

    Args:
        session_key: 32 random bytes, for this message only.
        path: to the recipient.
        contents: TLV type → value.
        reply_path: to us, if an answer is wanted.

    Raises:
        ValueError: the contents do not fit, or have a type that carries the message.
    """
    if _CARRIERS & contents.keys():
        raise ValueError("types 2 and 4 carry the message and cannot be among its contents")
    payloads = [
        write_records([(_RECIPIENT_DATA, hop.encrypted_recipient_data)]) for hop in path.path
    ]
    last = {**contents, _RECIPIENT_DATA: path.path[-1].encrypted_recipient_data}
    if reply_path is not None:
        last[_REPLY_PATH] = _PATH.write(reply_path)
    payloads[-1] = write_records(sorted(last.items()))
    hops = [
        sphinx.Hop(hop.blinded_node_id, payload)
        for hop, payload in zip(path.path, payloads, strict=True)
    ]
    packet = sphinx.build(session_key, hops, b"", _size(payloads)).packet
    return OnionMessage(path_key=path.first_path_key, onion_message_packet=packet)


def _size(payloads: Sequence[bytes]) -> int:
    """Which size the payloads with their lengths and HMACs fit in; they may still be too long."""
    needed = sum(len(payload) + (1 if len(payload) < 0xFD else 3) + 32 for payload in payloads)
    return SIZES[0] if needed <= SIZES[0] else SIZES[1]


def decode_contents(data: bytes) -> dict[int, bytes]:
    """Read a TLV stream that is to be sent.

    Raises:
        MalformedMessage: it is none.
    """
    return dict(read_records(Reader(data)))


def unwrap(message: OnionMessage, keys: Opens) -> Delivered | Forwarded:
    """Take our layer off a message that we received.

    Raises:
        InvalidOnion: BOLT 4 wants it ignored; says why.
    """
    path_key = message.path_key
    peeled = keys.peel_onion(message.onion_message_packet, b"", path_key)
    try:
        payload = decode_stream(OnionMessagePayload, peeled.payload)
    except MalformedMessage as error:
        raise _ignored(str(error)) from None
    if payload.encrypted_recipient_data is None:
        raise _ignored("no encrypted_recipient_data")
    opened = keys.open_recipient_data(path_key, payload.encrypted_recipient_data)
    if any(opened.data.allowed_features or b""):
        # We know of no feature that a message could use.
        raise _ignored("allowed_features that we do not know")
    if peeled.next_packet is None:
        return _delivered(payload, opened.data)
    if payload.model_fields_set != {"encrypted_recipient_data"}:
        raise _ignored("fields that a node on the way must not get")
    data = opened.data
    if data.path_id is not None or (data.next_node_id is None and data.short_channel_id is None):
        raise _ignored("does not say where to")
    following = OnionMessage(path_key=opened.next_path_key, onion_message_packet=peeled.next_packet)
    scid = data.short_channel_id if data.next_node_id is None else None
    return Forwarded(data.next_node_id, scid, following)


def _delivered(payload: OnionMessagePayload, data: RecipientData) -> Delivered:
    named = {number: getattr(payload, slot.name) for number, slot in payload.TLVS.items()}
    contents = {
        number: value
        for number, value in {**named, **payload.unknown_tlvs}.items()
        if value is not None and number not in _CARRIERS
    }
    if sum(number >= FIRST_PAYLOAD for number in contents) > 1:
        raise _ignored("more than one payload")
    sealed = payload.encrypted_recipient_data or b""
    return Delivered(dict(sorted(contents.items())), data.path_id, payload.reply_path, sealed)


def _ignored(why: str) -> InvalidOnion:
    return InvalidOnion(why, code=INVALID_ONION_BLINDING)
