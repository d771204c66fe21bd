"""The fabric over nats-py: TLS or nothing, reconnecting for ever, denials heard.

nats-py's own reconnect is off: it replays what it buffered before the others are back, and gives up
after a while. Here every connection is a new nats-py client; the sessions above ask for what was
lost.
"""

import asyncio
import contextlib
import inspect
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.errors import CommandError, FabricUnavailable, PermissionDenied
from shared.fabric.interface import Handler, Received
from shared.fabric.tls import Credentials, client_context, identity

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription as NatsSubscription

__all__ = ["FabricClient"]

PING_INTERVAL_S = 1
PINGS_OUTSTANDING = 2
CONNECT_TIMEOUT_S = 2
CLOSE_TIMEOUT_S = 0.5
STOP_TIMEOUT_S = 3
BARRIER_TIMEOUT_S = 3
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
MAX_PENDING_BYTES = 16 << 20
WATCH_S = 0.1
INBOX = "_INBOX."
NATS_ERRORS = (nats.errors.Error, OSError, asyncio.TimeoutError)

log = structlog.get_logger()


class FabricClient:
    """One connection to the broker as a `Fabric`.

    A process makes two: one for sessions and requests, one for bulk (gossip, routing table,
    events), which would delay the first by seconds.

    Args:
        urls: ``tls://host:port`` of each server of the cluster; tried in turn.
        credentials: certificate files.
        role: the role this process plays; its certificate must be of that role.
        name: shown by the broker's monitoring, e.g. ``front-1.session``.

    Raises:
        CommandError: the certificate is of another role, or a URL is not TLS.
    """

    def __init__(
        self, urls: Sequence[str], credentials: Credentials, *, role: str, name: str
    ) -> None:
        for url in urls:
            if not url.startswith("tls://"):
                raise CommandError(f"{url} is not tls://host:port; the fabric has no plaintext")
        if not urls:
            raise CommandError("no NATS server is configured")
        self.identity = identity(credentials)
        if self.identity.role not in {"", role}:
            raise CommandError(
                f"{credentials.cert} is for the role {self.identity.role}, this process is a {role}"
            )
        self.name = name
        self.published = 0
        self.unsent = 0
        """Messages not published because there was no connection or the broker was stuck."""
        self._urls = tuple(urls)
        self._credentials = credentials
        self._inbox = f"{INBOX}{self.identity.user or role}"
        self._nc: Client | None = None
        self._attempt: Client | None = None
        self._connected = False
        self._is_stopping = False
        self._up = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._subscriptions: list[_Subscription] = []
        self._subscribing = asyncio.Lock()
        self._denials: list[str] = []
        self._last_error: Exception | None = None
        self._lost_callbacks: list[Callable[[], None]] = []
        self._back_callbacks: list[Callable[[], None]] = []
        self._denied_callbacks: list[Callable[[str], None]] = []
        self._log = log.bind(fabric=name)

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense right now."""
        return self._connected

    @property
    def last_error(self) -> Exception | None:
        """Why the last attempt to connect failed or the last connection broke."""
        return self._last_error

    @property
    def connection(self) -> Client | None:
        """The nats-py client of the present connection, for consumers of streams."""
        return self._nc if self._connected else None

    def new_inbox(self) -> str:
        """Return a subject that only we may hear, and nobody can guess."""
        return f"{self._inbox}.{secrets.token_hex(16)}"

    async def start(self, *, timeout_s: float | None = None) -> None:
        """Connect, and keep connected until `stop`; see `Fabric.start`."""
        # Files that cannot be read now will not be readable in a second either.
        client_context(self._credentials)
        self._is_stopping = False
        self._runner = asyncio.create_task(self._run(), name=f"fabric {self.name}")
        try:
            await asyncio.wait_for(self._up.wait(), timeout_s)
        except TimeoutError:
            await self.stop()
            servers = ", ".join(self._urls)
            raise FabricUnavailable(f"no NATS server at {servers}: {self._last_error!r}") from None

    async def stop(self) -> None:
        """Handle what has arrived, flush what was published, and close."""
        if self._connected:
            # A frozen broker may keep what it has; sessions do not rely on it.
            with contextlib.suppress(FabricUnavailable, TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await asyncio.gather(*(s.drain() for s in tuple(self._subscriptions)))
                    await self.barrier()
        self._connected = False
        # A cancellation alone may get lost within nats-py: Python 3.11's wait_for drops one that
        # comes with the result.
        self._is_stopping = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._nc is not None:
            self._abandon(self._nc)
            self._nc = None
        if self._closing:
            await asyncio.wait(self._closing)

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> bool:
        """Send and forget; see `Fabric.publish`. What answers goes to ``reply``."""
        nc = self._nc
        if nc is None or not self._connected or nc.pending_data_size > MAX_PENDING_BYTES:
            self.unsent += 1
            return False
        # nats-py's coroutine never waits with pending_size=0: one step runs all of it.
        step = nc.publish(subject, payload, reply, headers)
        try:
            step.send(None)
        except StopIteration:
            self.published += 1
            return True
        except nats.errors.Error as error:
            self.unsent += 1
            self._log.warning("publish_failed", subject=subject, error=repr(error))
            return False
        step.close()
        self.unsent += 1
        return False

    def respond(self, request: Received, payload: bytes) -> bool:
        """Answer a request; like `publish`. To an inbox only: a request may name any subject."""
        return request.reply.startswith(INBOX) and self.publish(request.reply, payload)

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait for the first answer; see `Fabric.request`."""
        nc = self._nc
        if nc is None or not self._connected:
            raise FabricUnavailable("not connected to the broker")
        denials = len(self._denials)
        try:
            answer = await nc.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError:
            raise FabricUnavailable(f"nobody listens on {subject}") from None
        except NATS_ERRORS as error:
            if denied := self._denied_since(denials, "publish", subject):
                raise PermissionDenied(denied) from None
            raise FabricUnavailable(f"no answer on {subject} in {timeout_s} s: {error!r}") from None
        return answer.data

    async def subscribe(
        self, subject: str, handler: Handler, *, group: str = ""
    ) -> "_Subscription":
        """Get what is published on a subject; see `Fabric.subscribe`."""
        subscription = _Subscription(self._forget, subject, handler, group)
        self._subscriptions.append(subscription)
        nc = self._nc
        if nc is None or not self._connected:
            return subscription
        async with self._subscribing:
            denials = len(self._denials)
            try:
                await subscription.make(nc)
                await _barrier(nc)
            except NATS_ERRORS:
                # The connection broke meanwhile; the next one makes it.
                return subscription
            denied = self._denied_since(denials, "subscription", subject)
        if denied:
            await subscription.close()
            raise PermissionDenied(denied)
        return subscription

    async def barrier(self) -> None:
        """Return when the broker has processed all of the above; see `Fabric.barrier`."""
        nc = self._nc
        if nc is None or not self._connected:
            raise FabricUnavailable("not connected to the broker")
        try:
            await _barrier(nc)
        except NATS_ERRORS as error:
            raise FabricUnavailable(f"the broker did not answer: {error!r}") from None

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this whenever the connection breaks (not at `stop`)."""
        self._lost_callbacks.append(callback)

    def on_back(self, callback: Callable[[], None]) -> None:
        """Call this whenever a connection stands, the first too, with all subscriptions made."""
        self._back_callbacks.append(callback)

    def on_denied(self, callback: Callable[[str], None]) -> None:
        """Call this with the broker's words when it refused something; it is logged anyway."""
        self._denied_callbacks.append(callback)

    # --- the connection ---------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, wait for the end of the connection, and again."""
        failures = 0
        for url in cycle(self._urls):
            try:
                nc = await self._connect(url)
            except (*NATS_ERRORS, CommandError) as error:
                if not isinstance(error, nats.errors.NoServersError):
                    # That one only hides the reason, which came to `_on_error`.
                    self._last_error = error
                self._log.warning("fabric_unreachable", url=url, error=repr(self._last_error))
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                if self._is_stopping:
                    return
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                continue
            if self._is_stopping:
                return
            failures = 0
            self._log.info("fabric_connected", url=url)
            self._connected = True
            self._up.set()
            self._call(self._back_callbacks)
            # nats-py's callbacks come after its socket is closed, which a frozen server delays.
            while nc.is_connected:  # noqa: ASYNC110
                await asyncio.sleep(WATCH_S)
            self._connected, self._nc = False, None
            self._last_error = nc.last_error or self._last_error
            self._log.warning("fabric_lost", url=url, error=repr(nc.last_error))
            self._abandon(nc)
            self._call(self._lost_callbacks)
            await asyncio.sleep(random.uniform(0, BACKOFF_S[0]))  # noqa: S311  # jitter

    async def _connect(self, url: str) -> Client:
        """Make one connection with all subscriptions."""
        nc = self._attempt = Client()

        async def on_error(error: Exception) -> None:
            self._on_error(nc, error)

        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                await nc.connect(
                    url,
                    name=self.name,
                    tls=client_context(self._credentials),
                    tls_handshake_first=True,
                    allow_reconnect=False,
                    # Two is the least that nats-py understands as an end.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=PINGS_OUTSTANDING,
                    pending_size=0,
                    inbox_prefix=self._inbox,
                    error_cb=on_error,
                )
                self._nc = nc
                while missing := [s for s in self._subscriptions if not s.is_made_on(nc)]:
                    for subscription in missing:
                        await subscription.make(nc)
                    await _barrier(nc)
        except BaseException:
            self._nc = None
            self._abandon(nc)
            raise
        return nc

    def _abandon(self, nc: Client) -> None:
        """Close a connection without waiting for a server that may be frozen."""
        # What closing it may still complain about is not why it was lost.
        self._attempt = None
        task = asyncio.create_task(_close(nc))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _on_error(self, nc: Client, error: Exception) -> None:
        """Hear what nats-py has to say; must never raise, or its read loop ends silently."""
        try:
            text = str(error)
            if nc is self._attempt:
                self._last_error = error
            if "permissions violation" in text.lower():
                self._denials.append(text.lower())
                self._log.error("fabric_denied", error=text)
                self._call(self._denied_callbacks, text)
            elif isinstance(error, nats.errors.SlowConsumerError):
                self._log.error("fabric_message_dropped", subject=error.subject)
            else:
                self._log.debug("fabric_error", error=repr(error))
        except Exception:  # noqa: BLE001  # see above
            self._log.exception("fabric_error_unhandled")

    def _denied_since(self, count: int, action: str, subject: str) -> str:
        """Find a denial heard since; nats-py lowers the case of the broker's words."""
        wanted = f'for {action} to "{subject.lower()}"'
        return next((text for text in self._denials[count:] if wanted in text), "")

    def _call(self, callbacks: list[Callable[..., None]], *args: Any) -> None:  # noqa: ANN401
        for callback in callbacks:
            try:
                callback(*args)
            except Exception:  # noqa: BLE001  # one listener must not take the connection down
                self._log.exception("fabric_callback_failed", callback=repr(callback))

    def _forget(self, subscription: "_Subscription") -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


