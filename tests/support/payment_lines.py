"""Nodes in a line, each with channels to the next: real stores, signers, channels, payments, relay.

The wires are in memory. Channels start open; their keys are those of :mod:`support.channels`, node
keys are real. HTLCs whose origin begins with ``test:`` belong to the test.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.channels import POLICY, Keys, opened, secret
from support.waiting import until

from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcReceived, OfferRefused
from back.channel.events import Connected, Disconnected, OfferHtlc, Received
from back.channel.model import Channel, Funding, Htlc, HtlcState, Link
from back.channels import Channels, PaymentEffect
from back.graph.paths.experience import Experience
from back.graph.paths.network import Network, Terms
from back.graph.paths.question import Question
from back.graph.paths.split import find_routes
from back.htlcs import Htlcs
from back.payment.invoices import InvoiceRequest
from back.payment.route import Lesson, Route, RouteRequest
from back.payment.sending import PaymentRequest, Sending
from back.payment.service import Payments
from back.peer import Peers
from back.relay.service import Relay
from back.relay.terms import ChannelTerms
from back.runner import ChannelRunner
from back.signer.signer import Signer
from back.storage.store import Store
from shared import bolt11
from shared.chain import REGTEST, Outpoint
from shared.crypto import sphinx
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.fabric import subjects
from shared.features import Feature, FeatureSet
from shared.wire import Message, decode, encode

__all__ = ["HEIGHT", "TERMS", "Line", "Node", "Wire", "held", "hold", "line_of_nodes"]

HEIGHT = 110
DEADLINE_S = 20.0
FEATURES = frozenset({Feature.option_route_blinding})
"""Negotiated on every connection."""
TERMS = ChannelTerms(
    fee_base_msat=1_000,
    fee_proportional_millionths=200,
    cltv_expiry_delta=40,
    htlc_minimum_msat=1,
    htlc_maximum_msat=990_000_000,
)


class _Signer:
    """The node's real signer, with the tests' channel keys."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._keys = {True: Keys("opener"), False: Keys("fundee")}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    def answer(self, channel: Channel, request: Any) -> Any:
        return self._keys[channel.parameters.is_opener].answer(request)


@dataclass(eq=False)
class Wire:
    """One end of a connection: a PeerSession as runners and peers use it.

    Attributes:
        held: from the first message of these kinds on, nothing arrives: it is on its way for ever.
        left: so many messages still arrive; None: all.
        sent: names of all that was sent.
    """

    owner: "Node"
    other: "Node"
    is_open: bool = True
    held: tuple[type[Message], ...] = ()
    left: int | None = None
    sent: list[str] = field(default_factory=list)
    front: str = "front-1"

    def send(self, message: Message) -> None:
        self.sent.append(message.NAME)
        if isinstance(message, self.held) or self.left == 0:
            self.is_open = False
        if self.left:
            self.left -= 1
        if self.is_open:
            self.other.receive(encode(message))

    def close(self, *_: object) -> None:
        for node, peer in ((self.owner, self.other), (self.other, self.owner)):
            node.left(peer)

    reset = close

    def has_channels_now(self) -> None:
        """Nothing to do on a wire without windows."""


class _Sink(Htlcs):
    """The node's sink, but for HTLCs of the test."""

    def __init__(self, told: Callable[[PaymentEffect], None], *parts: Any) -> None:
        super().__init__(*parts)
        self._told = told

    def writes(self, channel: Channel, effect: PaymentEffect) -> list[Any]:
        return [] if _is_of_test(effect) else super().writes(channel, effect)

    def perform(self, runner: ChannelRunner, effect: PaymentEffect) -> None:
        if _is_of_test(effect):
            self._told(effect)
        else:
            super().perform(runner, effect)


def _is_of_test(effect: PaymentEffect) -> bool:
    if isinstance(effect, HtlcReceived):
        return False
    origin = effect.origin if isinstance(effect, OfferRefused) else effect.htlc.origin
    return (origin or "").startswith("test:")


