"""``ln.key.ecdh``: the one step of a BOLT 8 handshake that needs the node key.

Fronts are keyless. They send the transcript, never a key of their choice; the signer checks the MAC
in it and answers the full HKDF output to the asking front's inbox. The work is done by one thread
of its own with a cap per front, so that garbage from the internet cannot eat the time of channels.
"""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from shared.errors import FabricError, HandshakeFailed
from shared.fabric import subjects
from shared.fabric.requests import EcdhInitiator, EcdhReply, EcdhResponder, read_ecdh_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from back.signer.signer import Signer
    from shared.fabric.interface import Fabric, Received

__all__ = ["Dials", "HandshakeService"]

log = structlog.get_logger()

MAX_WAITING_PER_FRONT = 256
"""Requests of one front that may wait; more are refused at once and the peer comes back later."""
MAX_WAITING = 2_048
"""Of all fronts together: a stolen one may call itself by many names."""


class Dials(Protocol):
    """Which dials this back has ordered."""

    def is_ours(self, dial_id: bytes, node_id: bytes) -> bool:
        """Whether we ordered this dial to this peer and it has not ended."""


@dataclass(slots=True)
class HandshakeService:
    """Answers fronts' requests; one thread."""

    fabric: "Fabric"
    signer: "Signer"
    dials: Dials
    is_active: bool = False
    """Dials are ordered by this back. A standby knows of none, and is silent about them."""
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    _waiting: Counter[str] = field(default_factory=Counter)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="ecdh")
    )

    async def start(self) -> None:
        """Join the queue group of all backs, active or standby."""
        await self.fabric.subscribe(subjects.ECDH, self._requested, group=subjects.ECDH_GROUP)

    def stop(self) -> None:
        """Answer nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _requested(self, received: "Received") -> None:
        try:
            request = read_ecdh_request(received.payload)
        except FabricError as error:
            self._refuse(received, "malformed", str(error))
            return
        if self._is_busy(request.front):
            self._refuse(received, "busy", "too many handshakes of this front")
            return
        if isinstance(request, EcdhResponder):
            work = self._responder(request.act_one)
        elif self.dials.is_ours(request.dial_id, request.node_id):
            work = self._initiator(request)
        else:
            if self.is_active:
                self._refuse(received, "dial", "this dial was not ordered")
            # From a standby no answer: the front asks again, and the one that ordered it answers.
            return
        self._waiting[request.front] += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(lambda done: self._answered(received, request.front, done))

    def _is_busy(self, front: str) -> bool:
        return (
            self._waiting.get(front, 0) >= MAX_WAITING_PER_FRONT
            or self._waiting.total() >= MAX_WAITING
        )

    def _responder(self, act_one: bytes) -> "Callable[[], EcdhReply]":
        def work() -> EcdhReply:
            answer = self.signer.answer_responder(act_one)
            return EcdhReply(ck=answer.ck, temp_k=answer.temp_k)

        return work

    def _initiator(self, request: EcdhInitiator) -> "Callable[[], EcdhReply]":
        def work() -> EcdhReply:
            answer = self.signer.answer_initiator(
                request.node_id, request.ephemeral, request.act_two
            )
            return EcdhReply(ck=answer.ck, temp_k=answer.temp_k)

        return work

    def _answered(
        self, received: "Received", front: str, done: "asyncio.Future[EcdhReply]"
    ) -> None:
        self._waiting[front] -= 1
        if not self._waiting[front]:
            del self._waiting[front]
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, HandshakeFailed):
            self._refuse(received, "handshake", str(error))
        elif error is not None:
            log.error("ecdh_failed", error=str(error))
            self._refuse(received, "internal", "internal error")
        else:
            self.answered += 1
            self.fabric.respond(received, done.result().to_bytes())

    def _refuse(self, received: "Received", kind: str, why: str) -> None:
        self.refused[kind] += 1
        self.fabric.respond(received, EcdhReply(refused=why[:200]).to_bytes())
