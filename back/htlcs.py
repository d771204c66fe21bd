"""What channels tell of HTLCs, and whom it concerns: a payment to us, one of ours, a forward."""

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import structlog

from back.channel.effects import (
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    OfferRefused,
)
from back.payment import sending
from back.payment.decision import Malformed, settlement, unreadable
from back.relay import downstream
from back.relay.onion import Final, Forward, forwarded_before, interpret
from shared.crypto.failures import INVALID_ONION_BLINDING
from shared.errors import InvalidOnion

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.channels import PaymentEffect
    from back.payment.receiver import Receiver
    from back.payment.sender import Sender
    from back.relay.service import Relay
    from back.runner import ChannelRunner
    from back.signer.signer import Signer
    from back.storage.statements import Write

__all__ = ["Htlcs"]

log = structlog.get_logger()

TURN_S = 0.005
"""Onions are opened for so long without letting the loop go on: a peer may add 483 at once."""


class Htlcs:
    """The channels' sink of facts about HTLCs.

    A received HTLC's onion is opened here; who offered another one is told by its origin.

    Args:
        signer: opens onions.
        receiver: takes payments to us.
        sender: hears of what it offered.
        relay: forwards, and hears of what it offered.
    """

    def __init__(
        self, signer: "Signer", receiver: "Receiver", sender: "Sender", relay: "Relay"
    ) -> None:
        self._signer = signer
        self._receiver = receiver
        self._sender = sender
        self._relay = relay
        self._waiting: deque[tuple[ChannelRunner, HtlcReceived]] = deque()
        self._is_opening = False

    # --- rows of a fact ---------------------------------------------------------------------------

    def writes(self, channel: "Channel", effect: "PaymentEffect") -> "list[Write]":
        """Rows of a fact, for the commit of the step that holds it."""
        owner = self._owner(effect)
        if owner is None:
            return []
        match effect:
            case HtlcOffered():
                return owner.offered(channel, effect)
            case HtlcFulfilled():
                return owner.fulfilled(effect)
            case HtlcFailed():
                return owner.failed(effect)
        return []

    def _owner(self, effect: "PaymentEffect") -> "Sender | Relay | None":
        """Whose HTLC an effect is about; None: a received one, or of nobody that we know."""
        if isinstance(effect, HtlcReceived):
            return None
        origin = effect.origin if isinstance(effect, OfferRefused) else effect.htlc.origin
        kind = (origin or "").partition(":")[0]
        if kind == sending.ORIGIN:
            return self._sender
        if kind == downstream.ORIGIN:
            return self._relay
        log.error("htlc_of_unknown_origin", effect=type(effect).__name__)
        return None

    # --- after the commit -------------------------------------------------------------------------

    def perform(self, runner: "ChannelRunner", effect: "PaymentEffect") -> None:
        """The fact is durable: act on it. Never blocks, never raises."""
        try:
            self._perform(runner, effect)
        except Exception:
            # A bug of ours must not stop the channel; the HTLC is decided at the next start.
            log.exception("payment_fact_not_handled", effect=type(effect).__name__)

    def _perform(self, runner: "ChannelRunner", effect: "PaymentEffect") -> None:
        if isinstance(effect, HtlcReceived):
            self._waiting.append((runner, effect))
            if not self._is_opening:
                self._is_opening = True
                asyncio.get_running_loop().call_soon(self._open)
            return
        owner = self._owner(effect)
        if owner is None:
            return
        match effect:
            case HtlcOffered():
                owner.was_offered(effect)
            case OfferRefused():
                owner.was_refused(effect)
            case HtlcFulfilled():
                owner.was_fulfilled(effect)
            case HtlcFailed():
                owner.was_failed(effect)

    def _open(self) -> None:
        """Take received HTLCs in the order in which they came, some at a time."""
        ends = time.perf_counter() + TURN_S
        while self._waiting:
            runner, effect = self._waiting.popleft()
            try:
                self._received(runner, effect)
            except Exception:
                log.exception("payment_fact_not_handled", effect=type(effect).__name__)
            if time.perf_counter() >= ends:
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._open)
        else:
            self._is_opening = False

    def _received(self, runner: "ChannelRunner", effect: HtlcReceived) -> None:
        htlc = effect.htlc
        try:
            peeled = self._signer.peel_onion(
                htlc.onion_routing_packet, htlc.payment_hash, htlc.path_key
            )
        except InvalidOnion as error:
            log.debug("onion_refused", channel=runner.channel.channel_id.hex(), why=str(error))
            decision = unreadable(error)
            if htlc.path_key is not None:
                decision = Malformed(INVALID_ONION_BLINDING)
            runner.post(settlement(htlc, decision, error.shared_secret or b""))
            return
        asked = interpret(htlc, peeled, self._signer.open_recipient_data)
        if not isinstance(asked, Forward) and self._relay.is_paired(runner.channel, htlc):
            # A former version read more into it. Its outgoing HTLC may be paid all the same.
            asked = forwarded_before(htlc, peeled)
        match asked:
            case Final():
                self._receiver.received(runner, asked, exceeds_dust=effect.exceeds_dust_exposure)
            case Forward():
                self._relay.received(runner, asked, exceeds_dust=effect.exceeds_dust_exposure)
            case decision:
                runner.post(settlement(htlc, decision, peeled.shared_secret))
