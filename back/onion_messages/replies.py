"""Answers that we wait for: each comes by a path of its own, which only we can have made. Pure.

Such a path carries as ``path_id`` a random word that only its maker and its last node know: both
are we. Nothing of it is stored: after a restart nobody waits for the answer.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.crypto.onion_message import Delivered

__all__ = ["PATH_ID_BYTES", "Replies"]

PATH_ID_BYTES = 32
MAX_WAITING = 10_000
"""The oldest is forgotten first."""


class Replies:
    """Who waits for which answer."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, Callable[[Delivered], None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, path_id: bytes, heard: "Callable[[Delivered], None]") -> None:
        """Wait for one answer.

        Args:
            path_id: random, of the reply path.
            heard: called with the answer, once.
        """
        while len(self._waiting) >= MAX_WAITING:
            self._waiting.popitem(last=False)
        self._waiting[path_id] = heard

    def forget(self, path_id: bytes) -> None:
        """Wait no longer."""
        self._waiting.pop(path_id, None)

    def take(self, path_id: bytes | None) -> "Callable[[Delivered], None] | None":
        """Return who waits for a message of this path_id, who waits no longer then."""
        return None if path_id is None else self._waiting.pop(path_id, None)
