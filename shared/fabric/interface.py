"""What the processes need from the fabric: provided by nats-py (`client`) or by memory (tests)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["Fabric", "Handler", "Received", "Subscription"]


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it arrived.

    Attributes:
        subject: concrete subject it was published on.
        payload: its bytes.
        reply: where an answer goes, ``""`` when none is wanted.
    """

    subject: str
    payload: bytes
    reply: str = ""


Handler: TypeAlias = Callable[[Received], Awaitable[None] | None]
"""A plain function is called in place, in order, and must be quick; a coroutine function is awaited
before the next message of the subscription. An exception is logged and the next one follows."""


class Subscription(Protocol):
    """A subscription that survives reconnects until it is closed."""

    async def drain(self) -> None:
        """Stop getting messages; return when every one that the broker sent us has been handled."""

    async def close(self) -> None:
        """Stop at once; what has not been handled is dropped."""


class Fabric(Protocol):
    """One connection to the broker, kept up for ever.

    Nothing here is guaranteed to arrive: sessions number, acknowledge and resend.
    """

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense right now."""

    async def start(self, *, timeout_s: float | None = None) -> None:
        """Connect, and keep connected until `stop`.

        Args:
            timeout_s: give up after this long; None waits for ever (the processes outlive their
                broker).

        Raises:
            FabricUnavailable: not connected in time; says the last reason.
        """

    async def stop(self) -> None:
        """Handle what has arrived, flush what was published, and close."""

    def publish(self, subject: str, payload: bytes) -> bool:
        """Send and forget; cheap. False when there is no connection: then it is lost."""

    def respond(self, request: Received, payload: bytes) -> bool:
        """Answer a request; like `publish`."""

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait for the first answer.

        Raises:
            FabricUnavailable: no connection, nobody listens there, or no answer in time.
        """

    async def subscribe(self, subject: str, handler: Handler, *, group: str = "") -> Subscription:
        """Get what is published on a subject; in a queue group each message goes to one member.

        The broker knows of it when this returns. While there is no connection it is made at the
        next one.

        Raises:
            PermissionDenied: the broker refuses it to our role.
        """

    async def barrier(self) -> None:
        """Return when the broker has processed everything published and subscribed so far.

        Raises:
            FabricUnavailable: no connection, or it broke meanwhile.
        """

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call this whenever the connection breaks (not at `stop`)."""

    def on_back(self, callback: Callable[[], None]) -> None:
        """Call this whenever a connection stands, the first too, with all subscriptions made."""

    def on_denied(self, callback: Callable[[str], None]) -> None:
        """Call this with the broker's words when it refused something; it is logged anyway."""
