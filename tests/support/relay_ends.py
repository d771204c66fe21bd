"""Peers on both sides of a relaying node: hand-built onions go in, and come out again.

Each peer's honest side runs in a task of its own, comes back whenever its connection ends, and
claims what it knows the preimage of::

    async with relay_ends(node, bitcoind) as (payer, payee):
        sent = await payer.send(payee, 1_000_000)
        assert (await payer.outcome(sent)).paid
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

from support.hostile import HostilePeer, Refused
from support.lightning_peer import LightningPeer, PeerClosed
from support.waiting import until

from back.chain.regtest import Regtest
from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcReceived, OfferRefused
from back.channel.events import (
    Connected,
    Disconnected,
    Event,
    FailHtlc,
    FulfillHtlc,
    OfferHtlc,
    Received,
)
from back.channel.model import Failed, Htlc, Link, Malformed
from back.demo.cluster import Cluster
from back.relay.terms import ChannelTerms
from shared.crypto import sphinx
from shared.crypto.failures import Failure, decode_failure, encode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.wire import Error, Message, Warning as WarningMessage, channel_token

__all__ = ["TERMS", "End", "Outcome", "Sent", "final_payload", "relay_ends"]

TERMS = ChannelTerms(
    fee_base_msat=1_000,
    fee_proportional_millionths=200,
    cltv_expiry_delta=144,
    htlc_minimum_msat=1,
    htlc_maximum_msat=1 << 60,
)
"""What a node takes unless it is told otherwise."""
FINAL_DELTA = 42
LOST = (PeerClosed, OSError, TimeoutError)
IDLE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Sent:
    """An HTLC that a payer offered.

    Attributes:
        preimage: that the payee knows, or nobody.
        amount_msat: that the payee is to get.
        fee_msat: on top of it.
        secrets: of the onion's hops.
    """

    origin: str
    payment_hash: bytes
    preimage: bytes = field(repr=False)
    amount_msat: int
    fee_msat: int
    secrets: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended for the payer.

    Attributes:
        paid: the preimage came.
        hop: who failed it, 0 is the node under test; None: unreadable, or it never went out.
        failure: what it said.
        malformed: code of an update_fail_malformed_htlc; 0: it was none.
    """

    paid: bool
    hop: int | None = None
    failure: Failure | None = None
    malformed: int = 0
    refused: str = ""

    @property
    def name(self) -> str:
        """Of the failure."""
        return self.failure.name if self.failure is not None else ""


def final_payload(amount_msat: int, cltv_expiry: int, **more: object) -> Payload:
    """What the last hop gets to see."""
    paid = PaymentData(payment_secret=bytes(32), total_msat=amount_msat)
    return Payload(
        amt_to_forward=amount_msat, outgoing_cltv_value=cltv_expiry, payment_data=paid, **more
    )


