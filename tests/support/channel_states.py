"""Writes docs/channel-states.md: ``python -m tests.support.channel_states``.

Everything on the page but the edges' words is read from the code: the phases and their meaning, the
table of legal messages, and which function enters which phase. An edge whose target no function
enters, or a phase that no edge reaches, is an error.
"""

import ast
import inspect
from collections import defaultdict
from pathlib import Path

from back.channel import funding, machine, model, policy, reestablish
from back.channel.model import Phase
from back.channel.rules import LEGAL

PAGE = Path(__file__).parents[2] / "docs" / "channel-states.md"
SOURCES = sorted(Path(inspect.getfile(machine)).parent.glob("*.py"))
START = "[*]"
EDGES = (
    (START, "WAIT_FOR_ACCEPT_CHANNEL", "we open: open_channel"),
    ("WAIT_FOR_ACCEPT_CHANNEL", "WAIT_FOR_FUNDING_INTERNAL", "accept_channel"),
    ("WAIT_FOR_FUNDING_INTERNAL", "WAIT_FOR_FUNDING_SIGNED", "the wallet made the transaction"),
    ("WAIT_FOR_FUNDING_SIGNED", "WAIT_FOR_FUNDING_CONFIRMED", "funding_signed; published"),
    (START, "WAIT_FOR_FUNDING_CREATED", "a peer opens: open_channel"),
    ("WAIT_FOR_FUNDING_CREATED", "WAIT_FOR_FUNDING_CONFIRMED", "funding_created"),
    ("WAIT_FOR_FUNDING_CONFIRMED", "WAIT_FOR_CHANNEL_READY", "minimum_depth reached"),
    ("WAIT_FOR_CHANNEL_READY", "NORMAL", "channel_ready of the peer"),
    ("WAIT_FOR_FUNDING_CONFIRMED", "SHUTDOWN", "both shutdowns"),
    ("WAIT_FOR_CHANNEL_READY", "SHUTDOWN", "both shutdowns"),
    ("NORMAL", "SHUTDOWN", "both shutdowns"),
    ("SHUTDOWN", "NEGOTIATING", "no HTLC left"),
    ("NEGOTIATING", "CLOSING", "both signed one fee"),
    ("CLOSING", "CLOSED", "cooperative close 6 deep"),
    ("NORMAL", "WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT", "we lost data"),
    ("WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT", "CLOSING", "the peer's commitment is seen"),
)
"""The usual ways; the text of the page tells of those that lead out of many phases."""

PLAIN = {
    Phase.WAIT_FOR_ACCEPT_CHANNEL: "Opener: open_channel is sent.",
    Phase.WAIT_FOR_FUNDING_CREATED: "Fundee: accept_channel is sent.",
    Phase.WAIT_FOR_FUNDING_SIGNED: "Opener: funding_created is sent, nothing is published.",
    Phase.WAIT_FOR_FUNDING_CONFIRMED: "The funding transaction is awaited, minimum_depth deep.",
    Phase.NORMAL: "In use.",
}
"""Where a phase's name says all, the source says no more."""

HEAD = """\
# States of a channel

Made from `back/channel` by `make docs`; a test keeps it up to date. Do not edit.

```mermaid
stateDiagram-v2
{diagram}
```

Besides:

* **Unfunded** ({unfunded}):
  a disconnection, an `error`, a broken rule or {opening} blocks without progress forget the
  channel, and the wallet's coins are free again.
* **Any funded phase → `CLOSING`**: a force close of ours, an `error` of the peer, a rule whose
  breach fails the channel, an HTLC that is overdue, or a spend of the funding output.
* **Any phase after `channel_reestablish` that proves our loss of data →
  `WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT`**: nothing of ours is published any more.
* **`WAIT_FOR_FUNDING_CONFIRMED` → `CLOSED`** at the fundee, where the funding does not confirm in
  {fundee} blocks, or the opener gives it up by `error` while nothing in it is ours.
* **`NEGOTIATING` → `CLOSING`** by force after {closing} blocks without an agreement on the fee.
* `CLOSING` after a commitment stays: claiming what is in it is not there yet.

Where the connection stands is another matter (`Link`): `OFFLINE`, `SYNCING` (our
`channel_reestablish` is sent, theirs awaited), `ONLINE`. It is never stored.

## Phases

| phase | meaning | entered by |
|---|---|---|
{phases}

## Which message is legal when

A message with a mark has a rule for that phase. One without is refused (a warning and an end of the
connection), or ignored in {over}.
`CLOSED` takes nothing any more. After a reconnection only {early}
are taken before `channel_reestablish`, which is legal once per connection. `error` is legal
everywhere. After an `error` of ours everything but `error` is ignored.

{legal}
"""


