"""Structures and TLV streams as pydantic models, compiled to a wire layout once.

A :class:`Record` is its fields in wire order. A :class:`TlvStream` adds optional fields marked with
:class:`~shared.wire.tlv.Tlv`, and keeps unknown odd records in ``unknown_tlvs`` so that they are
written again in their place. A message (:mod:`shared.wire.message`) is a stream with a type.
"""

from collections.abc import Callable
from operator import attrgetter
from struct import Struct
from types import NoneType
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.wire.codec import Codec, Reader, malformed
from shared.wire.tlv import TLV_BOLT, Tlv, read_records, write_records

__all__ = [
    "Nested",
    "Record",
    "Slot",
    "TlvStream",
    "UnknownTlvs",
    "decode_stream",
    "encode_stream",
    "read_fields",
    "read_tlvs",
    "reasons",
    "write_fields",
    "write_tlvs",
]

_KEPT_RAW = ("unknown_tlvs", "extension")
"""Fields that have no layout of their own."""

UnknownTlvs: TypeAlias = dict[Annotated[int, Field(ge=0, lt=1 << 64)], bytes]
StreamT = TypeVar("StreamT", bound="TlvStream")


class Slot(NamedTuple):
    """One field, compiled: its name and how it is laid out."""

    name: str
    codec: Codec[Any]


class Segment(NamedTuple):
    """A run of neighbouring fixed-size fields, or one field of variable size (``layout`` None)."""

    slots: tuple[Slot, ...]
    layout: Struct | None
    values: Callable[[Any], Any]
    """The field values of a model: a tuple for a run of two or more, else the value itself."""


def _codec(annotation: object, *metadata: object) -> Codec[Any]:
    """Find the codec behind an alias, an ``X | None`` or a structure."""
    for part in metadata:
        if hasattr(part, "read") and hasattr(part, "write"):
            return part
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return Nested(annotation)
    for part in get_args(annotation):
        if part is not NoneType:
            return _codec(part, *getattr(part, "__metadata__", ()))
    raise TypeError(f"{annotation} declares no wire codec")


def _segments(slots: list[Slot]) -> tuple[Segment, ...]:
    """Gather runs of neighbouring fixed-size fields, so that one struct call reads each."""
    runs: list[list[Slot]] = []
    for slot in slots:
        packed = hasattr(slot.codec, "format")
        if runs and packed and hasattr(runs[-1][-1].codec, "format"):
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return tuple(_segment(run) for run in runs)


def _segment(run: list[Slot]) -> Segment:
    layout = None
    if hasattr(run[0].codec, "format"):
        layout = Struct(">" + "".join(slot.codec.format for slot in run))  # type: ignore[attr-defined]
    return Segment(tuple(run), layout, attrgetter(*(slot.name for slot in run)))


class Record(BaseModel):
    """A structure with fields in wire order, and no type: what a TLV value is made of."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        ser_json_bytes="hex",
        val_json_bytes="hex",
    )

    SEGMENTS: ClassVar[tuple[Segment, ...]]
    TLVS: ClassVar[dict[int, Slot]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:  # noqa: ANN401 - pydantic's signature
        """Compile the declaration once, when the fields are known."""
        fixed: list[Slot] = []
        tlvs: dict[int, Slot] = {}
        for name, field in cls.model_fields.items():
            if name in _KEPT_RAW:
                continue
            slot = Slot(name, _codec(field.annotation, *field.metadata))
            marker = next((m for m in field.metadata if isinstance(m, Tlv)), None)
            if marker is None:
                fixed.append(slot)
            elif marker.type in tlvs:
                raise TypeError(f"{cls.__name__} declares tlv {marker.type} twice")
            else:
                tlvs[marker.type] = slot
        cls.SEGMENTS, cls.TLVS = _segments(fixed), dict(sorted(tlvs.items()))


class TlvStream(Record):
    """A TLV stream by itself: the payload of an onion hop, an invoice request, a test vector."""

    unknown_tlvs: UnknownTlvs = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Records of unknown odd type, by type, as they came."""

    @field_validator("unknown_tlvs")
    @classmethod
    def _unknown_and_odd(cls, value: dict[int, bytes]) -> dict[int, bytes]:
        """Refuse what the peer would refuse, or what has a field of its own."""
        if wrong := [number for number in value if number % 2 == 0 or number in cls.TLVS]:
            raise ValueError(f"not of unknown odd type: {wrong}")
        return value


class Nested:
    """The codec of a structure inside another."""

    __slots__ = ("model",)

    def __init__(self, model: type[Record]) -> None:
        self.model = model

    def write(self, value: Record) -> bytes:
        """Encode the fields of ``value``."""
        return b"".join(write_fields(value))

    def read(self, reader: Reader) -> dict[str, Any]:
        """Decode the fields; the model around it makes the structure of them."""
        return read_fields(self.model, reader)

    def __str__(self) -> str:
        return ", ".join(f"{s.name}: {s.codec}" for g in self.model.SEGMENTS for s in g.slots)


def write_fields(record: Record) -> list[bytes]:
    """Encode the fixed part, in pieces."""
    parts: list[bytes] = []
    for slots, layout, values in record.SEGMENTS:
        if layout is None:
            parts.append(slots[0].codec.write(values(record)))
        elif len(slots) == 1:
            parts.append(layout.pack(values(record)))
        else:
            parts.append(layout.pack(*values(record)))
    return parts


def read_fields(model: type[Record], reader: Reader) -> dict[str, Any]:
    """Decode the fixed part; the values are not yet validated."""
    values: dict[str, Any] = {}
    for slots, layout, _ in model.SEGMENTS:
        if layout is None:
            values[slots[0].name] = slots[0].codec.read(reader)
        else:
            values.update(zip((s.name for s in slots), reader.unpack(layout), strict=True))
    return values


def write_tlvs(stream: TlvStream) -> bytes:
    """Encode the TLV stream: known and unknown records in order of type."""
    records = dict(stream.unknown_tlvs)
    for number, (name, codec) in stream.TLVS.items():
        value = getattr(stream, name)
        if value is not None and value is not False:
            records[number] = codec.write(value)
    return write_records(sorted(records.items())) if records else b""


def read_tlvs(model: type[TlvStream], reader: Reader) -> dict[str, Any]:
    """Decode the TLV stream up to the end of ``reader``; the values are not yet validated."""
    values: dict[str, Any] = {}
    unknown: dict[int, bytes] = {}
    for number, value in read_records(reader):
        if number in model.TLVS:
            name, codec = model.TLVS[number]
            body = Reader(value)
            values[name] = codec.read(body)
            if body.left:
                raise malformed(f"tlv {number} has {body.left} bytes too many", bolt=TLV_BOLT)
        elif number % 2 == 0:
            raise malformed(f"unknown even tlv {number}", bolt=TLV_BOLT)
        else:
            unknown[number] = value
    if unknown:
        values["unknown_tlvs"] = unknown
    return values


def reasons(error: ValidationError) -> str:
    """Say which field is wrong and why, without the value."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)


def encode_stream(stream: TlvStream) -> bytes:
    """Return a TLV stream by itself, without type or length."""
    return write_tlvs(stream)


def decode_stream(model: type[StreamT], data: bytes) -> StreamT:
    """Parse a TLV stream by itself.

    Raises:
        MalformedMessage: it breaks a rule of BOLT 1 § Type-Length-Value Format.
    """
    values = read_tlvs(model, Reader(data))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise malformed(f"{model.__name__}: {reasons(error)}", bolt=TLV_BOLT) from error
