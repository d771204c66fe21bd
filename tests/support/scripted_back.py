"""A back that does what a test says: owner of all shards, real sessions, no channels."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from support.lightning_peer import FEATURES, TIMEOUT_S, node_id_of

from shared.chain import REGTEST
from shared.crypto.noise import (
    InitiatorRequest,
    ResponderRequest,
    answer_initiator,
    answer_responder,
)
from shared.errors import HandshakeFailed
from shared.fabric import subjects
from shared.fabric.envelope import (
    Connected,
    Disconnected,
    Reason,
    Unreachable,
    decode,
    decode_body,
)
from shared.fabric.interface import Fabric, Received, Subscription
from shared.fabric.requests import (
    Alive,
    ConnectReply,
    ConnectRequest,
    EcdhReply,
    EcdhResponder,
    Expecting,
    Hello,
    NodeSelf,
    OpenReply,
    OpenRequest,
    ResumeReply,
    ResumeRequest,
    read,
    read_ecdh_request,
)
from shared.fabric.session import (
    BackSession,
    Deliver,
    Effect,
    Ended,
    Publish,
    reset_for_unknown,
)
from shared.wire import Message, encode, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ScriptedBack", "ScriptedSession"]


class ScriptedSession:
    """One session as the owner sees it.

    Attributes:
        request: with which the front opened it.
        connected: its first message, once it came.
        messages: what the peer sent, in order.
        ended: why the session ended.
    """

    def __init__(self, back: "ScriptedBack", request: OpenRequest) -> None:
        self.request = request
        self.core = BackSession(
            request.session, request.front, request.peer, back.epoch, back.has_channels
        )
        self.connected: Connected | None = None
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.ended: Ended | None = None
        self.is_ended = asyncio.Event()
        self._back = back
        self._timer: asyncio.TimerHandle | None = None

    def send(self, *messages: Message, channel: bytes | None = None) -> None:
        """Send to the peer."""
        for message in messages:
            body, size = to_json(message), len(encode(message))
            self.run(self.core.send(message.NAME, channel, body, size, self._back.now()))

    def send_body(self, name: str, body: bytes) -> None:
        """Send a body as it is, also one that is no message."""
        self.run(self.core.send(name, None, body, 0, self._back.now()))

    def close(self, detail: str = "") -> None:
        """Have everything written, then the TCP connection closed."""
        self.run(self.core.close(Reason.CLOSED_BY_OWNER, detail, self._back.now()))

    async def next(self) -> Message:
        """Return the peer's next message."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.messages.get()

    async def end(self) -> Ended:
        """Return why the session ended."""
        async with asyncio.timeout(TIMEOUT_S):
            await self.is_ended.wait()
        assert self.ended is not None
        return self.ended

    def run(self, effects: list[Effect]) -> None:
        """Do what the session wants."""
        for effect in effects:
            match effect:
                case Publish(subject, payload):
                    self._back.fabric.publish(subject, payload)
                case Deliver():
                    self._take(effect)
                case Ended():
                    self.ended = effect
                    self.is_ended.set()
                case _:
                    raise AssertionError(effect)
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.core.next_deadline()
        if deadline is not None and not self._back.is_dead:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._poll)

    def stop(self) -> None:
        """Let the clock stand still."""
        if self._timer is not None:
            self._timer.cancel()

    def _poll(self) -> None:
        self.run(self.core.poll(self._back.now()))

    def _take(self, delivered: Deliver) -> None:
        body = decode_body(delivered.name, delivered.body)
        if isinstance(body, Connected):
            self.connected = body
            self._back.connected.put_nowait(self)
        elif isinstance(body, Message):
            self.messages.put_nowait(body)
        else:
            assert isinstance(body, Disconnected)


