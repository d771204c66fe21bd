"""Writes docs/messages.md: ``python -m shared.wire.reference docs/messages.md``.

Its tables are the declarations themselves: field names and layouts from the compiled models,
meanings from the strings under the fields.
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType

from shared.wire.message import REGISTRY, Announcement, Message
from shared.wire.record import Record

__all__ = ["main", "render"]

_INTRODUCTION = """\
# Messages

Made from the declarations in `shared/wire` by `python -m shared.wire.reference docs/messages.md`;
a test keeps it up to date. Do not edit.

* **Wire**: two bytes of type, the fields in this order, big-endian, then a TLV stream: the records
  below and unknown odd ones, which are kept and written again in their place (BOLT 1).
* **JSON** (on the fabric): one object with the same field names. Bytes are lower case hex, numbers
  are numbers, an absent record is left out, and unknown records stand in `unknown_tlvs` by type.
* Txids and block hashes are in internal byte order, as on the wire: RPC and explorers show them
  reversed.
* `channel_announcement`, `node_announcement` and `channel_update` are signed to their last byte;
  whatever follows their last field is kept raw in `extension`.
"""


def render() -> str:
    """Return the text of docs/messages.md."""
    parts = [_INTRODUCTION, _contents()]
    for module, models in groupby(sorted(REGISTRY.values(), key=_place), inspect.getmodule):
        if module is None:
            continue
        parts.append(f"## {_first_line(module).removesuffix('.')}\n")
        parts += [_section(model) for model in models]
    return "\n".join(parts)


def main(arguments: list[str]) -> None:
    """Write the page to the file named, or to standard output."""
    if arguments:
        Path(arguments[0]).write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())


def _place(model: type[Message]) -> tuple[str, int]:
    """Order by BOLT and module as the modules introduce themselves, then by number."""
    order = ("setup", "open", "interactive_tx", "splice", "htlc", "close", "reestablish", "gossip")
    name = model.__module__.rpartition(".")[2]
    rank = order.index(name) if name in order else len(order)
    return f"{rank:02}{name}", model.TYPE


def _contents() -> str:
    rows = [f"| {n} | [`{m.NAME}`](#{m.NAME}) |" for n, m in sorted(REGISTRY.items())]
    return "\n".join(["| type | message |", "|---:|---|", *rows, ""])


def _section(model: type[Message]) -> str:
    lines = [f"### `{model.NAME}`", "", f"Type {model.TYPE}. {_first_line(model)}", ""]
    lines += ["| field | TLV | layout | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(model)]
    return "\n".join([*lines, ""])


def _rows(model: type[Message]) -> Iterator[tuple[str, str, str, str]]:
    for segment in model.SEGMENTS:
        for slot in segment.slots:
            yield f"`{slot.name}`", "", f"`{slot.codec}`", _meaning(model, slot.name)
    for number, slot in model.TLVS.items():
        yield f"`{slot.name}`", str(number), f"`{slot.codec}`", _meaning(model, slot.name)
    if issubclass(model, Announcement):
        yield "`extension`", "", "`...*byte`", _meaning(Announcement, "extension")


def _meaning(model: type[Record], field: str) -> str:
    return _field_docs(model).get(field, "")


@cache
def _field_docs(model: type[Record]) -> dict[str, str]:
    """Find the string under each field, which Python itself throws away."""
    (body,) = ast.parse(inspect.getsource(model)).body
    if not isinstance(body, ast.ClassDef):
        return {}
    docs: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                docs[name] = " ".join(text.split())
    return docs


def _first_line(thing: ModuleType | type) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


if __name__ == "__main__":
    main(sys.argv[1:])