class End(HostilePeer):
    """A peer that acts by itself.

    Attributes:
        decide: what to do with an HTLC that is irrevocably committed; by default it is claimed if
            the preimage is known, else failed. None: leave it.
        outcomes: of HTLCs that it offered, by origin; an origin with two outcomes is a defect.
        received: HTLCs that came in, in order: the same hash twice is a defect.
        claimed_msat: of HTLCs that it claimed.
        complaints: warnings and errors of the node.
        front: that it connects to.
        on_outcome: called with each.
    """

    def __init__(self, node: Cluster, bitcoind: Regtest, name: str, **options: object) -> None:
        super().__init__(node, bitcoind, name, **options)  # type: ignore[arg-type]
        self.decide: Callable[[Htlc], Event | None] = self.claim_or_fail
        self.outcomes: dict[str, Outcome] = {}
        self.received: list[Htlc] = []
        self.complaints: list[Message] = []
        self.front: str | None = None
        self.on_outcome: Callable[[Sent, Outcome], None] = lambda *_: None
        self.is_paused = False
        self._sent: dict[str, Sent] = {}
        self._orders: list[Event] = []
        self._heard: list[Message] = []
        self._wake = asyncio.Event()
        self._living: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Act by itself from now on, on the connection that is there or on a new one."""
        self._living = asyncio.create_task(self._live(), name=self.name)

    async def halt(self) -> None:
        """Stop acting; raises what went wrong."""
        if self._living is not None:
            self._living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._living
        await self.close()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._living is not None and self._living.done():
            self._living.result()

    def post(self, event: Event) -> None:
        """Have something done, as soon as the channel is online."""
        self._orders.append(event)
        self._wake.set()

    async def stay_away(self) -> None:
        """Disconnect, and stay away until `come_back`."""
        self.is_paused = True
        if self.wire is not None:
            self.wire.abort()
        await until(lambda: self.core.channel.link is not Link.ONLINE, f"{self.name} is gone")

    async def come_back(self) -> None:
        """Connect again."""
        self.is_paused = False
        await self.is_online()

    async def is_online(self, within_s: float = 30.0) -> None:
        """Wait until the channel is reestablished."""
        await self._until(
            lambda: self.core.channel.link is Link.ONLINE, f"{self.name} online", within_s
        )

    async def _until(self, probe: Callable[[], object], what: str, within_s: float) -> None:
        def checked() -> object:
            self.check()
            return probe()

        await until(checked, what, within_s)

    async def _live(self) -> None:
        while True:
            wire = self.wire
            if wire is None:
                if self.is_paused:
                    await asyncio.sleep(0.02)
                    continue
                try:
                    wire = await self.connect(
                        self.front if self.front in self.node.fronts else None
                    )
                except (*LOST, RuntimeError):  # no front is there
                    self.wire = None
                    await asyncio.sleep(0.05)
                    continue
                self._heard.clear()
                opening: tuple[Event, ...] = (Connected(self.negotiated),)
            else:
                opening = ()
            with contextlib.suppress(*LOST):
                await self._use(wire, opening)
            wire.abort()
            self.wire = None
            self._act(Disconnected())

    async def _use(self, wire: LightningPeer, opening: Sequence[Event]) -> None:
        reading = asyncio.create_task(self._read(wire))
        try:
            if opening:
                await self._say(wire, self._act(*opening))
            while True:
                await self._wake.wait()
                self._wake.clear()
                heard, self._heard = self._heard, []
                events: list[Event] = [Received(message) for message in heard]
                if self.core.channel.link is Link.ONLINE:
                    events += self._orders
                    self._orders = []
                if events:
                    await self._say(wire, self._act(*events))
                if reading.done():
                    reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _say(self, wire: LightningPeer, messages: Sequence[Message]) -> None:
        if messages:
            await wire.send(*messages)

    async def _read(self, wire: LightningPeer) -> None:
        try:
            while True:
                message = await wire.receive(IDLE_S)
                wire.seen.clear()
                if isinstance(message, Error | WarningMessage):
                    self.complaints.append(message)
                    if isinstance(message, Error):
                        raise Refused(message)
                elif channel_token(message) == self.channel_id.hex():
                    self._heard.append(message)
                    self._wake.set()
        finally:
            self._wake.set()

    # --- what comes of it -------------------------------------------------------------------------

    def _act(self, *events: Event) -> list[Message]:
        messages = self.core.do(*events)
        for effect in self.core.effects:
            if isinstance(effect, HtlcReceived):
                self._received(effect.htlc)
            elif isinstance(effect, HtlcFulfilled):
                self._ended(effect.htlc.origin, Outcome(paid=True))
            elif isinstance(effect, HtlcFailed):
                self._ended(effect.htlc.origin, self._failed(effect.htlc))
            elif isinstance(effect, OfferRefused):
                self._ended(effect.origin, Outcome(paid=False, refused=effect.reason or "refused"))
        self.core.effects.clear()
        if self._orders and self.core.channel.link is Link.ONLINE:
            self._wake.set()
        return messages

    def _received(self, htlc: Htlc) -> None:
        self.received.append(htlc)
        event = self.decide(htlc)
        if event is not None:
            self.post(event)

    def claim_or_fail(self, htlc: Htlc) -> Event:
        """Claim an HTLC if the preimage is known; else fail it."""
        preimage = self.preimages.get(htlc.payment_hash)
        return self.failing(htlc) if preimage is None else FulfillHtlc(htlc.id, preimage)

    def failing(self, htlc: Htlc, name: str = "incorrect_or_unknown_payment_details") -> FailHtlc:
        """Fail an HTLC as its last hop."""
        peeled = sphinx.peel(self.private, htlc.onion_routing_packet, htlc.payment_hash)
        values = {"htlc_msat": htlc.amount_msat, "height": 100} if name.startswith("incorr") else {}
        message = encode_failure(name, **values)
        return FailHtlc(htlc.id, sphinx.create_error(peeled.shared_secret, message))

    def _failed(self, htlc: Htlc) -> Outcome:
        sent = self._sent.get(htlc.origin or "")
        match htlc.resolution:
            case Malformed(failure_code=code):
                return Outcome(paid=False, malformed=code)
            case Failed(reason=reason) if sent is not None:
                error = sphinx.unwrap_error(sent.secrets, reason)
                if error is not None:
                    return Outcome(False, error.hop, decode_failure(error.message))
        return Outcome(paid=False)

    def _ended(self, origin: str | None, outcome: Outcome) -> None:
        assert origin is not None
        before = self.outcomes.get(origin)
        assert before in {None, outcome}, f"{origin} ended twice: {before}, then {outcome}"
        self.outcomes[origin] = outcome
        if before is None:
            self.on_outcome(self._sent[origin], outcome)

    @property
    def pending(self) -> list[str]:
        """Origins of what it offered and has no outcome."""
        return [origin for origin in self._sent if origin not in self.outcomes]

    def forget(self, sent: Sent) -> None:
        """Forget an HTLC that has ended: a load offers them without end."""
        self._sent.pop(sent.origin, None)
        self.outcomes.pop(sent.origin, None)

    # --- paying -----------------------------------------------------------------------------------

    def scid_of(self) -> int:
        """The real short channel id of its channel."""
        funding = self.core.channel.funding
        assert funding is not None
        assert funding.short_channel_id is not None
        return funding.short_channel_id

    def alias_of(self) -> int:
        """What the node under test calls the channel (its alias in channel_ready)."""
        alias = self.core.channel.remote_alias
        assert alias is not None
        return alias

    def send(
        self,
        payee: "End",
        amount_msat: int,
        *,
        height: int,
        scid: int | None = None,
        terms: ChannelTerms = TERMS,
        fee_msat: int | None = None,
        final_delta: int = FINAL_DELTA,
        delta: int | None = None,
        payload: Payload | None = None,
        preimage: bytes | None = None,
        is_known: bool = True,
    ) -> Sent:
        """Offer an HTLC to the node under test, to be forwarded to ``payee``.

        Args:
            payee: who gets it.
            amount_msat: that it gets.
            height: of the chain.
            scid: of the outgoing channel; by default the real one of the payee's.
            terms: of the node.
            fee_msat: instead of what the terms say.
            final_delta: blocks from now until the outgoing HTLC expires.
            delta: instead of the terms'.
            payload: for the node, instead of the right one.
            preimage: instead of a random one.
            is_known: the payee knows the preimage; otherwise it fails the HTLC.
        """
        preimage = preimage or secrets.token_bytes(32)
        payment_hash = sha256(preimage).digest()
        if is_known:
            payee.preimages[payment_hash] = preimage
        expiry = height + final_delta
        fee = terms.fee_msat(amount_msat) if fee_msat is None else fee_msat
        mine = payload or Payload(
            amt_to_forward=amount_msat,
            outgoing_cltv_value=expiry,
            short_channel_id=payee.scid_of() if scid is None else scid,
        )
        hops = [
            sphinx.Hop(bytes.fromhex(self.node.node_id), encode_payload(mine)),
            sphinx.Hop(payee.node_id, encode_payload(final_payload(amount_msat, expiry))),
        ]
        onion = sphinx.build(secrets.token_bytes(32), hops, payment_hash)
        sent = Sent(
            secrets.token_hex(8), payment_hash, preimage, amount_msat, fee, onion.shared_secrets
        )
        self._sent[sent.origin] = sent
        first_expiry = expiry + (terms.cltv_expiry_delta if delta is None else delta)
        self.post(
            OfferHtlc(amount_msat + fee, payment_hash, first_expiry, onion.packet, sent.origin)
        )
        return sent

    async def outcome(self, sent: Sent, within_s: float = 20.0) -> Outcome:
        """Wait for the end of an HTLC."""
        ended = f"the end of {sent.origin}"
        await self._until(lambda: sent.origin in self.outcomes, ended, within_s)
        return self.outcomes[sent.origin]

    async def all_ended(self, within_s: float = 60.0) -> None:
        """Wait until everything that it offered has ended and nothing is pending in its channel."""
        await self._until(
            lambda: not self.pending and self.core.is_quiet, f"{self.name} is quiet", within_s
        )


@asynccontextmanager
async def relay_ends(
    node: Cluster, bitcoind: Regtest, names: Sequence[str] = ("payer", "payee"), **opening: object
) -> AsyncIterator[list[End]]:
    """Run peers with a channel each to the node; ``opening`` as of HostilePeer.propose."""
    async with AsyncExitStack() as stack:
        ends = []
        for name in names:
            end = End(node, bitcoind, name)
            await end.connect()
            await end.open_channel(**opening)
            end.core.effects.clear()
            end.begin()
            stack.push_async_callback(end.halt)
            ends.append(end)
        yield ends
