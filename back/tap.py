"""``squall tap``: the decoded traffic between fronts and back, one line a message.

Reads what the ``tap`` certificate may: sessions' messages, nothing else. It can publish nothing.
"""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from shared.errors import CommandError, FabricError
from shared.fabric import subjects
from shared.fabric.client import FabricClient
from shared.fabric.envelope import Envelope, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.fabric.interface import Received
    from shared.fabric.tls import Credentials

__all__ = ["Filter", "line", "tap"]

COLORS = {
    "update": "cyan",
    "commitment": "yellow",
    "revoke": "yellow",
    "funding": "green",
    "open": "green",
    "accept": "green",
    "channel": "green",
    "shutdown": "magenta",
    "closing": "magenta",
    "error": "bold red",
    "warning": "red",
}
CONTROL = "bright_black"
LONG = 24
"""Hex values longer than this are cut in the middle."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What to show; None shows all.

    Attributes:
        peer: node id in hex.
        channel: channel_id in hex.
        message: BOLT name, as ``update_add_htlc``.
    """

    peer: str | None = None
    channel: str | None = None
    message: str | None = None

    @property
    def subjects(self) -> tuple[str, str]:
        """What to subscribe: the broker filters.

        Raises:
            CommandError: no node id, channel_id or name of a message has this form.
        """
        try:
            peer = None if self.peer is None else bytes.fromhex(self.peer)
            channel = None if self.channel is None else bytes.fromhex(self.channel)
            return subjects.tapped(peer, channel, self.message)
        except ValueError as error:
            raise CommandError(f"nothing like that can be tapped: {error}") from None


def _short(value: object) -> str:
    if isinstance(value, str):
        return value if len(value) <= LONG else f"{value[: LONG // 2]}…{value[-6:]}"
    if isinstance(value, list):
        return f"[{len(value)}]"
    return json.dumps(value, separators=(",", ":"))


def line(subject: str, envelope: Envelope, at: datetime) -> Text:
    """Return one message as a coloured line."""
    inbound = subject.startswith("ln.in.")
    parsed = subjects.parse_inbound(subject) if inbound else subjects.parse_outbound(subject)
    name = parsed.name
    style = COLORS.get(name.partition("_")[0], CONTROL)
    channel = parsed.channel.hex()[:8] if parsed.channel else "-"
    text = Text(f"{at:%H:%M:%S.%f}"[:-3] + " ", style=CONTROL)
    text.append("◀ " if inbound else "▶ ", style="green" if inbound else "blue")
    text.append(f"{parsed.peer.hex()[:10]} {channel:8} ")
    text.append(f"{name:24}", style=style)
    text.append(f" #{envelope.seq:<4} ", style=CONTROL)
    fields: dict[str, object] = json.loads(envelope.body)
    shown = (f"{k}={_short(v)}" for k, v in fields.items() if v not in (None, {}, ""))
    text.append(" ".join(shown))
    return text


async def tap(
    servers: "Sequence[str]", credentials: "Credentials", wanted: Filter, *, as_json: bool
) -> None:
    """Print until cancelled."""
    heard = wanted.subjects
    console = Console(soft_wrap=True, highlight=False)
    fabric = FabricClient(servers, credentials, role="tap", name="tap")

    def show(received: "Received") -> None:
        at = datetime.now().astimezone()
        try:
            envelope = decode(received.payload)
            if as_json:
                body = json.loads(received.payload)
                record = {"time": at.isoformat(), "subject": received.subject, **body}
                console.print(json.dumps(record), markup=False)
            else:
                console.print(line(received.subject, envelope, at))
        except FabricError as error:
            console.print(f"{received.subject}: {error}", markup=False, style="red")

    await fabric.start(timeout_s=10)
    for subject in heard:
        await fabric.subscribe(subject, show)
    try:
        await asyncio.Event().wait()
    finally:
        await fabric.stop()
