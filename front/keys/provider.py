"""What a stream asks for when a handshake needs the node key."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from front.transport.connection import KeyRequest
    from shared.crypto.noise import KeyAnswer

__all__ = ["KeyProvider"]


class KeyProvider(Protocol):
    """Computes the one step of a BOLT 8 handshake that needs the node key."""

    async def answer(self, request: "KeyRequest") -> "KeyAnswer":
        """Return the outputs of the step.

        Raises:
            HandshakeFailed: the peer's act is not what it must be.
            BackendError: nobody could compute it just now.
        """

    def for_dial(self, dial_id: bytes) -> "KeyProvider":
        """Return a provider for one outbound connection that the back ordered."""