def render() -> str:
    """Return the page."""
    entered = entries()
    check(entered)
    return HEAD.format(
        diagram="\n".join(
            f"    {source} --> {target}: {words.replace(';', ',')}"
            for source, target, words in EDGES
        ),
        unfunded=", ".join(f"`{phase.value}`" for phase in funding.UNFUNDED),
        opening=policy.OPENING_PATIENCE_BLOCKS,
        fundee=policy.FUNDEE_PATIENCE_BLOCKS,
        closing=policy.CLOSING_PATIENCE_BLOCKS,
        phases="\n".join(
            f"| `{phase.value}` | {meaning} | {', '.join(f'`{f}`' for f in entered[phase.name])} |"
            for phase, meaning in meanings().items()
        ),
        over=", ".join(f"`{phase.value}`" for phase in Phase if phase in machine.OVER),
        early=", ".join(f"`{name}`" for name in sorted(machine.EARLY)),
        legal=legal_table(),
    )


def meanings() -> dict[Phase, str]:
    """Return each phase's docstring in the source."""
    tree = ast.parse(Path(inspect.getfile(model)).read_text(encoding="utf-8"))
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Phase")
    found = {phase: PLAIN.get(phase, "") for phase in Phase}
    last = None
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            last = Phase[node.targets[0].id]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            found[last] = " ".join(str(node.value.value).split())
    return found


def entries() -> dict[str, list[str]]:
    """Return which functions enter each phase: those that name it in ``moved`` or ``phase=``."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    for name in _entered(call):
                        found[name].add(f"{path.stem}.{function.name}")
    return {name: sorted(functions) for name, functions in found.items()}


def _entered(call: ast.Call) -> list[str]:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "phase"]
    if isinstance(call.func, ast.Name) and call.func.id == "moved" and len(call.args) > 1:
        given.append(call.args[1])
    names = []
    for node in given:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names += [node.attr] if node.value.id == "Phase" else []
        elif isinstance(node, ast.Name) and node.id == "LOST":
            names.append(reestablish.LOST.name)
    return names


def check(entered: dict[str, list[str]]) -> None:
    """Hold the diagram to the code.

    Raises:
        ValueError: an edge leads where no function leads, or a phase is missing.
    """
    drawn = {target for _, target, _ in EDGES}
    everything = {phase.name for phase in Phase}
    if drawn != everything or set(entered) != everything:
        raise ValueError(f"drawn {drawn}, entered {set(entered)}, phases {everything}")


def legal_table() -> str:
    """Return the table LEGAL: a row per message, a column per phase with messages of its own."""
    by_message: dict[str, set[Phase]] = defaultdict(set)
    number = {}
    for phase, message in LEGAL:
        by_message[message.NAME].add(phase)
        number[message.NAME] = message.TYPE
    short = {phase: str(column) for column, phase in enumerate(Phase, 1)}
    key = "\n".join(f"{column}. `{phase.value}`" for phase, column in short.items())
    rows = [
        f"| message | {' | '.join(short.values())} |",
        f"|---|{'---|' * len(short)}",
        *(
            f"| `{name}` | {' | '.join('●' if p in by_message[name] else '' for p in Phase)} |"
            for name in sorted(by_message, key=lambda name: number[name])
        ),
    ]
    return f"{key}\n\n" + "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
