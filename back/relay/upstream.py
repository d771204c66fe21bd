"""The owner of the incoming channel: offers what came in, and settles it with the outcome.

In memory only: what was asked for is asked again after a restart, for the channel tells every
undecided HTLC again, and downstream knows what it has taken.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import structlog

from back.channel.events import FailHtlc, FailMalformedHtlc, FulfillHtlc
from back.channel.model import Failed, Fulfilled, Malformed, Phase, Resolution
from back.payment.decision import Fail, settlement
from back.relay.handoff import ForwardId, Noted, Offer, Outcome, Refused, Taken
from back.relay.onion import Place
from shared.crypto.failures import encode_failure
from shared.crypto.sphinx import create_error, wrap_error
from shared.errors import CommandError

if TYPE_CHECKING:
    import asyncio

    from back.channel.model import Channel
    from back.relay.handoff import Carrier, ToUpstream
    from back.relay.onion import Forward
    from back.runner import ChannelRunner

__all__ = ["REPEAT_S", "Upstream"]

log = structlog.get_logger()

REPEAT_S = 1.0
"""After so long without an answer an offer is made again."""
FORWARDING = (Phase.NORMAL, Phase.SHUTDOWN)
"""Phases of an incoming channel whose HTLCs may still be forwarded."""

Settlement: TypeAlias = FulfillHtlc | FailHtlc | FailMalformedHtlc


@dataclass(slots=True, eq=False)
class _Asked:
    """An HTLC that was offered downstream.

    Attributes:
        is_taken: the outgoing add is durable.
        is_ending: its end was posted to the channel.
    """

    runner: "ChannelRunner"
    forward: "Forward"
    offer: Offer
    said_at: float
    is_taken: bool = False
    is_ending: bool = False


@dataclass(slots=True)
class Upstream:
    """The incoming side of every forward of our shards.

    Attributes:
        carrier: brings offers to the other side.
        told: called with each end, ``fulfilled``, ``failed`` or ``refused``, for metrics.
        find: gives an incoming channel by its key index.
    """

    carrier: "Carrier"
    told: Callable[[str], None]
    find: "Callable[[int], ChannelRunner | None]"
    monotonic: Callable[[], float] = time.monotonic
    _asked: dict[ForwardId, _Asked] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Incoming HTLCs that wait for an outcome."""
        return len(self._asked)

    def received(self, runner: "ChannelRunner", forward: "Forward", offer: Offer) -> None:
        """Offer an irrevocably committed HTLC; told again, it changes nothing."""
        if offer.id in self._asked:
            return
        if runner.channel.phase not in FORWARDING:
            # The peer may be about to take it on chain; but downstream may have it already.
            offer = offer.model_copy(update={"may_begin": False})
        asked = self._asked[offer.id] = _Asked(runner, forward, offer, self.monotonic())
        self._say(asked)

    def _say(self, asked: _Asked) -> None:
        self.carrier.to_downstream(asked.offer, asked.offer.out_node_id)

    def repeat(self) -> None:
        """Make offers again that nobody has answered."""
        now = self.monotonic()
        for asked in list(self._asked.values()):
            is_open = not (asked.is_taken or asked.is_ending or asked.runner.is_stopped)
            if is_open and now - asked.said_at >= REPEAT_S:
                asked.said_at = now
                attempt = asked.offer.attempt + 1
                asked.offer = asked.offer.model_copy(update={"attempt": attempt})
                self._say(asked)

    def receive(self, message: "ToUpstream") -> None:
        """Take a message of the other side."""
        asked = self._asked.get(message.id)
        if asked is None:
            if isinstance(message, Outcome):
                self._unasked(message)
            return
        match message:
            case Taken():
                asked.is_taken = True
            case Refused():
                self._refused(asked, message)
            case Outcome():
                asked.is_taken = True
                self._ended(asked, message.resolution)

    def _unasked(self, message: Outcome) -> None:
        """Say that an outcome is durable, where it is; else the channel tells the HTLC first."""
        runner = self.find(message.key_index)
        if runner is not None:
            htlc = runner.channel.htlcs.get((False, message.htlc_id))
            if htlc is not None and htlc.resolution is None:
                return
        noted = Noted(key_index=message.key_index, htlc_id=message.htlc_id)
        self.carrier.to_downstream(noted, message.out_node_id)

    def _refused(self, asked: _Asked, message: Refused) -> None:
        if message.attempt != asked.offer.attempt:
            return
        if asked.is_taken:
            # Both cannot be true; what would cost money is to believe the later one.
            log.error("forward_refused_after_it_was_taken", id=str(asked.offer.id))
            return
        decision = asked.forward.refused(message.failure)
        event = settlement(asked.forward.htlc, decision, asked.forward.shared_secret)
        self._settle(asked, event, "refused")

    def _ended(self, asked: _Asked, resolution: Resolution | None) -> None:
        event = settled_by(asked.forward, resolution)
        self._settle(asked, event, "fulfilled" if isinstance(event, FulfillHtlc) else "failed")

    def _settle(self, asked: _Asked, event: Settlement, outcome: str) -> None:
        if asked.is_ending or asked.runner.is_stopped:
            # Stopped: the ledger knows what became of it, and the next start asks there.
            return
        asked.is_ending = True
        done = asked.runner.request(event)
        done.add_done_callback(partial(self._settled, asked, outcome))

    def _settled(self, asked: _Asked, outcome: str, done: "asyncio.Future[Channel]") -> None:
        if done.cancelled() or done.exception() is not None:
            why = "cancelled" if done.cancelled() else str(done.exception())
            # It is told again, by downstream or after the next start.
            log.warning("forward_not_settled", id=str(asked.offer.id), why=why)
            asked.is_ending = False
            return
        del self._asked[asked.offer.id]
        offer = asked.offer
        noted = Noted(key_index=offer.key_index, htlc_id=offer.htlc_id)
        self.carrier.to_downstream(noted, offer.out_node_id)
        self.told(outcome)


def settled_by(forward: "Forward", resolution: Resolution | None) -> Settlement:
    """Return how the incoming HTLC ends, by how the outgoing one did (BOLT 4 § Returning Errors).

    Raises:
        CommandError: never of what downstream says; of a resolution that is none.
    """
    htlc, secret = forward.htlc, forward.shared_secret
    match resolution:
        case Fulfilled(payment_preimage=preimage):
            return FulfillHtlc(htlc.id, preimage)
        case Failed(reason=reason) if forward.place is Place.OUTSIDE:
            return FailHtlc(htlc.id, wrap_error(secret, reason))
        case Malformed(sha256_of_onion=digest, failure_code=code):
            failure = code.to_bytes(2, "big") + digest
        case Failed() | None:
            failure = encode_failure("permanent_channel_failure")
        case _:
            raise CommandError(f"no resolution: {resolution}")
    decision = forward.refused(failure)
    if isinstance(decision, Fail):
        return FailHtlc(htlc.id, create_error(secret, decision.message))
    return settlement(htlc, decision, secret)
