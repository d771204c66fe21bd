"""Fills the generated parts of docs/events.md, fabric.md, gossip.md and operations.md: ``python -m
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
from back.events.types import TYPES
from back.graph.service import GraphRules
from back.metrics import Metrics as BackMetrics
from front import bridge, process
from front.keys import remote
from front.metrics import Metrics as FrontMetrics
from front.settings import FrontSettings
from shared.fabric import (
    client,
    envelope,
    gossip,
    graph,
    numbering,
    owners,
    requests,
    session,
    ties,
)
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
        for module in (requests, gossip)
        for name in module.__all__
        if inspect.isclass(model := getattr(module, name)) and issubclass(model, BaseModel)
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


# --- gossip ---------------------------------------------------------------------------------------


def gossip_limits() -> str:
    """Return the limits of gossip, from the settings and rules that the code uses."""
    return table(("what", "value", "side"), (*_front_limits(), *_back_limits()))


def _front_limits() -> Iterable[tuple[str, str, str]]:
    rules = FrontSettings.model_construct().gossip
    intake, submit, outbox, sync, relay = (
        rules.intake,
        rules.intake.submit,
        rules.outbox,
        rules.sync,
        rules.relay,
    )
    rows = (
        (
            "signatures of one peer that are checked",
            f"{intake.peer_signatures_per_s:,.0f} a second, {intake.peer_signature_burst:,.0f} "
            "at once",
        ),
        (
            "of all peers",
            f"{intake.signatures_per_s:,.0f} a second, {intake.signature_burst:,.0f} at once",
        ),
        (
            "undecided announcements of one peer",
            f"{intake.peer_items:,}, and no more than twice what is left of all",
        ),
        ("of all peers", f"{intake.items:,} and {intake.size >> 20} MiB"),
        (
            "of those, held because nobody has announced their channel",
            f"{intake.peer_held:,} of one peer, {intake.held:,} of all, for {intake.hold_s:g} s",
        ),
        (
            "submitted and without a verdict",
            f"{submit.in_flight:,} of a kind, {submit.size >> 11:,} KiB",
        ),
        (
            "submitted again",
            f"after {submit.retry_s:g} s, then later each time, every {submit.retry_at_most_s:g} s "
            f"at the latest; after `later` every {submit.later_at_most_s:g} s",
        ),
        (
            "updates of one direction, or announcements of one node, that are submitted",
            f"{intake.replaced_burst} at once, then the newest every {intake.replaced_every_s:g} s",
        ),
        (
            "channels that the chain does not have: their peer is muted beyond",
            f"{intake.refused_burst:,.0f} at once, then {intake.refused_per_s:g} a second",
        ),
        (
            "wrong signatures until a peer with channels is muted",
            f"{intake.invalid_until_muted}",
        ),
        ("a muted peer's gossip is ignored for", f"{intake.mute_s:g} s"),
        (
            "what was refused is remembered for",
            f"{intake.memory_s:g} s or more, {intake.memory:,} announcements at most",
        ),
        (
            "bytes on a peer's socket, unsent, above which gossip waits",
            f"{outbox.low_water >> 10} KiB",
        ),
        (
            "answers to the queries of one peer",
            f"{outbox.bytes_per_s:,.0f} bytes a second, {outbox.burst:,.0f} at once",
        ),
        ("queries of one peer that wait", f"{outbox.answers}; a further one costs a `warning`"),
        (
            "a peer that waits for answers and reads nothing goes after",
            f"{outbox.read_within_s:g} s",
        ),
        (
            "a peer is told what is new",
            f"every {relay.interval_s:g} s, of our own after {relay.own_interval_s:g} s",
        ),
        (
            "changes that a slow peer may be behind before it misses some",
            f"{relay.max_changes:,}",
        ),
        ("peers that push news to us", f"{sync.peers}"),
        (
            "the table is compared with a peer's",
            f"with {sync.first_rounds} at the start, {sync.round_s:g} s apart; then every "
            f"{sync.resync_s:g} s",
        ),
        ("channels in one query of ours", f"{sync.chunk}"),
        ("channels that one peer may name", f"{sync.max_ids:,}"),
        (
            "a peer that was asked is replaced after",
            f"{sync.silent_s:g} s of silence, {sync.answer_s:g} s in all",
        ),
    )
    return ((*row, "front") for row in rows)


def _back_limits() -> Iterable[tuple[str, str, str]]:
    rules = GraphRules()
    judge = rules.judge
    rows = (
        (
            "undecided announcements of one front",
            f"{judge.budget.items:,} and {judge.budget.size >> 20} MiB, of {judge.budget.fronts} "
            "names at once",
        ),
        (
            "one submission",
            f"{gossip.MAX_ITEMS} announcements, {gossip.MAX_BYTES >> 10} KiB",
        ),
        ("blocks in one look-up of funding outputs", f"{judge.blocks}"),
        (
            "blocks fetched at once, kept",
            f"{rules.funding.parallel_blocks}, {rules.funding.cached_blocks:,}",
        ),
        (
            "missed blocks from which all outputs are asked for instead",
            f"{rules.spends.far_blocks}",
        ),
        ("nothing is pruned after a start for", f"{rules.prune_after_s:g} s"),
        ("values of GRAPH", f"{graph.MAX_VALUES:,} and {graph.MAX_BYTES >> 20} MiB"),
        ("a mark that something is gone stays", f"{graph.TOMBSTONE_S:,} s"),
        ("followers of GRAPH", f"{graph.MAX_CONSUMERS:,}"),
    )
    return ((*row, "back") for row in rows)


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


# --- events ---------------------------------------------------------------------------------------


def event_types() -> str:
    """Return every type of event."""
    parts = []
    for each in TYPES.values():
        rows = ((f"`{name}`", holds) for name, holds in each.fields.items())
        fields = table(("field", "holds"), rows)
        parts.append(f"### `{each.name}`\n\n{each.when[0].upper()}{each.when[1:]}.\n\n{fields}")
    return "\n\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "rights": rights,
    "timers": timers,
    "models": models,
    "reasons": reasons,
    "gossip-limits": gossip_limits,
    "event-types": event_types,
    "metrics-back": metrics_of_the_back,
    "metrics-front": metrics_of_a_front,
}
PAGES = (DOCS / "events.md", DOCS / "fabric.md", DOCS / "gossip.md", DOCS / "operations.md")

if __name__ == "__main__":
    for written in PAGES:
        written.write_text(filled(written), encoding="utf-8")
