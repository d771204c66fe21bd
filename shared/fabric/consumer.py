"""One reader of a stream over one connection: in order, complete, or ended.

It pulls: the broker sends no more than was asked for, and asking goes on as messages are handled.
So a slow or blocked reader costs neither side memory, the broker never cuts us off for being slow,
and no read of the socket brings more than the event loop can take in a few milliseconds. (What the
broker pushes is limited to 32 MB on the way: a hundred thousand messages in nats-py's queue.)

Each message has the number of its delivery; a missing one ends the reader, and so does silence.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.fabric.client import FabricClient
from shared.fabric.jetstream import API, create_consumer

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

__all__ = ["ConsumerRules", "Deliver", "StreamConsumer"]

Deliver: TypeAlias = Callable[[str, bytes, int, int, int], None]
"""Takes subject, payload, number in the stream, time of storing (ns since 1970), and how many
messages wait at the broker after this one."""

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ConsumerRules:
    """Limits of one reader.

    Attributes:
        batch: messages asked for at once; never more than two batches are under way.
        slice_s: the event loop gets its turn after handling messages for this long.
        heartbeat_s: the broker shows that it is there so often while nothing comes.
        silence_s: a reader that hears nothing for this long ends.
        expires_s: the broker gives a request up after this long; then it is asked again.
        inactive_s: the broker forgets a reader that asks for nothing for this long.
    """

    batch: int = 256
    slice_s: float = 0.004
    heartbeat_s: float = 1.0
    silence_s: float = 4.0
    expires_s: float = 30.0
    inactive_s: float = 10.0


class StreamConsumer:
    """See the module. Use once.

    Args:
        fabric: whose connection it is.
        connection: the present one.
        stream: name of the stream.
        deliver: called in place with each message.
        rules: limits.

    Attributes:
        ended: set when it is over; then `why` says why.
        garbage: messages that were not the broker's answer to us.
    """

    def __init__(
        self,
        fabric: FabricClient,
        connection: Client,
        stream: str,
        deliver: Deliver,
        rules: ConsumerRules,
    ) -> None:
        self.ended = asyncio.Event()
        self.why = ""
        self.garbage = 0
        self._fabric = fabric
        self._connection = connection
        self._stream = stream
        self._deliver = deliver
        self._rules = rules
        self._name = secrets.token_hex(16)
        self._inbox = fabric.new_inbox()
        self._next = f"{API}CONSUMER.MSG.NEXT.{stream}.{self._name}"
        self._prefix = f"$JS.ACK.{stream}.{self._name}."
        self._request = json.dumps(
            {
                "batch": rules.batch,
                "expires": int(rules.expires_s * NS),
                "idle_heartbeat": int(rules.heartbeat_s * NS),
            }
        ).encode()
        self._number = 0
        self._credit = 0
        self._heard = self._turn = time.monotonic()
        self._subscription: Subscription | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing, not even a heartbeat, was handled for too long."""
        return time.monotonic() - self._heard > self._rules.silence_s

    async def open(self, from_seq: int) -> int:
        """Begin with the first message from this number on; return how many wait.

        Raises:
            FabricError: the broker did not make it, or cannot be reached.
        """
        self._subscription = await self._connection.subscribe(self._inbox, cb=self._on_message)
        waiting = await create_consumer(
            self._fabric,
            self._stream,
            self._name,
            {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": max(from_seq, 1),
                "ack_policy": "none",
                "replay_policy": "instant",
                "inactive_threshold": int(self._rules.inactive_s * NS),
                "num_replicas": 1,
                "mem_storage": True,
            },
        )
        self._heard = time.monotonic()
        self._ask()
        return waiting

    async def close(self) -> None:
        """Hear nothing any more. The broker forgets us by itself."""
        self.end("closed")
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._subscription.unsubscribe()

    def end(self, why: str) -> None:
        """Deliver nothing any more."""
        if not self.ended.is_set():
            self.why = why
            self.ended.set()

    def _ask(self) -> None:
        """Ask for as many batches as may be under way."""
        rules = self._rules
        while self._credit <= rules.batch:
            if not self._fabric.publish(self._next, self._request, reply=self._inbox):
                self.end("cannot ask for more")
                return
            self._credit += rules.batch

    async def _on_message(self, message: Msg) -> None:
        if self.ended.is_set():
            return
        self._heard = now = time.monotonic()
        reply = message.reply
        if reply.startswith(self._prefix):
            self._take(message, reply[len(self._prefix) :])
        else:
            self._status(message)
        if now - self._turn > self._rules.slice_s:
            await asyncio.sleep(0)
            self._turn = time.monotonic()

    def _take(self, message: Msg, numbers: str) -> None:
        try:
            _, seq, number, stored_ns, waiting = map(int, numbers.split("."))
        except ValueError:
            self.garbage += 1
            return
        self._number += 1
        if number != self._number:
            self.end(f"delivery {number} came where {self._number} was due")
            return
        self._credit -= 1
        if self._credit <= self._rules.batch:
            self._ask()
        self._deliver(message.subject, message.data, seq, stored_ns, waiting)

    def _status(self, message: Msg) -> None:
        """Take what the broker says besides messages; it has no payload and no reply."""
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            last = headers.get("Nats-Last-Consumer", "")
            if last and last != str(self._number):
                self.end(f"delivery {last} did not come")
        elif status == "408":
            # A request has run out; this much of it was not used.
            unused = headers.get("Nats-Pending-Messages", "0")
            self._credit -= int(unused) if unused.isdecimal() else 0
            self._ask()
        elif status:
            self.end(f"{status} {headers.get('Description', '')}")
        else:
            self.garbage += 1
