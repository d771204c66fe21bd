"""Fills the generated parts of docs/fabric.md and docs/operations.md: ``python -m
tests.support.pages``.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from back import fronts, handshakes, peer, switchboard
from back.metrics import Metrics as BackMetrics
from front import bridge, process
from front.keys import remote
from front.metrics import Metrics as FrontMetrics
from shared.fabric import client, envelope, numbering, owners, requests, session, ties
from shared.fabric.roles import ROLES, Role, front_alone

DOCS = Path(__file__).parents[2] / "docs"
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: Path) -> str:
    """Return a page's text with its generated parts as they must be."""
    text = page.read_text(encoding="utf-8")
    return PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}\n{m[3]}", text)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table; cells are escaped."""
    lines = [list(head)]
    lines += [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- fabric ---------------------------------------------------------------------------------------


def rights() -> str:
    """Return who may publish and hear what."""
    alone = front_alone("NAME")
    return table(
        ("user", "publishes", "subscribes (queue group)", "answers requests"),
        (_right(role) for role in (*ROLES, alone)),
    )


def _right(role: Role) -> tuple[str, ...]:
    subscribes = (
        f"`{subject}`" + (f" ({group})" if group else "")
        for subject, _, group in (text.partition(" ") for text in role.subscribe)
    )
    return (
        f"`{role.user}`",
        "<br>".join(f"`{subject}`" for subject in role.publish) or "nothing",
        "<br>".join(subscribes),
        "once each" if role.answers else "never",
    )


def timers() -> str:
    """Return every time and size of the protocol, from the constants that the code uses."""
    n = numbering
    return table(
        ("what", "value", "side"),
        (
            ("hello of every shard", f"{switchboard.HELLO_EVERY_S:g} s", "back"),
            ("heartbeat", f"{process.BEAT_S:g} s", "front"),
            ("a front without a heartbeat is gone", f"{fronts.FRONT_SILENT_S:g} s", "back"),
            (
                "an owner without a hello: sessions that carried anything end",
                f"{owners.OWNER_SILENT_S:g} s",
                "front",
            ),
            ("a bare `ack` after", f"{n.ACK_AFTER_S * 1000:g} ms", "both"),
            ("or after so many messages", n.ACK_AFTER_MESSAGES, "both"),
            ("the oldest unacknowledged message again after", f"{n.RESEND_AFTER_S:g} s", "both"),
            ("then twice as late each time, at most", f"{n.RESEND_AT_MOST_EVERY_S:g} s", "both"),
            ("`resend` asked again while the gap stays", f"{n.ASK_AGAIN_S:g} s", "both"),
            ("no progress, or a gap that stays: the session ends", f"{n.UNACKED_S:g} s", "both"),
            ("messages held behind a gap", n.BUFFERED_MESSAGES, "both"),
            (
                "window of a peer with channels",
                f"{n.WIDE.messages} messages, {n.WIDE.size >> 10} KiB",
                "both",
            ),
            (
                "window of a peer without",
                f"{n.NARROW.messages} messages, {n.NARROW.size >> 10} KiB",
                "both",
            ),
            ("over the window so long: the session ends", f"{session.OVER_WINDOW_S:g} s", "front"),
            ("`disconnected` is tried so long", f"{session.LEAVING_S:g} s", "front"),
            ("two connections count as crossed within", f"{ties.TIE_S:g} s", "back"),
            ("`open` unanswered, asked again after", f"{bridge.OPEN_TIMEOUT_S:g} s", "front"),
            ("`resume` unanswered, asked again after", f"{bridge.RESUME_TIMEOUT_S:g} s", "front"),
            ("sessions in one `resume`", bridge.RESUME_BATCH, "front"),
            (
                "`ln.key.ecdh` unanswered, asked again after",
                f"{remote.TIMEOUT_S:g} s, {remote.TRIES} tries",
                "front",
            ),
            (
                "`ln.key.ecdh` requests that wait, of one front and of all",
                f"{handshakes.MAX_WAITING_PER_FRONT}, {handshakes.MAX_WAITING}",
                "back",
            ),
            (
                "`ln.connect` unanswered, asked again after",
                f"{peer.CONNECT_TIMEOUT_S:g} s, {peer.CONNECT_TRIES} tries",
                "back",
            ),
            (
                "ping to the broker, missed so often: a new connection",
                f"{client.PING_INTERVAL_S} s, {client.PINGS_OUTSTANDING}",
                "both",
            ),
        ),
    )


def models() -> str:
    """Return the fields of every request, reply, heartbeat and control."""
    named: list[type[BaseModel]] = [
        model
        for name in requests.__all__
        if inspect.isclass(model := getattr(requests, name)) and issubclass(model, BaseModel)
    ]
    controls: list[type[BaseModel]] = list(get_args(envelope.Control))
    return "\n\n".join(_model(model) for model in (*controls, *named))


def _model(model: type[BaseModel]) -> str:
    about = " ".join((model.__doc__ or "").split()).replace("``", "`")
    notes = attribute_docs(model)
    fields = [(name, field) for name, field in model.model_fields.items() if name != "v"]
    schema = model.model_json_schema()["properties"] if fields else {}
    rows = (
        (
            f"`{name}`",
            _json(schema[name]),
            "" if field.is_required() or "const" in schema[name] else "optional",
            notes.get(name, ""),
        )
        for name, field in fields
    )
    head = f"### `{model.__name__}`\n\n{about}"
    return f"{head}\n\n{table(('field', 'JSON', '', ''), rows)}" if fields else head


def _json(schema: dict[str, Any]) -> str:
    """Say in words what JSON a field is."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(_json(one) for one in schema["anyOf"] if one.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_json(schema['items'])}"
    if schema.get("format") == "binary":
        size = schema.get("minLength")
        return f"hex of {size} bytes" if size else "hex"
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    return {"string": "text", "boolean": "true or false"}.get(schema["type"], schema["type"])


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the strings that stand below a class's attributes."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    last = ""
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            last = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and last:
            found[last] = " ".join(str(statement.value.value).split()).replace("``", "`")
    return found


def reasons() -> str:
    """Return why sessions end."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(envelope.Reason))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts = [
        " ".join(str(s.value.value).split())
        for s in tree.body[1:]
        if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
    ]
    pairs = zip(envelope.Reason, texts, strict=True)
    return table(("reason", ""), ((f"`{reason.value}`", text) for reason, text in pairs))


# --- operations -----------------------------------------------------------------------------------


def metrics_of_the_back() -> str:
    """Return what the back counts."""
    return _metrics(BackMetrics().registry)


def metrics_of_a_front() -> str:
    """Return what a front counts."""
    return _metrics(FrontMetrics().registry)


def _metrics(registry: CollectorRegistry) -> str:
    rows = []
    for collector in registry._collector_to_names:
        (metric,) = collector.describe()
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # type: ignore[attr-defined]
        rows.append((f"`{name}`", metric.type, labels, metric.documentation))
    return table(("metric", "kind", "labels", "meaning"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "rights": rights,
    "timers": timers,
    "models": models,
    "reasons": reasons,
    "metrics-back": metrics_of_the_back,
    "metrics-front": metrics_of_a_front,
}
PAGES = (DOCS / "fabric.md", DOCS / "operations.md")

if __name__ == "__main__":
    for written in PAGES:
        written.write_text(filled(written), encoding="utf-8")
