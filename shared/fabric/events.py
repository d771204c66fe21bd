"""The stream EVENTS: the log that users follow, and what one message of it holds. Pure.

A message is ``{"number": …, "event": {…}}``. Numbers are those of the database's rows: they grow,
none comes twice, and some may be left out. The stream keeps what its limits allow, the newest.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_EVENT_BYTES", "STREAM", "EventsRetention", "configuration", "message"]

STREAM = "EVENTS"
MAX_EVENT_BYTES = 200_000
"""A longer event is told without its fields: the broker takes no message above 256 KiB."""
MAX_CONSUMERS = 256
"""Readers at once; one that is not durable is forgotten soon after it is gone."""


@dataclass(frozen=True, slots=True)
class EventsRetention:
    """How much of the past the stream keeps; the oldest goes first.

    Attributes:
        max_age_s: seconds.
        max_bytes: of its files.
    """

    max_age_s: float
    max_bytes: int


def configuration(retention: EventsRetention, replicas: int) -> dict[str, Any]:
    """Return how the stream is made.

    Args:
        retention: its limits.
        replicas: 3 in a cluster of brokers, else 1.
    """
    return {
        "name": STREAM,
        "description": "Squall's events: facts of the node, numbered",
        "subjects": ["ln.event.*"],
        "retention": "limits",
        "storage": "file",
        "max_msgs": -1,
        "max_bytes": retention.max_bytes,
        "max_msg_size": -1,
        "max_age": int(retention.max_age_s * 1_000_000_000),
        "discard": "old",
        "max_consumers": MAX_CONSUMERS,
        "num_replicas": replicas,
        # Second copies are kept out by the number that each message expects before it.
        "duplicate_window": 1_000_000_000,
        "allow_direct": False,
    }


def message(number: int, topic: str, event: str) -> bytes:
    """Return the message of one event.

    Args:
        number: its number.
        topic: last token of its subject.
        event: its JSON.
    """
    payload = f'{{"number":{number},"event":{event}}}'.encode()
    if len(payload) <= MAX_EVENT_BYTES:
        return payload
    name = topic.replace("_", "-")
    return f'{{"number":{number},"event":{{"type":"{name}","isTooLarge":true}}}}'.encode()
