"""Reads what was stored of our announcements."""

import contextlib
from typing import TypeVar

import structlog

from shared.errors import MalformedMessage
from shared.wire import ChannelUpdate, NodeAnnouncement, decode

__all__ = ["read_stored"]

log = structlog.get_logger()

T = TypeVar("T", ChannelUpdate, NodeAnnouncement)


def read_stored(raw: bytes | None, kind: type[T]) -> T | None:
    """Read what was stored; what cannot be read is made again, with the clock's timestamp."""
    if raw is None:
        return None
    with contextlib.suppress(MalformedMessage):
        message = decode(raw)
        if isinstance(message, kind):
            return message
    log.error("stored_announcement_unreadable", kind=kind.NAME)
    return None
