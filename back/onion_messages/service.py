"""Onion messages of this node: passed on, taken, sent and answered (BOLT 4 § Onion Messages).

What arrives is unwrapped once it is counted. A message for another goes to a peer that is
connected, if it reads fast enough; else it is lost, as BOLT 4 has it. A message to us is the answer
to one of ours, or for who subscribed to what it says, or an event.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from back.onion_messages.intake import Intake
from back.onion_messages.replies import PATH_ID_BYTES, Replies
from shared.crypto import onion_message
from shared.crypto.onion_message import Delivered, Forwarded
from shared.errors import CommandError, InvalidOnion
from shared.onion_budget import Bucket
from shared.tasks import Tasks
from shared.wire import BlindedPath, OnionMessage

if TYPE_CHECKING:
    from back.onion_messages.outbox import Outbox
    from back.onion_messages.rules import OnionRules
    from back.onion_messages.ways import Ways
    from back.signer.signer import Signer
    from back.switchboard import Switchboard
    from shared.fabric.interface import Fabric

__all__ = ["Contents", "Handler", "OnionMessages"]

log = structlog.get_logger()

Contents: TypeAlias = Mapping[int, bytes]
"""TLV type → value, without the fields that carry a message."""
Handler: TypeAlias = Callable[[Delivered], None]
"""Takes a message to us at once; what takes time is a task of its own."""

MAX_LAYERS = 4
"""So many layers of one message may be for ourselves: paths that we make end with some."""
REMEMBERED = 10_000
"""Messages that are known when they come again."""
MAC_BYTES = 32
TOLD_PER_S, TOLD_BURST, TOLD_BYTES = 0.2, 50.0, 1_300
"""How many messages to us become events, and what counts as one: whoever sends them must not push
payments out of the log."""


class OnionMessages:
    """All of it.

    Args:
        signer: takes layers off.
        ways: who can be reached.
        outbox: says things to peers.
        rules: the settings.
        tell: makes messages to us known that nobody subscribed to.
        on_outcome: told what became of each message, for metrics.
    """

    def __init__(
        self,
        signer: "Signer",
        ways: "Ways",
        outbox: "Outbox",
        rules: "OnionRules",
        tell: Callable[[Delivered], Coroutine[Any, Any, None]],
        on_outcome: Callable[[str], None],
    ) -> None:
        self._signer = signer
        self.ways = ways
        self._outbox = outbox
        self._rules = rules
        self._tell = tell
        self._on_outcome = on_outcome
        self._handlers: dict[int, Handler] = {}
        self._replies = Replies()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._told = Bucket(TOLD_PER_S, TOLD_BURST, 0.0)
        self._intake: Intake | None = None
        self._tasks = Tasks()

    async def start(self, fabric: "Fabric", switchboard: "Switchboard") -> None:
        """Take what peers send.

        Args:
            fabric: the connection for bulk.
            switchboard: has the sessions.
        """
        self._intake = Intake(
            fabric, switchboard.sessions, self._rules.limits, self.handle, self._on_outcome
        )
        await self._intake.start(switchboard.shards, switchboard.identity.epoch)

    def mute(self) -> None:
        """Another back owns the shards: take nothing more."""
        if self._intake is not None:
            self._intake.mute()

    async def stop(self) -> None:
        """Take and send nothing more."""
        if self._intake is not None:
            await self._intake.stop()
        await self._tasks.stop()
        await self._outbox.stop()

    # --- for the rest of the node -----------------------------------------------------------------

    def subscribe(self, number: int, handler: Handler) -> None:
        """Have messages to us that contain a field of this type, but for answers to ours.

        Whoever made the path by which a message came is not checked: see ``Delivered.path_id``.

        Args:
            number: type of the field, as :data:`shared.crypto.onion_message.INVOICE_REQUEST`.
            handler: called with each.
        """
        if number in self._handlers:
            raise ValueError(f"field {number} has a handler already")
        self._handlers[number] = handler

    def path_to_us(self, path_id: bytes) -> BlindedPath:
        """Make a path on which a message comes to us.

        Args:
            path_id: comes back with it; nobody else can read or make it.

        Raises:
            CommandError: nobody could reach us: no peer is there that passes messages on.
        """
        us = self.ways.node_id
        door = self.ways.door()
        nodes = (us, us) if door is None else (door, us, us)
        return onion_message.path_through(secrets.token_bytes(32), nodes, path_id)

    async def send(
        self,
        destination: bytes | BlindedPath,
        contents: Contents,
        *,
        reply_path: BlindedPath | None = None,
        through: Sequence[bytes] | None = None,
        avoided: Sequence[bytes] = (),
        is_answer: bool = False,
    ) -> Sequence[bytes]:
        """Send a message. That it goes out does not say that it arrives.

        Args:
            destination: a node id, or a path that its recipient made.
            contents: what it says.
            reply_path: where an answer goes.
            through: nodes on the way, the first connected to us; None: find them.
            avoided: nodes not to go through, where they are to be found.
            is_answer: somebody else chose the destination: nobody is dialled for it.

        Returns:
            The nodes through which it went.

        Raises:
            CommandError: there is no way, or it does not fit an onion.
        """
        target = destination
        if isinstance(target, BlindedPath):
            target = self.ways.named(target.first_node_id)
        nodes: Sequence[bytes] = ()
        if through is not None:
            nodes = through
        elif target != self.ways.node_id:
            nodes = await self.ways.to(target, avoided, is_answer=is_answer)
        key = secrets.token_bytes(32)
        try:
            if isinstance(destination, BlindedPath):
                path = onion_message.lead_to(key, nodes, target, destination)
            else:
                path = onion_message.path_through(key, (*nodes, target))
            built = onion_message.build(secrets.token_bytes(32), path, contents, reply_path)
        except ValueError as error:
            raise CommandError(f"the message cannot be built: {error}") from error
        self._leave(nodes[0] if nodes else target, built)
        return nodes

    async def ask(
        self,
        destination: bytes | BlindedPath,
        contents: Contents,
        *,
        through: Sequence[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> Delivered | None:
        """Send a message and wait for its answer; again, and by other ways, if none comes.

        Args:
            destination: as of :meth:`send`.
            contents: as of :meth:`send`.
            through: as of :meth:`send`.
            timeout_s: for each attempt; None: as the settings say.

        Returns:
            The answer; None: none came.

        Raises:
            CommandError: it could not be sent even once.
        """
        answer: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        patience_s = self._rules.reply_timeout_s if timeout_s is None else timeout_s
        path_ids: list[bytes] = []
        tried: set[bytes] = set()
        try:
            for attempt in range(self._rules.attempts):
                path_ids.append(secrets.token_bytes(PATH_ID_BYTES))
                self._replies.expect(path_ids[-1], lambda heard: _settle(answer, heard))
                try:
                    nodes = await self.send(
                        destination,
                        contents,
                        reply_path=self.path_to_us(path_ids[-1]),
                        through=through,
                        avoided=tuple(tried),
                    )
                except CommandError:
                    if not attempt:
                        raise
                    # There is no other way: the first ones may do yet.
                    tried.clear()
                    continue
                tried.update(nodes)
                await asyncio.wait({answer}, timeout=patience_s)
                if answer.done():
                    return answer.result()
            return None
        finally:
            answer.cancel()
            for path_id in path_ids:
                self._replies.forget(path_id)

    def answer(self, question: Delivered, contents: Contents) -> None:
        """Answer a message, if its sender wants that; a failure is only logged.

        Args:
            question: as its handler got it.
            contents: what to say.
        """
        if question.reply_path is not None:
            self._tasks.spawn(self._answer(question.reply_path, contents), "answer")

    async def _answer(self, reply_path: BlindedPath, contents: Contents) -> None:
        try:
            await self.send(reply_path, contents, is_answer=True)
        except CommandError as error:
            self._on_outcome("dropped_answer")
            log.debug("onion_answer_not_sent", why=str(error))

    def _leave(self, first: bytes, message: OnionMessage) -> None:
        """Hand a message of ours to the first node of its path.

        Raises:
            CommandError: it is not there, or does not read.
        """
        if first == self.ways.node_id:
            self.handle(first, message)
            return
        peer = self.ways.peer(first)
        if peer is None or peer.session is None:
            raise CommandError("the first node is not connected, or takes no onion messages")
        if not self._outbox.put(peer.session, message):
            raise CommandError("the first node does not read what it is sent")

    # --- what arrives -----------------------------------------------------------------------------

    def handle(self, source: bytes, message: OnionMessage) -> None:
        """Take one message that was counted.

        Args:
            source: the peer that sent it; ourselves: one of ours that begins here.
            message: its word.
        """
        # A message that comes again is not read again: its MAC was right the first time.
        mac = message.onion_message_packet[-MAC_BYTES:]
        if mac in self._seen:
            self._on_outcome("dropped_replayed")
            return
        try:
            step = self._unwrapped(message)
        except InvalidOnion as error:
            log.debug("onion_message_ignored", peer=source.hex(), why=str(error))
            self._on_outcome("dropped_invalid")
            return
        self._seen[mac] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if isinstance(step, Forwarded):
            self._forward(step)
        else:
            self._delivered(step)

    def _unwrapped(self, message: OnionMessage) -> Delivered | Forwarded:
        """Take off our layers: paths that we make have more than one.

        Raises:
            InvalidOnion: BOLT 4 wants it ignored.
        """
        step = onion_message.unwrap(message, self._signer)
        for _ in range(MAX_LAYERS - 1):
            if not isinstance(step, Forwarded) or step.next_node_id != self.ways.node_id:
                break
            step = onion_message.unwrap(step.message, self._signer)
        return step

    def _forward(self, step: Forwarded) -> None:
        next_node_id = step.next_node_id
        if next_node_id is None and step.short_channel_id is not None:
            next_node_id = self.ways.across(step.short_channel_id)
        if next_node_id is None:
            self._on_outcome("dropped_unknown_next")
            return
        peer = self.ways.peer(next_node_id)
        if peer is None or peer.session is None:
            # Connecting to whom a stranger names would make us his messenger.
            self._on_outcome("dropped_next_away")
            return
        if self._outbox.put(peer.session, step.message):
            self._on_outcome("relayed")

    def _delivered(self, delivered: Delivered) -> None:
        self._on_outcome("delivered")
        if (heard := self._replies.take(delivered.path_id)) is not None:
            heard(delivered)
        else:
            for number, handler in self._handlers.items():
                if number in delivered.contents:
                    _hand_over(handler, delivered)
                    return
        size = sum(map(len, delivered.contents.values()))
        tokens = max(1.0, size / TOLD_BYTES)
        if self._told.has(tokens, asyncio.get_running_loop().time()):
            self._told.take(tokens)
            self._tasks.spawn(self._tell(delivered), "onion message to us")
        else:
            self._on_outcome("untold")


def _hand_over(handler: Handler, delivered: Delivered) -> None:
    try:
        handler(delivered)
    except Exception:
        # A bug of ours: whoever sent the message must learn nothing of it, and the next one is due.
        log.exception("onion_message_not_handled", fields=sorted(delivered.contents))


def _settle(future: "asyncio.Future[Delivered]", answer: Delivered) -> None:
    if not future.done():
        future.set_result(answer)
