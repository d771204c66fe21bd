"""A BOLT message is a pydantic model that knows its wire type.

Declare the fields once, in wire order; TLV fields are the optional ones marked with
:class:`~shared.wire.tlv.Tlv`. The binary codec, the JSON form on the fabric and docs/messages.md
all come from that declaration::

    class UpdateFee(Message, type=134):
        channel_id: ChannelId
        feerate_per_kw: U32

Unknown odd TLV records are kept in ``unknown_tlvs`` and written again in their place.
"""

import re
from hashlib import sha256
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from shared.errors import Action
from shared.wire.codec import Reader, UInt, malformed
from shared.wire.record import (
    TlvStream,
    UnknownTlvs,
    read_fields,
    read_tlvs,
    reasons,
    write_fields,
    write_tlvs,
)

__all__ = [
    "MAX_MESSAGE_SIZE",
    "REGISTRY",
    "Announcement",
    "Message",
    "channel_token",
    "decode",
    "encode",
    "from_json",
    "message_by_name",
    "signature_hash",
    "signed_data",
    "to_json",
]

MAX_MESSAGE_SIZE = 65535
"""Bytes of one message with its type (BOLT 1 § Lightning Message Format)."""

_TYPE = UInt(2)
_FORMAT = "BOLT 1 § Lightning Message Format"
_NO_CHANNEL = bytes(32)


class Message(TlvStream):
    """Base of every BOLT message: its fields, then a TLV stream that may extend it."""

    TYPE: ClassVar[int]
    """The number on the wire."""
    NAME: ClassVar[str]
    """The BOLT's name, e.g. ``update_add_htlc``."""
    CHANNEL_FIELD: ClassVar[str | None]
    """The field that names the channel, if the message has one."""

    def __init_subclass__(cls, *, type: int | None = None, **kwargs: Any) -> None:  # noqa: A002, ANN401
        """Claim a wire type: ``class Ping(Message, type=18)``; abstract without one."""
        super().__init_subclass__(**kwargs)
        if type is None:
            return
        if other := REGISTRY.get(type):
            raise TypeError(f"type {type} is already {other.__name__}")
        cls.TYPE = type
        cls.NAME = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def __pydantic_init_subclass__(cls, *, type: int | None = None, **kwargs: Any) -> None:  # noqa: A002, ANN401
        """Compile the declaration and register the message."""
        super().__pydantic_init_subclass__(**kwargs)
        names = [n for n in ("channel_id", "temporary_channel_id") if n in cls.model_fields]
        cls.CHANNEL_FIELD = names[0] if names else None
        if type is not None:
            REGISTRY[type] = cls
            _BY_NAME[cls.NAME] = cls


class Announcement(Message):
    """Base of the gossip that is signed and passed on (BOLT 7).

    Its signatures cover everything to the last byte, also what we do not know. So what follows the
    last field is kept as it came, even or odd, TLV or not, and ``unknown_tlvs`` stays empty.
    """

    SIGNATURES: ClassVar[int]
    """How many signatures stand before what they sign."""

    unknown_tlvs: Annotated[UnknownTlvs, Field(max_length=0)] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    extension: bytes = Field(default=b"", exclude_if=lambda value: not value)
    """All bytes after the last known field."""


REGISTRY: dict[int, type[Message]] = {}
"""Every message, by wire type."""
_BY_NAME: dict[str, type[Message]] = {}


def encode(message: Message) -> bytes:
    """Return the message, with its two bytes of type, as it travels inside a BOLT 8 frame.

    Raises:
        ValueError: it is longer than 65535 bytes.
    """
    parts = [_TYPE.write(message.TYPE), *write_fields(message)]
    parts.append(message.extension if isinstance(message, Announcement) else write_tlvs(message))
    data = b"".join(parts)
    if len(data) > MAX_MESSAGE_SIZE:
        raise ValueError(f"{message.NAME} of {len(data)} bytes, at most {MAX_MESSAGE_SIZE}")
    return data


def decode(data: bytes) -> Message | None:
    """Parse one message; None for an unknown odd type, which is to be ignored.

    Raises:
        MalformedMessage: an unknown even type, a message too short, an invalid extension or value.
    """
    reader = Reader(data)
    number = _TYPE.read(reader)
    model = REGISTRY.get(number)
    if model is None:
        if number % 2:
            return None
        raise malformed(f"unknown even type {number}", bolt=_FORMAT)
    values = read_fields(model, reader)
    announcement = issubclass(model, Announcement)
    if announcement:
        values["extension"] = reader.rest()
    elif reader.left:
        values.update(read_tlvs(model, reader))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # BOLT 7: a bad announcement is hardly the fault of the peer that relays it.
        action = Action.WARN if announcement else Action.DISCONNECT
        raise malformed(f"{model.NAME}: {reasons(error)}", bolt=_FORMAT, action=action) from error


def to_json(message: Message) -> bytes:
    """Return the message as it travels on the fabric: bytes are hex, absent TLVs are left out."""
    return message.__pydantic_serializer__.to_json(message, exclude_none=True)


def from_json(name: str, data: bytes) -> Message:
    """Parse what :func:`to_json` made of the message ``name``.

    Raises:
        MalformedMessage: there is no such message, or ``data`` is not one.
    """
    model = _BY_NAME.get(name)
    if model is None:
        raise malformed(f"no message is named {name!r}", bolt="fabric")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise malformed(f"{name}: {reasons(error)}", bolt="fabric") from error


def message_by_name(name: str) -> type[Message]:
    """Return the class of the BOLT name ``name``.

    Raises:
        KeyError: there is no such message.
    """
    return _BY_NAME[name]


def channel_token(message: Message) -> str:
    """Return the subject token of the channel ``message`` is about.

    That is its ``channel_id`` or ``temporary_channel_id`` in hex, or ``-`` when it has none or the
    all-zero one, which means every channel or no channel in particular (BOLT 1 § error).
    """
    if message.CHANNEL_FIELD is None:
        return "-"
    channel_id: bytes = getattr(message, message.CHANNEL_FIELD)
    return "-" if channel_id == _NO_CHANNEL else channel_id.hex()


def signed_data(announcement: Announcement) -> bytes:
    """Return what the signatures of ``announcement`` cover: all that follows them (BOLT 7)."""
    return encode(announcement)[2 + 64 * announcement.SIGNATURES :]


def signature_hash(announcement: Announcement) -> bytes:
    """Return the double-SHA256 that is signed (BOLT 7), 32 bytes."""
    return sha256(sha256(signed_data(announcement)).digest()).digest()
