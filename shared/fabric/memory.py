"""The fabric in one process, for tests: the same contract, no broker, faults on order."""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import structlog

from shared.errors import FabricUnavailable, PermissionDenied
from shared.fabric.interface import Handler, Received

__all__ = ["MemoryBroker", "MemoryFabric"]

log = structlog.get_logger()


class MemoryBroker:
    """Carries messages between `MemoryFabric` clients of one event loop.

    Attributes:
        lose: says of each message (subject, payload) whether it is lost on its way to one receiver.
        denied: says of (action, subject) whether it is refused; ``publish`` or ``subscription``.
    """

    def __init__(self) -> None:
        self.lose: Callable[[str, bytes], bool] = lambda _subject, _payload: False
        self.denied: Callable[[str, str], bool] = lambda _action, _subject: False
        self.clients: list[MemoryFabric] = []
        self._turns = count()

    def cut(self) -> None:
        """Break every connection, as a broker's restart does."""
        for client in tuple(self.clients):
            client.cut()

    def mend(self) -> None:
        """Let everybody connect again."""
        for client in tuple(self.clients):
            client.mend()

    def route(self, message: Received) -> bool:
        """Deliver to every match, one member per queue group; False if nobody listens."""
        groups: dict[tuple[str, str], list[_Subscription]] = {}
        found: list[_Subscription] = []
        for client in self.clients:
            for subscription in client.subscriptions if client.connected else ():
                if not matches(subscription.subject, message.subject):
                    continue
                if subscription.group:
                    key = subscription.subject, subscription.group
                    groups.setdefault(key, []).append(subscription)
                else:
                    found.append(subscription)
        turn = next(self._turns)
        found += [members[turn % len(members)] for members in groups.values()]
        for subscription in found:
            if not self.lose(message.subject, message.payload):
                subscription.put(message)
        return bool(found)


class MemoryFabric:
    """One client of a `MemoryBroker`; a `shared.fabric.interface.Fabric`."""

    def __init__(self, broker: MemoryBroker, name: str = "memory") -> None:
        self.name = name
        self.published = 0
        self.unsent = 0
        self.subscriptions: list[_Subscription] = []
        self._broker = broker
        self._connected = False
        self._inboxes = count()
        self._lost: list[Callable[[], None]] = []
        self._back: list[Callable[[], None]] = []
        self._denied: list[Callable[[str], None]] = []

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense right now."""
        return self._connected

    async def start(self, *, timeout_s: float | None = None) -> None:
        """Connect; see `Fabric.start`."""
        self._broker.clients.append(self)
        self.mend()

    async def stop(self) -> None:
        """Handle what has arrived and close."""
        for subscription in tuple(self.subscriptions):
            await subscription.drain()
        self._connected = False
        if self in self._broker.clients:
            self._broker.clients.remove(self)

    def cut(self) -> None:
        """Break this client's connection."""
        if self._connected:
            self._connected = False
            for callback in self._lost:
                callback()

    def mend(self) -> None:
        """Connect it again."""
        if not self._connected:
            self._connected = True
            for callback in self._back:
                callback()

    def publish(self, subject: str, payload: bytes) -> bool:
        """Send and forget; see `Fabric.publish`."""
        return self._send(Received(subject, payload))

    def respond(self, request: Received, payload: bytes) -> bool:
        """Answer a request; like `publish`."""
        return bool(request.reply) and self._send(Received(request.reply, payload))

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait for the first answer; see `Fabric.request`."""
        if not self._connected:
            raise FabricUnavailable("not connected to the broker")
        if self._broker.denied("publish", subject):
            raise PermissionDenied(f"permissions violation for publish to {subject}")
        inbox = f"_INBOX.{self.name}.{id(self)}.{next(self._inboxes)}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def take(received: Received) -> None:
            if not answer.done():
                answer.set_result(received.payload)

        subscription = _Subscription(self, inbox, take, "")
        self.subscriptions.append(subscription)
        try:
            if not self._broker.route(Received(subject, payload, inbox)):
                raise FabricUnavailable(f"nobody listens on {subject}")
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise FabricUnavailable(f"no answer on {subject} in {timeout_s} s") from None
        finally:
            await subscription.close()

    async def subscribe(
        self, subject: str, handler: Handler, *, group: str = ""
    ) -> "_Subscription":
        """Get what is published on a subject; see `Fabric.subscribe`."""
        if self._broker.denied("subscription", subject):
            raise PermissionDenied(f"permissions violation for subscription to {subject}")
        subscription = _Subscription(self, subject, handler, group)
        self.subscriptions.append(subscription)
        return subscription

    async def barrier(self) -> None:
        """Return at once: publishing puts a message straight into the receivers' queues."""
        if not self._connected:
            raise FabricUnavailable("not connected to the broker")
        await asyncio.sleep(0)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this whenever the connection breaks."""
        self._lost.append(callback)

    def on_back(self, callback: Callable[[], None]) -> None:
        """Call this whenever a connection stands."""
        self._back.append(callback)

    def on_denied(self, callback: Callable[[str], None]) -> None:
        """Call this when something was refused."""
        self._denied.append(callback)

    def _send(self, message: Received) -> bool:
        if not self._connected:
            self.unsent += 1
            return False
        self.published += 1
        if self._broker.denied("publish", message.subject):
            for callback in self._denied:
                callback(f"permissions violation for publish to {message.subject}")
            return True
        self._broker.route(message)
        return True


@dataclass(slots=True, eq=False)
class _Subscription:
    """One subscription and the task that works through its queue."""

    owner: MemoryFabric
    subject: str
    handler: Handler
    group: str
    _queue: asyncio.Queue[Received] = field(default_factory=asyncio.Queue)
    _task: asyncio.Task[None] | None = None

    def put(self, message: Received) -> None:
        """Queue a message for the handler."""
        self._queue.put_nowait(message)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def drain(self) -> None:
        """Stop getting messages; return when those that came have been handled."""
        self._forget()
        if self._task is not None:
            await self._queue.join()
        await self.close()

    async def close(self) -> None:
        """Stop at once."""
        self._forget()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _forget(self) -> None:
        if self in self.owner.subscriptions:
            self.owner.subscriptions.remove(self)

    async def _work(self) -> None:
        while True:
            message = await self._queue.get()
            try:
                result = self.handler(message)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # the next message is not to blame
                log.exception("fabric_handler_failed", subject=message.subject)
            finally:
                self._queue.task_done()


def matches(pattern: str, subject: str) -> bool:
    """Say whether a subscription with ``*`` and ``>`` covers a subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":  # noqa: S105  # a token of a subject
            return len(tokens) > index
        if index >= len(tokens) or token not in {"*", tokens[index]}:
            return False
    return len(wanted) == len(tokens)