class ScriptedBack:
    """Owner of all shards.

    Attributes:
        epoch: of every shard.
        features: the `features` of our `init`.
        has_channels: what `open` answers.
        refusal: why nobody may come in; empty lets everybody in.
        answers_opens: whether `open` is answered at all.
        answers_keys: whether ``ln.key.ecdh`` is answered at all.
        may_open: says of each request whether it gets an answer.
        alive: heartbeats of fronts, newest last.
        unreachable: dials that came to nothing.
    """

    def __init__(self, fabric: Fabric, private: bytes, *, epoch: int = 1_700_000_000) -> None:
        self.fabric = fabric
        self.private = private
        self.node_id = node_id_of(private)
        self.epoch = epoch
        self.features = FEATURES.to_bytes()
        self.networks: tuple[bytes, ...] = (REGTEST.chain_hash,)
        self.has_channels = False
        self.refusal = ""
        self.answers_opens = True
        self.answers_keys = True
        self.may_open: Callable[[OpenRequest], bool] = lambda _request: True
        self.sessions: dict[bytes, ScriptedSession] = {}
        self.connected: asyncio.Queue[ScriptedSession] = asyncio.Queue()
        self.alive: list[Alive] = []
        self.unreachable: asyncio.Queue[Unreachable] = asyncio.Queue()
        self.open_requests = self.resume_requests = 0
        self.is_dead = False
        self._subscriptions: list[Subscription] = []
        self._hello: asyncio.Task[None] | None = None

    @staticmethod
    def now() -> float:
        """Monotonic seconds."""
        return asyncio.get_running_loop().time()

    async def start(self, *, hellos: bool = True) -> None:
        """Take all shards."""
        group = subjects.back_group(self.epoch)
        wanted = [
            ("ln.in.>", self._inbound, group),
            ("ln.session.*.open", self._open, group),
            ("ln.session.*.resume", self._resume, group),
            (subjects.ECDH, self._key, subjects.ECDH_GROUP),
            (subjects.ALIVE, self._alive, ""),
        ]
        for subject, handler, members in wanted:
            self._subscriptions.append(await self.fabric.subscribe(subject, handler, group=members))
        self.fabric.on_lost(self._lost)
        self.fabric.on_back(self._back)
        if hellos:
            self._hello = asyncio.create_task(self._say_hello())

    async def stop(self) -> None:
        """Die: answer and say nothing more."""
        self.is_dead = True
        if self._hello is not None:
            self._hello.cancel()
            with suppress(asyncio.CancelledError):
                await self._hello
        for subscription in self._subscriptions:
            await subscription.close()
        for session in self.sessions.values():
            session.stop()

    async def next_session(self) -> ScriptedSession:
        """Return the next session that is connected."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.connected.get()

    async def connect(self, request: ConnectRequest) -> ConnectReply:
        """Order a dial."""
        payload = await self.fabric.request(subjects.CONNECT, request.to_bytes(), timeout_s=2.0)
        return read(ConnectReply, payload)

    def hello(self) -> None:
        """Say hello for every shard, and who we are."""
        for shard in range(subjects.SHARDS):
            hello = Hello(shard=shard, owner="scripted", epoch=self.epoch, commit_no=0)
            self.fabric.publish(subjects.hello(shard), hello.to_bytes())
        this = NodeSelf(node_id=self.node_id, networks=self.networks, features=self.features)
        self.fabric.publish(subjects.GRAPH_SELF, this.to_bytes())

    async def _say_hello(self) -> None:
        while True:
            self.hello()
            await asyncio.sleep(1.0)

    def _open(self, received: Received) -> None:
        request = read(OpenRequest, received.payload)
        self.open_requests += 1
        if not self.answers_opens or not self.may_open(request):
            return
        if self.refusal:
            reply = OpenReply(session=request.session, accepted=False, why=self.refusal)
            self.fabric.respond(received, reply.to_bytes())
            return
        if request.session not in self.sessions:
            session = ScriptedSession(self, request)
            self.sessions[request.session] = session
        reply = OpenReply(
            session=request.session,
            accepted=True,
            epoch=self.epoch,
            has_channels=self.has_channels,
            node_id=self.node_id,
            features=self.features,
            networks=self.networks,
        )
        self.fabric.respond(received, reply.to_bytes())

    def _resume(self, received: Received) -> None:
        request = read(ResumeRequest, received.payload)
        self.resume_requests += 1
        known: list[Expecting] = []
        for said in request.sessions:
            session = self.sessions.get(said.session)
            if session is not None and not session.core.ended:
                session.run(session.core.resumed(said.expects, self.now()))
                known.append(Expecting(session=said.session, expects=session.core.expects))
        reply = ResumeReply(shard=request.shard, epoch=self.epoch, sessions=tuple(known))
        self.fabric.respond(received, reply.to_bytes())

    def _inbound(self, received: Received) -> None:
        subject = subjects.parse_inbound(received.subject)
        envelope = decode(received.payload)
        if subject.name == "unreachable":
            body = decode_body(subject.name, envelope.body)
            assert isinstance(body, Unreachable)
            self.unreachable.put_nowait(body)
            return
        session = self.sessions.get(envelope.session)
        if session is None:
            answer = reset_for_unknown(subject.peer, subject.name, envelope, self.epoch)
            if answer is not None:
                self.fabric.publish(answer.subject, answer.payload)
            return
        session.run(session.core.receive(subject.name, subject.channel, envelope, self.now()))

    def _key(self, received: Received) -> None:
        if not self.answers_keys:
            return
        request = read_ecdh_request(received.payload)
        try:
            if isinstance(request, EcdhResponder):
                answer = answer_responder(self.private, ResponderRequest(request.act_one))
            else:
                asked = InitiatorRequest(request.node_id, request.ephemeral, request.act_two)
                answer = answer_initiator(self.private, asked)
        except HandshakeFailed as error:
            self.fabric.respond(received, EcdhReply(refused=str(error)).to_bytes())
            return
        self.fabric.respond(received, EcdhReply(ck=answer.ck, temp_k=answer.temp_k).to_bytes())

    def _alive(self, received: Received) -> None:
        self.alive.append(read(Alive, received.payload))

    def _lost(self) -> None:
        for session in self.sessions.values():
            session.core.fabric_lost()

    def _back(self) -> None:
        for session in self.sessions.values():
            session.run(session.core.fabric_back(self.now()))
