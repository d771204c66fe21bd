"""One BOLT 8 connection without its socket: bytes in, events out, frames back. Pure.

Feed it what the socket read, in any pieces, and take events until there are none::

    connection.feed(data)
    while (event := connection.next_event()) is not None: ...

An event is a request for the node key's part (answer it with `answer`), the end of the handshake,
or a Lightning message. What must be written during the handshake waits in `take_outgoing`; after
it, `seal` makes the frame of one message.
"""

from enum import Enum, auto
from typing import TypeAlias

from shared.crypto.noise import (
    HEADER,
    AwaitActOne,
    AwaitActThree,
    AwaitActTwo,
    AwaitInitiatorKey,
    AwaitResponderKey,
    InitiatorRequest,
    KeyAnswer,
    ResponderRequest,
    Session,
    initiate,
)
from shared.errors import InvariantError

__all__ = ["Authenticated", "Connection", "Event", "KeyRequest"]

KeyRequest: TypeAlias = ResponderRequest | InitiatorRequest
"""The step that needs the node key; the handshake stands still until `Connection.answer`."""


class Authenticated(Enum):
    """The handshake is finished; `Connection.node_id` is the peer."""

    AUTHENTICATED = auto()


Event: TypeAlias = KeyRequest | Authenticated | bytes
_Handshake: TypeAlias = (
    AwaitActOne | AwaitActTwo | AwaitActThree | AwaitResponderKey | AwaitInitiatorKey
)


class Connection:
    """The state of one connection; made by `responder` or `initiator`."""

    __slots__ = ("_body", "_incoming", "_is_news", "_outgoing", "_state", "act_one")

    def __init__(self, state: _Handshake, outgoing: bytes = b"") -> None:
        self._state: _Handshake | Session = state
        self._incoming = bytearray()
        self._outgoing = outgoing
        self._body: int | None = None
        """Size of the sealed message that follows, once its header was read."""
        self._is_news = False
        self.act_one: bytes | None = None
        """As received, on an inbound connection."""

    @classmethod
    def responder(cls, local: bytes, ephemeral: bytes) -> "Connection":
        """The peer connected to us.

        Args:
            local: our node id, 33 bytes.
            ephemeral: 32 random bytes.
        """
        return cls(AwaitActOne(local, ephemeral))

    @classmethod
    def initiator(cls, local: bytes, ephemeral: bytes, remote: bytes) -> "Connection":
        """We connected to ``remote``; act one waits in `take_outgoing`.

        Raises:
            HandshakeFailed: ``remote`` is no point of the curve.
        """
        state, act_one = initiate(local, ephemeral, remote)
        return cls(state, act_one)

    @property
    def node_id(self) -> bytes:
        """The peer's 33 bytes, authenticated."""
        return self._session.remote

    def feed(self, data: bytes) -> None:
        """Take what the socket read."""
        self._incoming += data

    def next_event(self) -> Event | None:
        """Return the next event, or None until there is more input or an answer.

        Raises:
            HandshakeFailed: what came is not BOLT 8, or does not authenticate: close without
                another word, and do not use this object again.
        """
        match self._state:
            case Session() as session if self._is_news:
                self._is_news = False
                return Authenticated.AUTHENTICATED
            case Session() as session:
                return self._next_message(session)
            case AwaitActOne() as state:
                return self._take_act_one(state)
            case AwaitActTwo() as state:
                return self._take_act_two(state)
            case AwaitActThree() as state:
                return self._take_act_three(state)
            case _:
                return None

    def answer(self, answer: KeyAnswer) -> None:
        """Go on with the outputs of the step that needed the node key.

        Raises:
            HandshakeFailed: they do not fit the peer's act.
        """
        match self._state:
            case AwaitResponderKey() as state:
                self._state, self._outgoing = state.answer(answer)
            case AwaitInitiatorKey() as state:
                self._state, self._outgoing = state.answer(answer)
                self._is_news = True
            case _:
                raise InvariantError("nothing was asked")

    def take_outgoing(self) -> bytes:
        """Return and forget what the handshake has to write."""
        data, self._outgoing = self._outgoing, b""
        return data

    def seal(self, message: bytes) -> bytes:
        """Return the frame of one message of at most 65535 bytes.

        Raises:
            ValueError: it is longer.
        """
        return self._session.seal(message)

    @property
    def _session(self) -> Session:
        if not isinstance(self._state, Session):
            raise InvariantError("the handshake is not finished")
        return self._state

    def _take_act_one(self, state: AwaitActOne) -> Event | None:
        if (act := self._take(state.WANTS)) is None:
            return None
        self.act_one = act
        self._state = state.receive(act)
        return self._state.request

    def _take_act_two(self, state: AwaitActTwo) -> Event | None:
        if (act := self._take(state.WANTS)) is None:
            return None
        self._state = state.receive(act)
        return self._state.request

    def _take_act_three(self, state: AwaitActThree) -> Event | None:
        if (act := self._take(state.WANTS)) is None:
            return None
        self._state = state.receive(act)
        return Authenticated.AUTHENTICATED

    def _next_message(self, session: Session) -> bytes | None:
        if self._body is None:
            if (header := self._take(HEADER)) is None:
                return None
            self._body = session.open_size(header)
        if (sealed := self._take(self._body)) is None:
            return None
        self._body = None
        return session.open_message(sealed)

    def _take(self, size: int) -> bytes | None:
        if len(self._incoming) < size:
            return None
        taken = bytes(self._incoming[:size])
        del self._incoming[:size]
        return taken
