"""A call of the API, declared once: name, parameters, handler."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from back.api.forms import SECONDS, Form, Parameter, optional
from back.api.interface import ApiNode

__all__ = ["CALLS", "Call", "Handler", "NotFound", "call"]

Handler: TypeAlias = Callable[[ApiNode, Form], Awaitable[object]]
"""Does the call; returns what becomes JSON."""

TIMEOUT = optional(
    "timeoutSeconds", SECONDS, "how long to wait for the answer, 30 s by default; the call goes on"
)


class NotFound(Exception):
    """What was asked for is not there."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: ``POST /<name>``."""

    name: str
    summary: str
    tag: str
    handler: Handler
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))


CALLS: dict[str, Call] = {}
"""Every call by name; filled when the modules of :mod:`back.api.routes` are imported."""


def call(name: str, tag: str, *parameters: Parameter) -> Callable[[Handler], Handler]:
    """Enter the decorated handler in :data:`CALLS`; its docstring's first line is the summary."""

    def enter(handler: Handler) -> Handler:
        if name in CALLS:
            raise TypeError(f"there is a call {name} already")
        summary = (handler.__doc__ or name).strip().splitlines()[0]
        declared = {parameter.name: parameter for parameter in (*parameters, TIMEOUT)}
        CALLS[name] = Call(name, summary, tag, handler, MappingProxyType(declared))
        return handler

    return enter
