"""Our declarations against the BOLTs' own tables, read by a second, independent interpreter."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from shared.wire import REGISTRY, Record, decode, encode, message_by_name

UNSIGNED = {"byte": 1, "u8": 1, "u16": 2, "u32": 4, "u64": 8, "short_channel_id": 8}
FIXED = {"chain_hash": 32, "channel_id": 32, "sha256": 32, "signature": 64}
OURS = {"blinded_path": "path_key"}
"""TLV records that have the name of their only value here."""


@dataclass
class Table:
    """The rows of the BOLTs."""

    types: dict[str, int] = field(default_factory=dict)
    rows: dict[str, list[tuple[str, str, str]]] = field(default_factory=lambda: defaultdict(list))
    streams: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))


def read_table() -> Table:
    table = Table()
    for line in (Path(__file__).parent / "bolt_messages.csv").read_text().splitlines():
        match line.split(","):
            case ["msgtype", name, number]:
                table.types[name] = int(number)
            case ["msgdata" | "subtypedata", name, column, kind, *count]:
                table.rows[name].append((column, kind, count[0] if count else ""))
            case ["tlvtype", stream, name, number]:
                table.streams[stream][name] = int(number)
            case ["tlvdata", stream, name, column, kind, *count]:
                table.rows[f"{stream}/{name}"].append((column, kind, count[0] if count else ""))
    return table


TABLE = read_table()


class Writer:
    """Makes a message and its values from the rows alone."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - test data, the same in every run

    def fields(self, rows: list[tuple[str, str, str]]) -> tuple[bytes, dict[str, Any]]:
        """Bytes and values of one table; a row that counts another has no value of its own."""
        counts = {count for _, _, count in rows}
        wire, values = b"", {}
        for column, kind, count in rows:
            if column in counts or kind.endswith("_tlvs"):
                continue
            prefix, data, values[column] = self.field(kind, count)
            wire += prefix + data
        return wire, values

    def field(self, kind: str, count: str) -> tuple[bytes, bytes, Any]:
        if count == "":
            return b"", *self.one(kind)
        number = int(count) if count.isdigit() else self.random.randrange(4)
        prefix = b"" if count.isdigit() or count == "..." else number.to_bytes(2, "big")
        if kind == "byte":
            data = self.random.randbytes(number)
            return prefix, data, data
        items = [self.one(kind) for _ in range(number)]
        return prefix, b"".join(d for d, _ in items), [v for _, v in items]

    def one(self, kind: str) -> tuple[bytes, Any]:
        if kind in UNSIGNED:
            # Small enough for any amount of money.
            value = self.random.randrange(1 << min(8 * UNSIGNED[kind], 50))
            return value.to_bytes(UNSIGNED[kind], "big"), value
        if kind == "s64":
            value = self.random.randrange(-(1 << 63), 1 << 63)
            return value.to_bytes(8, "big", signed=True), value
        if kind == "bigsize":
            value = self.random.randrange(0xFD)
            return bytes([value]), value
        if kind == "point":
            data = self.random.choice([b"\2", b"\3"]) + self.random.randbytes(32)
            return data, data
        if kind in FIXED:
            data = self.random.randbytes(FIXED[kind])
            return data, data
        wire, values = self.fields(TABLE.rows[kind])
        (value,) = values.values() if len(values) == 1 else (values,)
        return wire, value

    def stream(self, name: str) -> tuple[bytes, dict[str, Any]]:
        wire, values = b"", {}
        for record, number in sorted(TABLE.streams[name].items(), key=lambda item: item[1]):
            body, fields = self.fields(TABLE.rows[f"{name}/{record}"])
            wire += bytes([number, len(body)]) + body
            values[OURS.get(record, record)] = (
                True if not fields else next(iter(fields.values())) if len(fields) == 1 else fields
            )
        return wire, values


def stream_of(name: str) -> str:
    """The TLV stream of a message: named in its last row, or only by its own name."""
    named = [kind for _, kind, _ in TABLE.rows[name] if kind.endswith("_tlvs")]
    return named[0] if named else f"{name}_tlvs"


def plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.model_dump()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def test_every_message_of_the_bolts_is_declared_and_no_other() -> None:
    assert {name: message_by_name(name).TYPE for name in TABLE.types} == TABLE.types
    assert set(REGISTRY) == set(TABLE.types.values())


@pytest.mark.parametrize("name", TABLE.types)
@pytest.mark.parametrize("seed", range(5))
def test_a_message_built_from_the_bolts_table_has_the_same_values_here(
    name: str, seed: int
) -> None:
    writer = Writer(seed)
    body, values = writer.fields(TABLE.rows[name])
    records, tlv_values = writer.stream(stream_of(name))
    wire = TABLE.types[name].to_bytes(2, "big") + body + records
    message = decode(wire)
    assert message is not None
    for field_name, value in (values | tlv_values).items():
        assert plain(getattr(message, field_name)) == value, field_name
    fields = [slot.name for segment in message.SEGMENTS for slot in segment.slots]
    assert fields == list(values)
    assert encode(message) == wire


@pytest.mark.parametrize("name", TABLE.types)
def test_no_record_is_declared_that_the_bolts_do_not_have(name: str) -> None:
    expected = {number: OURS.get(n, n) for n, number in TABLE.streams[stream_of(name)].items()}
    if name in ("update_fulfill_htlc", "update_fail_htlc"):
        # The extraction tool misses this table: there is no blank line before it.
        expected[1] = "attribution_data"
    assert {number: slot.name for number, slot in message_by_name(name).TLVS.items()} == expected
