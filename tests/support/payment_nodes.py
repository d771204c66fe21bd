"""Two nodes as payments see them: real stores, signers, channels and payments; a wire in memory.

Channels start open. Their keys are those of :mod:`support.channels`; node keys are real.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.channels import POLICY, Keys, opened, secret
from support.waiting import until

from back.channel.events import Connected, Disconnected, Received
from back.channel.model import Channel, Funding, Link
from back.channels import Channels
from back.htlcs import Htlcs
from back.payment.invoices import InvoiceRequest
from back.payment.sending import PaymentRequest, Sending
from back.payment.service import Payments
from back.peer import Peers
from back.relay.service import Relay
from back.runner import ChannelRunner
from back.signer.signer import Signer
from back.storage.store import Store
from shared import bolt11
from shared.chain import REGTEST, Outpoint
from shared.fabric import subjects
from shared.features import FeatureSet
from shared.wire import (
    ChannelUpdate,
    Message,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
    decode,
    encode,
)

__all__ = ["Node", "Pair", "Wire", "pair_of_nodes"]

HEIGHT = 110
DEADLINE_S = 15.0


class _Signer:
    """The node's real signer, with the tests' channel keys."""

    def __init__(self, signer: Signer, keys: Keys) -> None:
        self._signer, self._keys = signer, keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    def answer(self, _channel: Channel, request: Any) -> Any:
        return self._keys.answer(request)


@dataclass(eq=False)
class Wire:
    """One node's end of the connection: a PeerSession as runners and peers use it.

    Attributes:
        is_open: messages pass.
        held: from the first message of these kinds on, nothing arrives: it is on its way for ever.
        left: so many messages still arrive; None: all.
        sent: names of all that was sent.
    """

    owner: "Node"
    other: "Node | None" = None
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
            assert self.other is not None
            self.other.receive(encode(message))

    def close(self, *_: object) -> None:
        assert self.other is not None
        for node in (self.owner, self.other):
            if node.wire is not None:
                node.wire.is_open = False
            node.left()

    reset = close

    def has_channels_now(self) -> None:
        """Nothing to do on a wire without windows."""


@dataclass(eq=False)
class Node:
    """One node.

    Attributes:
        side: 0 opened the channels.
        outcomes: what payments told.
    """

    side: int
    url: str
    store: Store = field(init=False)
    signer: Any = field(init=False)
    peers: Peers = field(init=False)
    channels: Channels = field(init=False)
    payments: Payments = field(init=False)
    relay: Relay = field(init=False)
    wire: Wire | None = None
    outcomes: list[tuple[str, str]] = field(default_factory=list)

    async def start(self) -> None:
        """Open the database and what stands on it; channels as stored."""
        self.signer = _Signer(
            Signer(secret("seed", self.side), REGTEST.coin_type),
            Keys("opener" if self.side == 0 else "fundee"),
        )
        self.store = await Store.open(
            self.url,
            owner=f"node {self.side}",
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
            chain,
            self.peers,
            POLICY,  # type: ignore[arg-type]
        )
        self.channels.height = HEIGHT
        self.payments = Payments(self.store, self.signer, self.channels, REGTEST)
        self.payments.on_outcome = lambda *told: self.outcomes.append(told)
        self.relay = Relay(self.store, self.channels, lambda _: None)
        parts = self.payments.receiver, self.payments.sender, self.relay
        self.channels.payments = Htlcs(self.signer, *parts)
        await self.payments.start()
        await self.channels.restore()

    async def stop(self) -> None:
        """Stop politely."""
        await self.payments.stop()
        await self.channels.stop()
        await self.store.close()

    @property
    def node_id(self) -> bytes:
        return bytes(self.signer.node_id)

    def runner(self, index: int = 0) -> ChannelRunner:
        """The channel opened as the ``index``-th."""
        by_key = {r.channel.parameters.key_index: r for r in self.channels.runners.values()}
        return by_key[index]

    def channel(self, index: int = 0) -> Channel:
        """Its durable value."""
        return self.runner(index).channel

    def receive(self, encoded: bytes) -> None:
        """A message of the other node, to its channel."""
        message = decode(encoded)
        if isinstance(message, ChannelUpdate):
            return  # what real fronts keep for gossip
        runner = self.channels.runners[message.channel_id]  # type: ignore[union-attr]
        runner.post(Received(message))  # type: ignore[arg-type]

    def left(self) -> None:
        """The connection is over."""
        if self.wire is None:
            return
        self.wire = None
        for peer in self.peers.known.values():
            peer.session = None
        for runner in self.channels.runners.values():
            runner.post(Disconnected())

    # --- what tests do ------------------------------------------------------------------------

    async def invoice(self, amount_msat: int | None = 10_000_000, **more: Any) -> str:
        """Make an invoice."""
        request = InvoiceRequest(amount_msat=amount_msat, description="a test", **more)
        return (await self.payments.invoices.create(request))[0]

    async def send(self, text: str, **more: Any) -> Sending:
        """Begin to pay."""
        request = PaymentRequest(bolt11.decode(text), text, **more)
        return await self.payments.sender.pay(request)

    async def pay(self, text: str, **more: Any) -> Sending:
        """Pay and wait for the outcome."""
        sending = await self.send(text, **more)
        return await asyncio.wait_for(asyncio.shield(sending.done), DEADLINE_S)


@dataclass(eq=False)
class Pair:
    """Two nodes with channels between them; ``alice`` opened them."""

    alice: Node
    bob: Node

    def connect(self, *, reestablish: bool = True) -> None:
        """Connect the two."""
        for node, other in ((self.alice, self.bob), (self.bob, self.alice)):
            node.wire = Wire(node, other)
            peer = node.peers.get(other.node_id)
            peer.session = node.wire  # type: ignore[assignment]
            for runner in node.channels.runners.values():
                if reestablish:
                    runner.connect(node.wire, Connected(frozenset()))  # type: ignore[arg-type]
                else:
                    runner.session = node.wire  # type: ignore[assignment]

    def cut(self) -> None:
        """End the connection; what is on its way is lost."""
        assert self.alice.wire is not None
        assert self.bob.wire is not None
        self.alice.wire.close()

    async def online(self) -> None:
        """Wait until every channel is reestablished."""
        await until(
            lambda: all(
                r.channel.link is Link.ONLINE
                for node in (self.alice, self.bob)
                for r in node.channels.runners.values()
            ),
            "all channels are online",
        )

    async def restart(self, node: Node) -> None:
        """Stop a node in mid-air and start it from its database; nobody is connected then."""
        if node.wire is not None:
            self.cut()
        await node.stop()
        await node.start()

    async def quiet(self) -> None:
        """Wait until no HTLC is left in any channel."""
        await until(
            lambda: (
                not any(
                    r.channel.htlcs
                    for node in (self.alice, self.bob)
                    for r in node.channels.runners.values()
                )
            ),
            "no HTLC is left",
        )

    def balances(self) -> tuple[int, int]:
        """What each has, over all channels."""
        return tuple(  # type: ignore[return-value]
            sum(r.channel.local_msat for r in node.channels.runners.values())
            for node in (self.alice, self.bob)
        )


@asynccontextmanager
async def pair_of_nodes(folder: Path, channels: int = 1) -> AsyncIterator[Pair]:
    """Run two nodes with open channels; everything is closed afterwards."""
    nodes = [Node(side, f"sqlite:///{folder / f'{side}.db'}") for side in (0, 1)]
    for node in nodes:
        await node.start()
    pair = Pair(*nodes)
    try:
        for index in range(channels):
            await _open(nodes, index)
        pair.connect(reestablish=False)
        yield pair
    finally:
        for node in nodes:
            await node.stop()


async def _open(nodes: list[Node], index: int) -> None:
    """Put one open channel into both databases and run it."""
    outpoint = Outpoint(secret("funding", index), 0)
    scid = (100 << 40) | (index << 16)
    for side, end in enumerate(opened()):
        node, other = nodes[side], nodes[1 - side]
        channel = replace(
            end,
            channel_id=outpoint.txid,
            parameters=replace(end.parameters, node_id=other.node_id, key_index=index),
            funding=Funding(
                outpoint, is_published=True, confirmed_height=100, short_channel_id=scid
            ),
            local_alias=secret("alias", side, index)[0] + 1,
        )
        rows = node.store.channel_writes(None, channel)
        await node.store.committer.submit(subjects.shard(other.node_id), rows)
        node.channels._adopt(channel)


FULFIL_OR_FAIL = (UpdateFulfillHtlc, UpdateFailHtlc)
"""Hold these, and payments stay in the air."""
