"""Requests, replies and heartbeats: everything that is not part of a session's stream.

Each is a whole payload: ``model.to_bytes()`` on one side, ``read(Model, payload)`` on the other.
All carry ``v``.

Raises:
    FabricError: from `read`, for another version or anything that does not validate.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from shared.errors import FabricError
from shared.fabric.envelope import (
    Count,
    Direction,
    FabricModel,
    FrontName,
    NodeId,
    SessionId,
    first_error,
)

__all__ = [
    "Alive",
    "ConnectReply",
    "ConnectRequest",
    "EcdhInitiator",
    "EcdhReply",
    "EcdhResponder",
    "Expecting",
    "Hello",
    "Load",
    "NodeSelf",
    "OpenReply",
    "OpenRequest",
    "ResumeReply",
    "ResumeRequest",
    "read",
    "read_ecdh_request",
]

Model = TypeVar("Model", bound=FabricModel)
Bytes16 = Annotated[bytes, Field(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Field(min_length=32, max_length=32)]
ActOneOrTwo = Annotated[bytes, Field(min_length=50, max_length=50)]
ShardNumber = Annotated[int, Field(ge=0, lt=64)]


class Versioned(FabricModel):
    """Base of whole payloads; the version is part of each."""

    v: Literal[1] = 1


def read(model: type[Model], payload: bytes) -> Model:
    """Validate a payload."""
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise FabricError(f"{model.__name__} is malformed: {first_error(error)}") from None


class Load(FabricModel):
    """How busy a process is."""

    sessions: Count = 0
    channels: Count = 0
    cpu: Annotated[float, Field(ge=0)] = 0.0
    """Share of one core used in the last second."""


class Hello(Versioned):
    """The owner of a shard says so: at takeover, then every second (``ln.hello.<shard>``)."""

    shard: ShardNumber
    owner: str
    """Name of the back's process, for people."""
    epoch: Annotated[int, Field(ge=1)]
    commit_no: Count
    """Of the shard's lease row: a lower one than heard before means a restored database."""
    load: Load = Load()


class Alive(Versioned):
    """A front's heartbeat, every second (``ln.alive.<front>``)."""

    front: FrontName
    instance: Bytes16
    """Random at each start of the process: sessions of another instance of the same name are
    dead."""
    version: str
    listen: tuple[str, ...]
    """``host:port`` of each listener."""
    draining: bool = False
    load: Load = Load()


class NodeSelf(Versioned):
    """Who this node is (``ln.graph.self``, last value): for a front while no owner answers."""

    node_id: NodeId
    networks: tuple[Bytes32, ...]
    """Chain hashes, as in the `networks` TLV of `init`."""
    features: bytes
    """The `features` field of our `init`, as on the wire."""


class OpenRequest(Versioned):
    """Front to owner: may this peer in? Idempotent; asked after BOLT 8, before our `init`."""

    session: SessionId
    front: FrontName
    instance: Bytes16
    peer: NodeId
    node_id: NodeId
    """Our own node id as the front knows it: a back with another one refuses."""
    direction: Direction
    address: str
    made_ms: Count
    """Age of the TCP connection when this was sent, milliseconds; decides ties."""
    dial_id: Bytes16 | None = None
    act_one: ActOneOrTwo | None = None
    """Responder: act one as received, so that the back can tie the session to a handshake that it
    helped with."""


class OpenReply(Versioned):
    """The owner's answer: ``accepted`` with everything below it, or why not."""

    session: SessionId
    accepted: bool
    why: str = ""
    epoch: Count = 0
    """Of the shard's owner; the session belongs to this epoch."""
    has_channels: bool = False
    """Chooses the window: 256 messages and 1 MiB, or 16 and 64 KiB."""
    node_id: NodeId | None = None
    """Our node id; a front with another key must not carry this session."""
    features: bytes = b""
    """The `features` field of the `init` to send to this peer."""
    networks: tuple[Bytes32, ...] = ()


class Expecting(FabricModel):
    """What one side of a session says after a reconnect."""

    session: SessionId
    expects: Annotated[int, Field(ge=1)]
    """Next number it has not received."""


class ResumeRequest(Versioned):
    """Front to owner after a fabric reconnect: a batch of sessions of one shard, at most 1000."""

    front: FrontName
    instance: Bytes16
    shard: ShardNumber
    sessions: Annotated[tuple[Expecting, ...], Field(max_length=1000)]


class ResumeReply(Versioned):
    """The owner's answer; a session that is missing is unknown to it and must end."""

    shard: ShardNumber
    epoch: Annotated[int, Field(ge=1)]
    sessions: tuple[Expecting, ...]


class ConnectRequest(Versioned):
    """Back to one front (``ln.connect``): dial this peer."""

    dial_id: Bytes16
    node_id: NodeId
    addresses: Annotated[tuple[str, ...], Field(min_length=1)]
    """``host:port`` each, in the order to try."""


class ConnectReply(Versioned):
    """The front's answer, before it dials: a session with this dial id follows or `unreachable`."""

    dial_id: Bytes16
    front: FrontName
    accepted: bool
    why: str = ""


class EcdhResponder(Versioned):
    """Front to a back (``ln.key.ecdh``): we received act one (BOLT 8 § Act One)."""

    role: Literal["responder"] = "responder"
    front: FrontName
    act_one: ActOneOrTwo


class EcdhInitiator(Versioned):
    """Front to a back: we dialled and received act two (BOLT 8 § Act Three needs the node key)."""

    role: Literal["initiator"] = "initiator"
    front: FrontName
    dial_id: Bytes16
    node_id: NodeId
    """The peer that was dialled."""
    ephemeral: Annotated[Bytes32, Field(repr=False)]
    """Our private ephemeral key of this one handshake."""
    act_two: ActOneOrTwo


class EcdhReply(Versioned):
    """The full HKDF output of the step, to the asking front's inbox only; or why not."""

    refused: str = ""
    ck: Annotated[Bytes32 | None, Field(repr=False)] = None
    """Chaining key after mixing in the ECDH with the node key."""
    temp_k: Annotated[Bytes32 | None, Field(repr=False)] = None
    """``temp_k1`` for a responder, ``temp_k3`` for an initiator."""


_ECDH: TypeAdapter[EcdhResponder | EcdhInitiator] = TypeAdapter(
    Annotated[EcdhResponder | EcdhInitiator, Field(discriminator="role")]
)


def read_ecdh_request(payload: bytes) -> EcdhResponder | EcdhInitiator:
    """Validate either kind of ``ln.key.ecdh`` request."""
    try:
        return _ECDH.validate_json(payload)
    except ValidationError as error:
        raise FabricError(f"ecdh request is malformed: {first_error(error)}") from None
