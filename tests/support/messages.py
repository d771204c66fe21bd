"""Hypothesis strategies for BOLT messages, made from their declarations."""

from typing import Any

from annotated_types import Interval, Le
from hypothesis import strategies as st

from shared.wire import REGISTRY, Announcement, Message, Record, TlvStream
from shared.wire.codec import (
    BigSize,
    Bytes,
    Codec,
    Counted,
    Fixed,
    Flag,
    Repeated,
    Rest,
    SInt,
    Times,
    Truncated,
    UInt,
)
from shared.wire.record import Nested


def messages() -> st.SearchStrategy[Message]:
    """Any message, with or without its TLV records and unknown ones."""
    return st.sampled_from(sorted(REGISTRY)).flatmap(lambda number: instances(REGISTRY[number]))


def instances(model: type[Record]) -> st.SearchStrategy[Any]:
    """Valid instances of ``model``."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for segment in model.SEGMENTS:
        for slot in segment.slots:
            fields[slot.name] = _values(slot.codec, _most(model, slot.name))
    for slot in model.TLVS.values():
        absent = st.just(model.model_fields[slot.name].default)
        fields[slot.name] = absent | _values(slot.codec, _most(model, slot.name))
    if issubclass(model, Announcement):
        fields["extension"] = st.binary(max_size=20)
    elif issubclass(model, TlvStream):
        fields["unknown_tlvs"] = unknown_tlvs(model)
    return st.fixed_dictionaries(fields).map(model.model_validate)


def unknown_tlvs(model: type[TlvStream]) -> st.SearchStrategy[dict[int, bytes]]:
    """Records of odd types that ``model`` does not know."""
    odd = st.integers(0, (1 << 63) - 1).map(lambda half: 2 * half + 1)
    small = st.sampled_from([1, 3, 5, 7, 251, 253, 255, 65535, 65537])
    known = (odd | small).filter(lambda number: number not in model.TLVS)
    return st.dictionaries(known, st.binary(max_size=10), max_size=3)


def points() -> st.SearchStrategy[bytes]:
    """33 bytes that look like a compressed point."""
    return st.builds(bytes.__add__, st.sampled_from([b"\2", b"\3"]), sized(32))


def sized(size: int) -> st.SearchStrategy[bytes]:
    """``size`` bytes, without asking hypothesis for each of them when there are many."""
    if size <= 64:
        return st.binary(min_size=size, max_size=size)
    return st.binary(min_size=1, max_size=16).map(lambda seed: (seed * size)[:size])


def _most(model: type[Record], name: str) -> int | None:
    """The largest integer the model allows, if it says so."""
    for part in model.model_fields[name].metadata:
        if isinstance(part, Le):
            return int(part.le)  # type: ignore[call-overload]
        if isinstance(part, Interval) and part.le is not None:
            return int(part.le)  # type: ignore[call-overload]
    return None


def _values(codec: Codec[Any], most: int | None = None) -> st.SearchStrategy[Any]:
    match codec:
        case Counted(item) | Repeated(item):
            return st.lists(_values(item), max_size=3)
        case Times(count, item):
            return st.lists(_values(item), min_size=count, max_size=count)
        case Nested():
            return instances(codec.model)
        case UInt() | Truncated() | SInt() | BigSize():
            return _integers(codec, most)
    return _bytes(codec)


def _integers(codec: UInt | Truncated | SInt | BigSize, most: int | None) -> st.SearchStrategy[int]:
    match codec:
        case UInt(size) | Truncated(size):
            return st.integers(0, min(most or 1 << 64, (1 << 8 * size) - 1))
        case SInt(size):
            return st.integers(-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1)
    return st.integers(0, (1 << 64) - 1) | st.sampled_from([252, 253, 65535, 65536])


def _bytes(codec: Codec[Any]) -> st.SearchStrategy[Any]:
    match codec:
        case Fixed(33, "point"):
            return points()
        case Fixed(size):
            return sized(size)
        case Bytes() | Rest():
            return st.binary(max_size=30)
        case Flag():
            return st.booleans()
    raise TypeError(f"no strategy for {codec}")
