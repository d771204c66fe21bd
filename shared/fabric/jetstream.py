"""Requests to the broker's streams: plain requests with JSON, as its API defines them.

What nats-py has for this asks for rights that a front does not have, and its ordered consumer does
not notice that its stream is another one.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.errors import FabricError
from shared.fabric.client import FabricClient

__all__ = [
    "StreamError",
    "StreamState",
    "create_consumer",
    "make_stream",
    "stored_message",
    "stream_state",
]

API = "$JS.API."
REQUEST_TIMEOUT_S = 3.0
NO_STREAM = 10059
NO_MESSAGE = 10037


class StreamError(FabricError):
    """The broker refused a request.

    Attributes:
        code: its `err_code`, 0 where it named none.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the broker says about a stream.

    Attributes:
        created: when, as it wrote it; another stream of the same name has another.
        first_seq: number of the first message that is there; one more than the last if none is.
        last_seq: number of the last message, kept when that is gone.
        messages: how many there are.
        time: of the broker, at the answer.
        config: as it is in force.
        clustered: it is in a cluster of brokers.
    """

    created: str
    first_seq: int
    last_seq: int
    messages: int
    time: datetime
    config: dict[str, Any]
    clustered: bool


async def stream_state(fabric: FabricClient, stream: str) -> StreamState | None:
    """Look at a stream; None if there is none of this name.

    Raises:
        FabricUnavailable: no answer.
        PermissionDenied: our role may not.
        StreamError: anything else.
    """
    try:
        return _state(await _ask(fabric, f"STREAM.INFO.{stream}", {}))
    except StreamError as error:
        if error.code == NO_STREAM:
            return None
        raise


async def make_stream(
    fabric: FabricClient, config: dict[str, Any], *, update: bool = False
) -> StreamState:
    """Make a stream, or change one. Raises as `stream_state`."""
    action = "UPDATE" if update else "CREATE"
    return _state(await _ask(fabric, f"STREAM.{action}.{config['name']}", config))


async def stored_message(fabric: FabricClient, stream: str, seq: int) -> tuple[str, bytes] | None:
    """Return subject and payload of a stream's message; None if it is not there any more.

    Raises as `stream_state`.
    """
    try:
        answer = await _ask(fabric, f"STREAM.MSG.GET.{stream}", {"seq": seq})
    except StreamError as error:
        if error.code == NO_MESSAGE:
            return None
        raise
    try:
        message = answer["message"]
        return str(message["subject"]), base64.b64decode(message.get("data") or "")
    except (KeyError, TypeError, binascii.Error) as error:
        raise StreamError(f"not a message of a stream: {error!r}", 0) from None


async def create_consumer(
    fabric: FabricClient, stream: str, name: str, config: dict[str, Any]
) -> int:
    """Make a consumer and return how many messages wait for it. Raises as `stream_state`."""
    body = {"stream_name": stream, "config": {"name": name, **config}, "action": "create"}
    answer = await _ask(fabric, f"CONSUMER.CREATE.{stream}.{name}", body)
    return int(answer.get("num_pending", 0))


async def _ask(fabric: FabricClient, what: str, body: dict[str, Any]) -> dict[str, Any]:
    payload = json.dumps(body).encode()
    answer = await fabric.request(API + what, payload, timeout_s=REQUEST_TIMEOUT_S)
    try:
        read = json.loads(answer)
        error = read.get("error")
    except (ValueError, AttributeError):
        raise StreamError(f"{what}: not an answer of a broker: {answer[:100]!r}", 0) from None
    if error is not None:
        raise StreamError(f"{what}: {error.get('description')}", int(error.get("err_code", 0)))
    return dict(read)


def _state(answer: dict[str, Any]) -> StreamState:
    try:
        state = answer["state"]
        return StreamState(
            created=str(answer["created"]),
            first_seq=int(state["first_seq"]),
            last_seq=int(state["last_seq"]),
            messages=int(state["messages"]),
            time=datetime.fromisoformat(answer["ts"]),
            config=dict(answer["config"]),
            # A single server names a leader, itself, and no cluster.
            clustered=bool((answer.get("cluster") or {}).get("name")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StreamError(f"not the state of a stream: {error!r}", 0) from None