@dataclass(eq=False)
class Node:
    """One node.

    Attributes:
        place: in the line, from 0.
        terms: what it takes for forwarding.
        told_terms: what others believe that it takes.
        told: effects about HTLCs of the test.
        outcomes: of payments.
        relayed: of forwards.
    """

    place: int
    url: str
    terms: ChannelTerms = TERMS
    told_terms: ChannelTerms = TERMS
    store: Store = field(init=False)
    signer: Any = field(init=False)
    peers: Peers = field(init=False)
    channels: Channels = field(init=False)
    payments: Payments = field(init=False)
    relay: Relay = field(init=False)
    finder: "LineFinder | None" = None
    wires: dict[bytes, Wire] = field(default_factory=dict)
    told: list[PaymentEffect] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    relayed: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Open the database and what stands on it; channels as stored."""
        self.signer = _Signer(Signer(secret("line", self.place), REGTEST.coin_type))
        self.store = await Store.open(
            self.url,
            owner=f"node {self.place}",
            node_id=self.signer.node_id,
            policy=POLICY,
            chain="regtest",
            poll_s=0.02,
        )
        steward = SimpleNamespace(open_received=lambda *_: None, remember_address=lambda *_: None)
        self.peers = Peers(SimpleNamespace(connected=True), FeatureSet(), steward)  # type: ignore[arg-type]
        chain = SimpleNamespace(
            wallet=None,
            feerates=SimpleNamespace(commitment_per_kw=1_000),
            is_synced=True,
            publish=lambda *_: None,
            watch_confirmed=lambda *_: None,
            watch_spent=lambda *_: None,
            unwatch=lambda *_: None,
        )
        self.channels = Channels(
            self.signer,
            self.store.committer,
            self.store,
            chain,  # type: ignore[arg-type]
            self.peers,
            POLICY,
        )
        self.channels.height = HEIGHT
        self.payments = Payments(self.store, self.signer, self.channels, REGTEST)
        self.payments.on_outcome = lambda *told: self.outcomes.append(told)
        self.relay = Relay(self.store, self.channels, self.relayed.append)
        self.relay.market.accepted = lambda *_: (self.terms,)
        parts = (self.signer, self.payments.receiver, self.payments.sender, self.relay)
        self.channels.payments = _Sink(self.told.append, *parts)
        self.payments.sender.finder = self.finder
        await self.payments.start()
        await self.relay.start()
        await self.channels.restore()
        await self.relay.resume()

    async def stop(self) -> None:
        """Stop politely."""
        await self.relay.stop()
        await self.payments.stop()
        await self.channels.stop()
        await self.store.close()

    @property
    def node_id(self) -> bytes:
        return bytes(self.signer.node_id)

    def runners(self, other: "Node") -> list[ChannelRunner]:
        """The channels with another node, in the order in which they were opened."""
        found = self.peers.get(other.node_id).runners.values()
        return sorted(found, key=lambda runner: runner.channel.parameters.key_index)

    def runner(self, other: "Node", index: int = 0) -> ChannelRunner:
        """One of them."""
        return self.runners(other)[index]

    def channel(self, other: "Node", index: int = 0) -> Channel:
        """Its durable value."""
        return self.runner(other, index).channel

    def receive(self, encoded: bytes) -> None:
        """A message of another node, to its channel."""
        message = decode(encoded)
        runner = self.channels.runners[message.channel_id]  # type: ignore[union-attr]
        runner.post(Received(message))  # type: ignore[arg-type]

    def left(self, other: "Node") -> None:
        """A connection is over."""
        wire = self.wires.pop(other.node_id, None)
        if wire is None:
            return
        wire.is_open = False
        peer = self.peers.get(other.node_id)
        peer.session = None
        for runner in peer.runners.values():
            runner.post(Disconnected())

    async def send(self, text: str, **more: Any) -> Sending:
        """Begin to pay."""
        request = PaymentRequest(bolt11.decode(text), text, **more)
        return await self.payments.sender.pay(request)

    async def pay(self, text: str, **more: Any) -> Sending:
        """Pay and wait for the outcome."""
        sending = await self.send(text, **more)
        return await asyncio.wait_for(asyncio.shield(sending.done), DEADLINE_S)

    async def invoice(self, amount_msat: int | None = 10_000_000, **more: Any) -> str:
        """Make an invoice."""
        request = InvoiceRequest(amount_msat=amount_msat, description="a test", **more)
        return (await self.payments.invoices.create(request))[0]


class LineFinder:
    """Finds routes in a line, as its nodes know it: every channel, with its first terms."""

    def __init__(self, line: "Line") -> None:
        self._line = line
        self.experience = Experience()
        self.asked: list[RouteRequest] = []

    def _network(self) -> Network:
        network = Network()
        for place, scids in self._line.scids.items():
            ends = self._line.nodes[place], self._line.nodes[place + 1]
            for scid in scids:
                network.add(scid, (ends[0].node_id, ends[1].node_id), 10**9)
                for side in (0, 1):
                    told = ends[side].told_terms
                    terms = Terms(
                        told.fee_base_msat,
                        told.fee_proportional_millionths,
                        told.cltv_expiry_delta,
                        told.htlc_minimum_msat,
                        told.htlc_maximum_msat,
                    )
                    network.put(scid << 1 | side, terms)
        return network

    async def find(self, request: RouteRequest) -> tuple[Route, ...]:
        self.asked.append(request)
        await asyncio.sleep(0)
        return find_routes(Question(self._network(), self.experience, request))

    def learned(self, lessons: Iterable[Lesson]) -> None:
        network = self._network()
        self.experience.learn(lessons, lambda *name: network.key(*name) or name)


@dataclass(eq=False)
class Line:
    """Nodes, each with channels to the next, which it opened.

    Attributes:
        scids: of the channels between a node and the next, by the first one's place.
    """

    nodes: list[Node]
    scids: dict[int, list[int]] = field(default_factory=dict)

    def __iter__(self) -> Any:
        return iter(self.nodes)

    def connect(self, one: Node, other: Node, *, reestablish: bool = True) -> None:
        """Connect two neighbours."""
        for node, peer_node in ((one, other), (other, one)):
            wire = node.wires[peer_node.node_id] = Wire(node, peer_node)
            peer = node.peers.get(peer_node.node_id)
            peer.session = wire  # type: ignore[assignment]
            for runner in list(peer.runners.values()):
                if reestablish:
                    runner.connect(wire, Connected(FEATURES))  # type: ignore[arg-type]
                else:
                    runner.session = wire  # type: ignore[assignment]

    def cut(self, one: Node, other: Node) -> None:
        """End a connection; what is on its way is lost."""
        if (wire := one.wires.get(other.node_id)) is not None:
            wire.close()

    def neighbours(self, node: Node) -> list[Node]:
        """Those next to a node."""
        return [other for other in self.nodes if abs(other.place - node.place) == 1]

    async def online(self) -> None:
        """Wait until every channel is reestablished."""
        await until(
            lambda: all(
                runner.channel.link is Link.ONLINE
                for node in self.nodes
                for runner in node.channels.runners.values()
            ),
            "all channels are online",
        )

    async def restart(self, node: Node) -> None:
        """Stop a node in mid-air and start it from its database; connect it again."""
        for other in self.neighbours(node):
            self.cut(node, other)
        await node.stop()
        await node.start()
        for other in self.neighbours(node):
            self.connect(node, other)
        await self.online()

    async def quiet(self) -> None:
        """Wait until no HTLC is left in any channel."""
        await until(
            lambda: (
                not any(
                    runner.channel.htlcs
                    for node in self.nodes
                    for runner in node.channels.runners.values()
                )
            ),
            "no HTLC is left",
        )

    def balances(self) -> list[int]:
        """What each has, over all channels."""
        return [
            sum(r.channel.local_msat for r in node.channels.runners.values()) for node in self.nodes
        ]


@dataclass(frozen=True)
class Sent:
    """An HTLC of the test, from the first node.

    Attributes:
        secrets: of its onion, to open errors.
    """

    origin: str
    payment_hash: bytes
    secrets: tuple[bytes, ...]

    def outcome(self, node: Node) -> HtlcFulfilled | HtlcFailed | OfferRefused | None:
        """How it ended, if it has."""
        for effect in node.told:
            told = effect.origin if isinstance(effect, OfferRefused) else effect.htlc.origin
            if told == self.origin and isinstance(
                effect, OfferRefused | HtlcFulfilled | HtlcFailed
            ):
                return effect
        return None


def send(
    line: Line,
    payment_hash: bytes,
    payment_secret: bytes,
    amount_msat: int,
    *,
    fees_msat: Sequence[int] | None = None,
    deltas: Sequence[int] | None = None,
    scids: Sequence[int] | None = None,
    final_delta: int = 40,
    name: str = "",
    through: int = 0,
) -> Sent:
    """Offer an HTLC from the first node of a line to the last, with a hand-built onion.

    Args:
        line: of nodes.
        payment_hash: of it.
        payment_secret: of the invoice.
        amount_msat: that the last node gets.
        fees_msat: of each node between; what their terms say by default.
        deltas: likewise.
        scids: of each channel after the first; the first ones by default.
        final_delta: blocks from now of the last HTLC.
        name: makes origins different.
        through: which channel of the first node.
    """
    between = line.nodes[1:-1]
    amounts, expiries = [amount_msat], [HEIGHT + final_delta]
    payloads = [
        Payload(
            amt_to_forward=amount_msat,
            outgoing_cltv_value=expiries[0],
            payment_data=PaymentData(payment_secret=payment_secret, total_msat=amount_msat),
        )
    ]
    for number, node in reversed(list(enumerate(between))):
        scid = line.scids[node.place][0] if scids is None else scids[number]
        payloads.insert(
            0,
            Payload(
                amt_to_forward=amounts[0], outgoing_cltv_value=expiries[0], short_channel_id=scid
            ),
        )
        fee = node.terms.fee_msat(amounts[0]) if fees_msat is None else fees_msat[number]
        delta = node.terms.cltv_expiry_delta if deltas is None else deltas[number]
        amounts.insert(0, amounts[0] + fee)
        expiries.insert(0, expiries[0] + delta)
    hops = [
        sphinx.Hop(node.node_id, encode_payload(payload))
        for node, payload in zip(line.nodes[1:], payloads, strict=True)
    ]
    onion = sphinx.build(hashlib.sha256(payment_hash + name.encode()).digest(), hops, payment_hash)
    origin = f"test:{payment_hash.hex()}{name}"
    first, second = line.nodes[:2]
    offer = OfferHtlc(amounts[0], payment_hash, expiries[0], onion.packet, origin)
    first.runner(second, through).post(offer)
    return Sent(origin, payment_hash, onion.shared_secrets)


async def ended(line: Line, sent: Sent) -> HtlcFulfilled | HtlcFailed | OfferRefused:
    """Wait for the end of an HTLC of the test."""
    first = line.nodes[0]
    await until(lambda: sent.outcome(first) is not None, f"the end of {sent.origin[:20]}")
    outcome = sent.outcome(first)
    assert outcome is not None
    return outcome


@asynccontextmanager
async def line_of_nodes(
    folder: Path,
    count: int = 3,
    channels: int = 1,
    *,
    url: Callable[[int], str] | None = None,
    **opening: Any,
) -> AsyncIterator[Line]:
    """Run nodes in a line with open channels; everything is closed afterwards.

    Args:
        folder: for databases.
        count: of nodes.
        channels: between neighbours.
        url: of the database of a place; SQLite in ``folder`` by default.
        opening: of :func:`support.channels.opened`.
    """
    where = url or (lambda place: f"sqlite:///{folder / f'{place}.db'}")
    line = Line([Node(place, where(place)) for place in range(count)])
    for node in line.nodes:
        node.finder = LineFinder(line)
    for node in line.nodes:
        await node.start()
    try:
        for place in range(count - 1):
            pair = line.nodes[place], line.nodes[place + 1]
            line.scids[place] = [await _open(pair, index, opening) for index in range(channels)]
            line.connect(*pair, reestablish=False)
        yield line
    finally:
        await asyncio.gather(*(node.stop() for node in line.nodes))


async def _open(nodes: tuple[Node, Node], index: int, opening: dict[str, Any]) -> int:
    """Put one open channel into both databases and run it; return its short channel id."""
    key_index = 100 * nodes[0].place + index
    outpoint = Outpoint(secret("funding", key_index), 0)
    scid = (100 << 40) | (key_index << 16)
    for side, end in enumerate(opened(**opening)):
        node, other = nodes[side], nodes[1 - side]
        channel = replace(
            end,
            channel_id=outpoint.txid,
            parameters=replace(end.parameters, node_id=other.node_id, key_index=key_index),
            funding=Funding(
                outpoint, is_published=True, confirmed_height=100, short_channel_id=scid
            ),
            local_alias=int.from_bytes(secret("alias", side, key_index)[:8], "big"),
            features=FEATURES,
        )
        rows = node.store.channel_writes(None, channel)
        await node.store.committer.submit(subjects.shard(other.node_id), rows)
        node.channels._adopt(channel)
    return scid


def hold(node: Node) -> None:
    """Have a node leave what it gets undecided."""
    sink = node.channels.payments
    sink._receiver = SimpleNamespace(received=lambda *_, **__: None)  # type: ignore[attr-defined]


def held(node: Node, other: Node) -> list[Htlc]:
    """What a node holds of another, irrevocably."""
    return [
        htlc
        for htlc in node.channel(other).htlcs.values()
        if not htlc.offered and htlc.state is HtlcState.RCVD_ADD_ACK_REVOCATION
    ]
