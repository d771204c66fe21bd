"""The node key's part of a handshake, asked of a back over ``ln.key.ecdh``.

A front sends the transcript (act one, or whom it dialled and act two), never a chaining key of its
choice. Requests have short time-outs and retries: a queue group gives a frozen member its share.
"""

from front.transport.connection import KeyRequest
from shared.crypto.noise import KeyAnswer, ResponderRequest
from shared.errors import BackendError, FabricError, FabricUnavailable, HandshakeFailed
from shared.fabric import subjects
from shared.fabric.interface import Fabric
from shared.fabric.requests import EcdhInitiator, EcdhReply, EcdhResponder, read

__all__ = ["RemoteKey"]

TIMEOUT_S = 0.7
TRIES = 3


class RemoteKey:
    """Asks any back, active or standby.

    Args:
        fabric: the connection for requests.
        front: our name.
        dial_id: of the order, for an outbound connection.
    """

    def __init__(self, fabric: Fabric, front: str, dial_id: bytes | None = None) -> None:
        self._fabric = fabric
        self._front = front
        self._dial_id = dial_id

    def for_dial(self, dial_id: bytes) -> "RemoteKey":
        """Return a provider for one outbound connection; the back helps with those it ordered."""
        return RemoteKey(self._fabric, self._front, dial_id)

    async def answer(self, request: KeyRequest) -> KeyAnswer:
        """Ask; see `KeyProvider.answer`."""
        payload = self._payload(request)
        for attempt in range(TRIES):
            try:
                answer = await self._fabric.request(subjects.ECDH, payload, timeout_s=TIMEOUT_S)
            except FabricError:
                raise
            except BackendError:
                if attempt == TRIES - 1:
                    raise
            else:
                return _read(answer)
        raise FabricUnavailable("nobody was asked")

    def _payload(self, request: KeyRequest) -> bytes:
        if isinstance(request, ResponderRequest):
            return EcdhResponder(front=self._front, act_one=request.act_one).to_bytes()
        if self._dial_id is None:
            raise FabricError("an outbound connection that the back did not order")
        return EcdhInitiator(
            front=self._front,
            dial_id=self._dial_id,
            node_id=request.responder,
            ephemeral=request.ephemeral,
            act_two=request.act_two,
        ).to_bytes()


def _read(answer: bytes) -> KeyAnswer:
    reply = read(EcdhReply, answer)
    if reply.ck is None or reply.temp_k is None:
        raise HandshakeFailed(f"refused by the back: {reply.refused}", bolt="BOLT 8")
    return KeyAnswer(reply.ck, reply.temp_k)
