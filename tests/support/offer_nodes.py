"""Nodes in a line with offers: real payments, real onions of messages, a post office in memory.

The offers' services are wired as the node's are, but for who carries messages and what channels
are announced::

    async with offer_line(tmp_path) as (line, offers):
        own = await offers[-1].service.create(NewOffer())
        sending = await offers[0].pay(own.row.text, 5_000_000)
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.payment_lines import TERMS, Line, Node, line_of_nodes

from back.channel.model import Channel
from back.offers.issuer import Surroundings
from back.offers.payable import Guide
from back.offers.payer import Purchase
from back.offers.rules import OfferRules
from back.offers.service import Neighbourhood, Offers
from back.payment.sending import Sending
from shared.bolt12 import decode_offer
from shared.chain import REGTEST
from shared.crypto import onion_message
from shared.crypto.onion_message import Delivered
from shared.errors import CommandError
from shared.wire import ChannelUpdate, encode
from shared.wire.onion import BlindedPath, OnionMessage

__all__ = ["Desk", "Post", "offer_line"]

DEADLINE_S = 20.0
PATIENCE_S = 2.0


@dataclass(eq=False, repr=False)
class Post:
    """The messages of one node; all nodes reach each other.

    Attributes:
        all: by node id.
        heard: what came to the node.
        loses: so many messages that the node sends are lost.
        changes: applied to what the node answers.
        door: through whom others reach the node, by its own paths.
    """

    node: Node
    all: "dict[bytes, Post]"
    handlers: dict[int, Callable[[Delivered], None]] = field(default_factory=dict)
    waiting: dict[bytes, "asyncio.Future[Delivered]"] = field(default_factory=dict)
    heard: list[Delivered] = field(default_factory=list)
    loses: int = 0
    changes: Callable[[dict[int, bytes]], Mapping[int, bytes]] = dict
    door: Node | None = None

    def subscribe(self, number: int, handler: Callable[[Delivered], None]) -> None:
        self.handlers[number] = handler

    def path_to_us(self, path_id: bytes) -> BlindedPath:
        us = self.node.node_id
        nodes = (us, us) if self.door is None else (self.door.node_id, us, us)
        return onion_message.path_through(secrets.token_bytes(32), nodes, path_id)

    async def ask(
        self,
        destination: bytes | BlindedPath,
        contents: Mapping[int, bytes],
        *,
        through: Sequence[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> Delivered | None:
        path_id = secrets.token_bytes(32)
        answer: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self.waiting[path_id] = answer
        self.send(destination, contents, self.path_to_us(path_id))
        done, _ = await asyncio.wait({answer}, timeout=PATIENCE_S)
        return answer.result() if done else None

    def answer(self, question: Delivered, contents: Mapping[int, bytes]) -> None:
        if question.reply_path is not None:
            self.send(question.reply_path, self.changes(dict(contents)), None)

    def send(
        self,
        destination: bytes | BlindedPath,
        contents: Mapping[int, bytes],
        reply_path: BlindedPath | None,
    ) -> None:
        """Build the onion and carry it to whom it is for."""
        if self.loses:
            self.loses -= 1
            return
        path = destination
        if isinstance(path, bytes):
            path = onion_message.path_through(secrets.token_bytes(32), (path,))
        message = onion_message.build(secrets.token_bytes(32), path, contents, reply_path)
        asyncio.get_running_loop().call_soon(self._carry, path.first_node_id, message)

    def _carry(self, first: bytes, message: OnionMessage) -> None:
        post = self.all[first]
        step = onion_message.unwrap(message, post.node.signer)
        while not isinstance(step, Delivered):
            post = self.all[step.next_node_id or b""]
            step = onion_message.unwrap(step.message, post.node.signer)
        post.take(step)

    def take(self, delivered: Delivered) -> None:
        """A message has come."""
        self.heard.append(delivered)
        waiting = self.waiting.pop(delivered.path_id or b"", None)
        if waiting is not None:
            waiting.set_result(delivered)
            return
        for number, handler in self.handlers.items():
            if number in delivered.contents:
                handler(delivered)


@dataclass(eq=False, repr=False)
class Desk:
    """The offers of one node.

    Attributes:
        is_public: others know its channels.
        told: what became of requests.
        ahead_s: of the machine's clock.
        away: nodes that are not connected to it.
        connected: nodes to which it was told to connect.
    """

    line: Line
    node: Node
    post: Post
    rules: OfferRules = field(default_factory=OfferRules)
    is_public: bool = True
    told: list[str] = field(default_factory=list)
    ahead_s: float = 0.0
    away: set[bytes] = field(default_factory=set)
    connected: list[bytes] = field(default_factory=list)
    service: Offers = field(init=False)

    async def start(self) -> None:
        """Make the service and start it."""
        node = self.node
        guide = Guide(node.node_id, node.signer, self._named, self._across)
        around = Surroundings(
            REGTEST,
            self._channels,
            lambda: node.channels.height,
            secrets.token_bytes,
            self.told.append,
            clock=self.clock,
        )
        neighbourhood = Neighbourhood(guide, self._connect, self._takes_messages, self._is_private)
        self.service = Offers(
            node.store,
            node.signer,
            node.payments,
            self.post,
            neighbourhood,
            around,
            self.rules,
        )
        await self.service.start()

    def clock(self) -> float:
        """Unix seconds: those of the machine, and what the test adds."""
        return time.time() + self.ahead_s

    def _is_private(self) -> bool:
        return not self.is_public

    def _takes_messages(self, node_id: bytes) -> bool:
        return node_id in self.post.all and node_id not in self.away

    async def _connect(self, node_id: bytes) -> None:
        self.connected.append(node_id)

    def _named(self, first_node_id: bytes) -> bytes:
        if len(first_node_id) != 33:
            raise CommandError("the path begins at a channel that is not known")
        return first_node_id

    def _across(self, short_channel_id: int) -> bytes | None:
        runner = self.node.relay.names.find(short_channel_id)
        return None if runner is None else runner.channel.parameters.node_id

    def _channels(self) -> list[Channel]:
        return [self._seen(r.channel) for r in self.node.channels.runners.values()]

    def _seen(self, channel: Channel) -> Channel:
        """A channel with what gossip would have told of it."""
        assert channel.funding is not None
        update = ChannelUpdate(
            signature=bytes(64),
            chain_hash=REGTEST.chain_hash,
            short_channel_id=channel.funding.short_channel_id or 0,
            timestamp=1,
            message_flags=1,
            channel_flags=0,
            cltv_expiry_delta=TERMS.cltv_expiry_delta,
            htlc_minimum_msat=TERMS.htlc_minimum_msat,
            fee_base_msat=TERMS.fee_base_msat,
            fee_proportional_millionths=TERMS.fee_proportional_millionths,
            htlc_maximum_msat=TERMS.htlc_maximum_msat,
        )
        known: Any = b"an announcement" if self.is_public else None
        return replace(channel, remote_channel_update=encode(update), channel_announcement=known)

    # --- what tests do ----------------------------------------------------------------------------

    async def send(self, text: str, amount_msat: int = 5_000_000, **more: Any) -> Sending:
        """Begin to pay an offer."""
        return await self.service.payer.pay(Purchase(decode_offer(text), amount_msat, **more))

    async def pay(self, text: str, amount_msat: int = 5_000_000, **more: Any) -> Sending:
        """Pay an offer and wait for the outcome."""
        sending = await self.send(text, amount_msat, **more)
        return await asyncio.wait_for(asyncio.shield(sending.done), DEADLINE_S)


@asynccontextmanager
async def offer_line(
    folder: Path, count: int = 3, channels: int = 1, **more: Any
) -> AsyncIterator[tuple[Line, list[Desk]]]:
    """Run nodes in a line, each with offers; ``more`` goes to each desk."""
    async with line_of_nodes(folder, count, channels) as line:
        posts: dict[bytes, Post] = {}
        for node in line.nodes:
            posts[node.node_id] = Post(node, posts)
        desks = [Desk(line, node, posts[node.node_id], **more) for node in line.nodes]
        for desk in desks:
            await desk.start()
        try:
            yield line, desks
        finally:
            for desk in desks:
                await desk.service.stop()
