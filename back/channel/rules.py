"""How a rule of BOLT 2 is written down: a :class:`Step`, and the table of legal messages.

A rule is a function ``(channel, message) -> Step`` marked with :func:`legal`. It raises PeerError
and changes nothing where the peer broke the rule.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from back.channel.effects import Effect, PhaseChanged
from back.channel.model import Channel, Htlc, Phase
from shared.errors import CommandError
from shared.wire import Error, Message

__all__ = ["LEGAL", "Rule", "Step", "error_of", "legal", "moved", "printable"]

MAX_REASON_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a channel and what must follow.

    Attributes:
        effects: in order; what they mean, and when each may run, stands in :mod:`.effects`.
        removed: HTLCs that this step settled, gone from both sides and from ``channel.htlcs``, in
            their final form: both ``remote_first`` and ``remote_last`` are set. Storage moves them
            to the history. An HTLC that is in ``htlcs`` before a step and neither there nor here
            after it was in no commitment and is forgotten.
        refusals: of :func:`machine.apply_batch`: index of a command's event and why it changed
            nothing.
    """

    channel: Channel
    effects: tuple[Effect, ...] = ()
    removed: tuple[Htlc, ...] = ()
    refusals: tuple[tuple[int, CommandError], ...] = ()

    def then(self, rule: Callable[[Channel], "Step"]) -> "Step":
        """Return this step followed by what ``rule`` makes of its channel."""
        after = rule(self.channel)
        return Step(
            after.channel,
            self.effects + after.effects,
            self.removed + after.removed,
            self.refusals + after.refusals,
        )


Rule: TypeAlias = Callable[[Channel, Any], Step]
LEGAL: dict[tuple[Phase, type[Message]], Rule] = {}
"""Which message is legal in which phase, and the rule for it. All others are refused."""

M = TypeVar("M", bound=Message)


def legal(
    phases: Iterable[Phase], message: type[M]
) -> Callable[[Callable[[Channel, M], Step]], Callable[[Channel, M], Step]]:
    """Enter the decorated rule in :data:`LEGAL`: ``message`` may come in ``phases``."""

    def enter(rule: Callable[[Channel, M], Step]) -> Callable[[Channel, M], Step]:
        for phase in phases:
            if (other := LEGAL.get((phase, message))) is not None:
                raise TypeError(f"{message.NAME} in {phase.value} has a rule already: {other}")
            LEGAL[phase, message] = rule
        return rule

    return enter


def printable(reason: str) -> bytes:
    """What a peer is told: others print only what is pure ASCII (BOLT 1 § error)."""
    return reason.replace(" § ", " ").encode("ascii", "replace")[:MAX_REASON_BYTES]


def error_of(channel: Channel, reason: str) -> Error:
    """The `error` that fails this channel at the peer."""
    return Error(channel_id=channel.channel_id, data=printable(reason))


def moved(channel: Channel, phase: Phase, *effects: Effect, reason: str = "") -> Step:
    """Return the channel in ``phase``, with PhaseChanged before ``effects``."""
    changed = PhaseChanged(channel.channel_id, channel.phase, phase, reason)
    return Step(replace(channel, phase=phase), (changed, *effects))