class _Subscription:
    """One subscription over any number of connections."""

    def __init__(
        self, forget: "Callable[[_Subscription], None]", subject: str, handler: Handler, group: str
    ) -> None:
        self._forget = forget
        self._subject = subject
        self._handler = handler
        self._group = group
        self._made: tuple[Client, NatsSubscription] | None = None

    def is_made_on(self, nc: Client) -> bool:
        """Whether this connection has it."""
        return self._made is not None and self._made[0] is nc

    async def make(self, nc: Client) -> None:
        """Subscribe on a connection."""
        sub = await nc.subscribe(self._subject, queue=self._group, cb=self._on_message)
        self._made = nc, sub

    async def drain(self) -> None:
        """Stop getting messages; return when every one that the broker sent us has been handled."""
        self._forget(self)
        if self._made is None:
            return
        nc, sub = self._made
        if nc.is_connected:
            with contextlib.suppress(*NATS_ERRORS):
                # Not nats-py's drain: its PING overtakes its UNSUB, and what comes between is lost.
                await nc._send_unsubscribe(sub._id)  # noqa: SLF001
                await _barrier(nc)
                await sub._pending_queue.join()  # noqa: SLF001
        await self.close()

    async def close(self) -> None:
        """Stop at once; what has not been handled is dropped."""
        self._forget(self)
        made, self._made = self._made, None
        if made is not None:
            with contextlib.suppress(*NATS_ERRORS):
                await made[1].unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        try:
            result = self._handler(Received(message.subject, message.data, message.reply))
            if inspect.isawaitable(result):
                await result
        except Exception:  # the next message is not to blame
            log.exception("fabric_handler_failed", subject=message.subject)


async def _barrier(nc: Client) -> None:
    # PING is written at once, PUB and SUB wait for the flusher task: let it run first. If that is
    # held up, the first answer shows that it is free again, and the second is the barrier.
    await asyncio.sleep(0)
    held_up = nc.pending_data_size > 0
    await nc.flush(timeout=BARRIER_TIMEOUT_S)
    if held_up:
        await nc.flush(timeout=BARRIER_TIMEOUT_S)


async def _close(nc: Client) -> None:
    """Close what may be half open or frozen."""
    closing: Coroutine[Any, Any, None] = nc.close()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(closing, CLOSE_TIMEOUT_S)
    # A peer that does not answer the TLS goodbye would hold the socket for half a minute.
    stream = nc._transport  # noqa: SLF001
    for name in ("_io_writer", "_bare_io_writer"):
        if (writer := getattr(stream, name, None)) is not None:
            writer.transport.abort()
    await asyncio.sleep(0)
